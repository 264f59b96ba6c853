"""Shared trees as an estimator: options, fitted functions, predictions, tables, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import polars as pl

from tabmtl.base.params import AnyShare, Count, CountOrZero, NonNegative
from tabmtl.base.schema import Batch, FewLabelsWarning, warn_about
from tabmtl.encode import TableCoder
from tabmtl.estimators.asked import Together
from tabmtl.estimators.base import FromFitted
from tabmtl.estimators.boosted.border import bin_rows, tree_matrix
from tabmtl.estimators.boosted.estimator import BoostedEstimator
from tabmtl.estimators.boosted.gain import gain_shares
from tabmtl.estimators.boosted.joined import FEW_ROWS, JoinedTrees
from tabmtl.estimators.boosted.rounds import ROWS_TO_SPLIT, Split
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.model import Model
from tabmtl.estimators.rows import FitRows, FrameRows
from tabmtl.estimators.tables import TableState
from tabmtl.model_selection.stratify import deal
from tabmtl.model_selection.suspects import warn_of_random_split
from tabmtl.models.shared_trees.folds import GrowthInFolds, choose, fold_rows
from tabmtl.models.shared_trees.functions import FittedTrees, SharedFunctions
from tabmtl.models.shared_trees.growth import Growth, Rows, Schedule
from tabmtl.models.shared_trees.newcomer import Mix, Newcomer, Settled
from tabmtl.models.shared_trees.targets import Targets, make_targets
from tabmtl.targets import Task
from tabmtl.training.watch import SHOWN_ROUNDS, SHOWN_TASKS, describe_loss

_FEW_LABELS, _FOLDS = 400, 3  # of a task, below which folds find the rounds
_NOISE = 0.3  # of the tasks in a sketch


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedTreesState(TableState):
    """Fitted attributes that a file keeps; the public tables follow from them."""

    _functions: SharedFunctions

    def __post_init__(self) -> None:
        super().__post_init__()
        labels, functions = self.coder_.labels, self._functions
        n_functions = len(labels.tasks) + (labels.task_levels is not None)
        n_outputs = sum(task.width for task in labels.tasks) + (n_functions > len(labels.tasks)) * labels.tasks[0].width
        found = len(functions.rounds), len(functions.n_labels), len(functions.start), len(functions.gains)
        expected = n_functions, len(labels.tasks), n_outputs, self.coder_.features.columns.n_features
        if found != expected:
            raise ValueError(f"the functions, tasks, outputs and columns are {found}, expected {expected}")


class SharedFit(NamedTuple):
    """A fit, and the losses of the validation labels of every function."""

    functions: SharedFunctions
    growth: Growth
    own: list[Growth | None]
    valid_losses: list[np.ndarray]


class ForestsTogether(Together):
    """Shared trees of several fits, which few rows walk down by one call of LightGBM."""

    def __init__(self, models: Sequence[SharedTrees], places: tuple[int, ...] | None = None) -> None:
        super().__init__(models, places)
        self._some = [fitted.restricted(places) for fitted in self.fitted]
        self._forests = [some.functions.forest for some in self._some]

    @cached_property
    def _trees(self) -> JoinedTrees:
        return JoinedTrees([forest.text for forest in self._forests])

    def answers(self, X: Any, batch: Batch) -> list[list[np.ndarray]]:
        """Return the answers of every model."""
        if len(batch) > FEW_ROWS:
            return super().answers(X, batch)
        leaves = self._trees.leaves(tree_matrix(batch))
        parts = np.split(leaves, np.cumsum([len(forest) for forest in self._forests])[:-1], axis=1)
        scores = [
            some.functions.scores_at(some.functions.forest.counted(part), some.outputs, batch.task)
            for some, part in zip(self._some, parts, strict=True)
        ]
        return self.linked(scores)


@dataclass(kw_only=True, eq=False, repr=False)
class SharedTrees(BoostedEstimator):
    """Boosted trees that all tasks share: the splits are common, and each task has its own leaf values.

    Each round grows one tree for all tasks, on a sketch of their gradients: with gradients G (n, T) of the standardised
    tasks, LightGBM splits on g = G w and h = Σ w_t², both over the labels that a row has. The weight w is 1 for the
    task that leads the round and 0 for the others, plus 0.3 N(0, 1) for each. The classes of a task share its weight at
    random. Tasks lead the rounds in turn; in the long layout, all lead every second round together, unless ``rho`` is
    0. The leaves get a Newton step for each task, over its own labels::

        v_lt = -learning_rate * Σ G_it / (Σ H_it + reg_lambda s_t)            over the rows i of leaf l

    with s_t = 1 for a regression, and p (1 - p) for a class of share p. Tasks that do not lead the round have ``rho``
    times this value. Functions start at the mean, the log odds, or the log probabilities of a task. Each task keeps the
    trees up to its own best round on validation rows. A task with few labels thus takes its splits from tasks with
    many.

    Parameters
    ----------
    n_estimators : int, default=2000
        Largest number of shared rounds.
    n_estimators_task : int, default=500
        Wide layout: largest number of rounds of each task alone, after the shared ones. A task keeps them if they lower
        its validation loss by more than two standard errors, as for nearly deterministic tasks. So these trees have a
        tenth of ``min_child_samples``, a fifth of ``reg_lambda``, and twice the ``learning_rate``. Ignored in the long
        layout, and without validation rows: with ``early_stopping=False``, or for fewer than 50 rows without X_val and
        y_val.
    rho : float in [0, 1], default=0.5
        Factor of the leaf values of tasks that do not lead. 1 is full sharing. With 0, each tree serves one task, so
        the tasks divide ``n_estimators`` among them. To compare with boosting of single tasks, fit the model to each
        task alone instead.
    prior_labels : float, default=20.0
        Weight, in labels and times ``rho``, of a prior value in the mean of each leaf; 0 sets none. Regressions over
        the leaves so far predict the prior value from the values of the other tasks; in the long layout, from their
        mean. It moves leaves in which a task has few labels. Ignored in wide tables with more than 64 outputs.
    min_child_samples : int, default=20
        Smallest number of rows of a leaf, or a tenth of the rows with a label if that is less. Trees of one task alone
        count the rows with its label. LightGBM estimates the rows of a leaf by its share in the sum of hessians, so
        this does not bound labels where some are missing: in rounds led by a task with few labels, one label may count
        as many rows. Only ``reg_lambda`` and ``prior_labels`` hold such leaf values.
    patience : int, default=80
        Number of rounds without a better validation loss after which a task stops. In folds, the loss has to be lower
        by .2 % of what the task has gained, and the folds of an ensemble take half of these rounds. A round led by
        another task counts as ``rho`` rounds. Every task gets at least 2 T rounds, where T is the number of tasks. A
        task of two classes whose loss no round lowers keeps 20 rounds if they rank its validation labels better than
        chance, by two standard errors: such probabilities are too sure, but a constant would rank nothing.
    unknown_task : {"shared", "error"}, default="shared"
        Long layout: what ``predict`` does for a task that fit did not see, or a missing one. "shared" answers by leaf
        values pooled over all tasks.

    Attributes
    ----------
    rounds_ : polars.DataFrame
        One row per task: ``task``; ``n_labels``, the number of labels that the kept fit learned from; ``shared`` and
        ``own``, the numbers of its trees.
    feature_importances_ : ndarray of shape (n_features,)
        Each feature's share in the total gain of all splits; 0 of a task column.

    Notes
    -----
    Where early stopping is to set rows aside, and a task of a wide table has fewer than 400 labels, three folds find
    the rounds instead: all labels judge, and the fit takes about twice as long. Given ``time``, or Shards, rows are set
    aside in any case. A task with fewer than 400 labels takes trees of its own, and no shared ones, where trees that
    begin at its constant are better in the folds, by more than two standard errors. A warning names tasks that end
    without any tree. Candidates of `MultiTaskEnsemble` grow once in each of its folds, on all rows of the fold, up to
    the rounds that suit the judged rows of the other folds.

    Random sketches of gradients are from SketchBoost. Masks for missing labels, tasks of several losses, leading tasks
    and ``rho`` are ours.

    References
    ----------
    Iosipoi, Vakhrushev (2022), "SketchBoost: Fast Gradient Boosted Decision Tree for Multioutput Problems",
    arXiv:2211.12858.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedTrees
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.column_stack([X[:, 0], X[:, 0] + X[:, 1]])
    >>> y[:150, 1] = np.nan  # unlabelled
    >>> SharedTrees(random_state=0).fit(X, y).predict(X).shape
    (200, 2)
    """

    n_estimators: Count = 2_000
    n_estimators_task: CountOrZero = 500
    rho: AnyShare = 0.5
    prior_labels: NonNegative = 20.0
    reg_lambda: NonNegative = 5.0
    patience: Count = 80

    search_space: ClassVar[dict[str, Any]] = BoostedEstimator.search_space | {
        "rho": {"low": 0.1, "high": 1.0},
        "prior_labels": {"low": 0.0, "high": 200.0},
        "reg_lambda": {"low": 0.5, "high": 20.0, "log": True},
    }

    __gone_params__: ClassVar[dict[str, Any]] = BoostedEstimator.__gone_params__ | {"sketch": "soft"}
    _stored: ClassVar[type] = SharedTreesState
    _functions = FromFitted("functions")
    rounds_ = FromFitted(lambda model: _rounds(model))
    feature_importances_ = FromFitted(lambda model: gain_shares(model.fitted.functions.gains, model.coder.after))
    _together: ClassVar[type[Together]] = ForestsTogether

    def _split(self, rows: FitRows, valid: FitRows | None, seed: int) -> Split:
        """Deal the rows to folds where a task has few labels, else set some aside."""
        is_usual = self.early_stopping and valid is None and len(rows) >= ROWS_TO_SPLIT
        if not is_usual or not isinstance(rows, FrameRows) or rows.n_labels.min() >= _FEW_LABELS:
            return super()._split(rows, valid, seed)
        batch = rows.read()
        if batch.task is not None or batch.time is not None:
            return super()._split(rows, valid, seed)
        fold = deal(batch.y, rows.tasks, None, batch.group, _FOLDS, seed)
        folds = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(int(fold.max()) + 1)]
        judged = np.array([batch.rows(index).count_labels(len(rows.tasks)) for _, index in folds])
        if (judged == rows.n_labels).any() or not judged.any(axis=1).all():
            return super()._split(rows, valid, seed)
        warn_of_random_split(rows.dates, len(rows))
        fit, held = folds[0]
        return Split(batch, batch.rows(held), lambda: batch.rows(fit), folds)

    def _find(self, coder: TableCoder, split: Split, seed: int) -> Sequence[Any]:
        if not split.folds:
            return super()._find(coder, split, seed)
        tasks, batch, params = coder.labels.tasks, split.all, self._data_params
        folds = [fold_rows(coder, batch.rows(fit), batch.rows(judged), params) for fit, judged in split.folds]
        counts, has_own = batch.count_labels(len(tasks)), self.n_estimators_task > 0
        options: dict[str, Any] = {"importance": importance_of(tasks), "n_rounds": self.n_estimators}
        with self._watch.steps(self.n_estimators, "round", describe_loss, every=SHOWN_ROUNDS) as step:
            options |= {"patience": self.patience, "keeps_scores": has_own, "on_round": step}
            schedule = self._schedule(params, seed, **options)
            cuts = partial(self._watch.cuts, "trees of single tasks")
            alone = replace(schedule, n_rounds=self.n_estimators_task, on_round=lambda loss: cuts())
            both = [GrowthInFolds(folds, [each] * len(folds)) for each in (schedule, alone)]
            first, again = choose(both[0], both[1] if has_own else None, np.flatnonzero(counts < _FEW_LABELS).tolist())
        labels = split.first.count_labels(len(tasks)).astype(np.int64)
        functions = SharedFunctions.join(*first, folds[0].rows.targets.sums.function, labels)
        return [SharedFit(functions, *again, self._valid_losses(functions, folds[0].judged))]

    def _fit_split(self, coder: TableCoder, split: Split, seed: int) -> tuple[Sequence[Any], Sequence[Any]]:
        fits, first = super()._fit_split(coder, split, seed)
        functions = fits[0].functions
        idle = (functions.rounds[: len(functions.own_rounds)] == 0) & (functions.own_rounds == 0)
        names = [task.name for task, is_idle in zip(coder.labels.tasks, idle, strict=True) if is_idle]
        if names and split.watched is not None:
            more = "..." if len(names) > SHOWN_TASKS else ""
            warn_about(
                names,
                f"tasks {names[:SHOWN_TASKS]}{more} have no trees, because none lowered the loss of their validation "
                "labels, which are few or noise; their answers are constants. Give them more labels or features",
                FewLabelsWarning,
            )
        return fits, first

    def _fit_rows(
        self, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int, found: Sequence[SharedFit] | None
    ) -> list[SharedFit]:
        tasks, known = coder.labels.tasks, None if found is None else found[0]
        params = self._data_params
        rows = Rows.read(coder, batch, params)
        followed = None if valid is None else Rows.read(coder, valid, params, rows.data)
        has_own = self.n_estimators_task > 0 and batch.task is None and valid is not None
        schedule = self._schedule(
            params,
            seed,
            importance=importance_of(tasks),
            n_rounds=self.n_estimators if known is None else int(known.growth.rounds.max()),
            patience=self.patience if known is None else None,
            keeps_scores=has_own,
            found=None if known is None else known.growth,
        )
        own: list[Growth | None] = []
        with self._watch.steps(schedule.n_rounds, "round", describe_loss, every=SHOWN_ROUNDS) as step:
            growth = replace(schedule, on_round=step).grow(rows, followed)
            if has_own:
                cuts = partial(self._watch.cuts, "trees of single tasks")
                alone = replace(schedule, n_rounds=self.n_estimators_task, on_round=lambda loss: cuts())
                own = alone.finish(rows, followed, growth, None if known is None else known.own)
        if has_own:
            n_own = sum(each is not None for each in own)
            self._watch.tell(f"{n_own} of {len(own)} tasks get trees of their own after the shared ones")
        labels = batch.count_labels(len(tasks)).astype(np.int64)
        functions = SharedFunctions.join(growth, own, rows.targets.sums.function, labels)
        losses = [] if followed is None else self._valid_losses(functions, followed)
        return [SharedFit(functions, growth, own, losses)]

    def _go_on(self, coder: TableCoder, rows: FitRows, seed: int) -> dict[str, Any]:
        """Append rounds that learn new rows."""
        batch, tasks, functions = rows.read(), coder.labels.tasks, self._functions
        labels = batch.count_labels(len(tasks)).astype(np.int64)
        params = self._data_params
        found = Rows.read(coder, batch, params)
        found = found._replace(targets=found.targets.going_on(functions.start))
        schedule = self._schedule(
            params,
            seed,
            importance=importance_of(tasks) * (labels > 0),
            n_rounds=self.partial_rounds,
            keeps_scores=False,
        )
        scores = self._scores_at_rows(found.batch)
        counts = [labels, labels + functions.n_labels]
        new, every = (np.append(own, [own.sum()] * (len(functions.rounds) - len(tasks))) for own in counts)
        schedule = replace(schedule, shares=new / np.maximum(every, 1))
        with self._watch.steps(schedule.n_rounds, "round", describe_loss, every=SHOWN_ROUNDS) as step:
            growth = replace(schedule, on_round=step).grow(found._replace(scores=scores), None)
        return {"_fitted": replace(self._fitted, functions=functions.extended(growth, labels, found.targets.sizes > 0))}

    def _schedule(self, params: dict[str, Any], seed: int, *, patience: int | None = None, **options: Any) -> Schedule:
        """Return the options of a growth, given LightGBM's parameters of data."""
        return Schedule(
            params=self._tree_params(params, seed),
            noise=_NOISE,
            rho=self.rho,
            prior_labels=self.prior_labels,
            seed=seed,
            patience=patience,
            **options,
        )

    def _add_tasks(self, coder: TableCoder, batch: Batch, head: Any, freeze: Any, seed: int) -> dict[str, Any]:
        """Give new tasks leaf values on the trees that stand, and trees of their own after them."""
        n_old, n_all = len(self.tasks_), len(coder.labels.tasks)
        fitted = self._fitted.placed(coder.labels, np.append(np.arange(n_old), np.full(n_all - n_old, -1)))
        functions = fitted.functions
        for t in range(n_old, n_all):
            functions = functions.with_task(t, fitted.outputs[t], self._settled(coder, batch, t, seed))
        return {"_fitted": replace(fitted, functions=functions)}

    def _settled(self, coder: TableCoder, batch: Batch, t: int, seed: int) -> Settled:
        """Learn a new task from the rows with its label."""
        task, labels, forest = coder.labels.tasks[t], coder.labels, self._functions.forest
        rows, column = _rows_of_task(batch, t), 0 if batch.task is not None else t
        targets = make_targets(rows, (task,), labels.center[[column]], labels.scale[[column]])
        newcomer = self._newcomer(targets, tree_matrix(rows), seed, batch.task is not None)
        mix, values = newcomer.settle(rows, task, seed)
        own = None
        if batch.task is None:
            own = self._own_trees(coder, newcomer, rows, task, mix, len(values))
            weights = mix.weights / newcomer.scale[:, None]
            start = targets.start(self.reg_lambda) + mix.constant + (self._functions.start - newcomer.center) @ weights
        else:  # a task begins at the pooled answers
            weights, pooled = np.zeros((len(self._functions.start), task.width)), self._fitted.outputs[-1]
            weights[pooled] = np.eye(task.width)
            start = self._functions.start[pooled] + mix.constant
        mixed = [known @ weights for known in forest.values_by_tree]
        for whole, found in zip(mixed, values, strict=False):
            whole += found
        return Settled(start, mixed, own, len(rows))

    def _newcomer(self, targets: Targets, matrix: np.ndarray, seed: int, is_long: bool) -> Newcomer:
        """Return what learns a new task from rows: in the long layout from the pooled answers on."""
        functions, n_threads = self._functions, self._n_threads
        place = self._fitted.outputs[-1] if is_long else slice(0, len(functions.start))
        none = np.zeros(len(matrix), dtype=np.int64) if is_long else None
        known = functions.scores(matrix, [place], none, n_threads)[0]
        start = functions.start[place] if is_long else targets.start(self.reg_lambda)
        schedule = self._schedule(
            self._data_params,
            seed,
            importance=np.ones(1),
            n_rounds=self.n_estimators_task,
            patience=self.patience,
            keeps_scores=True,
        )
        return Newcomer(
            targets=targets.going_on(start),
            leaves=[*functions.forest.leaves_by_tree(matrix, n_threads)],
            sizes=[*map(len, functions.forest.values_by_tree)],
            offset=known if is_long else np.tile(start, (len(matrix), 1)),
            others=known[:, :0] if is_long else known,
            hold=self.reg_lambda if is_long else 0.0,
            schedule=schedule,
        )

    def _own_trees(
        self, coder: TableCoder, newcomer: Newcomer, batch: Batch, task: Task, mix: Mix, n_trees: int
    ) -> Growth | None:
        """Grow trees of a new task alone, after those that stand, if rows that are set aside say that they pay."""
        is_one_group = batch.group is not None and not np.ptp(batch.group)
        if not (self.n_estimators_task and self.early_stopping) or len(batch) < ROWS_TO_SPLIT or is_one_group:
            return None
        kept, held = FrameRows(batch, (task,)).split(self.validation_fraction, newcomer.schedule.seed)
        if kept.index is None or held.index is None or not min(len(kept), len(held)):
            return None
        data = bin_rows(batch, coder.features.columns, self._data_params)
        return newcomer.finish(Rows(batch, data, newcomer.targets), mix, n_trees, kept.index, held.index)

    def _scores_at_rows(self, batch: Batch) -> np.ndarray:
        """Return the scores (n, B) of the functions at rows, as `Targets` have their columns."""
        functions, matrix = self._functions, tree_matrix(batch)
        outputs: Sequence[slice] = (slice(0, len(functions.start)),)
        asked: list[np.ndarray | None] = [None]
        if batch.task is not None:
            outputs, asked = self._fitted.outputs, [batch.task, np.full_like(batch.task, -1)]
        parts = [functions.scores(matrix, outputs, task, self._n_threads)[0] for task in asked]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _valid_losses(self, functions: SharedFunctions, rows: Rows) -> list[np.ndarray]:
        targets, matrix = rows.targets, tree_matrix(rows.batch)
        every = slice(0, len(functions.start))
        scores = functions.scores(matrix, [every], None, self._n_threads)[0]
        at_rows = np.zeros_like(targets.y)
        targets.sums.add_leaves(at_rows, scores, np.arange(len(targets), dtype=np.int32))
        return targets.losses(at_rows)

    def _fitted_by(self, coder: TableCoder, fits: Sequence[SharedFit]) -> FittedTrees:
        return FittedTrees.of(fits[0].functions, coder.labels)

    def _fitted_of(self, coder: TableCoder, parts: dict[str, Any]) -> FittedTrees:
        return FittedTrees.of(parts["functions"], coder.labels)


