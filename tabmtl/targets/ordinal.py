"""Targets of ordered classes: cumulative logits in order, and the log loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import polars as pl

from tabmtl.base.schema import in_command, warn_user
from tabmtl.metrics.metric import Metric
from tabmtl.metrics.ordered import ORDERED, median_class
from tabmtl.targets.classes import Classes, label_of
from tabmtl.targets.kind import RARE

if TYPE_CHECKING:
    from torch import Tensor

#: Factor of the second derivatives of gaps: trees part classes by slower steps than they move all of them, because the
#: gaps of few labels are mostly noise.
HOLD = 4.0
#: Found classes that are rather numbers.
_MANY = 100


@dataclass(frozen=True)
class Ordinal(Classes):
    """K ordered classes; K - 1 scores say that a label lies above class k with the probability 1 / (1 + exp(-t_k)).

    These are the cumulative logits of McCullagh (Journal of the Royal Statistical Society B 42, 1980). They fall by
    construction, from t_0 above the first class to t_(K-2) above the last but one: the first score is their mean, and
    score s_k the gap around class k, t_(k-1) - t_k = log(1 + exp(s_k)). So the first score moves all classes, as the
    only one of McCullagh's model does, and the others part them. An inner class has the probability
    1 / ((1 + exp(-t_(k-1))) (1 + exp(t_k)) (1 + exp(-s_k))), a product of three logistic functions, and the loss is
    its negative logarithm.

    The answer is the median, the first class up to which the probabilities sum to a half.

    Parameters
    ----------
    order : tuple of str, default=()
        Texts of the classes, the lowest first, as in "ordinal:S<M<L"; by default, the classes of a task are in their
        own order.
    """

    #: Fields that files leave out where they have the default.
    later_fields: ClassVar[tuple[str, ...]] = ("order",)

    name: ClassVar[str] = "ordinal"
    takes_curves: ClassVar[bool] = True
    has_one_slope: ClassVar[bool] = True
    takes_thresholds: ClassVar[bool] = True
    takes_monotone: ClassVar[bool] = False  # scores would be, and not the probabilities
    metrics: ClassVar[Mapping[str, Metric]] = ORDERED
    lightgbm: ClassVar[Mapping[str, Any]] = {"objective": "none", "metric": "none", "feature_pre_filter": False}
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(self.order))
        if self.order and (len(self.order) < 2 or not all(self.order) or len(set(self.order)) < len(self.order)):
            raise ValueError(
                f"the order of an ordinal task must be different classes, the lowest first, such as 'ordinal:S<M<L', "
                f"got {'<'.join(self.order)!r}"
            )

    def __str__(self) -> str:
        return ":".join(filter(None, [self.name, "<".join(self.order)]))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the kind whose classes stand in their order, with "<" between them."""
        return cls(tuple(part.strip() for part in text.split("<")))

    def fitted(self) -> Self:
        """Return the kind without the order, which is that of the classes of a fitted task."""
        return replace(self, order=())

    def width(self, classes: tuple | None) -> int:
        """Return the number of classes less 1."""
        return len(classes or ()) - 1

    def learn(self, labels: pl.Series, task: str, classes: tuple | None, order: Sequence | None = None) -> tuple:
        """Return the declared classes, or those of the labels, ordered or sorted; text must have an order."""
        if self.order:
            classes = self._named(labels, task, classes)
        if classes is None and order is None and labels.dtype in (pl.String, pl.Categorical):
            cure = (
                f"give it by --target '{task}=ordinal:LOWEST<...<HIGHEST'"
                if in_command.get()
                else f"declare Task(name={task!r}, kind='ordinal', classes=(<lowest>, ..., <highest>)), or cast the "
                "column to a polars Enum or an ordered category of pandas"
            )
            found = labels.cast(pl.String).unique(maintain_order=True).head(3).to_list()
            raise ValueError(
                f"task {task!r} is ordinal, but its labels are text without an order ({labels.dtype}), such as "
                f"{found}; {cure}"
            )
        learned = super().learn(labels, task, classes, order)
        if classes is None and len(learned) > _MANY:
            warn_user(
                f"task {task!r} is ordinal with {len(learned)} classes, each with a score of its own; declare numbers "
                "'regression', 'huber' or 'quantile' instead, or join classes"
            )
        return learned

    def _named(self, labels: pl.Series, task: str, classes: tuple | None) -> tuple:
        """Return the classes that the order names; raise a ValueError for others than the declared ones."""
        named = tuple(label_of(text, labels.dtype) for text in self.order)
        if None in named or (classes is not None and set(classes) != set(named)):
            expected = f"are {labels.dtype}" if classes is None else f"have the classes {list(classes)}"
            raise ValueError(f"task {task!r} is {self}, but its labels {expected}; name each of their classes")
        return named

    def means(self, labels: Any, width: int) -> Any:
        """Return the indicators (..., K - 1) of labels above each class but the last."""
        return (labels[..., None] > np.arange(width)).astype(np.float64)

    def link(self, scores: Any, xp: Any) -> Any:
        """Return the probabilities (..., K) of the classes."""
        return xp.exp(_log_shares(scores, xp))

    def unlink(self, means: Any, xp: Any) -> Any:
        """Return the scores of the shares above each class, no class being rarer than `RARE`."""
        share = xp.clip(_shares(means, xp), RARE, None)
        share = share / share.sum(axis=-1, keepdims=True)
        below, above = xp.cumsum(share, axis=-1)[..., :-1], _above(share, xp)
        gaps = xp.log(share[..., 1:-1]) - xp.log(below[..., :-1]) - xp.log(above[..., 1:])
        return xp.concatenate([(xp.log(above) - xp.log(below)).mean(axis=-1, keepdims=True), gaps], axis=-1)

    def answered_means(self, answers: Any, center: Any, scale: Any) -> Any:
        """Return the probabilities (n, K - 1) of labels above each class but the last."""
        return _above(answers, np)

    def decide(self, answers: np.ndarray, thresholds: tuple[float, ...] | None = None) -> np.ndarray:
        """Return the index (n,) of the class of the median, or of the last class whose threshold is reached."""
        return median_class(answers) if thresholds is None else super().decide(answers, thresholds)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the log losses (B, 1) of one task."""
        import torch

        return -_log_shares(scores, torch).gather(1, labels.long())

    def member_mean(self, scores: Tensor) -> Tensor:
        """Return the scores of the mean probabilities of members."""
        import torch

        return self.unlink(_above(self.link(scores, torch).mean(dim=0), torch), torch)

    def distance(self, scores: Tensor, means: Tensor) -> Tensor:
        """Return the Kullback-Leibler divergence from the probabilities."""
        import torch

        share = _shares(means, torch)
        return -(share * _log_shares(scores, torch) + torch.special.entr(share)).sum(dim=1)

    def variation(self, means: Tensor) -> Tensor:
        """Return the entropy of the mean probabilities, less the mean entropy."""
        import torch

        share = _shares(means, torch)
        return (torch.special.entr(share.mean(dim=0)) - torch.special.entr(share).mean(dim=0)).sum()

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return the log losses (..., 1)."""
        return -(_shares(means, np) * _log_shares(scores, np)).sum(axis=-1, keepdims=True)

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write the gradient, and Fisher's information, that of the gaps times `HOLD`.

        It is the mean of the second derivative over labels of the scores' own probabilities, and so never negative, and
        the same for every label, as that of logistic losses is.
        """
        scores, means = (np.ascontiguousarray(np.moveaxis(part, -1, 0)) for part in (scores, means))  # fast for few
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0
            part = 1 / (1 + np.exp(-scores[1:]))
            gap = np.maximum(scores[1:], 0) + np.log(1 + np.exp(-np.abs(scores[1:])))
            # a gap moves the logits before it up, by the share of those after it, and these down
            after = np.arange(len(gap), 0, -1, dtype=scores.dtype).reshape(-1, *[1] * (scores.ndim - 1)) / len(scores)
            logits = _sums(np.concatenate([scores[:1] + (after * gap).sum(axis=0), -gap]))
            above = 1 / (1 + np.exp(-logits))
        below = 1 - above
        share = np.concatenate([below[:1], above[:-1] * below[1:] * part, above[-1:]])
        label = np.concatenate([1 - means[:1], means[:-1] - means[1:], means[-1:]])
        pulls = _sums(label[:-1] * above - label[1:] * below)  # slopes by a logit: a label is above or below it
        bends = _sums((share[:-1] + share[1:]) * above * below)
        slope, curve = np.moveaxis(gradient, -1, 0), None if hessian is None else np.moveaxis(hessian, -1, 0)
        slope[0] = pulls[-1]
        slope[1:] = part * (pulls[:-1] - (1 - after) * pulls[-1]) - label[1:-1] * (1 - part)
        if curve is not None:
            moved = after**2 * bends[:-1] + (1 - after) ** 2 * (bends[-1] - bends[:-1])
            curve[0] = bends[-1]
            curve[1:] = HOLD * (part**2 * moved + share[1:-1] * (1 - part))

    def curvature(self, mean: np.ndarray) -> np.ndarray:
        """Return the second derivative at the best constant, where no class is rarer than `RARE`."""
        start = self.start(mean)
        return super().curvature(_above(self.link(start, np), np))

    def lightgbm_link(self, width: int, center: float, scale: float) -> tuple[str, float, float]:
        """Return no objective, as LightGBM has none that links these scores."""
        return "", 1.0, 0.0

    def of_lightgbm(self, answers: np.ndarray) -> np.ndarray:
        """Return the probabilities of raw scores."""
        return self.link(answers.reshape(len(answers), -1), np)


def _softplus(x: Any, xp: Any) -> Any:
    return xp.clip(x, 0, None) + xp.log1p(xp.exp(-xp.abs(x)))


def _logits(scores: Any, xp: Any) -> Any:
    """Return the cumulative logits of scores (..., K - 1)."""
    fallen = xp.cumsum(_softplus(scores[..., 1:], xp), axis=-1)
    first = scores[..., :1] + fallen.sum(axis=-1, keepdims=True) / scores.shape[-1]
    return xp.concatenate([first, first - fallen], axis=-1)


def _log_shares(scores: Any, xp: Any) -> Any:
    """Return the logarithms of the probabilities (..., K) of scores (..., K - 1)."""
    logits = _logits(scores, xp)
    above, below = -_softplus(-logits, xp), -_softplus(logits, xp)
    inner = above[..., :-1] + below[..., 1:] - _softplus(-scores[..., 1:], xp)
    return xp.concatenate([below[..., :1], inner, above[..., -1:]], axis=-1)


def _sums(values: np.ndarray) -> np.ndarray:
    """Return the running sums of few long rows, in their place: numpy accumulates them number by number."""
    for k in range(1, len(values)):
        values[k] += values[k - 1]
    return values


def _shares(means: Any, xp: Any) -> Any:
    """Return the shares (..., K) of the classes, given those above each (..., K - 1)."""
    return xp.concatenate([1 - means[..., :1], means[..., :-1] - means[..., 1:], means[..., -1:]], axis=-1)


def _above(shares: Any, xp: Any) -> Any:
    """Return the shares (..., K - 1) above each class but the last; small ones are summed, not subtracted from 1."""
    return xp.flip(xp.cumsum(xp.flip(shares, (-1,)), axis=-1), (-1,))[..., 1:]
