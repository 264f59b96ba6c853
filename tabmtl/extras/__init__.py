"""Methods from papers that work, and have not paid in our own tables: functions of fitted models.

``merge`` and ``merge_front`` make one network of several that were fine-tuned from one base, each on tasks of its own,
without training. Fine-tuning network k moves the weights by τ_k = θ_k - θ_0, its task vector. The merged network has
the weights θ_0 plus a weighted sum of the K task vectors. Weights that only one task reads, such as its head, are no
part of it: they come from the model that trained the task.

`LossBalance`, `GradNorm`, `GradientBalance` and `FlatRegions` balance the tasks of a network: see
:mod:`tabmtl.extras.balance`.

`ScaLearn` is a head of `add_task`.

``prune`` cuts a network to a smaller one. ``multiply_adds`` and ``widths`` tell its size.
"""

from tabmtl.extras.balance import FlatRegions, GradientBalance, GradNorm, LossBalance
from tabmtl.extras.front import merge_front
from tabmtl.extras.merge import merge
from tabmtl.extras.prune import multiply_adds, prune, widths
from tabmtl.extras.scalearn import ScaLearn

__all__ = [
    "FlatRegions",
    "GradNorm",
    "GradientBalance",
    "LossBalance",
    "ScaLearn",
    "merge",
    "merge_front",
    "multiply_adds",
    "prune",
    "widths",
]
