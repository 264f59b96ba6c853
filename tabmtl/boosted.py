"""The tree half of the contract: from rows to LightGBM ensembles per family of tasks, and back to predictions."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import lightgbm as lgb
import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.cells import Rows, bin_labelled, count_labels, rows_of_tasks
from tabmtl.encode import TableCoder
from tabmtl.estimators.tables import MultiTaskEstimator, TableState
from tabmtl.family import Family
from tabmtl.forks import count_threads
from tabmtl.model_selection.stratify import train_valid_split
from tabmtl.params import check_at_least, check_count, check_positive, check_share
from tabmtl.schema import Batch, TabmtlWarning, Task
from tabmtl.storage.stored import Stored
from tabmtl.trees import tree_matrix

_ROWS_TO_SPLIT = 50

#: The fitted tasks of one loss, and the losses of the validation labels of each task.
Fitted = tuple[Family, list[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class TreeParams:
    """LightGBM's parameters, of data and of trees."""

    data: dict[str, Any]
    trees: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class BoostedState(TableState):
    """Fitted attributes that the file of a boosted estimator keeps."""

    _families: tuple[Family, ...]
    outlier_score_: pl.DataFrame
    block_rounds_: pl.DataFrame
    feature_importances_: Annotated[np.ndarray, Stored("f8", "3 P")]

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks, columns = self._coder.labels.tasks, self._coder.features.columns
        members = [t for family in self._families for t in family.members.tolist()]
        if sorted(members) != list(range(len(tasks))):
            raise ValueError(f"the families have the tasks {members[:5]}, expected each of {len(tasks)} once")
        for family in self._families:
            found = family.importances.shape[1], {family.start.shape[1]}
            expected = columns.n_features, {tasks[t].width for t in family.members}
            if found != expected:
                raise ValueError(f"a family has columns and outputs {found}, expected {expected}")


@dataclass(kw_only=True, eq=False, repr=False)
class BoostedEstimator(MultiTaskEstimator):
    """Base of the estimators that boost trees; a subclass gives `_fit_family`.

    Parameters
    ----------
    learning_rate : float, default=0.05
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
    patience : int, default=30
        Rounds without a lower validation loss after which an ensemble stops.
    n_jobs : int, optional
        Threads of LightGBM, as scikit-learn counts them; more than one pays from about 50 000 rows.
    **options
        The fields of :class:`tabmtl.estimators.tables.MultiTaskEstimator`.
    """

    learning_rate: float = 0.05
    num_leaves: int = 16
    min_child_samples: int = 20
    subsample: float = 1.0
    colsample_bytree: float = 1.0
    reg_lambda: float = 0.1
    max_bin: int = 255
    early_stopping: bool = True
    validation_fraction: float = 0.15
    patience: int = 30
    n_jobs: int | None = None

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 0.01, "high": 0.2, "log": True},
        "num_leaves": {"low": 4, "high": 128, "log": True},
        "min_child_samples": {"low": 5, "high": 100, "log": True},
        "subsample": {"low": 0.5, "high": 1.0},
        "colsample_bytree": {"low": 0.3, "high": 1.0},
        "reg_lambda": {"low": 0.0, "high": 10.0},
    }

    _stored: ClassVar[type] = BoostedState

    @abstractmethod
    def _fit_family(
        self, members: np.ndarray, rows: Rows, valid: Rows | None, params: TreeParams, found: Family | None
    ) -> Fitted:
        """Fit the tasks of one loss.

        Parameters
        ----------
        members : ndarray of int, shape (T,)
            Which tasks of the estimator.
        rows : Rows
            Scores 0.
        valid : Rows or None
            Rows to stop on.
        params : TreeParams
        found : Family or None
            What a fit with validation rows found, whose rounds are to be grown on all rows.

        Returns
        -------
        family : Family
        losses : list of ndarray
            Of the validation labels of every task.
        """

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
        family = next(family for family in self._families if index in family.members)
        labels, own = self._coder.labels, self.tasks_[index]
        objectives = {"binary": "binary sigmoid:1", "multiclass": f"multiclass num_class:{own.width}"}
        column = 0 if labels.task_levels is not None else index
        return family.export(
            int(np.flatnonzero(family.members == index)[0]),
            objectives.get(own.kind, "regression"),
            float(labels.scale[column]),
            float(labels.center[column]),
        )

    def encode(self, X: Any) -> np.ndarray:
        """Rows as the models of `export_task` take them.

        Returns
        -------
        matrix : ndarray of float32, shape (n, p)
            The numeric columns of X, then the categorical ones as codes from 0, levels sorted; missing and unseen are
            NaN. The task column of a long table is left out.
        """
        check_is_fitted(self)
        self._check_columns(X)
        return tree_matrix(self._read_rows(X))

    def _check_params(self) -> None:
        for name in ("min_child_samples", "patience"):
            check_count(name, getattr(self, name))
        for name in ("num_leaves", "max_bin"):
            check_count(name, getattr(self, name), 2)
        check_positive("learning_rate", self.learning_rate)
        check_at_least("reg_lambda", self.reg_lambda, 0)
        check_share("subsample", self.subsample, whole=True)
        check_share("colsample_bytree", self.colsample_bytree, whole=True)
        check_share("validation_fraction", self.validation_fraction)

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
                found = self._fit_families(coder, batch.rows(kept), valid, seed, [])
        families = [family for family, _ in self._fit_families(coder, batch, valid, seed, found)]
        counts = count_labels(batch, len(coder.labels.tasks))
        return {"_families": families, **_tables(coder, families, counts)}

    def _fit_families(
        self, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int, found: Sequence[Fitted]
    ) -> list[Fitted]:
        """Fit every loss on rows that are binned once."""
        params, columns = self._tree_params(seed), coder.features.columns
        sides = [bin_labelled(batch, columns, params.data)]
        if valid is not None:
            sides.append(bin_labelled(valid, columns, params.data, sides[0][0]))
        families = []
        for i, members in enumerate(_members_by_loss(coder.labels.tasks)):
            rows, *held_out = [rows_of_tasks(*side, coder, members, params.data) for side in sides]
            assert rows is not None  # every task has a label to learn
            known = found[i][0] if found else None
            fitted = self._fit_family(members, rows, held_out[0] if held_out else None, params, known)
            families.append(choose(found[i], fitted) if found else fitted)
        return families

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
        for family in self._families:
            if batch.task is not None:
                shared = family.shared(matrix, n_threads)
                own = np.empty((len(matrix), family.forest.width))
                for t in np.unique(batch.task).tolist():
                    rows = np.flatnonzero(batch.task == t)
                    own[rows] = family.scores(shared[:, :, rows], matrix[rows], None if t < 0 else t, n_threads)
                return self._coder.labels.outputs([own])
            for member, own in zip(family.members, family.all_scores(matrix, n_threads), strict=True):
                scores[member] = own
        return self._coder.labels.outputs(scores)


