"""Targets of two classes whose rows are mostly easy: one score, the log odds of a share, and the focal loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tabmtl.targets.binary import Binary

if TYPE_CHECKING:
    from torch import Tensor

#: Scores farther out have one answer, whose log odds are beyond those of any data.
_FARTHEST = 40.0
#: Steps that find the score of log odds to 1e-12, for any gamma: each leaves less than an eighth of the error.
_STEPS = 14

#: Numbers whose derivatives are computed at a time: what is kept beside them then lies in a cache, where new memory
#: would take longer than the mathematics.
_NUMBERS = 2**15


@dataclass(frozen=True)
class Focal(Binary):
    """Two classes; rows that are answered well count less (Lin et al., "Focal loss for dense object detection", 2017).

    A score s gives the label the share p = 1 / (1 + exp(-s)) of the second class, or q = 1 - p of the first. The loss
    is -(1 - share)^gamma log(share); weights of classes are the paper's alpha. The least loss has shares that lie
    nearer to 1/2 than the probabilities, whose log odds are, in closed form (Charoenphakdee and others, "On focal loss
    for class-posterior probability estimation", 2021)::

        gamma s - log(q - gamma p log p) + log(p - gamma q log q)

    These are the answers, so that they are calibrated as those of a binary task, and mix with them.

    Parameters
    ----------
    gamma : float, default=2.0
        At 0 the loss is the log loss.
    """

    name: ClassVar[str] = "focal"
    takes_curves: ClassVar[bool] = False  # whose scores would be log odds
    lightgbm: ClassVar[Mapping[str, Any]] = {"objective": "none", "metric": "none", "feature_pre_filter": False}
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise ValueError(
                f"the gamma of a focal task must be a finite number >= 0, such as 2.0, got {self.gamma!r}; 0 is "
                "'binary'"
            )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the kind with a gamma, a positive class, or both: "1", "fraud" or "1:fraud"."""
        first, _, positive = text.partition(":")
        try:
            gamma = float(first)
        except ValueError:
            return super().from_text(text)
        return cls(gamma, positive=positive or None)

    def _log_odds(self, scores: Any, xp: Any) -> Any:
        """Return the log odds of the second class."""
        scores = xp.clip(scores, -_FARTHEST, _FARTHEST)
        p, q = 1 / (1 + xp.exp(-scores)), 1 / (1 + xp.exp(scores))
        in_first = q + self.gamma * p * xp.log1p(xp.exp(-scores))
        in_second = p + self.gamma * q * xp.log1p(xp.exp(scores))
        return self.gamma * scores - xp.log(in_first) + xp.log(in_second)

    def _scores(self, log_odds: Any, xp: Any) -> Any:
        """Return the scores of log odds, whose slope lies between 0.88 and 1 times 1 + gamma."""
        scores = log_odds / (1 + self.gamma)
        for _ in range(_STEPS):
            scores = scores + (log_odds - self._log_odds(scores, xp)) / (1 + self.gamma)
        return scores

    def link(self, scores: Any, xp: Any) -> Any:
        """Return the probabilities (..., 2) of both classes."""
        return super().link(self._log_odds(scores, xp), xp)

    def unlink(self, means: Any, xp: Any) -> Any:
        """Return the scores of probabilities."""
        return self._scores(super().unlink(means, xp), xp)

    def start(self, mean: np.ndarray) -> np.ndarray:
        """Return the score of a share."""
        return self._scores(super().start(mean), np)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the losses."""
        from torch.nn.functional import logsigmoid

        log_p, log_q = logsigmoid(scores), logsigmoid(-scores)
        return -labels * (self.gamma * log_q).exp() * log_p - (1 - labels) * (self.gamma * log_p).exp() * log_q

    def member_mean(self, scores: Tensor) -> Tensor:
        """Return the scores of the mean probability of members."""
        import torch

        return self._scores(super().member_mean(self._log_odds(scores, torch)), torch)

    def distance(self, scores: Tensor, means: Tensor) -> Tensor:
        """Return the Kullback-Leibler divergence from the probabilities."""
        import torch

        return Binary().distance(self._log_odds(scores, torch), means)

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return the losses."""
        log_p, log_q = -np.logaddexp(0, -scores), -np.logaddexp(0, scores)
        return -means * np.exp(self.gamma * log_q) * log_p - (1 - means) * np.exp(self.gamma * log_p) * log_q

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write the first derivative, and one for the second that is positive everywhere.

        The first is that of the log loss, p - y, times a weight. The second is p q times this weight times 1 + gamma:
        the exact one is negative for rows that are far on the wrong side. Where a leaf has its best score, the sum of
        the exact ones is 0.88 to 1 times the sum of these.
        """
        hessian = np.empty_like(scores) if hessian is None else hessian
        step = max(1, _NUMBERS // scores[0].size)
        for rows in (slice(start, start + step) for start in range(0, len(scores), step)):
            self._derive(*(array[rows] for array in (scores, means, gradient, hessian)))

    def _derive(self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> None:
        """Write the derivatives of some rows."""
        scores = np.clip(scores, -_FARTHEST, _FARTHEST)
        odds = np.exp(-scores)  # of the first class, q / p
        p = np.reciprocal(1 + odds)
        q = p * odds
        of_second = np.log1p(odds)  # -log p
        of_first = np.log1p(1 / odds)  # -log q
        held = np.exp(of_first * -self.gamma)  # q^gamma
        of_first *= odds
        odds = np.divide(of_second, odds, out=odds)
        pulled = np.exp(np.multiply(of_second, -self.gamma, out=of_second), out=of_second)  # p^gamma
        for part, weight, share in ((odds, held, means), (of_first, pulled, 1 - means)):
            part *= self.gamma
            part += 1
            part *= weight
            part *= share
        of_second = odds
        np.subtract(of_first * p, of_second * q, out=gradient)
        np.add(of_first, of_second, out=hessian)
        p *= q
        p *= 1 + self.gamma
        hessian *= p

    def of_lightgbm(self, answers: np.ndarray) -> np.ndarray:
        """Return the probabilities of both classes, given scores (n,)."""
        return self.link(answers[:, None], np)

    def lightgbm_link(self, width: int, center: float, scale: float) -> tuple[str, float, float]:
        """Raise a ValueError: no objective of LightGBM links scores as this kind does."""
        raise ValueError(
            f"a {self} task cannot be exported, because no objective of LightGBM makes its probabilities of scores; "
            "save the model, or declare the task 'binary' with class_weight"
        )
