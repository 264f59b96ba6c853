"""Encode a table with its targets as one batch of arrays, in the wide and the long layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NoReturn

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.forks import check_pool
from tabmtl.base.params import check_known, near
from tabmtl.base.schema import Batch
from tabmtl.base.storage.stored import Stored
from tabmtl.columns import KINDS
from tabmtl.columns.category import is_feature, text_of
from tabmtl.columns.cures import BY_COLUMNS, by_cast
from tabmtl.columns.declared import Declared, Text, encoder_of
from tabmtl.columns.kind import select_seq
from tabmtl.columns.values import from_text, type_of
from tabmtl.columns.vector import OfOneLength
from tabmtl.encode.features import NO_ROWS, FeatureCoder
from tabmtl.encode.labels import LabelCoder
from tabmtl.encode.new_classes import grown_labels
from tabmtl.encode.preprocessing import Preprocessing
from tabmtl.encode.read import check_targets, in_order, names_of, read_features, to_array, without_columns
from tabmtl.encode.tasks import DeclaredTasks
from tabmtl.encode.text_encoder import TextVectors, learn_vectors
from tabmtl.targets import Task
from tabmtl.targets.decisions import Decisions

_MOST_EXPONENT = 500  # of two: squares and their sums over all rows are finite, and above 0


@dataclass(frozen=True, kw_only=True)
class TableCoder:
    """Fitted encoding of features and targets.

    Attributes
    ----------
    features : FeatureCoder
    labels : LabelCoder
    task_column : str or None
        Long layout: the column of X that names every row's own task. It is not a feature.
    names : tuple of str
        All columns of X in order, the task column included.
    named : bool
        Whether X brought these names.
    dropped : tuple of str
        Further columns, which `read` ignores where a frame has them.
    list_separator : str or None
        Sign between the items of lists where a file or a server has text.
    preprocessing : Preprocessing or None
        What makes the features of the columns of X; without it, these are the features.
    text_vectors : TextVectors or None
        What makes vectors of the columns of free text, behind the preprocessor.
    group_column : str or None
        Column of X that names the groups of rows, if fit was told of one.
    time_column : str or None
        Column of X that holds the times of rows, if fit was told of one.
    """

    features: FeatureCoder
    labels: LabelCoder
    task_column: str | None
    names: Annotated[tuple[str, ...], Stored(shape="P")]
    named: bool
    dropped: tuple[str, ...] = ()
    list_separator: str | None = None
    preprocessing: Preprocessing | None = None
    text_vectors: TextVectors | None = None
    group_column: str | None = None
    time_column: str | None = None

    later_fields: ClassVar[tuple[str, ...]] = ("text_vectors", "group_column", "time_column")

    def __post_init__(self) -> None:
        if (self.task_column is None) != (self.labels.task_levels is None):
            raise ValueError(f"task_column is {self.task_column!r}, the tasks of rows are {self.labels.task_levels}")
        self.features.check_kinds(KINDS)
        for task in self.labels.tasks:
            task.check_monotone(self.features.columns)
        before, names = self.preprocessing, self.names
        if before is not None and len(before.values) != len([name for name in names if name != self.task_column]):
            raise ValueError(f"the columns of X are {names[:5]}, those of the preprocessor {before.values[:5]}")
        names = names if before is None else before.names
        if tuple(name for name in names if name != self.task_column) != self.features.names:
            raise ValueError(f"the columns of X are {names[:5]}, the features {self.features.names[:5]}")
        if self.text_vectors is not None:
            self._check_vectors(self.text_vectors)

    def _check_vectors(self, found: TextVectors) -> None:
        of_length = [own for own in self.features.coders.values() if isinstance(own, OfOneLength)]
        widths = {name: width for own in of_length for name, width in zip(own.names, own.widths, strict=True)}
        if not found.names or any(widths.get(name) != found.width for name in found.names):
            raise ValueError(f"text of {found.names[:5]} has vectors of length {found.width}, the features {widths}")

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the columns of free text, encoded or hashed."""
        hashed = [name for name, own in self.features.declared.items() if isinstance(own, Text)]
        return (*hashed, *(() if self.text_vectors is None else self.text_vectors.names))

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Levels by the name of every categorical column, and tasks by that of the task column; of free text none.

        In front of a preprocessor, which may take text apart, none are known of text.
        """
        columns, origins = self.features.columns, self.features.origins_by_form["codes"]
        named = zip(columns.categorical, columns.levels, origins, strict=True)
        found = {name: levels for name, levels, origin in named if name == origin}
        found |= dict.fromkeys(self.texts, ())
        if self.preprocessing is not None:
            known: dict[str, tuple[str, ...]] = {"text": (), "booleans": ("true", "false")}
            found = {name: known[own] for name, own in self.values_of_fit().items() if own in known}
        return found | ({} if self.task_column is None else {self.task_column: self.labels.task_levels or ()})

    @classmethod
    def fit(
        cls,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        tasks: DeclaredTasks | None,
        force: str | None,
        task_column: str | None,
        columns: Mapping[str, Declared],
        encoding: Mapping[str, Any],
    ) -> TableCoder:
        """Learn the encoding of a table.

        The parameters are those of `LabelCoder.fit` and `FeatureCoder.fit`; `encoding` holds the ``transform``,
        ``min_frequency``, ``flat`` and ``finds_text`` of the latter. Texts may have an encoder.
        """
        check_pool()
        check_targets(y, X)
        frame, named = read_features(X)
        names = tuple(names_of(frame))
        levels = None
        if task_column is not None:
            schema = frame.collect_schema()
            check_task_column(task_column, names, schema)
            levels = sort_tasks(task_texts(frame, task_column).unique(), task_column, schema[task_column])
            frame = _select(frame, [name for name in names if name != task_column])
        vectors, frame, columns = learn_vectors(frame, columns) if columns else (None, frame, columns)
        return cls(
            features=FeatureCoder.fit(frame, columns=columns, **encoding),
            labels=LabelCoder.fit(y, sample_weight, tasks=tasks, force=force, task_levels=levels),
            task_column=task_column,
            names=names,
            named=named,
            text_vectors=vectors,
        )

    def extended(
        self,
        prepared: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        classes: Any = None,
        closed: Sequence[str] = (),
        min_frequency: int = 1,
    ) -> TableCoder:
        """Return the coder that knows the levels and the classes of new rows too, behind those that it knows.

        Scales, tasks, the preprocessor and the encoder of text stay. Decisions are dropped.

        Parameters
        ----------
        prepared : rows as `prepared` gives them
        y, sample_weight, classes, closed
            As in `tabmtl.encode.new_classes.grown_labels`.
        min_frequency : int, default=1
            As in `FeatureCoder.extended`.

        Raises
        ------
        TypeError, ValueError
            If the rows do not fit; the message names the column or task and the cure.

        Examples
        --------
        >>> import polars as pl
        >>> from tabmtl import SharedBottom
        >>> X, y = pl.DataFrame({"town": ["Ulm", "Bonn", "Ulm"]}), pl.Series("y", ["a", "b", "c"])
        >>> coder = SharedBottom(min_frequency=1).__learner__().coder(X, y)
        >>> grown = coder.extended(pl.DataFrame({"town": ["Aachen"]}), pl.Series("y", ["d"]))
        >>> grown.features.columns.levels, grown.labels.tasks[0].classes
        ((('Bonn', 'Ulm', 'Aachen'),), ('a', 'b', 'c', 'd'))
        """
        check_pool()
        check_targets(y, prepared)
        frame = self.after.read_frame(prepared)
        if self.task_column is not None:
            known = pl.Series(self.labels.task_levels, dtype=pl.String)
            new = task_texts(frame, self.task_column).drop_nulls().unique().sort()
            new = new.filter(~new.is_in(known.implode()))
            if len(new):
                raise ValueError(
                    f"task_column {self.task_column!r}: the task {new[0]!r} is new, and rows of known tasks alone go "
                    "on; take it up by add_task first, drop its rows, or fit again with rows of all tasks"
                )
            frame = _select(frame, self.features.names)
        return replace(
            self,
            features=self.features.extended(frame, min_frequency=min_frequency),
            labels=grown_labels(self.labels, y, sample_weight, classes=classes, closed=closed),
        )

    @property
    def after(self) -> TableCoder:
        """The coder of what `prepared` gives; the coder itself, if that is X."""
        if self.text_vectors is not None:
            return replace(self._before_vectors.after, named=True)
        before = self.preprocessing
        if before is None:
            return self
        return replace(self, preprocessing=None, names=before.names, named=before.named, dropped=())

    @property
    def _prepares(self) -> bool:
        return self.preprocessing is not None or self.text_vectors is not None

    @property
    def _before_vectors(self) -> TableCoder:
        """The coder of rows of which no text is encoded."""
        return replace(self, text_vectors=None)

    def with_decisions(self, tasks: tuple[Task, ...], decisions: Decisions) -> TableCoder:
        """Return the coder of a model that has learned decisions, which its tasks know too."""
        return replace(self, labels=replace(self.labels, tasks=tasks, decisions=decisions))

    def values_of_fit(self) -> dict[str, str]:
        """Return what the columns of X held in fit, by their names; without the task column."""
        names = [name for name in self.names if name != self.task_column]
        if self.preprocessing is not None:
            return dict(zip(names, self.preprocessing.values, strict=True))
        found = self.features.values | dict.fromkeys(self.texts, "free text")
        return {name: found[name] for name in names}

    def prepared(self, X: Any, columns: Mapping[str, Any] | None = None) -> Any:
        """Return what the preprocessor makes of rows, with vectors of its text; without both, the rows as they are.

        Parameters
        ----------
        X : rows with the columns of fit
        columns : mapping of str to str or Declared, optional
            Its encoder of text takes the place of that of fit, if there was one.

        Raises
        ------
        TypeError, ValueError
            If X has other columns than in fit, the preprocessor cannot transform them, or no vectors can be made.
        """
        if self.text_vectors is not None:
            frame = self._before_vectors.read_frame(X).lazy().collect()
            return self.text_vectors.apply(frame, encoder_of(columns))
        if self.preprocessing is None:
            return X
        X = without_columns(X, self.dropped)
        if self.named and (nw.dependencies.is_into_dataframe(X) or isinstance(X, pl.LazyFrame)):
            ordered = in_order(X, self.names)
            if ordered is None:
                self._refuse(nw.from_native(X).collect_schema().names(), X)
            X = ordered
        if not isinstance(X, pl.LazyFrame) and not len(X):  # which few transformers take
            return self.after.no_rows()
        return self.preprocessing.transform(X, self.names, self.task_column)

    def no_rows(self) -> Any:
        """Return no rows, with the columns and the types of fit."""
        values = self.values_of_fit()
        frame = pl.DataFrame(schema={name: type_of(values.get(name, "text")) for name in self.names})
        return frame if self.named else to_array(frame)

    def read(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, unknown_task: Literal["error", "shared"] = "error"
    ) -> Batch:
        """Encode rows, with their labels if `y` is given.

        Labels come in their own units. Weights come normalised to mean 1 over the labelled rows of every task; a
        label of weight 0 becomes unlabelled. With ``unknown_task="shared"`` an unseen or missing task has the
        index -1.

        Raises
        ------
        ValueError
            If rows do not match, a task is unknown, or a value does not fit; see the coders.
        """
        return self._normalised(self.read_block(X, y, sample_weight, unknown_task=unknown_task))

    def read_block(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, unknown_task: Literal["error", "shared"] = "error"
    ) -> Batch:
        """Encode some rows of a table as `read` does, but with their weights as they are."""
        if self._prepares:
            return self.after.read_block(self.prepared(X), y, sample_weight, unknown_task=unknown_task)
        frame = self.read_frame(X)
        task = None if self.task_column is None else self._task_codes(frame, unknown_task)
        x = self.features.encode(frame if task is None else _select(frame, self.features.names))
        batch = Batch(x=x, task=task)
        if y is None:
            return batch
        check_targets(y, X)
        return self._labelled(batch, y, sample_weight)

    def with_labels(self, batch: Batch, y: Any, sample_weight: Any = None) -> Batch:
        """Return rows that `read` has encoded with labels and weights, as it gives them."""
        return self._normalised(self._labelled(batch, y, sample_weight))

    def _labelled(self, batch: Batch, y: Any, sample_weight: Any) -> Batch:
        if not len(batch):
            raise ValueError(NO_ROWS)
        values, weight = self.labels.encode(y, sample_weight)
        if len(values) != len(batch):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: X has {len(batch)} rows, "
                f"y has {len(values)}"
            )
        return replace(batch, y=values, weight=weight)

    def _normalised(self, batch: Batch) -> Batch:
        if batch.weight is None:
            return batch
        task, tasks = batch.task, self.labels.tasks
        weight, shifts = batch.weight, _shifts(batch.weight, task, len(tasks))
        if shifts.any():
            weight = np.ldexp(weight, shifts if task is None else shifts[task, None])
        factors = weight_factors(*weight_sums(weight, task, len(tasks)), tasks)
        return replace(batch, weight=weight * (factors if task is None else factors[task, None]))

    def read_frame(self, X: Any) -> pl.DataFrame | pl.LazyFrame:
        """Return the columns of fit, by name if both have names, else by position; as the preprocessor makes them.

        Raises
        ------
        ValueError
            If X lacks a column, or has a further one.
        """
        if self._prepares:
            return self.after.read_frame(self.prepared(X))
        frame, named = read_features(without_columns(X, self.dropped), may_be_empty=True)
        found = tuple(names_of(frame))
        if found == self.names:
            return frame
        if named and self.named and set(found) == set(self.names):
            return _select(frame, self.names)
        if len(found) != len(self.names) or (named and self.named):
            self._refuse(found, X)
        return frame.rename(dict(zip(found, self.names, strict=True)))

    def _refuse(self, found: Sequence[str], X: Any) -> NoReturn:
        lacking = [name for name in self.names if name not in found]
        is_near = 0 < len(lacking) < len(self.names)
        cure = f"Add those that X lacks: {lacking}." if is_near else BY_COLUMNS
        raise ValueError(f"X has the columns {[*found]}, expected those of fit: {[*self.names]}. {cure}")

    def as_given(self, frame: pl.DataFrame) -> Any:
        """Return rows of a file or a server as an estimator takes them without a word.

        Text is read as the dates or lists that it says, where fit saw these. Rows come in an array, where fit saw no
        names.
        """
        if self.preprocessing is None and (self.features.dates or self.list_separator):
            values = self.values_of_fit()
            pairs = zip(frame.iter_columns(), self.names, strict=True)
            frame = pl.DataFrame([from_text(own, values.get(name, ""), self.list_separator) for own, name in pairs])
        return frame if self.named else to_array(frame)

    def check_labelled(self, batch: Batch) -> None:
        """Raise a ValueError that names a task of the long layout without any labelled row."""
        if batch.task is None:
            return
        self.check_counts(np.bincount(batch.task, ~np.isnan(batch.y[:, 0]), minlength=len(self.labels.tasks)))

    def check_counts(self, counts: np.ndarray) -> None:
        """Raise a ValueError that names a task of the long layout whose number of labels (T,) is 0."""
        if self.task_column is not None and not counts.all():
            name = self.labels.tasks[int(np.argmin(counts))].name
            raise ValueError(
                f"task {name!r} of task_column {self.task_column!r} has no observed label; drop its rows, or label some"
            )

    def _task_codes(self, frame: pl.DataFrame | pl.LazyFrame, unknown_task: str) -> np.ndarray:
        texts = task_texts(frame, str(self.task_column))
        levels = self.labels.task_levels or ()
        physical = texts.cast(pl.Enum(levels), strict=False).to_physical().to_numpy()
        codes = np.nan_to_num(physical, nan=-1).astype(np.int64)
        if unknown_task == "error" and (codes < 0).any():
            unknown = texts[int(np.argmin(codes))]
            more = "..." if len(levels) > 10 else ""
            raise ValueError(
                f"task_column {self.task_column!r}: the task {unknown!r} was not seen in fit{near(unknown, levels)}; "
                f"expected one of {list(levels[:10])}{more}: drop these rows, or fit with some of them"
            )
        return codes


def _select(frame: pl.DataFrame | pl.LazyFrame, names: Sequence[str]) -> pl.DataFrame | pl.LazyFrame:
    # a selector, because select takes a name like "*" for a pattern
    return frame.select_seq(cs.by_name(*names))


def task_texts(frame: pl.DataFrame | pl.LazyFrame, task_column: str) -> pl.Series:
    """Return every row's task as text, by the rule for levels: 3 and 3.0 are one task."""
    texts = text_of(task_column, frame.collect_schema()[task_column]).alias("task")
    found = frame.select(texts).collect() if isinstance(frame, pl.LazyFrame) else select_seq(frame, texts)
    return found.to_series()


