"""The softmax over many items: its loss and gradient in one pass over blocks, and which items take part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BLOCK_BYTES = 8_000_000  # of logits that are held at a time: they stay in a processor's cache
_BLOCK_ROWS = 256  # or, with many candidates, up to 16 times as much: products of fewer rows are slow


class _SoftmaxLoss(torch.autograd.Function):
    """Mean over rows of ``log sum_j exp(z_j + c_j [j != t]) - z_t`` with ``z = q·v_j``, and its gradient with it.

    Both come from the same logits, which are never held for all rows at once: a third of the memory traffic of
    autograd, and three matrix products.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, vectors: Tensor, correction: Tensor, target: Tensor, low: bool) -> Tensor:
        dtype = torch.bfloat16 if low else torch.float32
        q, v = queries.to(dtype), vectors.to(dtype)
        grad_q, grad_v = torch.empty_like(queries), torch.zeros_like(vectors, dtype=torch.float32)
        total = queries.new_zeros(())
        fit = _BLOCK_BYTES / (4 * len(vectors))
        size = max(1, int(fit), min(_BLOCK_ROWS, int(16 * fit)))
        for start in range(0, len(q), size):
            rows, own = q[start : start + size], target[start : start + size, None]
            logits = (rows @ v.T).float()
            own_logit = logits.gather(1, own)
            logits.add_(correction).scatter_(1, own, own_logit)
            largest = logits.amax(dim=1, keepdim=True)
            logits.sub_(largest).exp_()
            sums = logits.sum(dim=1, keepdim=True)
            total += (sums.log() + largest - own_logit).sum()
            logits.div_(sums)
            logits.scatter_add_(1, own, logits.new_full(own.shape, -1.0))
            probabilities = logits.to(dtype)
            grad_q[start : start + size] = probabilities @ v
            grad_v += (probabilities.T @ rows).float()
        ctx.save_for_backward(grad_q.div_(len(q)), grad_v.div_(len(q)))
        return total / len(q)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> tuple[Tensor | None, ...]:
        grad_q, grad_v = ctx.saved_tensors
        return grad[0] * grad_q, grad[0] * grad_v, None, None, None


def softmax_loss(queries: Tensor, vectors: Tensor, correction: Tensor, target: Tensor, *, low: bool) -> Tensor:
    """Mean cross-entropy of targets among candidates.

    Parameters
    ----------
    queries : Tensor of float32, shape (P, d)
    vectors : Tensor of float32, shape (C, d)
        Of the candidates.
    correction : Tensor of shape (C,)
        Added to the logit of a candidate wherever it is not the target; see `Candidates.draw`.
    target : Tensor of int64, shape (P,)
        Which candidate is right.
    low : bool
        Take matrix products in bfloat16.
    """
    return _SoftmaxLoss.apply(queries, vectors, correction, target, low)


class Candidates:
    """Which units a target competes with: all that were clicked in training, or a sample of them.

    A sample is drawn uniformly without replacement, once a step for all its targets, which join it.
    Unit j then takes part with probability ``p_j = 1 - (1 - f_j)^P (1 - n / C)``, where f_j is its share of all
    targets, P the number of those of the step, n that of drawn units, and C that of all. Its term in the sum of a
    softmax is divided by p_j, that is, -log p_j is added to its logit (the logQ correction; the target itself is always
    there). The sum is then right on average for independent targets; those of one session repeat items, which leaves
    p_j some percent too high.

    Parameters
    ----------
    clicks, targets : Tensor of shape (U,)
        Training clicks of every unit, and how many of them are targets.
    n_negatives : int or None
        Units that are drawn; None takes all.
    """

    def __init__(self, clicks: Tensor, targets: Tensor, n_negatives: int | None) -> None:
        self._pool = clicks.nonzero()[:, 0]
        self._share = targets.double() / targets.sum()
        self._n = n_negatives if n_negatives is not None and n_negatives < len(self._pool) else None

    def draw(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates of a step.

        Parameters
        ----------
        targets : Tensor of int64, shape (P,)

        Returns
        -------
        units : Tensor of int64, shape (C,)
            Sorted.
        target : Tensor of int64, shape (P,)
            Place of every target among them.
        correction : Tensor of float32, shape (C,)
        """
        if self._n is None:
            return self._pool, torch.searchsorted(self._pool, targets), self._pool.new_zeros(len(self._pool)).float()
        drawn = self._pool[torch.randperm(len(self._pool), device=self._pool.device)[: self._n]]
        units, place = torch.unique(torch.cat([targets, drawn]), return_inverse=True)
        stays_out = (1 - self._share[units]) ** len(targets) * (1 - self._n / len(self._pool))
        return units, place[: len(targets)], -torch.log1p(-stays_out).float()
