"""What the columns of shards hold, learned in one pass: summaries of blocks, which merge in any order to one coder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.forks import check_pool
from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.columns.category import count_levels
from tabmtl.columns.declared import Declared, Text, Vector, encoder_of
from tabmtl.columns.kind import Coding, Summary, merge
from tabmtl.columns.reading import find_readings, read_declared
from tabmtl.columns.roles import sequence_columns
from tabmtl.columns.text import Texts, find_texts, spread_rows
from tabmtl.columns.vector import SCALED_ROWS, Vectors
from tabmtl.encode.features import NO_ROWS, SAMPLE_ROWS, WAITING, ByKind, FeatureCoder, find_kinds, survey_columns
from tabmtl.encode.labels import LabelCoder, center_and_scale, in_units
from tabmtl.encode.table import TableCoder, check_task_column, sort_tasks
from tabmtl.encode.tasks import DeclaredTasks, declared_tasks
from tabmtl.encode.text_encoder import TextVectors, encoded_columns
from tabmtl.encode.write import Origin
from tabmtl.scale.blocks import Blocks, Roles, row_keys
from tabmtl.targets.kind import TEXT, Units

_MOST_CLASSES = 1_000_000
_LEAST_VALUES = 1_000  # of a target of numbers; more say nothing of its kind

_EVERY_KEY = np.uint64(2**64 - 1)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Columns of shards, by what a survey asks of them.

    Attributes
    ----------
    kinds : mapping of type to tuple of str
        Features by their kind.
    tasks : tuple of str
        The column of tasks, if there is one.
    classes : frozenset of str
        Targets of which all values are kept, because they are classes.
    targets : tuple of str
    weight : str or None
    readings : dict of str to Declared
        Columns of text that are read before, as they are declared.
    """

    kinds: ByKind
    tasks: tuple[str, ...]
    classes: frozenset[str]
    targets: tuple[str, ...]
    weight: str | None
    readings: dict[str, Declared]


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """Summary of some rows.

    Attributes
    ----------
    n_rows : int
    columns : dict of str to dict
        Summaries of the features by their kind, see `tabmtl.columns.ColumnKind.survey`; ``"tasks"`` is that of the
        column of tasks.
    values : tuple of Series
        Per target, its distinct values; of numbers that may not be classes the least `_LEAST_VALUES`, and infinity.
    moments : tuple of list
        Per target and block, the number of labels, their mean, and their squared distances from it.
    keys : ndarray of uint64, shape (m,)
        Those of a sample of whole rows, the least ones: they are random and depend on the numbers of the rows only.
    rows : ndarray of int64, shape (m,)
        Numbers of the rows of the sample.
    labels : ndarray of float64, shape (C, m)
        Of the sample; NaN in targets of text.
    """

    n_rows: int
    columns: dict[str, Summary]
    values: tuple[pl.Series, ...]
    moments: tuple[list[tuple[int, float, float]], ...]
    keys: np.ndarray
    rows: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, block: pl.DataFrame, start: int, plan: Plan, largest: np.uint64 = _EVERY_KEY) -> Survey:
        """Summarise a block, given the number of its first row, and the largest key that a sample may need."""
        labels = read_labels(block, plan.targets, plan.weight)
        floats = [_floats(series) for series in labels.iter_columns()]
        rows = np.arange(start, start + block.height)
        keys = row_keys(rows)
        taken, block = np.flatnonzero(keys <= largest), read_declared(block, plan.readings)
        return cls(
            n_rows=block.height,
            columns=survey_columns(block, plan.kinds, taken) | {"tasks": count_levels(block, plan.tasks)},
            values=tuple(_distinct([series], series.name in plan.classes) for series in labels.iter_columns()),
            moments=tuple([_moments(values)] for values in floats),
            keys=keys[taken],
            rows=rows[taken],
            labels=np.array([values[taken] for values in floats]).reshape(-1, len(taken)),
        )

    @classmethod
    def merge(cls, surveys: Sequence[Survey], plan: Plan) -> Survey:
        """Summarise the rows of all; the order does not matter."""
        values = zip(plan.targets, zip(*(survey.values for survey in surveys), strict=True), strict=True)
        keys = np.concatenate([survey.keys for survey in surveys])
        kept = np.arange(len(keys))
        if len(kept) > SAMPLE_ROWS:
            kept = np.sort(np.argpartition(keys, SAMPLE_ROWS)[:SAMPLE_ROWS])
        return cls(
            n_rows=sum(survey.n_rows for survey in surveys),
            columns=merge([survey.columns for survey in surveys], kept),
            values=tuple(_distinct(of_task, name in plan.classes) for name, of_task in values),
            moments=tuple(
                [one for of_block in of_task for one in of_block]
                for of_task in zip(*(survey.moments for survey in surveys), strict=True)
            ),
            keys=keys[kept],
            rows=np.concatenate([survey.rows for survey in surveys])[kept],
            labels=np.concatenate([survey.labels for survey in surveys], axis=1)[:, kept],
        )

    @property
    def largest(self) -> np.uint64:
        """The largest key that may still belong to the sample."""
        return self.keys.max() if len(self.keys) == SAMPLE_ROWS else _EVERY_KEY

    def learn_labels(self, origin: Origin, **coding: Any) -> LabelCoder:
        """Learn the encoding of targets."""
        most = max(len(series) for series in self.values)
        values = pl.DataFrame([series.extend_constant(None, most - len(series)) for series in self.values])
        coder = LabelCoder.learn(values, origin, **coding)
        for j, task in enumerate(coder.column_tasks):
            if task.kind.units != "own":
                coder.center[j], coder.scale[j] = self.center_and_scale(j, task.kind.units)
        return coder

    def center_and_scale(self, target: int, units: Units) -> tuple[float, float]:
        """Return center and scale of a target; the same for any order of blocks."""
        if self.n_rows <= SAMPLE_ROWS:  # the sample holds all rows
            return center_and_scale(self.labels[target][np.argsort(self.rows)], units)
        blocks = [moments for moments in self.moments[target] if moments[0]]
        n = sum(moments[0] for moments in blocks)
        center = math.fsum(count * mean for count, mean, _ in blocks) / n
        square = math.fsum(part for count, mean, own in blocks for part in (own, count * (mean - center) ** 2)) / n
        return in_units(center, math.sqrt(square) if 0 < square < math.inf else 1.0, units)


