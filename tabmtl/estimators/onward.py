"""Fitted estimators that go on learning from new rows."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, Self

from sklearn.utils.metaestimators import available_if

from tabmtl.encode import TableCoder
from tabmtl.encode.shards import Shards
from tabmtl.estimators.added import TakesTasks
from tabmtl.estimators.base import drafted
from tabmtl.estimators.learner import Marks
from tabmtl.estimators.rows import FitRows
from tabmtl.model_selection.repeats import SeenRows
from tabmtl.processes.ranks import ALONE
from tabmtl.schema import warn_user
from tabmtl.training.run import running


class LearnsOn(TakesTasks):
    """Estimator that goes on from what it has learned; a subclass gives `_go_on`."""

    #: Whether new levels and classes find a place in what a fitted model has learned, and new rows alone begin one.
    _grows: ClassVar[bool] = True

    @available_if(lambda estimator: type(estimator)._go_on is not LearnsOn._go_on)
    @drafted
    def partial_fit(self, X: Any, y: Any, *, classes: Any = None, sample_weight: Any = None) -> Self:
        """Go on learning by new rows, without those of fit; an unfitted estimator begins with these rows.

        Columns, kinds of tasks, scales and the preprocessor stay those of fit. Networks take new levels of categories,
        tags and sequences, which begin as unseen levels are read, and, with a warning, new classes of tasks of several
        classes; trees read new levels as unseen ones. What `calibrate`, `tune_thresholds` and `conformalize` have
        learned is dropped, with a warning: call them again.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            New rows, with the columns of fit. In the long layout, of the tasks of fit.
        y : frame, series or array of shape (n,) or (n, T)
            Their targets; null and NaN are unlabelled cells, so a task may have no label here.
        classes : sequence, or mapping of task to sequence, optional
            Classes that tasks have, if the rows of the first call may lack some, and those that join later without a
            warning; a sequence where y is one column.
        sample_weight : array of shape (n,) or (n, T), or frame with the task names, optional
            Weights, normalised over the labelled rows of every task.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If the rows have other columns or kinds, a new task, or a class that its task cannot take; the message names
            the cure. The model stays unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(300, 2))
        >>> y = X + np.random.default_rng(1).normal(size=(300, 2))
        >>> model = SharedBottom(epochs=3, random_state=0).fit(X[:200], y[:200])
        >>> len(model.partial_fit(X[200:], y[200:]).history_)
        4
        """
        learner, is_fitted, run = self.learner(), hasattr(self, "coder_"), running()
        if isinstance(X, Shards):
            raise TypeError("partial_fit reads rows in memory, and X is Shards; give frames, one part at a time")
        if run.group.size > 1:
            raise ValueError(
                f"partial_fit is for one process, and this group has {run.group.size}; go on outside of joined()"
            )
        learner.check(X)
        with replace(run, group=ALONE, job=None).fit(self, X=X, y=y, sample_weight=sample_weight), ExitStack() as stack:
            rows: FitRows
            if is_fitted:
                self._warn_of_decisions()
                prepared = self._preprocessed(X)
                coder, rows = learner.on(self.coder_, X, prepared, y, sample_weight, classes, grows=self._grows)
                seen = self._seen_rows.and_of(rows.read(), coder.labels.names)
            else:
                learner = learner.declaring(y, classes)
                coder, rows, _ = learner.rows(stack, X, y, sample_weight, Marks())
                seen = SeenRows.of(rows.read(), coder.labels.names)
            if is_fitted or self._grows:
                fitted = self._go_on(coder.after, rows, self._seed())
            else:
                fitted = self._fit(coder.after, rows, None, self._seed())
            fitted.pop("answered", None)
            profile = self.profile_ if is_fitted else None
            self._set_fitted(coder, fitted)
            self._seen_rows = seen
            if profile is not None:  # drift of columns is told from the fit
                self.profile_ = self._with_learned_answers(profile.of_tasks(()), prepared, rows.read())
            if not is_fitted:
                self._keep_profile(self._drawn(coder, rows), self._asking(coder, rows, are_learned=True))
        return self

    def _go_on(self, coder: TableCoder, rows: FitRows, seed: int) -> dict[str, Any]:
        """Go on from the fitted attributes by encoded rows, and return all fitted attributes by name, as `_fit` does.

        The estimator stays as it is meanwhile.

        Parameters
        ----------
        coder : TableCoder
            Of the rows: levels and classes that ``coder_`` lacks are behind those that it has.
        rows : FitRows
        seed : int
        """
        raise NotImplementedError(f"{type(self).__name__} must define _go_on")

    def _warn_of_decisions(self) -> None:
        if self.coder_.labels.decisions is not None:
            warn_user(
                "partial_fit changes the answers of all tasks, so what calibrate, tune_thresholds and conformalize "
                "have learned is dropped; call them again, on rows that the model has not seen"
            )
