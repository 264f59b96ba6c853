"""Base of boosted models: options of their trees, rows set aside to find the rounds, export to plain LightGBM."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import lightgbm as lgb
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import WholeShare, check_choice, near
from tabmtl.base.schema import Batch, unsaid
from tabmtl.encode import TableCoder
from tabmtl.encode.drift.profile import sample_size
from tabmtl.encode.drift.readings import Answers
from tabmtl.estimators.boosted.lightgbm import LightGBMEstimator
from tabmtl.estimators.boosted.rounds import ROWS_TO_SPLIT, Split, refit
from tabmtl.estimators.drifting import as_new
from tabmtl.estimators.model import Asking, Model
from tabmtl.estimators.rows import FitRows, draw
from tabmtl.metrics.scores import score_tasks
from tabmtl.training.run import running
from tabmtl.training.watch import Watch, describe_score

_NO_REFIT = "no fit of all rows, so that the one without the rows set aside is kept"


@dataclass(kw_only=True, eq=False, repr=False)
class BoostedEstimator(LightGBMEstimator):
    """Base of the models that grow trees for several tasks.

    A subclass gives `_fit_rows` and `_fitted_by`.

    Parameters
    ----------
    unknown_task : {"shared", "error"}, default="shared"
        Long layout: what ``predict`` does for a task that fit did not see, or a missing one. "shared" answers by the
        shared part.
    subsample : float in (0, 1], default=1.0
        Share of the rows that every tree sees, drawn anew each round.
    time_limit : float, optional
        Seconds that fit may take, roughly: training ends, with a warning, after the round in which they are over. If
        rows are set aside, the fit that finds the rounds may take half of the time. It is kept if there is no time left
        to fit all rows. The result depends on the machine.
    early_stopping : bool, default=True
        Stop on validation rows. Without X_val and y_val in fit, ``validation_fraction`` of the rows is set aside to
        find the number of rounds. All rows are then fitted with this number, so no row is lost. If the fit of all rows
        predicts the rows set aside clearly worse than the fit without them (a loss a quarter higher, and beyond
        chance), the fit without them is kept, with a warning. With fewer than 50 rows, all rounds are grown.
    """

    unknown_task: Literal["shared", "error"] = "shared"
    subsample: WholeShare = 1.0

    search_space: ClassVar[dict[str, Any]] = LightGBMEstimator.search_space | {"subsample": {"low": 0.5, "high": 1.0}}

    def export_task(self, task: str) -> lgb.Booster:
        """Export all functions of one task as one plain LightGBM model.

        It predicts like this estimator, values in own units or probabilities, from the frame of `encode`. Of
        ordered classes it gives scores, and several quantiles in no order: ``task.kind.of_lightgbm`` makes
        probabilities of the scores, and puts the quantiles in order.

        ``pred_contrib`` (SHAP values) sums to the prediction, of a classification to the log odds or scores. It has
        shape (n, features + 1), with the expected value last; of K > 2 classes, such a block for each class side by
        side: ``.reshape(n, K, -1)``. For single rows, use ``predict(encoded.to_numpy(), num_threads=1)``: otherwise
        LightGBM starts all threads for each.

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
        self._model.check_plain("export_task writes")
        names = [each.name for each in self.tasks_]
        if str(task) not in names:
            more = "..." if len(names) > 10 else ""
            raise ValueError(f"expected task to be one of {names[:10]}{more}, got {task!r}{near(task, names)}")
        index = names.index(str(task))
        labels, own = self.coder_.labels, self.tasks_[index]
        column = 0 if labels.task_levels is not None else index
        link = own.kind.lightgbm_link(own.width, float(labels.center[column]), float(labels.scale[column]))
        return self._fitted.export(index, *link)

    # methods that a subclass defines

    @abstractmethod
    def _fit_rows(
        self, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int, found: Sequence[Any] | None
    ) -> Sequence[Any]:
        """Fit rows, and stop on the validation rows; with the fits that found the rounds, grow these on all rows.

        Every fit has ``valid_losses``, a list of arrays of the losses of validation labels. A fit of all rows that goes
        astray by these is dropped.
        """

    @abstractmethod
    def _fitted_by(self, coder: TableCoder, fits: Sequence[Any]) -> Any:
        """Return what was fitted, from what `_fit_rows` returned."""

    # shared steps

    def _read_rows(self, X: Any) -> Batch:
        check_choice("unknown_task", self.unknown_task, ("shared", "error"))
        return self.coder_.after.read(X, unknown_task=self.unknown_task)

    def _fit(self, coder: TableCoder, rows: FitRows, valid: FitRows | None, seed: int) -> dict[str, Any]:
        split = self._split(rows, valid, seed)
        fits, first = self._fit_split(coder, split, seed)
        known = None if rows.frame is None or valid is not None else rows.read()
        answered = self._asking_first(coder, split, first, known)
        return {"_fitted": self._fitted_by(coder, fits), "answered": answered}

    def _split(self, rows: FitRows, valid: FitRows | None, seed: int) -> Split:
        """Set rows aside, if the fit is to stop on some and there are enough with labels."""
        if not self.early_stopping:
            return Split(rows.read())
        if valid is not None:
            if not valid.n_labels.any():
                raise ValueError("y_val has no label to stop on; label some validation rows")
            return Split(rows.read(), valid.read())
        if len(rows) >= ROWS_TO_SPLIT:
            kept, held_out = rows.split(self.validation_fraction, seed)
            aside = held_out.n_labels
            if (rows.n_labels > aside).all() and aside.any():
                return Split(rows.read(), held_out.read(), kept.read)
        return Split(rows.read())

    def _asking_first(self, coder: TableCoder, split: Split, first: Sequence[Any], known: Batch | None) -> Asking:
        """Return what asks this model for rows that it has learned, and the first fits for those that they have not.

        The first fits are this model, if rows to validate on were given. The coder knows levels by all known rows.
        """

        def some(rows: Batch) -> Batch:
            batch = rows.rows(draw(len(rows), sample_size(coder.features.columns))).unlabelled()
            return batch if known is None else as_new(coder, batch, known, self._least_rows)

        unseen = None if split.watched is None else some(split.watched)
        learned = some(split.all) if unseen is None or split.keep is not None else None

        def answer(model: Model) -> list[Answers]:
            found = []
            if learned is not None:
                found.append(Answers(model.answer(learned, self), learned.task, are_learned=True))
            if unseen is not None:
                if split.keep is not None:
                    model = Model(coder=coder, fitted=self._fitted_by(coder, first))
                found.append(Answers(model.answer(unseen, self), unseen.task))
            return found

        return answer

    def _fit_split(self, coder: TableCoder, split: Split, seed: int) -> tuple[Sequence[Any], Sequence[Any]]:
        """Fit rows, at first without those that were set aside, if there are any; return the fits, and the first ones.

        The scores on the validation rows are those of the fit that they have stopped.
        """
        watch = self._watch if split.keep is None else self._watch.part(1 / 2)
        with running().part(watch):
            found = self._find(coder, split, seed)
        if split.watched is not None:
            self._tell_scores(coder, found, split.watched)

        def grow(part: Watch) -> Sequence[Any]:
            with running().part(part):
                self._watch.tell("fit of all rows, by the rounds found")
                return self._fit_rows(coder, split.all, split.watched, seed, found)

        return found if split.keep is None else refit(found, grow, self._watch, _NO_REFIT), found

    def _find(self, coder: TableCoder, split: Split, seed: int) -> Sequence[Any]:
        """Return the fits that find the rounds, or that are all."""
        return self._fit_rows(coder, split.first, split.watched, seed, None)

    def _tell_scores(self, coder: TableCoder, fits: Sequence[Any], rows: Batch) -> None:
        """Show the score of every task on the rows that stopped the fit."""
        if not self._watch.is_verbose:
            return
        model, tasks = Model(coder=coder, fitted=self._fitted_by(coder, fits)), coder.labels.tasks
        with unsaid():
            outputs = model.answer(replace(rows, y=None, weight=None), self)
            scores = score_tasks(tasks, rows.y, outputs, rows.score_weight, rows.task, rows.group)
        for task in tasks:
            self._watch.tell(describe_score(task, scores[task.name]))

    @property
    def _data_params(self) -> dict[str, Any]:
        return {"feature_pre_filter": False, "num_threads": self._n_threads, "verbosity": -1}

    def _tree_params(self, data_params: dict[str, Any], seed: int) -> dict[str, Any]:
        return {
            **data_params,
            **self._tree_options(),
            "bagging_fraction": self.subsample,
            "bagging_freq": int(self.subsample < 1),
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
        }