def learn_table(
    shards: Blocks,
    roles: Roles,
    *,
    tasks: DeclaredTasks | None,
    force: str | None,
    task_column: str | None,
    columns: Mapping[str, Declared],
    encoding: Mapping[str, Any],
    group: Ranks = ALONE,
) -> TableCoder:
    """Learn the encoding of shards in one pass, as `TableCoder.fit` does of a frame.

    With at most `SAMPLE_ROWS` rows it is the same, bit for bit. With more, scales and bins come from another sample,
    which is the same however the rows lie in files. Each rank of a group reads its share of the blocks, and all learn
    the same, bit for bit, as one process. The other parameters are those of `TableCoder.fit`.
    """
    check_pool()
    if task_column is not None:
        check_task_column(task_column, roles.features, shards.schema)
    declared = declared_tasks(tasks, roles.targets)
    classes = [name for name in roles.targets if name in declared and declared[name].is_classification]
    schema = pl.Schema({name: shards.schema[name] for name in roles.features if name != task_column})
    if encoding.get("finds_text", False):
        columns = {**columns, **dict.fromkeys(_find_texts(shards, schema, columns, group), Text())}
    readings = find_readings(columns, schema)
    schema = pl.Schema({**schema, **{name: own.read_type for name, own in readings.items()}})
    plan = Plan(
        kinds=_surveyed_kinds(schema, columns, encoding),
        tasks=() if task_column is None else (task_column,),
        classes=frozenset(roles.targets if force == "classification" else classes),
        targets=roles.targets,
        weight=roles.weight,
        readings=readings,
    )
    survey = _survey(shards, plan, roles.names(), group)
    levels = None
    if task_column is not None:
        levels = sort_tasks(survey.columns["tasks"][task_column]["level"], task_column, shards.schema[task_column])
    features, vectors = _learn_features(survey, schema, columns, encoding, readings)
    labels = survey.learn_labels(_origin(shards, roles), declared=declared, force=force, task_levels=levels)
    names: Any = {"task_column": task_column, "names": roles.features, "named": True}
    return TableCoder(features=features, labels=labels, text_vectors=vectors, **names)


