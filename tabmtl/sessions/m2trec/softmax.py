"""The softmax over many items: its loss and gradient in one pass over blocks, and which items take part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK_BYTES = 8_000_000  # of logits that are held at a time: they stay in a processor's cache
_BLOCK_ROWS = 256  # or, with many candidates, up to 16 times as much: products of fewer rows are slow
_MULTIPLE = 512  # of the number of sampled candidates


class _SoftmaxLoss(torch.autograd.Function):
    """Mean over rows of ``w (log sum_j exp(z_j + c_j [j not own]) - z_t)``, ``z_j = q·v_j``, and its gradient.

    Both come from the same logits, which are never held for all rows at once. This takes three matrix products, and a
    third of the memory traffic of autograd.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, vectors: Tensor, correction: Tensor, own: Tensor, weights: Tensor, bfloat16: bool
    ) -> Tensor:
        exact = torch.promote_types(queries.dtype, torch.float32)
        dtype = torch.bfloat16 if bfloat16 else exact
        q, v = queries.to(dtype), vectors.to(dtype)
        grad_q, grad_v = torch.empty_like(queries), torch.zeros_like(vectors, dtype=exact)
        total = queries.new_zeros(())
        fit = _BLOCK_BYTES / (4 * len(vectors))
        size = max(1, int(fit), min(_BLOCK_ROWS, int(16 * fit)))
        for start in range(0, len(q), size):
            block = slice(start, start + size)
            rows, places = q[block], own[block]
            logits = (rows @ v.T).to(exact)
            own_logits = logits.gather(1, places)
            logits.add_(correction).scatter_(1, places, own_logits)
            largest = logits.amax(dim=1, keepdim=True)
            logits.sub_(largest).exp_()
            sums = logits.sum(dim=1, keepdim=True)
            weight = weights[block, None].to(exact)
            total += (weight * (sums.log() + largest - own_logits[:, :1])).sum()
            logits.div_(sums / weight)
            logits.scatter_add_(1, places[:, :1], -weight)
            probabilities = logits.to(dtype)
            grad_q[block] = probabilities @ v
            grad_v += (probabilities.T @ rows).to(exact)
        ctx.save_for_backward(*(grad.div_(len(q)) for grad in (grad_q, grad_v)))
        return total / len(q)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> tuple[Tensor | None, ...]:
        return *(grad[0] * saved for saved in ctx.saved_tensors), None, None, None, None


def own_places(targets: Tensor, clicks: Tensor, counts: Tensor) -> Tensor:
    """Collect the items of the session of each query.

    Parameters
    ----------
    targets : Tensor of int64, shape (P,)
        Places among the candidates, session by session, the newest first.
    clicks : Tensor of int64, shape (B, L)
        Places of the clicks of the sessions, the newest first, 0 behind the end. The first query of a session has seen
        them all, the next all but the newest, and so on.
    counts : Tensor of int64, shape (B,)
        Queries of every session.

    Returns
    -------
    places : Tensor of int64, shape (P, L + 2)
        Some perhaps twice; the target comes first.
    """
    starts = counts.cumsum(0) - counts
    session = torch.repeat_interleave(counts)
    clicks = clicks[session]
    own = clicks.where(clicks > 0, targets[:, None])
    return torch.cat([targets[:, None], targets[starts][session][:, None], own], dim=1)


def count_held(sessions: Tensor) -> int:
    """Count the units of sessions (B, L), 0 where there is none: a unit once a session, however often it is clicked."""
    ordered = F.pad(sessions, (1, 0)).sort(dim=1).values
    return int((ordered[:, 1:] != ordered[:, :-1]).sum())


def softmax_loss(
    queries: Tensor, vectors: Tensor, correction: Tensor, own: Tensor, weights: Tensor, *, bfloat16: bool
) -> Tensor:
    """Compute the mean of the weighted cross-entropies of targets among candidates.

    Parameters
    ----------
    queries : Tensor of float32, shape (P, d)
    vectors : Tensor of float32, shape (C, d)
        Vectors of the candidates.
    correction : Tensor of shape (C,)
        Added to the logits of candidates, except a query's own items; see `Candidates.draw`.
    own : Tensor of int64, shape (P, m)
        Candidates that come with a query, its target first; see `own_places`.
    weights : Tensor of float32, shape (P,)
    bfloat16 : bool
        Take matrix products in bfloat16.
    """
    return _SoftmaxLoss.apply(queries, vectors, correction, own, weights, bfloat16)


class Candidates:
    """The units that the targets of a step compete with: all that were clicked in training, or a sample of them.

    A sample holds all units of the sessions of the step, whose vectors are needed anyway. If these are fewer than
    ``n_negatives``, a unit counted once a session, further units fill the gap, drawn uniformly without replacement. For
    a query of another session, unit j takes part with probability ``p_j = 1 - (1 - f_j)^M (1 - n / C)``, where f_j is
    its share of all clicks, M the number of units in the sessions of the step, n the number of drawn units, and C the
    number of all units. Its term in the sum of a softmax is divided by p_j: -log p_j is added to its logit (the logQ
    correction). The units of a query's own session always take part, so they are not corrected. The sum is then right
    on average for independent clicks. On logs of sessions p_j is right within some percent: some items are repeated
    more than others, and M counts the query's own session too (docs/lab.md, "The count of the logQ
    correction").

    Parameters
    ----------
    clicks : Tensor of shape (U,)
        Training clicks of every unit.
    n_negatives : int or None
        Units of the sessions of a step and drawn units together; None takes all units.
    """

    def __init__(self, clicks: Tensor, n_negatives: int | None) -> None:
        self._pool = clicks.nonzero()[:, 0]
        self._share = clicks.double() / clicks.sum()
        self._n = n_negatives if n_negatives is not None and n_negatives < len(self._pool) else None

    def draw(
        self, clicked: Tensor, n_held: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the candidates of a step.

        Parameters
        ----------
        clicked : Tensor of int64, shape (M,)
            Units of all clicks of the step, 0 where there is none; a click may come twice, read and predicted.
        n_held : int
            Number M of units in the sessions of the step; see `count_held`.
        generator : torch.Generator, optional
            Draws the further units; by default torch's own.

        Returns
        -------
        units : Tensor of int64, shape (C + 1,)
            Sorted; unit 0, which is no candidate, comes first. Behind a sample it fills up to a multiple of 512: some
            kernels of bfloat16 are compiled anew for every size.
        place : Tensor of int64, shape (M,)
            Place of every click's unit among them.
        correction : Tensor of float32, shape (C + 1,)
            Minus infinity for unit 0.
        """
        none = clicked.new_zeros(1)
        if self._n is None:
            units = torch.cat([none, self._pool])
            correction = torch.zeros(len(units), device=units.device)
            correction[0] = -torch.inf
            return units, torch.searchsorted(units, clicked), correction
        n_drawn = max(0, self._n - n_held)  # a number that depends on the distinct units would make p_j wrong
        drawn = self._pool[torch.randperm(len(self._pool), device=self._pool.device, generator=generator)[:n_drawn]]
        units, place = torch.unique(torch.cat([clicked, drawn, none]), return_inverse=True)
        stays_out = (1 - self._share[units]) ** n_held * (1 - n_drawn / len(self._pool))
        correction = -torch.log1p(-stays_out).float()
        correction[0] = -torch.inf
        more = -len(units) % _MULTIPLE
        return F.pad(units, (0, more)), place[: len(clicked)], F.pad(correction, (0, more), value=-torch.inf)
