"""Base of boosted models: options of their trees, rows set aside to find the rounds, export to plain LightGBM."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import lightgbm as lgb
import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from tabmtl.encode import TableCoder
from tabmtl.estimators.base import NotHere
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.metrics.scores import score_tasks
from tabmtl.model_selection import train_valid_split
from tabmtl.params import TwoOrMore, WholeShare, check_choice, near
from tabmtl.schema import Batch, TabmtlWarning
from tabmtl.storage.stored import Saved, take_apart
from tabmtl.training.run import current, running
from tabmtl.training.watch import describe_score
from tabmtl.trees import ROWS_TO_SPLIT, LightGBMOptions, tree_matrix

if TYPE_CHECKING:
    from tabmtl.encode.cache import StoredRows

_NO_REFIT = "no fit of all rows, so that the one without the rows set aside is kept"


@dataclass(kw_only=True, eq=False, repr=False)
class BoostedEstimator(LightGBMOptions, MultiTaskEstimator):
    """Base of the models that grow trees for several tasks; a subclass gives `_fit_rows`, `_attributes` and `_export`.

    Parameters
    ----------
    unknown_task : {"shared", "error"}, default="shared"
        Long layout: answer of ``predict`` for a task that fit did not see, or a missing one. "shared": the shared part.
    subsample : float in (0, 1], default=1.0
        Share of the rows that every tree sees, drawn anew each round.
    max_bin : int, default=255
        Maximum number of bins of a column.
    time_limit : float, optional
        Seconds that fit may take, roughly: training ends after the round in which they are over, with a warning. Where
        rows are set aside, the fit that finds the rounds may take half of them; if there is no time to fit all rows
        then, it is kept. The result depends on the machine.
    early_stopping : bool, default=True
        Stop on validation rows. Without X_val and y_val in fit, ``validation_fraction`` of the rows is set aside to
        find the rounds, and then all rows are fitted with these: no row is lost. Where that fit predicts the rows set
        aside clearly worse than the fit without them (a loss a quarter higher, and beyond chance), the fit without
        them is kept, with a warning. With fewer than 50 rows, all rounds are grown.
    """

    unknown_task: Literal["shared", "error"] = "shared"
    subsample: WholeShare = 1.0
    max_bin: TwoOrMore = 255

    search_space: ClassVar[dict[str, Any]] = LightGBMOptions.search_space | {"subsample": {"low": 0.5, "high": 1.0}}

    export_onnx = NotHere("it has trees; say export_task(task), which gives a plain LightGBM model of each task")

    def export_task(self, task: str) -> lgb.Booster:
        """Export all functions of one task as one plain LightGBM model.

        It predicts like this estimator, values in own units or probabilities, from the matrix of `encode`; its
        ``pred_contrib`` (SHAP values) sums to the prediction, of a classification to the log odds or scores. For single
        rows, use ``predict(matrix, num_threads=1)``: otherwise LightGBM starts all threads for each.

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
            raise ValueError(f"expected task to be one of {names[:10]}{more}, got {task!r}{near(task, names)}")
        index = names.index(str(task))
        labels, own = self.coder_.labels, self.tasks_[index]
        column = 0 if labels.task_levels is not None else index
        scale, center = float(labels.scale[column]), float(labels.center[column])
        return self._export(index, own.kind.lightgbm_link(own.width), scale, center)

    def encode(self, X: Any) -> np.ndarray:
        """Encode rows for the models of `export_task`.

        Returns
        -------
        matrix : ndarray of float32, shape (n, p)
            The numeric columns of X, then the categorical ones as codes from 0, levels sorted; missing and unseen are
            NaN. The task column of a long table is left out.
        """
        check_is_fitted(self)
        self._check_columns(X)
        return tree_matrix(self._read_rows(X))

    # methods that a subclass defines

    @abstractmethod
    def _fit_rows(self, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int, found: Any) -> Any:
        """Fit rows, and stop on the validation rows; with the fit that found the rounds, grow these on all rows."""

    @abstractmethod
    def _attributes(self, coder: TableCoder, fit: Any) -> dict[str, Any]:
        """Return the fitted attributes by name, from what `_fit_rows` returned."""

    @abstractmethod
    def _export(self, task: int, objective: str, scale: float, center: float) -> lgb.Booster:
        """Return a task's functions as one model, whose raw scores are the task's times scale plus center."""

    # shared steps

    def _read_rows(self, X: Any) -> Batch:
        check_choice("unknown_task", self.unknown_task, ("shared", "error"))
        return self.coder_.read(X, unknown_task=self.unknown_task)

    def _fit(self, X: Any, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int) -> dict[str, Any]:
        tasks, found = coder.labels.tasks, None
        if not self.early_stopping:
            valid = None
        elif valid is not None:
            _check_watched(not np.isnan(valid.y).all())
        elif len(batch) >= ROWS_TO_SPLIT:
            rng = np.random.default_rng(seed)
            share = self.validation_fraction
            kept, held_out = train_valid_split(batch.y, tasks, share, rng, batch.task, batch.group)
            held = batch.rows(held_out)
            if count_labels(batch.rows(kept), len(tasks)).all() and not np.isnan(held.y).all():
                valid = held
                with running().part(self._watch.part(1 / 2)):
                    found = self._fit_rows(coder, batch.rows(kept), valid, seed, None)
        return self._attributes(coder, self._fit_whole(coder, batch, valid, seed, found))

    def _tell_scores(self, coder: TableCoder, fit: Any, rows: Batch) -> None:
        """Show the score of every task on the rows that stopped the fit, of all ranks."""
        group = current()
        if not group.broadcast(self._watch.is_verbose):
            return
        model = clone(self)
        model._set_fitted(coder, self._attributes(coder, fit))
        tasks = coder.labels.tasks
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            outputs = model._outputs(None, replace(rows, y=None, weight=None))
            batches, answers = rows.without_features().gathered(group, 0), group.gather(outputs, 0)
            if group.rank:  # which shows nothing
                return
            of_all = Batch.join(batches)
            outputs = [np.concatenate(own) for own in zip(*answers, strict=True)]
            scores = score_tasks(tasks, of_all.y, outputs, of_all.weight, of_all.task)
        for task in tasks:
            self._watch.tell(describe_score(task, scores[task.name]))

    def _fit_whole(self, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int, found: Any) -> Any:
        """Fit all rows; where the time is over before a fit with known rounds ends, keep the one that found them.

        The scores on the validation rows, if there are any, are those of the fit that they have stopped.
        """
        stopped = self._fit_rows(coder, batch, valid, seed, None) if found is None else found
        if valid is not None:
            self._tell_scores(coder, stopped, valid)
        if found is None:
            return stopped
        if self._watch.cuts(_NO_REFIT):
            return found
        self._watch.tell("fit of all rows, by the rounds found")
        part = self._watch.part(1)
        with running().part(part):
            whole = self._fit_rows(coder, batch, valid, seed, found)
        if part.was_cut:
            self._watch.end(_NO_REFIT)
        return found if part.was_cut else whole

    def _fit_stored(self, coder: TableCoder, rows: StoredRows, valid: StoredRows | None, seed: int) -> dict[str, Any]:
        if rows.group.size == 1:
            return super()._fit_stored(coder, rows, valid, seed)
        from tabmtl.model_selection.stored import split_stored

        found = None
        if not self.early_stopping:
            valid = None
        elif valid is not None:
            _check_watched(bool(valid.n_labels.any()))
        elif len(rows) >= ROWS_TO_SPLIT:
            kept, valid = split_stored(rows, self.validation_fraction, seed)
            with running().part(self._watch.part(1 / 2)):
                found = self._fit_rows(coder, kept.mapped(), _not_empty(valid, rows), seed, None)
        fit = self._fit_whole(coder, rows.mapped(), None if valid is None else _not_empty(valid, rows), seed, found)
        attributes, model = self._attributes(coder, fit), clone(self)
        model._set_fitted(coder, attributes)
        # ranks estimate the rows of leaves otherwise, so that their texts of one tree differ in these
        own = take_apart(model._state())
        sent = rows.group.broadcast({name: part for name, part in vars(own).items() if name != "kinds"})
        model._restore(self._read_state(Saved(**sent, kinds=own.kinds)))
        return {name: getattr(model, name) for name in attributes}

    def _data_params(self) -> dict[str, Any]:
        params = {"max_bin": self.max_bin, "feature_pre_filter": False, "num_threads": self._n_threads, "verbosity": -1}
        return params if current().size == 1 else params | {"pre_partition": True}

    def _tree_params(self, seed: int) -> dict[str, Any]:
        return {
            **self._data_params(),
            **self._tree_options(),
            "bagging_fraction": self.subsample,
            "bagging_freq": int(self.subsample < 1),
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
        }


def count_labels(batch: Batch, n_tasks: int) -> np.ndarray:
    """Count the labels of every task, in a group those of all ranks: (T,)."""
    labelled, task = ~np.isnan(batch.y), batch.task
    own = labelled.sum(axis=0) if task is None else np.bincount(task, labelled[:, 0], minlength=n_tasks)
    return current().total(own).astype(np.int64)


def labelled_rows(batch: Batch) -> np.ndarray:
    """Find the rows with a label; in a group one row at least, because LightGBM grows on no rank without."""
    found = np.flatnonzero(~np.isnan(batch.y).all(axis=1))
    return np.zeros(1, dtype=np.int64) if current().size > 1 and not len(found) else found


def _check_watched(labelled: bool) -> None:
    if not labelled:
        raise ValueError("y_val has no label to stop on; label some validation rows")


def _not_empty(valid: StoredRows, rows: StoredRows) -> Batch:
    """Return the validation rows of this rank; if there are none, one row without a label."""
    found = valid.mapped()
    if len(found):
        return found
    one = rows.mapped().rows(np.zeros(1, dtype=np.int64))
    one = replace(one, y=np.full_like(one.y, np.nan))
    return one.like({name: None if part is None else one.arrays()[name] for name, part in found.arrays().items()})