def check_task_column(task_column: str, names: Sequence[str], schema: Mapping[str, pl.DataType]) -> None:
    """Check that X has the column of tasks, and that its values can name them.

    Raises
    ------
    ValueError
        If it is none of the columns of X, whose names are given.
    TypeError
        If a column of its type names no tasks.
    """
    check_known("task_column names columns", [task_column], names, "X")
    if not is_feature(schema[task_column]):
        raise TypeError(
            f"task_column {task_column!r} has type {schema[task_column]}; expected text, categories or whole numbers: "
            f"{by_cast(schema[task_column])}"
        )


def sort_tasks(texts: pl.Series, task_column: str, dtype: pl.DataType) -> tuple[str, ...]:
    """Return the tasks of a long table in order, given the distinct texts of its column of tasks.

    Raises
    ------
    ValueError
        If a row has no task.
    """
    if texts.null_count():
        raise ValueError(f"task_column {task_column!r} has missing values; every row needs a task")
    # whole numbers in their own order: 2 before 10
    return tuple(sorted(texts.to_list(), key=int if dtype.is_integer() else str))


def weight_sums(weight: np.ndarray, task: np.ndarray | None, n_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return per task the number of positive weights (n, T) or (n, 1) and their sum, (T,)."""
    if task is None:
        return (weight > 0).sum(axis=0), weight.sum(axis=0)
    own = weight[:, 0]
    return np.bincount(task, own > 0, minlength=n_tasks), np.bincount(task, own, minlength=n_tasks)


def weight_factors(counts: np.ndarray, totals: np.ndarray, tasks: Sequence[Task]) -> np.ndarray:
    """Return factors (T,) that give positive weights mean 1, from their numbers and sums.

    Raises
    ------
    ValueError
        If weights are too large or too small to be summed and divided; the message names the task.
    """
    with np.errstate(over="ignore"):
        factors = np.maximum(counts, 1) / np.where(totals > 0, totals, 1)
    if not (is_usable := np.isfinite(factors) & (factors > 0)).all():
        t = int(np.argmin(is_usable))
        raise ValueError(
            f"task {tasks[t].name!r}: the weights of its {int(counts[t])} labels sum to {totals[t]:g}, which is out of "
            "range; divide all weights by the largest"
        )
    return factors


def _shifts(weight: np.ndarray, task: np.ndarray | None, n_tasks: int) -> np.ndarray:
    """Return powers of two, int (T,), that bring the largest weight of a task to where sums and squares are finite.

    All are 0 for weights that are there already. Any others are multiplied without rounding.
    """
    largest = weight.max(axis=0, initial=0)
    if task is not None:
        largest = np.zeros(n_tasks)
        np.maximum.at(largest, task, weight[:, 0])
    exponent = np.frexp(largest)[1]
    return np.clip(exponent, -_MOST_EXPONENT, _MOST_EXPONENT) - exponent
