"""Independent tasks: one single-task model per target, the reference of every multi-task gain."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import lightgbm as lgb
import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import polars.selectors as cs
from sklearn.base import BaseEstimator, clone
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import has_fit_parameter

from tabmtl.encode import TableCoder, take_rows
from tabmtl.estimators.base import NotHere
from tabmtl.estimators.boosted.data import dataset, tree_matrix
from tabmtl.estimators.boosted.options import LONGEST_STEP, Leaves, LightGBMOptions, least_level_rows
from tabmtl.estimators.boosted.rounds import ROWS_TO_SPLIT, _is_astray
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.tables import MultiTaskEstimator, TableState, check_answer
from tabmtl.metrics.scores import score_task, undefined_reason
from tabmtl.model_selection import train_valid_split
from tabmtl.model_selection.repeats import number_groups
from tabmtl.model_selection.stratify import Strata, deal_groups, deal_rows, number_units
from tabmtl.params import NonNegative, WholeShare, near
from tabmtl.processes.forks import count_threads
from tabmtl.processes.ranks import Ranks
from tabmtl.schema import Batch, Columns, warn_user
from tabmtl.storage.lightgbm_text import TreeText
from tabmtl.targets import Task
from tabmtl.training.watch import Watch, describe_score

if TYPE_CHECKING:
    from tabmtl.encode.cache import StoredRows

_MOST_TREES = 1_000
_BAGGING = {"subsample": 0.8, "subsample_freq": 1}

#: Configurations that ``tune`` names; what one does not name is the estimator's own parameter.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "small": {"num_leaves": 8, "min_child_samples": 20, "colsample_bytree": 0.5, "reg_lambda": 1.0, **_BAGGING},
    "mid": {
        "num_leaves": 16,
        "min_child_samples": 50,
        "colsample_bytree": 0.4,
        "reg_lambda": 10.0,
        "cat_smooth": 20.0,
        "cat_l2": 20.0,
        **_BAGGING,
    },
    "default": {},
    "big": {"num_leaves": 63, "min_child_samples": 20, "colsample_bytree": 0.5, "reg_lambda": 5.0, **_BAGGING},
}

#: A task with fewer labels, or of fewer beside its most frequent class, chooses its trees by folds. Of many rows, folds
#: would take too long.
FEW_ROWS, _RARE_ROWS, _MOST_FOLDED = 600, 100, 5_000
_MOST_FOLDS = 10
#: Trees that are grown at least, where there are any: fewer were chosen by chance.
_LEAST_TREES = 20
#: Standard errors by which a constant must predict classes better than trees do: its ROC AUC is the worst there is, and
#: log loss tells little of the order. The R² of a constant is no worse than its loss.
_MARGIN = 2.0
#: Trees that one takes for few rows without any choice, about 60 of them.
_FIXED_TREES = {"num_leaves": 7, "min_child_samples": 20, "colsample_bytree": 1.0, "learning_rate": 0.05}
_LISTED = 10


def _check_tune(name: str, value: Any) -> None:
    """Raise a ValueError unless a value is "all", or names configurations, each once."""
    known = [*CONFIGURATIONS]
    names = known if value == "all" else value
    is_listed = isinstance(names, Sequence) and not isinstance(names, str)
    wrong = [each for each in names if each not in known or names.count(each) > 1] if is_listed else [value]
    if wrong:
        hint = "" if wrong[0] in known else near(wrong[0], ["all", *known])
        raise ValueError(f"{name} must be 'all', or hold names of {known}, each once, got {value!r}{hint}")


def _check_estimator(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, type) or not (hasattr(value, "fit") and hasattr(value, "get_params"))):
        raise TypeError(f"{name} must be an estimator such as RandomForestRegressor(), or None, got {value!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class IndependentState(TableState):
    """Fitted attributes that a file keeps: the trees of every task, in task order."""

    trees: tuple[TreeText, ...]
    configuration_: str
    configuration_scores_: pl.DataFrame

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks, columns = self.coder_.labels.tasks, self.coder_.features.columns
        found = [trees.shape[:2] for trees in self.trees]
        expected = [(columns.n_features, task.width) for task in tasks]
        if found != expected:
            raise ValueError(f"the trees have columns and outputs {found[:5]}, expected {expected[:5]}")


class _TaskRows(NamedTuple):
    """Rows with a label of one task: of fit, and of the validation rows, if there are any.

    The former may be of one group, where other tasks have several.
    """

    rows: Batch
    watched: Batch | None
    are_one_group: bool


class _Parts(NamedTuple):
    """Labelled rows of one task: all of fit, those to grow on first, and those held out, if any.

    Nothing can be held out of rows that ``are_one_group``, where other tasks have several.
    """

    all: Batch
    kept: Batch
    held_out: Batch | None
    are_one_group: bool = False


class _Grown(NamedTuple):
    """Trees of one task under one configuration.

    Where rows were held out, ``losses`` are those of their labels, and ``score`` is by the metric of the task. Trees
    are lost where they predict the classes of the folds worse than their shares, which are the model then.
    """

    booster: lgb.Booster
    options: dict[str, Any]
    losses: np.ndarray
    score: float | None
    is_lost: bool = False

    @property
    def valid_losses(self):
        return [self.losses]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grower:
    """Grows the LightGBM model of one task.

    Parameters
    ----------
    task : Task
    columns : Columns
    n_trees : int
        The most trees.
    class_weight : dict or "balanced" or None
    params : dict
        LightGBM's other parameters.
    patience : int
        Trees without a better score of the held-out rows that end the training.
    takes_few : bool
        Whether folds choose the trees of few rows.
    seed : int
    """

    task: Task
    columns: Columns
    n_trees: int
    class_weight: Any
    params: dict[str, Any]
    patience: int
    takes_few: bool
    seed: int

    def has_few(self, rows: Batch) -> bool:
        """Return whether rows are too few, or those of its rarer classes are, to set some aside."""
        if not self.takes_few:
            return len(rows) < ROWS_TO_SPLIT
        if not self.task.is_classification or not FEW_ROWS <= len(rows) < _MOST_FOLDED:
            return len(rows) < FEW_ROWS
        return 0 < len(rows) - np.bincount(rows.y.astype(np.intp)).max() < _RARE_ROWS

    def try_all(self, rows: _Parts, configurations: Sequence[str], watch: Watch) -> dict[str, _Grown]:
        """Grow trees on the kept rows by every configuration; those held out stop the training and judge it."""
        if rows.are_one_group:
            warn_user(
                f"task {self.task.name!r}: all {len(rows.all)} labelled rows are in one group, so none can be set "
                "aside to choose its trees, and it is answered by a constant; give smaller groups, label rows of it in "
                "X_val and y_val, or set early_stopping=False"
            )
            booster = self._grow(rows.all, None, _constant_options(rows.all), watch)
        elif self.takes_few and rows.held_out is None and self.has_few(rows.all):
            return dict.fromkeys(configurations, self._grow_few(rows.all, watch))
        else:
            return {
                name: self._try(rows, CONFIGURATIONS[name], watch.part(1 / (len(configurations) - k)))
                for k, name in enumerate(configurations)
            }
        return dict.fromkeys(configurations, _Grown(booster, {}, np.zeros(0), None))

    def _try(self, rows: _Parts, options: dict[str, Any], watch: Watch) -> _Grown:
        booster = self._grow(rows.kept, rows.held_out, options, watch)
        if rows.held_out is None:
            return _Grown(booster, options, np.zeros(0), None)
        answer, held_out = self._answer(booster, rows.held_out), rows.held_out
        is_judged = undefined_reason(self.task, held_out.y, held_out.weight) is None
        score = score_task(self.task, held_out.y, answer, held_out.weight) if is_judged else None
        return _Grown(booster, options, self._losses(answer, held_out), score)

    def refit(self, rows: _Parts, first: _Grown, watch: Watch) -> lgb.Booster:
        """Grow as many trees on all rows, unless they go astray or there is no time for all of them.

        Nothing is to do where no row of them was held out.
        """
        if (
            rows.held_out is None
            or rows.kept is rows.all
            or watch.cuts(f"no fit of all rows of task {self.task.name!r}")
        ):
            return first.booster
        rounds = first.booster.current_iteration()
        options = first.options | {"num_iterations": rounds, "early_stopping_round": 0}
        booster = self._grow(rows.all, None, options, watch)
        if watch.was_cut:
            return first.booster
        losses = self._losses(self._answer(booster, rows.held_out), rows.held_out)
        return first.booster if _is_astray(first._replace(losses=losses), first, self.task.name) else booster

    def _grow(self, rows: Batch, held_out: Batch | None, options: dict[str, Any], watch: Watch) -> lgb.Booster:
        params = {"min_data_per_group": least_level_rows(len(rows)), **self.params, **options}
        data = self._data(rows)
        watched: list[lgb.Dataset] = []
        callbacks: list[Callable[..., Any]] = []
        if held_out is not None:
            if params["metric"] == "auc" and len(np.unique(held_out.y)) < 2:
                params["metric"] = "binary_logloss"  # one class has no AUC, and LightGBM calls it perfect
            watched = [self._data(held_out, reference=data)]
            callbacks = [lgb.early_stopping(self.patience, verbose=False)]
        if watch.is_limited:
            callbacks.append(_TimeLimit(watch, self.task.name))
        booster = lgb.train(params, data, self.n_trees, valid_sets=watched, callbacks=callbacks)
        rounds = booster.best_iteration or -1
        if self.takes_few and held_out is not None and params["metric"] == "auc" and 0 < rounds < _LEAST_TREES:
            rounds = self._least_rounds(booster, rows, held_out)
        # the text is what save writes: a loaded model is then the fitted one
        return lgb.Booster(model_str=booster.model_to_string(num_iteration=rounds))

    def _least_rounds(self, booster: lgb.Booster, rows: Batch, held_out: Batch) -> int:
        """Return the fewest rounds worth taking: ROC AUC of few rows is highest early by chance."""
        rounds = min(_LEAST_TREES, booster.current_iteration())
        found = booster.predict(tree_matrix(held_out), num_iteration=rounds)
        answer = self.task.kind.of_lightgbm(np.asarray(found))
        constant = self._constant(rows, held_out)
        is_better = self._losses(answer, held_out).sum() < self._losses(constant, held_out).sum()
        return rounds if is_better else booster.best_iteration

    def _grow_few(self, rows: Batch, watch: Watch) -> _Grown:
        """Grow trees on few rows: folds choose their size and number, and whether there are any."""
        options = _constant_options(rows)
        if len(rows) == 1:
            return _Grown(self._grow(rows, None, options, watch), {}, np.zeros(0), None)
        fold = _deal_folds(rows, self.task, self.seed)
        least = np.full(len(rows), np.inf)
        for tried in _few_configurations(len(rows)):
            rounds, losses = self._try_folds(rows, fold, tried, watch)
            if losses.sum() < least.sum():
                least, options = losses, tried | {"num_iterations": rounds}
            if watch.was_cut:
                break
        excess = least - self._constant_losses(rows, fold)
        if rows.group is not None:
            excess = np.bincount(rows.group, excess)
        margin = _MARGIN * np.sqrt(np.square(excess).sum()) if self.task.is_classification else 0.0
        is_lost = bool(excess.sum() >= margin)
        if is_lost:
            options = _constant_options(rows)
        booster = self._grow(rows, None, options, Watch())  # the rounds are known, and few
        return _Grown(booster, {}, np.zeros(0), None, is_lost and self.task.is_classification and bool(np.ptp(rows.y)))

    def _try_folds(
        self, rows: Batch, fold: np.ndarray, options: dict[str, Any], watch: Watch
    ) -> tuple[int, np.ndarray]:
        """Return the best number of rounds, and the losses of all rows (n,), each predicted without its own fold."""
        params = self.params | options | {"metric": "None"}
        found: list[np.ndarray] = []

        def keep(answers: np.ndarray, _: lgb.Dataset) -> tuple[str, float, bool]:
            found.append(answers)
            return "kept", 0.0, False

        folds = []
        for f in range(fold.max() + 1):
            kept, held_out = rows.rows(fold != f), rows.rows(fold == f)
            data = self._data(kept, params=params)
            booster = lgb.Booster(params, data)
            watched = self._data(held_out, reference=data, params=params)
            folds.append((booster.add_valid(watched, "valid"), held_out, fold == f))
        grown, best, least, is_done = 0, 0, np.empty(0), False
        while not is_done and grown < self.n_trees and grown - max(best, _LEAST_TREES) < self.patience:
            losses, grown, is_done = np.empty(len(rows)), grown + 1, True
            for booster, held_out, own in folds:
                is_done &= booster.update()  # true where no row is split
                booster.eval_valid(keep)
                losses[own] = self._losses(self.task.kind.of_lightgbm(found.pop()), held_out)
            if grown <= _LEAST_TREES or losses.sum() < least.sum():
                best, least = grown, losses
            is_done |= watch.cuts(f"the folds of task {self.task.name!r}")
        return best, least

    def _constant_losses(self, rows: Batch, fold: np.ndarray) -> np.ndarray:
        """Return the losses of all rows (n,), each answered by the constant of the other folds."""
        losses = np.empty(len(rows))
        for f in range(fold.max() + 1):
            held_out = rows.rows(fold == f)
            losses[fold == f] = self._losses(self._constant(rows.rows(fold != f), held_out), held_out)
        return losses

    def _data(self, rows: Batch, reference: lgb.Dataset | None = None, **options: Any) -> lgb.Dataset:
        options = {"label": rows.y, "weight": rows.weight, "reference": reference, "free_raw_data": False} | options
        data = dataset(tree_matrix(rows), self.columns, **options)
        if reference is None:
            _weigh_classes(data, self.task, self.class_weight)
        return data

    def _answer(self, booster: lgb.Booster, rows: Batch) -> np.ndarray:
        return _answer_by_trees(booster, self.task, tree_matrix(rows), self.params["num_threads"])

    def _constant(self, rows: Batch, asked: Batch) -> np.ndarray:
        """Return the best constant answer of rows, for others."""
        constant = self.task.kind.constant(rows.y, rows.weight, self.task.classes)
        return np.repeat(constant, len(asked), axis=0)

    def _losses(self, answer: np.ndarray, rows: Batch) -> np.ndarray:
        """Return the loss of every label, times its weight: (n,)."""
        losses = self.task.kind.answer_losses(answer, rows.y)
        return losses if rows.weight is None else losses * rows.weight


@dataclass(kw_only=True, eq=False, repr=False)
class IndependentTasks(LightGBMOptions, MultiTaskEstimator):
    """One model per task, each trained on its own labelled rows only.

    The default is LightGBM with native categories, native missing values and, for every task, its own early stopping.
    Any scikit-learn estimator can take its place. It gets X as it was given, without the rows that have no label, and
    is fitted on all others.

    The default LightGBM grows at most 1000 trees. Its options have the defaults of the published reference scores;
    ``tune`` makes it a stronger reference. With many classes a leaf adds at most 20 logits before the learning rate
    (``max_delta_step``); without that bound, a few rows of a rare class end the training early.

    Parameters
    ----------
    classifier, regressor : estimator, optional
        Cloned for every classification and regression task. A LightGBM estimator is trained like the default, with
        its own parameters, ``class_weight`` and ``random_state`` among them. Others get the ``groups`` of fit if they
        take them. With faces of a multi-task model, such as ``SharedTreesClassifier()`` and
        ``SharedTreesRegressor()``, this is the control that learns every task without the others.
    tune : "all" or sequence of str, default=()
        Names of the configurations to choose the parameters among: "small" has 8 leaves, "mid" 16 leaves of at least 50
        rows and a strong penalty, "default" the estimator's own parameters, "big" 63 leaves; all but "default" draw
        80 % of the rows for every tree, and 40 or 50 % of the columns. What a configuration does not name is the
        estimator's own parameter. All tasks get the configuration with the highest mean of ``configuration_scores_``,
        of equal ones the first. Without names, the estimator's own parameters are taken. It has no effect on tasks with
        few labels, see ``early_stopping``.
    early_stopping : bool, default=True
        Stop LightGBM where a task's validation score (ROC AUC, log loss for many classes, RMSE) has not improved
        for ``patience`` trees. Without labels of the task in y_val, ``validation_fraction`` of its rows is set aside
        to find the number of trees, and then all rows are fitted with it: no row is lost. Where that fit predicts the
        rows set aside clearly worse than the fit without them (a loss a quarter higher, and beyond chance), the fit
        without them is kept, with a warning. Where ROC AUC stops the default LightGBM before 20 trees, it takes 20 if
        these have a lower log loss than the shares of the classes.

        Without labels in y_val, a task with fewer than 600 labels is too small to split, as is one of up to 5 000 with
        fewer than 100 beside its most frequent class. There the default LightGBM chooses its trees by their loss in ten
        folds (fewer than ten rows: each row by itself): how many, 20 at least, and whether with 2, 7 or 8 leaves, as
        "mid", or by the estimator's own parameters. Where the mean predicts better than all of these, or the
        shares of the classes do by more than two standard errors, it answers alone, for classes with a warning. A task
        whose labels are all in one of several ``groups`` is answered by a constant, with a warning.

    Attributes
    ----------
    estimators_ : dict of str to estimator
        The fitted model of every task: a LightGBM Booster, or a scikit-learn estimator.
    configuration_ : str
        Name of the configuration that was taken; "default" without ``tune``, and the first one where no task is judged.
    configuration_scores_ : polars.DataFrame
        A row per task, and a column per configuration that was tried: the score of the task's validation labels by its
        own metric, higher is better. Null where they do not judge the task, as with fewer than 600 labels.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import IndependentTasks
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.column_stack([X[:, 0], X[:, 1] * 10])
    >>> y[:50, 1] = np.nan  # unlabelled
    >>> IndependentTasks(random_state=0).fit(X, y).predict(X).shape
    (200, 2)
    """

    classifier: Annotated[BaseEstimator | None, _check_estimator] = None
    regressor: Annotated[BaseEstimator | None, _check_estimator] = None
    num_leaves: Leaves = 31
    colsample_bytree: WholeShare = 0.8
    reg_lambda: NonNegative = 0.0

    tune: Annotated[Literal[all] | Sequence[str], _check_tune] = ()

    _stored: ClassVar[type] = IndependentState

    export_onnx = NotHere("its models are plain LightGBM; say estimators_[task], or fit a network")
    export_task = NotHere("its models are plain LightGBM; say estimators_[task]")

    def _check_params(self) -> None:
        super()._check_params()
        given = [name for name in ("classifier", "regressor") if getattr(self, name) is not None]
        if self.tune and given:
            raise ValueError(
                f"tune={self.tune!r} chooses among LightGBM models of its own; leave out {given[0]}, or tune"
            )
        if self.tune and not self.early_stopping:
            raise ValueError(f"tune={self.tune!r} needs validation rows; set early_stopping=True, or leave tune out")

    def _fit(self, X: Any, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int) -> dict[str, Any]:
        tasks, names = coder.labels.tasks, self._names_to_try
        growers = [self._grower(task, coder.features.columns, seed) for task in tasks]
        if X is None and None in growers:
            raise TypeError("Shards are for LightGBM only; give other estimators a frame as X")
        tried = self._try_all(growers, names, batch, valid)
        scores = _score_table(tasks, names, [_scores_of(grown) for grown in tried])
        best = _best_name(scores, names)
        estimators: dict[str, Any] = {}
        with self._watch.without_limit().steps(len(tasks), "final model", _describe_model) as step:
            for t, (task, grower) in enumerate(zip(tasks, growers, strict=True)):
                watch = self._watch.part(1 / (len(tasks) - t))
                if grower is None:
                    index, rows = _labelled_rows(batch, t)
                    estimators[task.name] = self._fit_foreign(
                        task, self._foreign_rows(X, index), rows, coder.features.columns.categorical, seed, watch
                    )
                else:
                    parts = self._parts(grower, _rows_of_task(batch, valid, t))
                    estimators[task.name] = grower.refit(parts, tried[t][best], watch)
                step((task, estimators[task.name]))
        _warn_of_lost([task for task, grown in zip(tasks, tried, strict=True) if _is_lost(grown)])
        return {"estimators_": estimators, "configuration_": best, "configuration_scores_": scores}

    def _try_all(
        self, growers: Sequence[_Grower | None], names: Sequence[str], batch: Batch, valid: Batch | None
    ) -> list[dict[str, _Grown]]:
        """Grow trees of every task by all configurations; none for other estimators."""
        n_left = sum(grower is not None for grower in growers)
        learns_again = n_left < len(growers) or (self.early_stopping and valid is None)
        whole = self._watch.part(1 / 2 if learns_again else 1)
        tried: list[dict[str, _Grown]] = []
        with self._watch.without_limit().steps(n_left, "task", _describe_tried) as step:
            for t, grower in enumerate(growers):
                if grower is None:
                    tried.append({})
                    continue
                parts = self._parts(grower, _rows_of_task(batch, valid, t))
                tried.append(grower.try_all(parts, names, whole.part(1 / n_left)))
                n_left -= 1
                step((grower.task, tried[-1]))
        return tried

    def _fit_stored(self, coder: TableCoder, rows: StoredRows, valid: StoredRows | None, seed: int) -> dict[str, Any]:
        if rows.group.size == 1:
            return super()._fit_stored(coder, rows, valid, seed)
        growers = [self._grower(task, coder.features.columns, seed) for task in coder.labels.tasks]
        if None in growers:
            raise TypeError("Shards are for LightGBM only; give other estimators a frame as X")
        return self._fit_dealt(growers, rows, valid)

    def _fit_dealt(self, growers: Sequence[Any], rows: StoredRows, valid: StoredRows | None) -> dict[str, Any]:
        """Fit every task on one rank of a group, to which its rows move; the largest tasks are dealt first."""
        group, names = rows.group, self._names_to_try
        tasks = [grower.task for grower in growers]
        batch, held_out = rows.mapped(), None if valid is None else valid.mapped()
        found = [_move_task(batch, held_out, t, rank, group) for t, rank in enumerate(group.deal(rows.n_labels))]
        dealt = {t: rows_of_task for t, rows_of_task in enumerate(found) if rows_of_task is not None}
        mine, shown = self._watch.of_one(), self._watch.without_limit()
        whole = mine.part(1 / 2 if self.early_stopping and valid is None else 1)
        tried: dict[int, Any] = {}
        with shown.steps(len(dealt), f"task of rank {group.rank}", _describe_tried) as step:
            for t, own in dealt.items():
                part = whole.part(1 / (len(dealt) - len(tried)))
                tried[t] = growers[t].try_all(self._parts(growers[t], own), names, part)
                step((tasks[t], tried[t]))
        judged = _merge(group.gather({t: _scores_of(grown) for t, grown in tried.items()}))
        lost = _merge(group.gather({t: _is_lost(grown) for t, grown in tried.items()}))
        scores = _score_table(tasks, names, [judged[t] for t in range(len(tasks))])
        best = _best_name(scores, names)
        boosters: dict[int, lgb.Booster] = {}
        with shown.steps(len(dealt), f"model of rank {group.rank}", _describe_model) as step:
            for t, own in dealt.items():
                part = mine.part(1 / (len(dealt) - len(boosters)))
                boosters[t] = growers[t].refit(self._parts(growers[t], own), tried[t][best], part)
                step((tasks[t], boosters[t]))
        grown = _merge(group.gather({t: booster.model_to_string() for t, booster in boosters.items()}))
        estimators = {task.name: lgb.Booster(model_str=grown[t]) for t, task in enumerate(tasks)}
        if group.rank == 0:
            _warn_of_lost([task for t, task in enumerate(tasks) if lost[t]])
        return {"estimators_": estimators, "configuration_": best, "configuration_scores_": scores}

    @property
    def _names_to_try(self) -> list[str]:
        return [*(CONFIGURATIONS if self.tune == "all" else self.tune)] or ["default"]

    def _parts(self, grower: _Grower, of_task: _TaskRows) -> _Parts:
        """Return the labelled rows of a task, perhaps with some held out."""
        rows, watched, are_one_group = of_task
        if not self.early_stopping:
            return _Parts(rows, rows, None)
        if watched is not None and len(watched):
            return _Parts(rows, rows, watched)
        is_few = grower.has_few(rows)
        if not (is_few and (len(rows) == 1 or not grower.takes_few)) and are_one_group:
            return _Parts(rows, rows, None, are_one_group=True)
        if is_few:
            return _Parts(rows, rows, None)
        rng = np.random.default_rng(grower.seed)
        share = self.validation_fraction
        kept, held_out = train_valid_split(rows.y[:, None], (grower.task,), share, rng, group=rows.group)
        return _Parts(rows, rows.rows(kept), rows.rows(held_out))

    def _base(self, task: Task) -> BaseEstimator | None:
        return self.classifier if task.is_classification else self.regressor

    def _grower(self, task: Task, columns: Columns, seed: int) -> _Grower | None:
        """Return what grows the trees of a task, or None for one whose estimator is not LightGBM."""
        base = self._base(task)
        if base is not None and not isinstance(base, lgb.LGBMModel):
            return None
        params = self._lightgbm_params(base, task, seed)
        return _Grower(
            task=task,
            columns=columns,
            n_trees=params.pop("n_estimators"),
            class_weight=params.pop("class_weight", None),
            params=params,
            patience=self.patience,
            takes_few=base is None and self.early_stopping,
            seed=seed,
        )

    def _lightgbm_params(self, base: lgb.LGBMModel | None, task: Task, seed: int) -> dict[str, Any]:
        """Return parameters of `lightgbm.train`; those of a given estimator take precedence."""
        own = self._tree_options() | {"n_estimators": _MOST_TREES}
        if task.width > 1:
            own["max_delta_step"] = LONGEST_STEP
        given = own if base is None else base.get_params()
        params = {name: value for name, value in given.items() if value is not None}
        if callable(params.get("objective")):
            raise ValueError(f"task {task.name!r}: the objective of LightGBM must be a name, got a function")
        if params.pop("importance_type", "split") != "split":
            raise ValueError("importance_type has no effect here; ask estimators_[task].feature_importance(...) for it")
        params["num_threads"] = count_threads(params.pop("n_jobs", self.n_jobs))
        ours = {"random_state": seed, "verbosity": -1, "deterministic": True, "force_col_wise": True}
        return {**ours, **task.kind.lightgbm, **params, "num_class": task.width}

    def _fit_foreign(
        self, task: Task, X: Any, rows: Batch, categories: Sequence[str], seed: int, watch: Watch
    ) -> BaseEstimator:
        base = self._base(task)
        y = _foreign_labels(task)[rows.y.astype(np.int64)] if task.is_classification else rows.y
        options = {} if rows.weight is None else {"sample_weight": rows.weight}
        if options and not has_fit_parameter(base, "sample_weight"):
            raise ValueError(f"task {task.name!r}: {type(base).__name__}.fit takes no sample_weight; leave it out")
        if rows.group is not None and has_fit_parameter(base, "groups"):
            options["groups"] = rows.group
        model = clone(base)
        unset = [name for name, value in model.get_params().items() if value is None and name.endswith("random_state")]
        model.set_params(**dict.fromkeys(unset, seed))
        with _explained(task, base, categories, "be fitted"):
            if watch.is_limited and isinstance(model, MultiTaskEstimator) and model.time_limit is None:
                return _fit_within(model, watch.left, X, y, **options)
            return model.fit(X, y, **options)

    def _foreign_rows(self, X: Any, rows: np.ndarray) -> Any:
        """Take rows of X in its own container, without the task column."""
        X = take_rows(_for_numpy(X), rows)
        if self.task_column is None or not nw.dependencies.is_into_dataframe(X):
            return X
        return nw.from_native(X, eager_only=True).drop(self.task_column).to_native()

    def _outputs(self, X: Any, batch: Batch) -> list[np.ndarray]:
        matrix = tree_matrix(batch)
        if batch.task is None:
            return [self._answer(task, X, matrix) for task in self.tasks_]
        classes = self.tasks_[0].classes
        output = np.empty((len(batch), len(classes)) if classes else len(batch))
        for t in np.unique(batch.task).tolist():
            rows, task = np.flatnonzero(batch.task == t), self.tasks_[t]
            is_foreign = not isinstance(self.estimators_[task.name], lgb.Booster)
            output[rows] = self._answer(task, self._foreign_rows(X, rows) if is_foreign else X, matrix[rows])
        return [output]

    def _answer(self, task: Task, X: Any, matrix: np.ndarray) -> np.ndarray:
        estimator = self.estimators_[task.name]
        if isinstance(estimator, lgb.Booster):
            return _answer_by_trees(estimator, task, matrix, self._n_threads)
        gives_shares = task.is_classification and hasattr(estimator, "predict_proba")
        ask = "predict_proba" if gives_shares else "predict"
        with _explained(task, estimator, self.coder_.features.columns.categorical, "predict"):
            answer = getattr(estimator, ask)(_for_numpy(X))
            columns = estimator.classes_ if gives_shares else ()
        n, source = len(matrix), f"the answer of {type(estimator).__name__}.{ask}"
        if not task.is_classification:
            return check_answer(task, answer, (n,), source)
        probabilities = np.zeros((n, len(task.classes or ())))
        if gives_shares:
            places = _places(task, columns, (np.size(columns),), f"{type(estimator).__name__}.classes_")
            probabilities[:, places] = check_answer(task, answer, (n, len(places)), source)
        else:
            probabilities[np.arange(n), _places(task, answer, (n,), source)] = 1
        return probabilities

    def _state(self) -> IndependentState:
        for name, model in self.estimators_.items():
            if not isinstance(model, lgb.Booster):
                raise TypeError(
                    f"save writes LightGBM models and networks; the model of task {name!r} is a "
                    f"{type(model).__name__}, which only pickle could write: use joblib.dump, or skops, on files you "
                    "trust"
                )
        texts = (TreeText(model.model_to_string()) for model in self.estimators_.values())
        return IndependentState(
            coder_=self.coder_,
            trees=tuple(texts),
            configuration_=self.configuration_,
            configuration_scores_=self.configuration_scores_,
        )

    def _restore(self, state: Any) -> None:
        boosters = [lgb.Booster(model_str=trees) for trees in state.trees]
        names = [task.name for task in state.coder_.labels.tasks]
        fitted = {
            "estimators_": dict(zip(names, boosters, strict=True)),
            "configuration_": state.configuration_,
            "configuration_scores_": state.configuration_scores_,
        }
        self._set_fitted(state.coder_, fitted)


class IndependentTasksClassifier(ClassifierFace, IndependentTasks):
    """`IndependentTasks` whose every task is a classification."""


class IndependentTasksRegressor(RegressorFace, IndependentTasks):
    """`IndependentTasks` whose every task is a regression."""


def _for_numpy(X: Any) -> Any:
    """Return X as other estimators can read it: collected, with integers of 128 bits as floats."""
    X = X.collect() if isinstance(X, pl.LazyFrame) else X
    # a selector, because cast takes a name like "^a$" for a pattern
    wide = cs.by_dtype(pl.Int128, pl.UInt128)
    return X.with_columns(wide.cast(pl.Float64)) if isinstance(X, pl.DataFrame) else X


def _foreign_labels(task: Task) -> np.ndarray:
    """Return the classes of a task as other estimators get them: their codes, where numpy has no type for them."""
    classes = [*(task.classes or ())]
    labels = np.array(classes)
    return labels if labels.dtype != object and labels.tolist() == classes else np.arange(len(classes))


def _places(task: Task, labels: Any, shape: tuple[int, ...], source: str) -> list[int]:
    """Return the places of labels of another estimator among the classes of a task."""
    places = {label: k for k, label in enumerate(_foreign_labels(task).tolist())}
    found = np.asarray(labels, dtype=None if isinstance(labels, np.ndarray) else object)
    if found.shape != shape:
        raise ValueError(f"task {task.name!r}: {source} has the shape {found.shape}, expected {shape}: a class each")
    for label in found.tolist():
        if not isinstance(label, Hashable) or label not in places:
            raise ValueError(f"task {task.name!r}: {source} holds {label!r:.200}, expected classes: {[*places][:10]}")
    return [places[label] for label in found.tolist()]


@contextmanager
def _explained(task: Task, base: BaseEstimator, categories: Sequence[str], does: str) -> Iterator[None]:
    """Name the task and the cure in errors of an estimator that gets X as it is given."""
    try:
        yield
    except Exception as error:
        if isinstance(base, MultiTaskEstimator) or isinstance(error, MemoryError | OSError):
            raise  # a model of ours has read X, and names the column itself
        name, has_gaps = type(base).__name__, "contains NaN" in str(error)
        cure = "it gets X as it is given"
        if categories:
            rest = "SimpleImputer()" if has_gaps else "'passthrough'"
            cure += (
                f", with categories in {[*categories[:5]]}; put an encoder before it: make_pipeline("
                "make_column_transformer((OneHotEncoder(handle_unknown='ignore'), [*those columns]), "
                f"remainder={rest}), {name}())"
            )
        elif has_gaps:
            cure += f", with its missing values; fill them before it: make_pipeline(SimpleImputer(), {name}())"
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"task {task.name!r}: {name} cannot {does}: {error}\n{cure}") from error


def _fit_within(model: MultiTaskEstimator, seconds: float, X: Any, y: Any, **options: Any) -> MultiTaskEstimator:
    """Fit a model within the time that is left of the fit around it, which is none of its own parameters."""
    model.set_params(time_limit=max(seconds, 1e-3)).fit(X, y, **options)
    model.set_params(time_limit=None)
    model._fitted_params["time_limit"] = None
    return model


def _score_table(
    tasks: Sequence[Task], names: Sequence[str], found: Sequence[Mapping[str, float | None]]
) -> pl.DataFrame:
    """Return the score of every task and configuration, null where no label judged it."""
    scores = {name: [own.get(name) for own in found] for name in names}
    schema = {"task": pl.String} | dict.fromkeys(names, pl.Float64)
    return pl.DataFrame({"task": [task.name for task in tasks], **scores}, schema=schema)


def _describe_tried(found: tuple[Task, Mapping[str, _Grown]]) -> str:
    """Describe the trees of a task by all configurations, before they are grown on all rows."""
    task, tried = found
    scores = {name: grown.score for name, grown in tried.items() if grown.score is not None}
    said = describe_score(task, max(scores.values(), default=None))
    return f"{said} ({', '.join(f'{name} {score:.4f}' for name, score in scores.items())})" if len(scores) > 1 else said


def _describe_model(found: tuple[Task, Any]) -> str:
    """Describe the fitted model of a task."""
    task, model = found
    made = f"LightGBM, {model.num_trees()} trees" if isinstance(model, lgb.Booster) else type(model).__name__
    return f"{task.name}  {made}"


class _TimeLimit:
    """Callback of LightGBM that ends the training of a task when the time is over, with the best trees so far."""

    order = 40  # after early stopping
    before_iteration = False

    def __init__(self, watch: Watch, task: str) -> None:
        self._watch, self._task = watch, task
        self._best, self._score = 0, -np.inf

    def __call__(self, env: Any) -> None:
        results = env.evaluation_result_list or []
        score = (results[0][2] if results[0][3] else -results[0][2]) if results else float(env.iteration)
        if score > self._score:
            self._best, self._score = env.iteration, score
        rounds = f"round {env.iteration + 1} of {env.end_iteration}"
        if env.iteration + 1 < env.end_iteration and self._watch.cuts(f"task {self._task!r}, {rounds}"):
            raise lgb.callback.EarlyStopException(self._best, results)


def _constant_options(rows: Batch) -> dict[str, Any]:
    """Return the options by which LightGBM answers rows with their best constant."""
    return {"min_child_samples": len(rows), "num_iterations": 1}


def _rows_of_task(batch: Batch, valid: Batch | None, t: int) -> _TaskRows:
    rows = _labelled_rows(batch, t)[1]
    watched = None if valid is None else _labelled_rows(valid, t)[1]
    return _TaskRows(rows, watched, _is_lone_group(rows, batch))


def _is_lone_group(rows: Batch, batch: Batch) -> bool:
    """Return whether the labelled rows of a task lie in one group, and those of the batch in several."""
    if batch.group is None or rows.group is None or np.ptp(rows.group):
        return False
    return bool(np.ptp(batch.group[~np.isnan(batch.y).all(axis=1)]))


def _move_task(batch: Batch, valid: Batch | None, t: int, owner: int, group: Ranks) -> _TaskRows | None:
    """Move the labelled rows of a task to the rank that fits it; on the others, return None."""
    labelled = None if batch.group is None else np.unique(batch.group[~np.isnan(batch.y).all(axis=1)])
    groups = group.gather(labelled, to=owner)
    rows = _labelled_rows(batch, t)[1].gathered(group, owner)
    watched = [] if valid is None else _labelled_rows(valid, t)[1].gathered(group, owner)
    if not rows:
        return None
    joined = Batch.join(rows)
    is_lone = joined.group is not None and not np.ptp(joined.group) and bool(np.ptp(np.concatenate(groups)))
    if joined.group is not None:
        joined = replace(joined, group=number_groups(joined.group.tolist()))
    return _TaskRows(joined, None if valid is None else Batch.join(watched), is_lone)


def _merge(parts: Sequence[Mapping[int, Any]]) -> dict[int, Any]:
    return {t: value for part in parts for t, value in part.items()}


def _few_configurations(n: int) -> list[dict[str, Any]]:
    """Return what n rows try if they are too few to set some aside; the first is what one takes without any choice.

    In the smallest trees, next to no rows of a level or value are enough to tell.
    """
    least = {"min_child_samples": 2 if n < 20 else 5, "min_data_in_bin": 1, "min_data_per_group": 1, "cat_smooth": 1.0}
    small = [least | {"num_leaves": num_leaves} for num_leaves in (2, 8)]
    mid = CONFIGURATIONS["mid"]
    return [_FIXED_TREES, *small, CONFIGURATIONS["default"], *([mid] if n >= 2 * mid["min_child_samples"] else [])]


def _is_lost(grown: Mapping[str, _Grown]) -> bool:
    return any(one.is_lost for one in grown.values())


def _warn_of_lost(tasks: Sequence[Task]) -> None:
    """Warn of tasks whose scores are those of a guess."""
    if not tasks:
        return
    names = [task.name for task in tasks]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    warn_user(
        f"tasks {names[:_LISTED]}{more}: in the folds, the shares of their classes predict these better than trees, "
        "so a constant answers them, with a ROC AUC of .5; label more rows, or add features that tell"
    )


def _scores_of(grown: Mapping[str, _Grown]) -> dict[str, float | None]:
    return {name: one.score for name, one in grown.items()}


def _best_name(scores: pl.DataFrame, names: Sequence[str]) -> str:
    """Return the configuration with the highest mean score."""
    means = scores.select(pl.mean(*names).fill_null(0.0)).row(0)
    return names[means.index(max(means))]


def _deal_folds(rows: Batch, task: Task, seed: int) -> np.ndarray:
    """Deal rows, or their groups, to ten folds, or as many as there are."""
    strata, rng = Strata.of(rows.y[:, None], (task,)), np.random.default_rng(seed)
    unit = np.arange(len(rows)) if rows.group is None else number_units(rows.group, (task,))
    n_folds = min(unit.max() + 1, _MOST_FOLDS)
    shares = np.full(n_folds, 1 / n_folds)
    return deal_rows(strata, shares, rng) if rows.group is None else deal_groups(strata, unit, shares, rng)


def _answer_by_trees(booster: lgb.Booster, task: Task, matrix: np.ndarray, n_threads: int) -> np.ndarray:
    """Return values (n,) or probabilities (n, K) of rows of `tree_matrix`."""
    answer = np.asarray(booster.predict(matrix, num_threads=n_threads))
    return task.kind.of_lightgbm(answer)


def _weigh_classes(data: lgb.Dataset, task: Task, class_weight: Any) -> None:
    """Multiply weights by those of the classes, as LightGBM's own classifier does."""
    if class_weight is None or not task.is_classification:
        return
    factor = compute_sample_weight(class_weight, np.array(task.classes)[np.asarray(data.label, dtype=np.int64)])
    data.set_weight(factor if data.weight is None else np.asarray(data.weight) * factor)


def _labelled_rows(batch: Batch, t: int) -> tuple[np.ndarray, Batch]:
    """Return the numbers of the rows with a label of task t, and these rows with its labels and weights (n,) alone."""
    column = t if batch.task is None else 0
    labelled = ~np.isnan(batch.y[:, column])
    index = np.flatnonzero(labelled if batch.task is None else labelled & (batch.task == t))
    rows = batch.rows(index)
    return index, replace(rows, y=rows.y[:, column], weight=None if rows.weight is None else rows.weight[:, column])
