"""One task by boosted trees, a forest and curves together, weighed by answers to rows that a model has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Annotated, Any, ClassVar, NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.estimators.boosted.gain import feature_gains
from tabmtl.estimators.boosted.rounds import Split
from tabmtl.estimators.boosted.walk import predict
from tabmtl.estimators.mixing import likelihood_weights
from tabmtl.models.independent.additive import PENALTIES, PIECES, Additive, Pieces, fit_linear
from tabmtl.models.independent.folds import Dealt
from tabmtl.models.independent.forest import SETTINGS, Forest
from tabmtl.models.independent.grower import Grower
from tabmtl.models.independent.rows import Sample
from tabmtl.storage.lightgbm_text import TreeText
from tabmtl.storage.stored import Stored
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

#: What a task may be learned by.
FAMILIES = ("lightgbm", "extra_trees", "additive")
#: With more labels, LightGBM alone learns a task: the others cost more than they add.
MOST_MIXED = 20_000
#: Rows from which a forest has fewer trees, and trees are judged by fewer folds.
MANY = 600
_TREES, _TREES_OF_MANY, _TRIED_TREES = 200, 100, 50
_FOLDS_OF_CURVES, _PATIENCE = 5, 2  # and penalties in a row that predict no better than the best, which end a path


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Models of one task, and the weights of their answers.

    Attributes
    ----------
    weights : tuple of float
        Of the families in the order of `FAMILIES`; they sum to 1.
    lightgbm : TreeText or None
        Boosted trees.
    extra_trees : TreeText or None
        A forest, whose raw scores are means of labels.
    additive : Additive or None
        Curves, one for every column.
    more : TreeText or None
        Boosted trees that `partial_fit` has added to the scores of the mixed answers.
    """

    #: Fields that files of earlier releases lack.
    later_fields: ClassVar[tuple[str, ...]] = ("more",)

    weights: Annotated[tuple[float, ...], Stored(shape="3")]
    lightgbm: TreeText | None
    extra_trees: TreeText | None
    additive: Additive | None
    more: TreeText | None = None

    def __post_init__(self) -> None:
        parts = (self.lightgbm, self.extra_trees, self.additive)
        fits = all((part is not None) == (weight > 0) for part, weight in zip(parts, self.weights, strict=True))
        if not (fits and min(self.weights) >= 0 and abs(sum(self.weights) - 1) < 1e-9):
            raise ValueError(f"the weights of a mixture are {self.weights}, which do not fit its parts or sum to 1")

    def __str__(self) -> str:
        parts = [f"{weight:.2f} {name}" for name, weight in zip(FAMILIES, self.weights, strict=True) if weight]
        return ", ".join(parts if self.more is None else [*parts, f"{len(self.more.cut()[1])} trees on top"])

    def answer(self, task: Task, x: np.ndarray, n_threads: int) -> np.ndarray:
        """Return values (n,) or probabilities (n, K) of rows of `tree_matrix`."""
        return self.mix(
            task,
            None if self.lightgbm is None else predict(self._boosted, x, n_threads),
            None if self.extra_trees is None else predict(self._forest, x, n_threads),
            None if self.additive is None else self.additive.scores(x),
            None if self.more is None else predict(self._more, x, n_threads),
        )

    def mix(
        self,
        task: Task,
        boosted: np.ndarray | None,
        means: np.ndarray | None,
        scores: np.ndarray | None,
        more: np.ndarray | None,
    ) -> np.ndarray:
        """Return the answers, given what LightGBM predicts by all kinds of trees, and the scores of the curves."""
        answers = (
            None if boosted is None else task.kind.of_lightgbm(boosted),
            None if means is None else answer_means(task, means.reshape(len(means), -1)),
            None if scores is None else task.kind.answers(scores, 0.0, 1.0, np),
        )
        mixed = (weight * own for weight, own in zip(self.weights, answers, strict=True) if own is not None)
        answer: np.ndarray = sum(mixed)  # type: ignore[assignment]
        if more is None:
            return answer
        begun = task.kind.unlink(task.kind.answered_means(answer, 0.0, 1.0), np)
        return np.asarray(task.kind.answers(begun + more.reshape(len(more), -1), 0.0, 1.0, np))

    def gains(self, n_features: int) -> np.ndarray:
        """Return the mean of the families' shares of every column (F,), by their weights; trees on top are left out."""
        total = np.zeros(n_features)
        for weight, model in zip(self.weights, (self.lightgbm, self.extra_trees, self.additive), strict=True):
            if isinstance(model, TreeText):
                own = feature_gains(model.cut()[1], n_features)[:, 0]
            elif isinstance(model, Additive):
                own = model.variances
            else:
                continue
            total += weight * own / max(own.sum(), np.finfo(float).tiny)
        return total

    @cached_property
    def _boosted(self) -> lgb.Booster:
        return lgb.Booster(model_str=self.lightgbm)

    @cached_property
    def _forest(self) -> lgb.Booster:
        return lgb.Booster(model_str=self.extra_trees)

    @cached_property
    def _more(self) -> lgb.Booster:
        return lgb.Booster(model_str=self.more)


