"""R-MTGB: robust multi-task gradient boosting, on LightGBM's trees."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import lightgbm as lgb
import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.encode import TableCoder
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.tables import MultiTaskEstimator, TableState
from tabmtl.forks import count_threads
from tabmtl.model_selection.stratify import train_valid_split
from tabmtl.models.rmtgb.fitted import FittedGroup
from tabmtl.models.rmtgb.stages import Schedule, TreeParams
from tabmtl.models.rmtgb.targets import BinnedRows, bin_labelled, count_labels, rows_of_tasks
from tabmtl.params import Count, CountOrZero, Jobs, NonNegative, Positive, Share, TwoOrMore, WholeShare, check_choice
from tabmtl.schema import Batch, TabmtlWarning, Task
from tabmtl.storage.stored import Stored
from tabmtl.trees import tree_matrix

_ROWS_TO_SPLIT = 50
_SPREAD = 0.1  # standard deviation of theta at the start

#: The fitted tasks of one loss, and the losses of the validation labels of each task.
Fitted = tuple[FittedGroup, list[np.ndarray]]


@dataclass(frozen=True, kw_only=True, eq=False)
class RMTGBState(TableState):
    """Fitted attributes that a file keeps."""

    _groups: tuple[FittedGroup, ...]
    outlier_score_: pl.DataFrame
    block_rounds_: pl.DataFrame
    feature_importances_: Annotated[np.ndarray, Stored("f8", "3 P")]

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks, columns = self._coder.labels.tasks, self._coder.features.columns
        members = [t for group in self._groups for t in group.members.tolist()]
        if sorted(members) != list(range(len(tasks))):
            raise ValueError(f"the groups have the tasks {members[:5]}, expected each of {len(tasks)} once")
        for group in self._groups:
            found = group.importances.shape[1], {group.start.shape[1]}
            expected = columns.n_features, {tasks[t].width for t in group.members}
            if found != expected:
                raise ValueError(f"a group has columns and outputs {found}, expected {expected}")


@dataclass(kw_only=True, eq=False, repr=False)
class RMTGB(MultiTaskEstimator):
    """Robust multi-task gradient boosting (R-MTGB) of Emami et al., with LightGBM's trees.

    For the tasks of one loss (all regressions; all binary tasks; tasks of the same many classes)::

        F(x, t) = F1(x) + (1 - s_t) B(x) + s_t A(x) + G_t(x),        s_t = sigmoid(theta_t)

    grown in three blocks, each on the pseudo-residuals r = -∂L/∂F that the blocks before it leave:

    1. F1, shared by all tasks.
    2. B and A, mixed for every task: B is fitted to (1 - s) r, A to s r, and θ takes one step down
       ∂L/∂θ_t = -s_t (1 - s_t) Σ ⟨r, A - B⟩ over the rows of the task. All three see the same F. Tasks that are not
       like most of them move to the other side: :attr:`outlier_score_`.
    3. G_t, one ensemble for each task.

    BinnedRows are binned once. Categories and missing values are LightGBM's own. A wide table is not melted: the
    gradient of a shared function at a row is the sum over the row's labels. Each block stops where the validation loss
    does not fall. In block 3 every task stops where its own loss and that of all tasks together say, the latter with
    the weight of 10 000 labels: few validation labels do not decide alone. A task which does better without the shared
    part goes alone, if that is beyond one standard error after shrinking its gain to that of all tasks.

    Parameters
    ----------
    n_estimators_shared, n_estimators_outlier, n_estimators_task : int, default=50, 300, 1000
        The most rounds of block 1, 2 and 3; 0 leaves a block out. SharedStage 2 grows two trees a round, and each one
        as many as there are classes beyond two. A loss with a single task has block 3 only: plain boosting.
    theta_step : {"scale-free", "sum"}, default="scale-free"
        How θ moves. "sum": learning rate times the summed gradient, as in the released code; it depends on the rows
        of a task, on its weight and on the scale of y. "scale-free": by 2 Σ / Σ|·| of the inner products times
        s (1 - s), at most 0.5, and only as far as the sum is beyond two standard errors of it; |θ| is at most 12.
    unknown_task : {"shared", "error"}, default="shared"
        Long layout: what ``predict`` says for a task that fit did not see, or a missing one. "shared": the shared part
        with the θ of a normal task, the median of the majority.
    learning_rate : float, default=0.05
        Factor of every tree.
    num_leaves : int, default=16
        Most leaves of a tree.
    min_child_samples : int, default=20
        Least rows of a leaf; LightGBM counts them by the sum of hessians, so roughly.
    subsample, colsample_bytree : float, default=1.0
        Share of the rows, drawn anew each round, and of the columns, for every tree.
    reg_lambda : float, default=0.1
        L2 penalty of the leaf values. It costs nothing on ordinary tables, and keeps leaves small whose hessian nearly
        vanishes.
    max_bin : int, default=255
        Most bins of a column.
    early_stopping : bool, default=True
        Stop on validation rows. Without X_val and y_val in fit, ``validation_fraction`` of the rows is set aside to
        find the rounds, and then all rows are fitted with these: no row is lost. Where that fit predicts the rows set
        aside worse than the fit without them, the latter is kept, with a warning. With less than 50 rows, all rounds
        are grown.
    validation_fraction : float, default=0.15
        Share of the rows that early stopping sets aside.
    patience : int, default=30
        Rounds without a lower validation loss after which an ensemble stops.
    n_jobs : int, optional
        Threads of LightGBM, as scikit-learn counts them; more than one pays from about 50 000 rows.

    Attributes
    ----------
    outlier_score_ : polars.DataFrame
        A row per task. ``outlier_score``: sigmoid(θ), with sides named so that most tasks are at or below 0.5 (at a tie
        by chance); null where block 2 has no trees, or mixes less than three tasks. ``n_labels``: labels in fit.
        ``shares``: whether the task uses the shared part. The measured check: ``check_labels`` validation labels have
        the mean loss ``check_loss`` after block 2 (squared error: half of it, in standard deviations), and
        ``check_loss_if_normal`` with the θ of a normal task instead; null without validation rows.
    block_rounds_ : polars.DataFrame
        Rounds of the blocks in every task's prediction: ``shared``, ``outlier``, ``own``; of a task that goes alone,
        ``own`` only.
    feature_importances_ : ndarray of shape (3, n_features_in_)
        Of blocks 1, 2 and 3, each feature's share in the total gain of all splits; the whole sums to 1.

    Notes
    -----
    The formulas are those of the released code, of which the paper's abstract differs in words: there is no
    regularisation of θ. Ours differs from it so: F starts at the mean (or log odds), not at 0; leaves are Newton steps
    where the loss is not squared, and plain means where it is; block 3 begins with a constant for each task, shrunk to
    0 as far as chance explains the differences; trees have more than two leaves; θ is drawn from the estimator's own
    generator; the scale-free step moves only on evidence, so that a task of few rows keeps its start; where rows were
    set aside, the fit of all rows holds the θ that they checked; predict never renumbers tasks. Of a table with tasks
    of unlike losses, each loss has functions of its own.

    What the outlier score finds, and what not: one group of tasks that follow another function (or the flipped one, or
    have shuffled or shifted labels) is told apart. Several outliers which each follow their own function share one A,
    and may be missed; mere noise in the labels is not found reliably; after many rounds of block 1 the score is about
    what is left, so that some tasks may move though none is an outlier; and so they may in classification (3 to 5 of 10
    tasks in trials without any). So compare the two check losses.

    References
    ----------
    Emami, Martínez-Muñoz, Hernández-Lobato (2025), "Robust Multi-Task Gradient Boosting", arXiv:2507.11411.

    Examples
    --------
    >>> from tabmtl import RMTGB
    >>> from tabmtl.synth import make_outlier_tasks
    >>> bench = make_outlier_tasks(n_tasks=5, n_outliers=1, random_state=0)
    >>> model = RMTGB(task_column="task", random_state=0).fit(bench.X, bench.y)
    >>> model.outlier_score_.filter(model.outlier_score_["outlier_score"] > 0.5)["task"].to_list() == [*bench.outliers]
    True
    """

    n_estimators_shared: CountOrZero = 50
    n_estimators_outlier: CountOrZero = 300
    n_estimators_task: CountOrZero = 1_000
    theta_step: Literal["scale-free", "sum"] = "scale-free"
    unknown_task: Literal["shared", "error"] = "shared"
    learning_rate: Positive = 0.05
    num_leaves: TwoOrMore = 16
    min_child_samples: Count = 20
    subsample: WholeShare = 1.0
    colsample_bytree: WholeShare = 1.0
    reg_lambda: NonNegative = 0.1
    max_bin: TwoOrMore = 255
    early_stopping: bool = True
    validation_fraction: Share = 0.15
    patience: Count = 30
    n_jobs: Jobs = None

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 0.01, "high": 0.2, "log": True},
        "num_leaves": {"low": 4, "high": 128, "log": True},
        "min_child_samples": {"low": 5, "high": 100, "log": True},
        "subsample": {"low": 0.5, "high": 1.0},
        "colsample_bytree": {"low": 0.3, "high": 1.0},
        "reg_lambda": {"low": 0.0, "high": 10.0},
        "n_estimators_shared": {"choices": (0, 50, 500)},
        "n_estimators_outlier": {"choices": (0, 300)},
    }

    _stored: ClassVar[type] = RMTGBState

    def _read_rows(self, X: Any) -> Batch:
        check_choice("unknown_task", self.unknown_task, ("shared", "error"))
        return self._coder.read(X, unknown_task=self.unknown_task)

    def export_task(self, task: str) -> lgb.Booster:
        """Everything for one task as one plain LightGBM model.

        For single rows, say ``predict(matrix, num_threads=1)``: LightGBM else starts all threads for each.

        It predicts what this estimator does, values in own units or probabilities, from the matrix of `encode`; its
        ``pred_contrib`` (SHAP values) sums to the prediction, of a classification to the log odds or scores.

        Parameters
        ----------
        task : str
            Name of a task; a number will do for tasks that are numbered.

        Returns
        -------
        lightgbm.Booster

        Raises
        ------
        ValueError
            If there is no such task.
        """
        check_is_fitted(self)
        names = [each.name for each in self.tasks_]
        if str(task) not in names:
            more = "..." if len(names) > 10 else ""
            raise ValueError(f"expected task to be one of {names[:10]}{more}, got {task!r}")
        index = names.index(str(task))
        group = next(group for group in self._groups if index in group.members)
        labels, own = self._coder.labels, self.tasks_[index]
        objectives = {"binary": "binary sigmoid:1", "multiclass": f"multiclass num_class:{own.width}"}
        column = 0 if labels.task_levels is not None else index
        return group.export(
            int(np.flatnonzero(group.members == index)[0]),
            objectives.get(own.kind, "regression"),
            float(labels.scale[column]),
            float(labels.center[column]),
        )

    def encode(self, X: Any) -> np.ndarray:
        """BinnedRows as the models of `export_task` take them.

        Returns
        -------
        matrix : ndarray of float32, shape (n, p)
            The numeric columns of X, then the categorical ones as codes from 0, levels sorted; missing and unseen are
            NaN. The task column of a long table is left out.
        """
        check_is_fitted(self)
        self._check_columns(X)
        return tree_matrix(self._read_rows(X))

    def _fit(self, X: Any, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int) -> dict[str, Any]:
        found: list[Fitted] = []
        if not self.early_stopping:
            valid = None
        elif valid is not None:
            if np.isnan(valid.y).all():
                raise ValueError("y_val has no label to stop on; label some validation rows")
        elif len(batch) >= _ROWS_TO_SPLIT:
            rng = np.random.default_rng(seed)
            kept, held_out = train_valid_split(batch.y, coder.labels.tasks, self.validation_fraction, rng, batch.task)
            if count_labels(batch.rows(kept), len(coder.labels.tasks)).all():
                valid = batch.rows(held_out)
                found = self._fit_groups(coder, batch.rows(kept), valid, seed, [])
        groups = [group for group, _ in self._fit_groups(coder, batch, valid, seed, found)]
        counts = count_labels(batch, len(coder.labels.tasks))
        return {"_groups": groups, **_tables(coder, groups, counts)}

    def _fit_groups(
        self, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int, found: Sequence[Fitted]
    ) -> list[Fitted]:
        """Fit every loss on rows that are binned once."""
        params, columns = self._tree_params(seed), coder.features.columns
        sides = [bin_labelled(batch, columns, params.data)]
        if valid is not None:
            sides.append(bin_labelled(valid, columns, params.data, sides[0][0]))
        groups = []
        for i, members in enumerate(_members_by_loss(coder.labels.tasks)):
            rows, *held_out = [rows_of_tasks(*side, coder, members, params.data) for side in sides]
            assert rows is not None  # every task has a label to learn
            known = found[i][0] if found else None
            fitted = self._fit_group(members, rows, held_out[0] if held_out else None, params, known)
            groups.append(_choose(found[i], fitted) if found else fitted)
        return groups

    def _fit_group(
        self,
        members: np.ndarray,
        rows: BinnedRows,
        valid: BinnedRows | None,
        params: TreeParams,
        found: FittedGroup | None,
    ) -> tuple[FittedGroup, list[np.ndarray]]:
        shares = len(members) > 1
        caps = [self.n_estimators_shared * shares, self.n_estimators_outlier * shares]
        schedule = Schedule(
            params=params,
            rounds=np.array(caps + [self.n_estimators_task] * len(members)) if found is None else found.rounds,
            patience=None if valid is None or found is not None else self.patience,
            has_own=self.n_estimators_task > 0,
            goes_alone=None if found is None else found.goes_alone,
            theta_rate=None if self.theta_step == "scale-free" else self.learning_rate,
        )
        if found is not None:  # the θ that was checked is held
            return replace(schedule, theta_rate=0.0).fit(members, rows, valid, found.theta)
        rng = np.random.default_rng([params.trees["seed"], int(members[0])])
        return schedule.fit(members, rows, valid, _SPREAD * rng.standard_normal(len(members)))

    def _tree_params(self, seed: int) -> TreeParams:
        options = {
            "max_bin": self.max_bin,
            "feature_pre_filter": False,
            "num_threads": count_threads(self.n_jobs),
            "verbosity": -1,
        }
        trees = {
            **options,
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_child_samples,
            "bagging_fraction": self.subsample,
            "bagging_freq": int(self.subsample < 1),
            "feature_fraction": self.colsample_bytree,
            "lambda_l2": self.reg_lambda,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
        }
        return TreeParams(data=options, trees=trees)

    def _outputs(self, X: Any, batch: Batch) -> list[np.ndarray]:
        matrix, n_threads = tree_matrix(batch), count_threads(self.n_jobs)
        scores: list[Any] = [None] * len(self.tasks_)
        for group in self._groups:
            if batch.task is not None:
                shared = group.shared(matrix, n_threads)
                own = np.empty((len(matrix), group.forest.width))
                for t in np.unique(batch.task).tolist():
                    rows = np.flatnonzero(batch.task == t)
                    own[rows] = group.scores(shared[:, :, rows], matrix[rows], None if t < 0 else t, n_threads)
                return self._coder.labels.outputs([own])
            for member, own in zip(group.members, group.all_scores(matrix, n_threads), strict=True):
                scores[member] = own
        return self._coder.labels.outputs(scores)


class RMTGBClassifier(ClassifierFace, RMTGB):
    """`RMTGB` whose every task is a classification."""


class RMTGBRegressor(RegressorFace, RMTGB):
    """`RMTGB` whose every task is a regression."""


def is_worse(losses: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    """Whether the losses of labels sum to more than others, by more than one standard error."""
    excess = np.concatenate(losses) - np.concatenate(others)
    return bool(excess.sum() > np.sqrt(np.square(excess).sum()))


def _choose(found: Fitted, refit: Fitted) -> Fitted:
    """Choose the fit of all rows, unless it predicts the rows that chose its rounds worse than the fit without them.

    It has learned from these rows. So if it is worse there, the rounds that were right without them went astray with
    them.
    """
    if not is_worse(refit[1], found[1]):
        return replace(refit[0], side_losses=found[0].side_losses), refit[1]
    after, before = (np.concatenate(losses) for _, losses in (refit, found))
    warnings.warn(
        f"the fit of all rows has the mean loss {after.mean():.3g} on the {len(after)} labels that chose its rounds, "
        f"and the fit without their rows has {before.mean():.3g}; the latter is kept, which has not learned from these "
        "labels. With a larger reg_lambda or a smaller learning_rate the fit of all rows may hold",
        TabmtlWarning,
        stacklevel=2,
    )
    return found


def _members_by_loss(tasks: Sequence[Task]) -> list[np.ndarray]:
    """Indices of the tasks that share functions: of one kind and, with many classes, of the same classes."""
    found: dict[Any, list[int]] = {}
    for t, task in enumerate(tasks):
        found.setdefault((task.kind, task.classes if task.kind == "multiclass" else None), []).append(t)
    return [np.array(members) for members in found.values()]


def _tables(coder: TableCoder, groups: Sequence[FittedGroup], counts: np.ndarray) -> dict[str, Any]:
    """The public tables of a fit."""
    names = [task.name for task in coder.labels.tasks]
    parts = [group.table([names[t] for t in group.members]) for group in groups]
    order = np.argsort(np.concatenate([group.members for group in groups]))
    whole = pl.concat(parts)[order].with_columns(n_labels=pl.Series(counts))
    encoded = [*coder.features.columns.numeric, *coder.features.columns.categorical]
    gains = np.sum([group.importances for group in groups], axis=0)
    importances = np.zeros((len(gains), len(coder.names)))
    importances[:, [coder.names.index(name) for name in encoded]] = gains / max(gains.sum(), np.finfo(float).tiny)
    return {
        "outlier_score_": whole.select(
            "task", "outlier_score", "n_labels", "shares", "check_labels", "check_loss", "check_loss_if_normal"
        ),
        "block_rounds_": whole.select("task", "shared", "outlier", "own"),
        "feature_importances_": importances,
    }
