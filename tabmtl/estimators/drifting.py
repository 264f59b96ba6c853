"""What a fitted model keeps of the rows of its fit, and how far others are from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.columns.kind import RowError
from tabmtl.drift.compare import LEAST_ROWS, Limits, compare
from tabmtl.drift.profile import Profile, Source, sample_size
from tabmtl.drift.readings import Answers, Reading, read_answers, read_columns, read_tasks, without_own
from tabmtl.encode.read import take_rows
from tabmtl.estimators.base import SavableEstimator, at_once
from tabmtl.estimators.rows import FrameRows, draw
from tabmtl.params import Names, check_at_least, check_known, check_share, listed_names
from tabmtl.schema import Batch, counted

if TYPE_CHECKING:
    from tabmtl.encode import TableCoder
    from tabmtl.estimators.rows import FitRows


class NoticesDrift(SavableEstimator):
    """Part of an estimator that compares rows with those of its fit."""

    #: What `drift` compares with; None where a fit has kept nothing, as in files and pickles of earlier releases.
    profile_: Profile | None = None

    @at_once
    def drift(
        self, X: Any, *, reference: Any = None, size: float = 0.1, alpha: float = 0.05, ignore: str | Names = ()
    ) -> pl.DataFrame:
        """Tell which columns and which predictions are no longer spread as in fit.

        A fit keeps shares and no rows: those of ten bins of a number, of up to 64 levels or sets of levels, and of
        missing and unseen values, of at most 5 000 of its rows. Lists are measured by their entries and their length,
        vectors by their norm and by four directions, dates by their parts. New rows of a date are later by nature: the
        column that fit was given as ``time`` is left out, and others are left out by ``ignore``.

        Something has drifted where a difference is beyond chance and large. Beyond chance: if rows are drawn as those
        of fit were, each by itself, any line at all is called drifted with a probability of about ``alpha`` at most, by
        Pearson's test of the shares and Fisher's of missing and unseen values, with Bonferroni's correction. Large: see
        ``size``. Rows that belong together, such as several of one customer, differ by chance more than that.

        Parameters
        ----------
        X : as in `predict`, or an iterator of such blocks of rows
            New rows, 20 or more; several hundred tell more. Labels are not needed.
        reference : as X, optional
            Rows to compare with in place of those of fit, such as those of a month in which all was well. A model that
            has kept no profile needs them. They are best rows that the model has not learned.
        size : float, default=0.1
            The least population stability index that counts: .1 is usually read as some drift, .25 as much. Half of it
            is the least change that counts of the share of missing values, and of unseen ones.
        alpha : float, default=0.05
        ignore : str or sequence of str, default=()
            Columns and tasks to leave out, such as a date.

        Returns
        -------
        drift : polars.DataFrame
            One row for each column, ``kind`` "column", as the preprocessor gives them if there is one, and then one for
            each task, "prediction":

            - ``name``, and ``feature``: which of several features of a column, or numbers of an answer, differs most;
            - ``psi`` and ``jensen_shannon``: its population stability index and its Jensen-Shannon divergence in nats,
              which is at most an eighth of it. Missing values are a cell of their own, and unseen ones are left out.
              Cells that expect fewer than five rows are joined;
            - ``missing_of_fit``, ``missing``, ``unseen_of_fit``, ``unseen``: shares of the rows;
            - ``n_of_fit``, ``n``: the rows that were counted;
            - ``against``: "fit"; of predictions "unseen", rows of fit that the model has not learned, such as those set
              aside or those of a fold, or "learned"; or "reference". Where the model has learned all rows in the end,
              another fit, as of a fold, has answered for it, and has other answers: predictions have drifted if they
              are unlike both sorts, and the nearer one is told;
            - ``p_value``: of the whole line, corrected for all lines;
            - ``is_drift``, and ``why``: "distribution", "missing" or "unseen". Null, with the reason, where nothing can
              be told: of tasks and references with fewer than 20 rows, and of predictions where there are "learned"
              rows alone, of which a model is surer than of new ones.

        Raises
        ------
        ValueError, TypeError
            If there are fewer than 20 rows, the model keeps no profile and there is no reference, ``ignore`` names
            something else, or rows do not fit, as in `predict`.

        Notes
        -----
        Calibrators play no part: answers are compared as the method gives them. After `partial_fit`, columns are still
        compared with those of fit. Predictions are not judged, since they differ because the model has moved, also on
        rows as those of fit; `reference` tells what the rows do.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedTrees
        >>> X = np.random.default_rng(0).normal(size=(600, 2))
        >>> model = SharedTrees(n_estimators=20, random_state=0).fit(X[:300], X[:300, 0] > 0)
        >>> model.drift(X[300:])["is_drift"].to_list()
        [False, False, False]
        >>> model.drift(X[300:] + [1.0, 0.0]).select("kind", "name", "is_drift").rows()
        [('column', 'x0', True), ('column', 'x1', False), ('prediction', 'y', True)]
        """
        check_is_fitted(self)
        check_at_least("size", size, low=0)
        check_share("alpha", alpha)
        limits = Limits(size=size, alpha=alpha)
        tasks = [task.name for task in self.tasks_]
        known = [*self.coder_.features.names, *filter(None, [self.coder_.task_column])]
        ignored = listed_names("ignore must be the name of a column or task", ignore)
        check_known("ignore names columns or tasks", ignored, [*known, *tasks], "the model")
        profile = self.profile_ if reference is None else self._profile_of(reference)
        if profile is None:
            raise ValueError(
                "this model keeps no profile of the rows of its fit, as one of an earlier release does not: fit it "
                "again, or give rows to compare with, as in drift(X, reference=X_before)"
            )
        counts, n_rows = 0 * profile.counts, 0
        for block in _blocks(X, "X"):
            try:
                batch, answers = self._read_and_answer(block)
            except RowError as error:
                raise error.at(n_rows + error.row, None) from error
            counts += profile.count(self._read_columns(batch), read_answers(self.tasks_, answers))
            n_rows += len(batch)
        _check_rows(n_rows, "X")
        read = dict.fromkeys(profile.names[: profile.n_columns])
        columns = [name for name in known if name in read and name not in (*ignored, self.coder_.time_column)]
        return compare(profile, counts, columns, [name for name in tasks if name not in ignored], limits)

    def _profile_of(self, reference: Any) -> Profile:
        batches, several = zip(*map(self._read_and_answer, _blocks(reference, "reference")), strict=True)
        batch = Batch.join(batches)
        _check_rows(len(batch), "reference")
        outputs = [np.concatenate(own) for own in zip(*(answers.outputs for answers in several), strict=True)]
        read = self._read_columns(batch), read_answers(self.tasks_, Answers(outputs, batch.task))
        return Profile.learn(*read, of_columns="reference", of_answers="reference")

    def _read_and_answer(self, X: Any) -> tuple[Batch, Answers]:
        """Return rows, encoded, and the answers to them."""
        prepared = self._preprocessed(X)
        batch = self._read_rows(prepared)
        return batch, Answers(self._outputs(prepared, batch), batch.task)

    def _read_columns(self, batch: Batch) -> Iterator[Reading]:
        features, column = self.coder_.features, self.coder_.task_column
        yield from read_columns(batch.x, features.columns, features.origins_by_form)
        if column is not None:
            yield read_tasks(column, batch.task, len(self.tasks_))

    def _drawn(self, coder: TableCoder, rows: FitRows) -> Batch:
        """Return some rows of a fit, with levels as new rows have them, where the memory holds all rows."""
        batch = rows.drawn(sample_size(coder.features.columns)).unlabelled()
        if isinstance(rows, FrameRows) and rows.frame is not None:
            return self._as_new(coder, batch, rows.batch)
        return batch

    def _as_new(self, coder: TableCoder, batch: Batch, known: Batch) -> Batch:
        """Return some rows of a fit, given all, with levels as if the fit had not known each row."""
        features = coder.features
        declared = features.declared
        shared = {*declared["texts"], *(name for pair in declared.get("sequences", {}).items() for name in pair)}
        names, least = {*features.names} - shared, self._encoding().get("min_frequency", 1)
        return replace(batch, x=without_own(batch.x, known.x, features.origins_by_form, names, least))

    def _keep_profile(self, batch: Batch, answered: Callable[[], Sequence[Answers]] | None) -> None:
        """Keep the profile of some rows of a fit, and of answers to some, if they can be asked."""
        profile = Profile.learn(self._read_columns(batch), of_columns="fit", of_answers="unseen")
        for found in () if answered is None else answered():
            source: Source = "learned" if found.are_learned else "unseen"
            profile = profile.with_answers(read_answers(self.tasks_, found), source)
        self.profile_ = profile

    def _follow_tasks(self, X: Any, batch: Batch, *, are_new: bool) -> None:
        """Let the profile follow the tasks, given the rows that new ones, or all, were learned from."""
        if self.profile_ is None:
            return
        names = [task.name for task in self.tasks_]
        # rows of a new task of a long table are no drift, and fit had none
        before = self.profile_.of_tasks(names if are_new else (), self.coder_.task_column)
        self.profile_ = self._with_learned_answers(before, X, batch)

    def _with_learned_answers(self, profile: Profile, X: Any, batch: Batch) -> Profile:
        """Return a profile that has the answers to some rows, which were learned, of the tasks that it lacks."""
        known = {*profile.names[profile.n_columns :]}
        places = draw(len(batch), sample_size(self.coder_.features.columns))
        X = take_rows(X.collect() if isinstance(X, pl.LazyFrame) else X, places)
        batch = batch.rows(places).unlabelled()
        read = read_answers(self.tasks_, Answers(self._outputs(X, batch), batch.task))
        return profile.with_answers([own for own in read if own.name not in known], "learned")

    def _asking(
        self, coder: TableCoder, rows: FitRows, *, are_learned: bool, are_known: bool = True
    ) -> Callable[[], Sequence[Answers]]:
        """Return what asks this model, once it is fitted, for the answers to some rows.

        Its coder knows their levels, unless they are validation rows that were given.
        """
        drawn = self._drawn(coder, rows) if are_known else rows.drawn(sample_size(coder.features.columns))
        batch = drawn.unlabelled()
        return lambda: [Answers(self._outputs(None, batch), batch.task, are_learned)]


def _blocks(X: Any, what: str) -> Iterator[Any]:
    """Return blocks of rows, in memory; raise a ValueError if they are too few."""
    if isinstance(X, Iterator):
        return X
    X = X.collect() if isinstance(X, pl.LazyFrame) else X
    if hasattr(X, "__len__"):  # what is no container is refused where it is read
        _check_rows(len(X), what)
    return iter([X])


def _check_rows(n: int, what: str) -> None:
    if n < LEAST_ROWS:
        raise ValueError(
            f"drift compares distributions, and {what} has {counted(n, 'row')}: give {LEAST_ROWS} or more, such as "
            "those of a day"
        )