def answer_means(task: Task, means: np.ndarray) -> np.ndarray:
    """Return values (n,) or probabilities (n, K) of means (n, W)."""
    return task.kind.answers(task.kind.unlink(means, np), 0.0, 1.0, np)


class Part(NamedTuple):
    """A model of a family, its answers to its own rows, each by models that have not seen the row, and its fit.

    The fit learns other rows by the settings that were chosen here.
    """

    model: TreeText | Additive
    unseen: np.ndarray
    fit: Callable[[Sample], TreeText | Additive]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixer:
    """Finds the mixture of a task.

    Parameters
    ----------
    grower : Grower
        Of its boosted trees.
    families : sequence of str
        Those of `FAMILIES` that may take part.
    seed : int
    """

    grower: Grower
    families: Sequence[str]
    seed: int

    def takes(self, n_rows: int) -> bool:
        """Return whether other families than LightGBM learn so many rows."""
        return bool(self._fits) and 1 < n_rows <= MOST_MIXED and self.grower.columns.n_features > 0

    def mix_unseen(
        self, booster: lgb.Booster, rows: Sample, judged: Sample, unseen: np.ndarray, watch: Watch
    ) -> tuple[Mixture, np.ndarray]:
        """Mix what learned all rows, of which LightGBM has answered the judged ones by folds, unseen.

        Return the answers of the mixture to these too. When the time is over, families are left out.
        """
        found = self._learn(rows, watch)
        answers = [unseen, *(part.unseen for part in found.values())]
        weights = self._weigh(answers, judged)
        parts = {"lightgbm": booster} | {name: part.model for name, part in found.items()}
        return self._mixture(parts, weights), np.tensordot(weights, answers, axes=1)

    def mix_asked(
        self, booster: lgb.Booster, split: Split, answers: np.ndarray, watch: Watch
    ) -> tuple[Mixture, np.ndarray]:
        """Mix what is judged by rows of a split that LightGBM answered, and fit all rows then.

        Return the answers of the mixture to these rows too, by what has not learned them. When the time is over,
        families are left out, or keep what they learned without the rows that judge.
        """
        task, found = self.grower.task, self._learn(split.first.undivided(), watch)
        parts = {name: part.model for name, part in found.items()}
        alone = [self._mixture({name: model}, (1.0,)) for name, model in parts.items()]
        several = [answers, *(each.answer(task, split.watched.x, 1) for each in alone)]
        weights = self._weigh(several, split.watched)
        for (name, part), weight in zip(found.items(), weights[1:], strict=True):
            if split.keep and weight and not watch.cuts(f"{name} of all rows of task {task.name!r}"):
                parts[name] = part.fit(split.all)
        return self._mixture({"lightgbm": booster} | parts, weights), np.tensordot(weights, several, axes=1)

    def _learn(self, rows: Sample, watch: Watch) -> dict[str, Part]:
        found: dict[str, Part] = {}
        for name, fit in self._fits.items():
            if not watch.cuts(f"{name} of task {self.grower.task.name!r}") and (part := fit(rows)) is not None:
                found[name] = part
        return found

    @property
    def _fits(self) -> dict[str, Callable[[Sample], Part | None]]:
        kind = self.grower.task.kind
        known: dict[str, Callable[[Sample], Part | None]] = {"extra_trees": self._forest} if kind.answers_means else {}
        if kind.takes_curves:
            known["additive"] = self._additive
        return {name: fit for name, fit in known.items() if name in self.families}

    def _mixture(self, parts: dict[str, Any], weights: Sequence[float]) -> Mixture:
        kept = dict(zip(parts, weights, strict=True))
        weighed = tuple(kept.get(name, 0.0) for name in FAMILIES)
        booster, forest, additive = (parts[name] if kept.get(name) else None for name in FAMILIES)
        text = None if booster is None else TreeText(booster.model_to_string())
        return Mixture(weights=weighed, lightgbm=text, extra_trees=forest, additive=additive)

    def _forest(self, rows: Sample) -> Part:
        """Grow a forest by the setting whose small forest predicts best what its trees have not seen.

        Of rows with times, that is what later rows are, by forests of the older ones.
        """
        task = self.grower.task
        constant = np.average(task.kind.means(rows.y, task.width), axis=0, weights=rows.weight)

        def plant(rows: Sample, setting: dict[str, Any]) -> Forest:
            return Forest(rows, task.kind.means(rows.y, task.width), self.seed, **setting)

        def unseen(forest: Forest) -> np.ndarray:
            return answer_means(task, np.where(np.isnan(forest.unseen), constant, forest.unseen))

        def finish(forest: Forest) -> TreeText:
            forest.grow(_TREES if len(rows) < MANY else _TREES_OF_MANY)
            return forest.text(self.grower.columns)

        if rows.time is not None:
            answers, chosen = self._judge_forward(rows, plant)
            return Part(finish(plant(rows, chosen)), answers, lambda rows: finish(plant(rows, chosen)))
        found: list[tuple[float, dict[str, Any], Forest]] = []
        for setting in SETTINGS:
            forest = plant(rows, setting)
            forest.grow(_TRIED_TREES)
            found.append((self.grower.losses(unseen(forest), rows).sum(), setting, forest))
        _, chosen, best = min(found, key=itemgetter(0))
        return Part(finish(best), unseen(best), lambda rows: finish(plant(rows, chosen)))

    def _judge_forward(
        self, rows: Sample, plant: Callable[[Sample, dict[str, Any]], Forest]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the best answers of small forests to rows that are newer than theirs, and the setting."""
        task, dealt = self.grower.task, Dealt.of(rows, self.grower.task, self.seed, _FOLDS_OF_CURVES)
        judged, found = dealt.judged(rows), []
        for setting in SETTINGS:
            means = np.empty((len(rows), task.width))
            for kept, asked in dealt.pairs:
                forest = plant(rows.rows(kept), setting)
                forest.grow(_TRIED_TREES)
                means[asked] = forest.means(rows.x[asked])
            answers = answer_means(task, means[dealt.is_judged])
            found.append((self.grower.losses(answers, judged).sum(), answers, setting))
        _, best, chosen = min(found, key=itemgetter(0))
        return best, chosen

    def _additive(self, rows: Sample) -> Part | None:
        """Fit curves by the number of pieces and the penalty that predict best by folds; None if they are too many."""
        task, dealt = self.grower.task, Dealt.of(rows, self.grower.task, self.seed, _FOLDS_OF_CURVES)
        n_numbers = len(self.grower.columns.numeric)
        paths: list[tuple[float, float, np.ndarray, int]] = []
        for n in PIECES:
            pieces = Pieces(rows.x, n_numbers, n)
            if pieces.suit(task):
                paths.append((*self._follow(pieces.columns, rows, dealt), n))
        if not paths:
            return None
        _, penalty, unseen, n_pieces = min(paths, key=itemgetter(0))

        def fit(rows: Sample) -> Additive:
            pieces = Pieces(rows.x, n_numbers, n_pieces)
            ((slope, intercept),) = fit_linear(task, pieces.columns, rows.y, rows.weight, (penalty,))
            return pieces.additive(slope, intercept)

        return Part(fit(rows), unseen, fit)

    def _follow(self, columns: np.ndarray, rows: Sample, dealt: Dealt) -> tuple[float, float, np.ndarray]:
        """Weaken the penalty until the loss rises; return the least loss, its penalty, and the answers by folds."""
        judged, found = dealt.judged(rows), list[tuple[float, float, np.ndarray]]()
        for penalty, unseen in zip(PENALTIES, self._unseen(columns, rows, dealt), strict=False):
            found.append((self.grower.losses(unseen, judged).sum(), penalty, unseen))
            losses = [loss for loss, *_ in found]
            if len(losses) - int(np.argmin(losses)) > _PATIENCE:
                break
        return min(found, key=itemgetter(0))

    def _unseen(self, columns: np.ndarray, rows: Sample, dealt: Dealt) -> Iterator[np.ndarray]:
        """Yield the answers by folds for every penalty: of classes one after the other, of numbers all at once."""
        task = self.grower.task
        together: list[Sequence[float]] = [PENALTIES]
        if task.is_classification:
            together = [[penalty] for penalty in PENALTIES]
        for penalties in together:
            scores = np.empty((len(penalties), len(rows), task.width))
            for kept, asked in dealt.pairs:
                weight = None if rows.weight is None else rows.weight[kept]
                models = fit_linear(task, columns[kept], rows.y[kept], weight, penalties)
                for own, (slope, intercept) in zip(scores, models, strict=True):
                    own[asked] = columns[asked] @ slope + intercept
            yield from (task.kind.answers(own, 0.0, 1.0, np) for own in scores[:, dealt.is_judged])

    def _weigh(self, answers: Sequence[np.ndarray], rows: Sample) -> tuple[float, ...]:
        weights = likelihood_weights(self.grower.task, rows.y, np.stack(answers), rows.weight, rows.group)
        return tuple(weights.tolist())