def read_labels(block: pl.DataFrame, targets: Sequence[str], weight: str | None) -> pl.DataFrame:
    """Return the targets of a block; null where the weight is 0.

    Raises
    ------
    ValueError
        If a weight is negative, missing or infinite.
    """
    labels = block.select(cs.by_name(*targets)).with_columns(cs.decimal().cast(pl.Float64))
    if weight is None:
        return labels
    weights = block[weight].cast(pl.Float64)
    if weights.null_count() or not weights.is_finite().all() or (weights < 0).any():
        raise ValueError(
            f"the column {weight!r} of sample_weight holds a negative, missing or infinite value; weights must be "
            "finite and >= 0"
        )
    present = weights > 0
    return labels.select(pl.when(present).then(cs.by_name(name)) for name in targets)


def _survey(shards: Blocks, plan: Plan, names: Sequence[str], group: Ranks) -> Survey:
    if group.size == 1:
        survey = _survey_rows(shards, plan, names, None, _EVERY_KEY)
    else:
        # so that the parts of the sample together are little more than it
        share = 1.1 * SAMPLE_ROWS / max(shards.n_rows, 1)
        largest = np.uint64(share * 2**64) if share < 1 else _EVERY_KEY
        own = _survey_rows(shards, plan, names, shards.share_of_blocks(group), largest)
        parts = group.gather(None if own is None else vars(own))
        known = [Survey(**part) for part in parts if part is not None]
        survey = Survey.merge(known, plan) if known else None
    if survey is None:
        raise ValueError(NO_ROWS)
    return survey


def _survey_rows(
    shards: Blocks, plan: Plan, names: Sequence[str], rows: range | None, largest: np.uint64
) -> Survey | None:
    """Survey some rows; None without any."""
    waiting: list[Survey] = []
    for start, block in shards.blocks(names, rows):
        waiting.append(Survey.of(block, start, plan, largest))
        sampled = sum(len(survey.keys) for survey in waiting)
        if len(waiting) == WAITING or sampled > 1.5 * SAMPLE_ROWS:
            waiting = [Survey.merge(waiting, plan)]
            largest = min(largest, waiting[0].largest)
    return Survey.merge(waiting, plan) if waiting else None


def _find_texts(shards: Blocks, schema: pl.Schema, columns: Mapping[str, Declared], group: Ranks) -> Sequence[str]:
    """Return the columns of free text, found as in a frame among those that are not declared."""
    known = {*columns, *sequence_columns(columns)}
    names = [name for name, dtype in schema.items() if dtype == pl.String and name not in known]
    if not names:
        return ()
    chosen, parts = spread_rows(shards.n_rows), [pl.DataFrame(schema=dict.fromkeys(names, pl.String))]
    for start, block in shards.blocks(names, shards.share_of_blocks(group)):
        first, last = np.searchsorted(chosen, [start, start + block.height])
        parts.append(block[chosen[first:last] - start])
    return find_texts(pl.concat(group.gather(pl.concat(parts))))