def choose(found: Fitted, refit: Fitted) -> Fitted:
    """Choose the fit of all rows, unless it predicts the rows that chose its rounds worse than the fit without them.

    It has learned from these rows, so that a loss beyond one standard error of the difference is no chance: the rounds
    that were right without them went astray with them.
    """
    losses, before = (np.concatenate(fitted[1]) for fitted in (refit, found))
    worse = losses - before
    if worse.sum() <= np.sqrt(np.square(worse).sum()):
        return replace(refit[0], checks=found[0].checks), refit[1]
    warnings.warn(
        f"the fit of all rows has the loss {losses.mean():.3g} on the {len(losses)} labels that chose its rounds, the "
        f"fit without their rows {before.mean():.3g}; the latter is kept. It has not learned from these labels: a "
        "larger reg_lambda, or a smaller learning_rate, lets the fit of all rows learn from them",
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


def _tables(coder: TableCoder, families: Sequence[Family], counts: np.ndarray) -> dict[str, Any]:
    """The public tables of a fit."""
    names = [task.name for task in coder.labels.tasks]
    parts = [family.table([names[t] for t in family.members]) for family in families]
    order = np.argsort(np.concatenate([family.members for family in families]))
    whole = pl.concat(parts)[order].with_columns(n_labels=pl.Series(counts))
    encoded = [*coder.features.columns.numeric, *coder.features.columns.categorical]
    gains = np.sum([family.importances for family in families], axis=0)
    importances = np.zeros((len(gains), len(coder.names)))
    importances[:, [coder.names.index(name) for name in encoded]] = gains / max(gains.sum(), np.finfo(float).tiny)
    return {
        "outlier_score_": whole.select(
            "task", "outlier_score", "n_labels", "shares", "check_labels", "check_loss", "check_loss_if_normal"
        ),
        "block_rounds_": whole.select("task", "shared", "outlier", "own"),
        "feature_importances_": importances,
    }
