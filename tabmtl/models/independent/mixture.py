"""One task by boosted trees, a forest and curves together, weighed by answers to rows that a model has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from operator import attrgetter
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.base.storage.stored import Stored
from tabmtl.estimators.boosted.gain import feature_gains
from tabmtl.estimators.boosted.rounds import Split
from tabmtl.estimators.boosted.walk import predict, rewritten
from tabmtl.estimators.mixing.judged import Choice, Judged
from tabmtl.model_selection.times import NoFreshRowsError
from tabmtl.models.independent.additive import PENALTIES, PIECES, Additive, Pieces, fit_linear
from tabmtl.models.independent.folds import Dealt, Folds
from tabmtl.models.independent.forest import LEAVES, SETTING, Forest, joined
from tabmtl.models.independent.grower import Grower
from tabmtl.models.independent.rows import Sample
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

#: What a task may be learned by.
FAMILIES = ("lightgbm", "extra_trees", "additive")
#: With more labels, LightGBM alone learns a task: the others cost more than they add.
MOST_MIXED = 20_000
#: Rows from which a forest has fewer trees, and trees are judged by fewer folds.
MANY = 600
#: Trees of all folds that are tried, and that are grown.
_TREES, _TREES_OF_MANY = (60, 200), (50, 100)
_FOLDS, _FOLDS_OF_MANY = 10, 5
_PATIENCE = 2  # penalties in a row that predict no better than the best, which end a path


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
            None if self.lightgbm is None else predict(self.lightgbm, x, n_threads),
            None if self.extra_trees is None else predict(self.extra_trees, x, n_threads),
            None if self.additive is None else self.additive.scores(x),
            None if self.more is None else predict(self.more, x, n_threads),
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


#: What this package learns a task by.
Learned = TreeText | Mixture


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


class Mixed(NamedTuple):
    """The model of a task, its answers to rows that judged it, by what did not learn them, and the choice of weights.

    ``numbers`` are of these rows among all of fit; those of X_val have none. ``choice`` is None where no rows could
    judge; ``names`` are of the families that it is among.
    """

    model: Any  # of a family, or `Foreign`
    answers: np.ndarray | None = None
    numbers: np.ndarray | None = None
    choice: Choice | None = None
    names: Sequence[str] = ()

    def lost(self, constant: TreeText, answers: np.ndarray) -> Mixed:
        """Return a constant in place of the model, with its answers."""
        if self.choice is None:
            return self._replace(model=constant, answers=answers)
        none, whole = np.zeros_like(self.choice.weights), self.choice.whole
        return self._replace(model=constant, answers=answers, choice=Choice(none, whole, whole, answers))

    def lines(self, task: Task, mixture: str) -> list[tuple[Any, ...]]:
        """Return the lines of `tabmtl.estimators.mixing.judged.leaderboard`."""
        if self.choice is None:
            return [(mixture, task.name, None, None, None, False, None, None)]
        lines = self.choice.lines(self.names, [None] * len(self.names))
        return [*lines, self.choice.line(mixture, self.choice.mixed, None)]


class Tried(NamedTuple):
    """A model by some options that all folds have judged: its answers (n,) or (n, K), and losses (folds,)."""

    reading: str
    model: Any
    answers: np.ndarray
    losses: np.ndarray

    @property
    def loss(self) -> float:
        """The loss of all folds."""
        return float(self.losses.sum())


def best_of(tried: Sequence[Tried], f: int) -> Tried:
    """Return what suits the folds other than f."""
    return min(tried, key=lambda each: each.loss - each.losses[f])


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

    @property
    def has_trees_alone(self) -> bool:
        """Whether no other family learns the kind of the task, although it may."""
        return self.may_mix and not self._fits

    @property
    def may_mix(self) -> bool:
        """Whether other families may learn beside LightGBM."""
        return len(self.families) > 1

    def mix_unseen(self, trees: TreeText, rows: Sample, folds: Folds, unseen: np.ndarray, watch: Watch) -> Mixed:
        """Mix what learned all rows, of which LightGBM has answered the judged ones by folds, unseen.

        When the time is over, families are left out.
        """
        found = self._learn(rows, watch) if self.takes(len(rows)) and not watch.was_cut else {}
        choice = self._choose([unseen, *(part.unseen for part in found.values())], folds.judged, folds.numbers)
        parts = {"lightgbm": trees} | {name: part.model for name, part in found.items()}
        return self._mixed(parts, choice, folds.judged.numbers)

    def mix_asked(self, trees: TreeText, split: Split, answers: np.ndarray, watch: Watch) -> Mixed:
        """Mix what is judged by rows of a split that LightGBM answered, and fit all rows then.

        When the time is over, families are left out, or keep what they learned without the rows that judge.
        """
        task = self.grower.task
        found = self._learn(split.first.undivided(), watch) if self.takes(len(split.all)) else {}
        parts = {name: part.model for name, part in found.items()}
        alone = [self._mixture({name: model}, (1.0,)) for name, model in parts.items()]
        x = split.watched.filled("all").x
        choice = self._choose([answers, *(each.answer(task, x, 1) for each in alone)], split.watched)
        for (name, part), weight in zip(found.items(), choice.weights[1:], strict=True):
            if split.keep and weight and not watch.cuts(f"{name} of all rows of task {task.name!r}"):
                parts[name] = part.fit(split.all)
        return self._mixed({"lightgbm": trees} | parts, choice, split.watched.numbers)

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

    def _mixed(self, parts: dict[str, Any], choice: Choice, numbers: np.ndarray | None) -> Mixed:
        model = parts["lightgbm"] if len(parts) == 1 else self._mixture(parts, choice.weights.tolist())
        return Mixed(model, choice.whole.mix(choice.weights), numbers, choice, [*parts])

    def _mixture(self, parts: dict[str, Any], weights: Sequence[float]) -> Mixture:
        kept = dict(zip(parts, weights, strict=True))
        weighed = tuple(kept.get(name, 0.0) for name in FAMILIES)
        boosted, forest, additive = (parts[name] if kept.get(name) else None for name in FAMILIES)
        boosted = None if boosted is None else rewritten(boosted)
        return Mixture(weights=weighed, lightgbm=boosted, extra_trees=forest, additive=additive)

    def _forest(self, rows: Sample) -> Part:
        """Grow a forest by the leaves, and the means of levels, that predict best by folds.

        The mean of the forests of all folds is the model; of rows with times, a forest of all rows.
        """
        task, dealt = self.grower.task, self._dealt(rows)
        n_tried, n_trees = _TREES if len(rows) < MANY else _TREES_OF_MANY

        def plant(rows: Sample, places: np.ndarray, seed: int, leaf: int) -> Forest:
            return Forest(rows, task.kind.means(rows.y, task.width), seed, places, min_samples_leaf=leaf, **SETTING)

        def judge(leaf: int, reading: str) -> Tried:
            forests, answers = [], np.empty((len(rows), task.width))
            for f, (kept, asked) in enumerate(dealt.pairs):
                own = dealt.rows.filled(reading, dealt.held[f])
                forests.append(plant(own.rows(kept), own.places(reading), self.seed + f, leaf))
                forests[-1].grow(max(1, n_tried // len(dealt.pairs)))
                answers[asked] = forests[-1].means(own.x[asked])
            return self._tried(dealt, answer_means(task, answers[dealt.is_judged]), reading, (leaf, forests))

        tried = [judge(LEAVES[0], reading) for reading in dealt.rows.readings]
        reading = min(tried, key=attrgetter("loss")).reading
        tried += [judge(leaf, reading) for leaf in LEAVES[1:]]
        best = min(tried, key=attrgetter("loss"))
        for f in range(len(dealt.pairs)):
            best_of(tried, f).model[1][f].grow(n_trees // len(dealt.pairs))

        def fit(rows: Sample) -> TreeText:
            own = rows.filled(best.reading)
            forest = plant(own, own.places(best.reading), self.seed, best.model[0])
            forest.grow(n_trees)
            return joined([forest], self.grower.columns, task.width)

        answers, forests = np.empty((len(rows), task.width)), []
        for f, (_, asked) in enumerate(dealt.pairs):
            own = best_of(tried, f)
            forests.append(own.model[1][f])
            answers[asked] = forests[-1].means(dealt.rows.filled(own.reading, dealt.held[f]).x[asked])
        model = fit(rows) if rows.time is not None else joined(forests, self.grower.columns, task.width)
        return Part(model, answer_means(task, answers[dealt.is_judged]), fit)

    def _additive(self, rows: Sample) -> Part | None:
        """Fit curves by the pieces, penalty and means of levels that folds choose; None if they are too many."""
        task, dealt = self.grower.task, self._dealt(rows)
        tried: list[Tried] = []

        def pieces_of(rows: Sample, n: int, reading: str) -> Pieces:
            return Pieces(rows.x, rows.pieces(reading, len(self.grower.columns.numeric), n))

        def follow(n: int, reading: str) -> None:
            if pieces_of(dealt.rows, n, reading).suit(task):
                several = [
                    pieces_of(dealt.rows.filled(reading, held), n, reading).columns
                    for held in (dealt.held if reading != "none" else dealt.held[:1])
                ]
                tried.extend(self._follow(several, dealt, n, reading))

        for n in PIECES:
            follow(n, "none")
        if not tried:
            return None
        n_pieces = min(tried, key=attrgetter("loss")).model[0]
        for reading in dealt.rows.readings[1 : 3 if len(rows) < MANY else 2]:  # own means are among all
            follow(n_pieces, reading)
        best = min(tried, key=attrgetter("loss"))

        def fit(rows: Sample) -> Additive:
            n, penalty = best.model
            pieces = pieces_of(rows.filled(best.reading), n, best.reading)
            ((slope, intercept),) = fit_linear(task, pieces.columns, rows.y, rows.weight, (penalty,))
            return pieces.additive(slope, intercept)

        unseen = np.empty_like(best.answers)
        for f, at in enumerate(dealt.at):
            unseen[at] = best_of(tried, f).answers[at]
        return Part(fit(rows), unseen, fit)

    def _dealt(self, rows: Sample) -> Dealt:
        is_many = len(rows) >= MANY or rows.time is not None  # which LightGBM deals alike
        n_folds = _FOLDS_OF_MANY if is_many else _FOLDS
        try:
            return Dealt.of(rows, self.grower.task, self.seed, n_folds)
        except NoFreshRowsError:  # other rows judge then, and these choose settings alone
            return Dealt.of(replace(rows, time=None), self.grower.task, self.seed, n_folds)

    def _tried(self, dealt: Dealt, answers: np.ndarray, reading: str, model: Any) -> Tried:
        losses = self.grower.losses(answers, dealt.judged)
        return Tried(reading, model, answers, np.array([losses[at].sum() for at in dealt.at]))

    def _follow(self, several: Sequence[np.ndarray], dealt: Dealt, n: int, reading: str) -> Iterator[Tried]:
        """Weaken the penalty until the loss rises; yield what every penalty answers by folds."""
        losses: list[float] = []
        for penalty, unseen in zip(PENALTIES, self._unseen(several, dealt), strict=False):
            judged = self._tried(dealt, unseen, reading, (n, penalty))
            yield judged
            losses.append(judged.loss)
            if len(losses) - int(np.argmin(losses)) > _PATIENCE:
                break

    def _unseen(self, several: Sequence[np.ndarray], dealt: Dealt) -> Iterator[np.ndarray]:
        """Yield the answers by folds for every penalty: of classes one after the other, of numbers all at once.

        Columns are the same for all folds, or of each fold.
        """
        task, rows = self.grower.task, dealt.rows
        together: list[Sequence[float]] = [PENALTIES]
        if task.is_classification:
            together = [[penalty] for penalty in PENALTIES]
        for penalties in together:
            scores = np.empty((len(penalties), len(rows), task.width))
            for (kept, asked), columns in zip(dealt.pairs, cycle(several), strict=False):
                weight = None if rows.weight is None else rows.weight[kept]
                models = fit_linear(task, columns[kept], rows.y[kept], weight, penalties)
                for own, (slope, intercept) in zip(scores, models, strict=True):
                    own[asked] = columns[asked] @ slope + intercept
            yield from (task.kind.answers(own, 0.0, 1.0, np) for own in scores[:, dealt.is_judged])

    def _choose(self, answers: Sequence[np.ndarray], rows: Sample, fold: np.ndarray | None = None) -> Choice:
        """Choose the weights of answers to rows, by models of folds, or by models that saw none of them."""
        judged = Judged(
            task=self.grower.task,
            y=rows.y,
            weight=rows.score_weight,
            answers=np.stack(answers),
            n_single=len(answers),
            fold=fold,
            group=rows.group,
            of_class=rows.of_class,
        )
        return judged.choose(np.random.default_rng(self.seed))
