"""Tables that need not fit in memory, as a fit, a search and a recommender take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.ranks import check_same
from tabmtl.base.schema import Batch
from tabmtl.columns import Features
from tabmtl.encode import TableCoder
from tabmtl.encode.class_factors import ClassFactors
from tabmtl.encode.read import checksum
from tabmtl.estimators.learner import FittedRows, Marks, TableLearner
from tabmtl.estimators.source import Source
from tabmtl.metrics.scores import Answered, is_by_group, metrics_of_positive, refuse_without_groups
from tabmtl.model_selection.suspects import warn_of_frequent_classes
from tabmtl.scale.blocks import Blocks, Roles
from tabmtl.scale.cache import encoded, group_hashes
from tabmtl.scale.rows import ShardRows
from tabmtl.scale.survey import learn_table
from tabmtl.training.checkpoint import check_params
from tabmtl.training.run import current

if TYPE_CHECKING:
    from tabmtl.scale.clicks import StoredLog
    from tabmtl.sessions.log import LogColumns

_JUDGED_ROWS = 10_000  # whose share of a class tells which one is rare


class Shards(Blocks, Source):
    """A table in files that need not fit in memory, as X of ``fit``.

    Targets, and a column of weights, groups or times if there is one, are columns of the same files: ``fit`` takes
    their names in place of ``y``, ``sample_weight``, ``groups`` and ``time``. All columns but the targets and the
    weights are features, less those that an estimator is told to ignore. A fit reads the files twice: once to learn
    the columns, and once to encode them to a folder, from which it trains. Its memory does not grow with the number of
    rows. `M2TRec` takes a click log in this form.

    Parameters
    ----------
    source : str, path, sequence of them, or LazyFrame
        Parquet and CSV files, and globs such as ``"train/*.parquet"``; all files have the same columns. The rows of a
        LazyFrame must come in the same order each time.
    columns : sequence of str, optional
        Columns to read, those of targets and weights among them; by default all.
    cache : str or path, optional
        Folder for the encoded rows, about 150 bytes a row for 30 features and 3 targets. A later fit uses it again if
        files and encoding are the same. By default a folder in the place for temporary files that is removed after fit.
    dates : bool, default=False
        Whether text of CSV files is read as dates where it is one in at least 99 % of the rows of all files; other text
        in such a column is missing then. Parquet files say themselves what is a date.

    Raises
    ------
    FileNotFoundError
        If a path names no file.
    TypeError, ValueError
        If files have different columns or types, or a name in `columns` is none. A fit raises a ValueError if a file is
        damaged, or has changed since it was named here.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import polars as pl
    >>> from tabmtl import SharedBottom
    >>> from tabmtl.scale import Shards
    >>> x = np.random.default_rng(0).normal(size=(500, 2))
    >>> frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "sum": x.sum(1), "above": x[:, 0] > x[:, 1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame.write_parquet(f"{folder}/train.parquet")
    ...     model = SharedBottom(epochs=2, random_state=0).fit(Shards(f"{folder}/*.parquet"), ["sum", "above"])
    >>> model.predict(frame.select("a", "b").head(3)).columns
    ['sum', 'above']
    """

    cure: ClassVar[str] = (
        "give some of its rows as a frame; predict_files, score_files and drift_files of tabmtl.scale read whole files"
    )

    def coder(self, learner: TableLearner, y: Any, sample_weight: Any) -> TableCoder:
        """Learn the columns and tasks, together with the other processes of a group."""
        return self._learn(learner, y, sample_weight, Marks())[1]

    def rows(
        self, learner: TableLearner, stack: ExitStack, y: Any, weight: Any, marks: Marks, X_val: Any, y_val: Any
    ) -> FittedRows:
        """Read the rows by way of a disk, alone or with the other processes of a group."""
        group = current()
        roles, coder = self._learn(learner, y, weight, marks)
        tasks = coder.labels.tasks
        refuse_without_groups(tasks, roles.groups)
        cache = stack.enter_context(encoded(self, roles, coder, group))
        factors = ClassFactors.learn(coder.labels, cache.labels(), group)
        rows = ShardRows(replace(cache, of_classes=factors))
        rows.check_dealt()
        if any(map(metrics_of_positive, tasks)):
            some = rows.some(_JUDGED_ROWS)
            if group.rank == 0:
                warn_of_frequent_classes(coder.labels, learner.coding["tasks"], tasks, some.y)
        coder.check_counts(rows.n_labels)
        valid = None
        if X_val is not None:
            X_val.check_same(group)
            of_val = roles.groups if any(map(is_by_group, tasks)) else None
            roles = Roles.of(X_val, y_val, groups=of_val, what="y_val").like(roles, X_val)
            cache = stack.enter_context(encoded(X_val, roles, coder, group))
            valid = ShardRows(replace(cache, of_classes=factors)).at_most()
        if not learner.reads_windows:
            return coder, *rows.in_memory(valid)
        return coder, rows, valid

    def _learn(self, learner: TableLearner, y: Any, sample_weight: Any, marks: Marks) -> tuple[Roles, TableCoder]:
        roles, group = Roles.of(self, y, sample_weight, *marks), current()
        check_params(learner.estimator, group)
        named = {"sample_weight": roles.weight, "groups": roles.groups, "time": roles.time}
        check_same(group, {"y": list(roles.targets)} | named)
        roles = roles.without(learner.ignored)
        self.check_same(group)
        coder = learn_table(self, roles, **learner.coding, group=group)
        labels = learner.with_metrics(coder.labels)
        coder = replace(coder, labels=labels, dropped=learner.ignored)
        return roles, replace(coder, group_column=roles.groups, time_column=roles.time)

    # what a search asks

    def described(self) -> str:
        """Describe the rows, which are not read for it, by their number, and the names and sizes of their files."""
        files = self.files or ()
        sizes = [None if "://" in file else Path(file).stat().st_size for file in files]
        table = pl.DataFrame(
            {"file": [Path(file).name for file in files], "size": sizes},
            schema_overrides={"file": pl.String, "size": pl.Int64},
        )
        return f"{self.n_rows} rows in {len(files)} files of checksum {checksum(table)}"

    def labels(self, coder: TableCoder, y: Any, groups: Any) -> Batch:
        """Read the rows of all ranks, which judge those of a coder, with their groups and without features."""
        known = Roles(features=coder.names, targets=tuple(coder.labels.names), flat=False)
        Roles.of(self, y, groups=groups, what="y_val").like(known, self)
        self.check_same(current())
        parts = []
        for X, labels, group in self._judging(coder, y, groups):
            parts.append(replace(coder.read_block(X, labels), group=group).without_features().arrays())
        return Batch.join([Batch(x=Features.of(part), **part) for own in current().gather(parts) for part in own])

    def answered(self, model: Any, y: Any, groups: Any) -> Answered | None:
        """Return the answers of a model to the rows of all ranks, beside their labels, on rank 0."""
        parts = []
        for X, labels, group in self._judging(model.coder_, y, groups):
            own = model.__labelled_answers__(X, labels)
            parts.append((own.labels, own.outputs, own.own_task, group))
        parts = [part for own in current().gather(parts, to=0) for part in own]
        return None if current().rank else Answered.join(model.tasks_, parts)

    def _judging(
        self, coder: TableCoder, y: Any, groups: str | None
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, np.ndarray | None]]:
        """Read features, targets and groups of this rank's share of the blocks."""
        targets, others = Roles.of(self, y, groups=groups).targets, () if groups is None else (groups,)
        names = [*dict.fromkeys((*coder.names, *targets, *others))]
        for _, block in self.blocks(names, self.share_of_blocks(current())):
            group = None if groups is None else group_hashes(block[groups], groups).astype(np.int64)
            yield block.select(cs.by_name(*coder.names)), block.select(cs.by_name(*targets)), group

    # what a recommender asks

    @contextmanager
    def log(self, model: Any, columns: LogColumns, weights: Mapping[str, float] | None) -> Iterator[StoredLog]:
        """Deal the clicks to the disk by session, or find them there, for the fit of a recommender."""
        from tabmtl.scale.clicks import stored_log

        check_params(model, current())
        self.check_same(current())
        with stored_log(self, columns, weights, current()) as log:
            yield log