def _surveyed_kinds(schema: pl.Schema, columns: Mapping[str, Declared], encoding: Mapping[str, Any]) -> ByKind:
    """Return the kinds to survey; of text that an encoder will read, that whose survey takes text."""
    encoded = encoded_columns(columns)
    kinds = dict(find_kinds(schema, columns, flat=encoding.get("flat", False)))
    if encoded:
        texts = kinds.pop(Texts, ())
        kinds |= {Texts: tuple(name for name in texts if name not in encoded)} if texts != (*encoded,) else {}
        kinds[Texts.flat()] = (*dict.fromkeys((*kinds.get(Texts.flat(), ()), *encoded)),)
    return kinds


def _learn_features(
    survey: Survey,
    schema: pl.Schema,
    columns: Mapping[str, Declared],
    encoding: Mapping[str, Any],
    readings: dict[str, Declared],
) -> tuple[FeatureCoder, TextVectors | None]:
    """Learn the encoding of features, and of text by an encoder of the user, if there is one."""
    encoded, vectors = encoded_columns(columns), None
    if encoded:
        vectors = _encode_texts(survey, encoded, encoder_of(columns), flat=encoding.get("flat", False))
        columns = {**columns, **dict.fromkeys(encoded, Vector())}
        schema = pl.Schema({**schema, **dict.fromkeys(encoded, pl.List(pl.Float32))})
    kinds = find_kinds(schema, columns, flat=encoding.get("flat", False))
    options = {name: value for name, value in encoding.items() if name not in ("finds_text", "flat")}
    coding = Coding(schema=schema, columns=columns, **options)
    return FeatureCoder.learn(kinds, survey.columns, coding, readings), vectors


def _encode_texts(survey: Survey, names: Sequence[str], encoder: Any, *, flat: bool) -> TextVectors:
    """Put vectors of text in place of text in a survey, as many as scales are learned from."""
    kind = Vectors.flat() if flat else Vectors
    texts = pl.DataFrame({name: survey.columns[Texts.flat().name].pop(name) for name in names})
    vectors, some = TextVectors.learn(texts[:: -(-len(texts) // SCALED_ROWS)], names, encoder)
    found = survey.columns.setdefault(kind.name, {})
    found |= kind.survey(some, vectors.names, np.arange(len(some)))
    for name in vectors.names:
        levels = [vectors.width, None] if texts[name].null_count() else [vectors.width]
        found[f"length {name}"] = pl.DataFrame({"level": levels, "count": 1})
    return vectors


def _origin(shards: Blocks, roles: Roles) -> Origin:
    return Origin(
        container="polars",
        ndim=1 if roles.flat else 2,
        named=True,
        dtypes=tuple(str(shards.schema[name]) for name in roles.targets),
        categories=(None,) * len(roles.targets),
    )


def _distinct(parts: Sequence[pl.Series], keep_all: bool) -> pl.Series:
    """Return the distinct values of a target, sorted; of numbers the least ones, and infinity."""
    values = pl.concat(parts).drop_nulls()
    values = (values.drop_nans() if values.dtype.is_float() else values).unique().sort()
    if keep_all or values.dtype in (*TEXT, pl.Boolean):
        if len(values) > _MOST_CLASSES:
            raise ValueError(
                f"task {values.name!r} has more than {_MOST_CLASSES:_} classes; declare it 'regression', or drop it"
            )
        return values
    if len(values) <= _LEAST_VALUES:
        return values
    is_infinite = values.dtype.is_float() and math.isinf(values[-1])
    return pl.concat([values.head(_LEAST_VALUES), values.tail(int(is_infinite))])


def _floats(series: pl.Series) -> np.ndarray:
    """Return labels as floats, NaN where there is none, or where they are text."""
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        return np.full(len(series), np.nan)
    return series.cast(pl.Float64).fill_null(math.nan).to_numpy()


def _moments(values: np.ndarray) -> tuple[int, float, float]:
    present = values[~np.isnan(values)]
    if not present.size:
        return 0, 0.0, 0.0
    with np.errstate(invalid="ignore"):  # infinite labels are refused where all values are known
        mean = float(present.mean())
        return present.size, mean, float(np.square(present - mean).sum())