def _rounds(model: Model) -> pl.DataFrame:
    functions, names = cast(FittedTrees, model.fitted).functions, [task.name for task in model.tasks]
    table = {"task": names, "n_labels": functions.n_labels, "shared": functions.rounds[: len(names)]}
    return pl.DataFrame(table | {"own": functions.own_rounds})


class SharedTreesClassifier(ClassifierFace, SharedTrees):
    """`SharedTrees` whose every task is a classification."""


class SharedTreesRegressor(RegressorFace, SharedTrees):
    """`SharedTrees` whose every task is a regression."""


def _rows_of_task(batch: Batch, t: int) -> Batch:
    """Take the rows with a label of a task, as those of a table with this task alone."""
    column = t if batch.task is None else 0
    labelled = ~np.isnan(batch.y[:, column]) & (True if batch.task is None else batch.task == t)
    rows = batch.rows(np.flatnonzero(labelled))
    weight, of_class = (None if part is None else part[:, [column]] for part in (rows.weight, rows.of_class))
    return replace(rows, y=rows.y[:, [column]], weight=weight, of_class=of_class, task=None)


def importance_of(tasks: Sequence[Task]) -> np.ndarray:
    """Return the weights of the tasks; all 1 if all are 0."""
    weight = np.array([task.weight for task in tasks])
    return weight if weight.any() else np.ones(len(tasks))
