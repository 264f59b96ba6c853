"""Ways to join the losses of several tasks to one step of the shared weights.

L_i is the loss of task i, g_i its gradient where tasks share, T the number of tasks, n that of the tasks with a label
in the batch and a loss other than 0; the other tasks take no part in a step.

=============  =================================================================  ======================  ==========
name           update                                                             backward passes         arXiv
=============  =================================================================  ======================  ==========
"sum"          gradient of Σ L_i                                                  1
(weights)      of Σ w_i L_i, w_i given by task name or in task order              1
"uncertainty"  of Σ ½ exp(-s_i) L_i + ½ s_i; s_i learned, unbounded               1                       1705.07115
"imtl_l"       of Σ exp(s_i) L_i - s_i: "uncertainty", but twice as large         1                       (a)
"dwa"          of Σ w_i L_i; w = T softmax(r / 2), r_i the ratio of the last      1                       1803.10704
               two epochs' mean losses, w_i = 1 until both are known
"gls"          of (Π L_i)^(1/n)                                                   1                       1904.08492
"famo"         of c Σ z_i log L_i; z = softmax(v), c = 1 / Σ (z_i / L_i); v       1, and 1 more forward   2306.03792
               learns from the change of log L_i by a step
"gradnorm"     of Σ w_i L_i, Σ w_i = T; w learned towards norms of w_i g_i at     1, and n down to the    1711.02257
               the last shared layer in proportion to (r_i / mean r)^1.5,         last shared layer
               r_i = L_i / its first value
"pcgrad"       Σ g_i, each without its parts along the g_j it conflicts with      (b)                     2001.06782
"mgda"         shortest weighted mean of the g_i                                  (b)                     1810.04650
"imtl_g"       weighted sum of the g_i with equal projections on all of them      (b)                     (a)
(aggregator)   ``aggregator(J)``, J (n, P) with rows g_i, such as one of TorchJD  (b)                     2406.16232
=============  =================================================================  ======================  ==========

(a) Liu et al. (2021), "Towards Impartial Multi-task Learning", ICLR.

(b) With the g_i taken in representations: 1, and n from the heads down to these. At the shared parameters: 2 through
the heads, and n through all shared layers. Funnels, whose losses read several heads, take all n from the losses on.

The parameters of a single task get the gradient of its part of the sum; from "pcgrad" on, of Σ L_i. "famo" and "mgda"
give means where others give sums: AdamW hardly depends on the length of an update. A separate Adam with learning rate
0.025 moves the learned weights: FAMO's authors' choice, and ours for the others.

``flat=True`` looks for task-based flat regions with any of them (Phan et al., 2025, arXiv 2211.13723): n more forward
passes, and 2 n backward ones through the whole network.
"""

from tabmtl.training.balance.balancer import Balance, Balancer, GradLevel, check_grad_level

__all__ = ["Balance", "Balancer", "GradLevel", "check_grad_level"]
