"""Predictions and scores of whole files, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import polars as pl
import polars.selectors as cs
from polars.io.plugins import register_io_source
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import Names, check_choice, near
from tabmtl.base.schema import warn_user
from tabmtl.base.storage.atomic import locked, remove_left, replaced
from tabmtl.columns.category import text_of
from tabmtl.columns.kind import RowError
from tabmtl.columns.values import type_of
from tabmtl.encode import TableCoder
from tabmtl.encode.preprocessing import by_preprocessor
from tabmtl.estimators.predicting import check_levels
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.metrics.intervals import score_intervals
from tabmtl.metrics.scores import Answered, is_by_group
from tabmtl.model_selection.suspects import warn_of_frequent_classes
from tabmtl.scale.cache import group_hashes
from tabmtl.scale.paths import Paths, find_files, is_csv, is_table, read_blocks, scan_file, stamp_of, whole, written

_BLOCK_ROWS = 65_536

_Answer = TypeVar("_Answer")

Method = Literal["predict", "predict_proba", "predict_quantiles", "predict_interval", "both", "transform"]


def predict_files(
    model: MultiTaskEstimator,
    paths: Paths,
    folder: str | PathLike[str],
    *,
    method: Method = "predict",
    keep: Names = (),
    level: float = 0.9,
) -> list[Path]:
    """Predict the rows of files, and write a Parquet file for each.

    Files are read and answered 65 536 rows at a time, so the memory does not grow with their size. Answers are in the
    order of the rows, and equal those of the model's method bit for bit. (`MultiTabNet` with attention between rows
    is the exception: it sees the rows of a block at once.)

    Parameters
    ----------
    model : fitted estimator of tables
    paths : str, path, or sequence of them
        Parquet and CSV files, and globs such as ``"new/*.parquet"``. Columns are found by name, and others are ignored.
        A model that was fitted on an array takes the columns by position, and no others. Types of a CSV file follow
        from all of its rows, unless fit tells them: an empty column of numbers holds nulls, and codes such as 007 stay
        text.
    folder : str or path
        Folder of the answers; created if it does not exist. A file of answers has the name of its input, with the
        ending ``.parquet``. It appears when it is complete, and replaces an older one.
    method : {"predict", "predict_proba", "predict_quantiles", "predict_interval", "both", "transform"}, \
            default="predict"
        ``"predict"`` writes a column for each target, with its name and type. ``"predict_proba"`` writes a column
        ``<task>=<class>`` for each class of each classification task, ``"predict_quantiles"`` a column
        ``<task>_q<level>`` for each level of each task of several, ``"predict_interval"`` the columns of
        ``model.predict_interval``, of which CSV cannot hold sets of classes. ``"both"`` writes first the targets, then
        the classes and the levels that there are. ``"transform"`` is for networks, and writes the columns of
        ``get_feature_names_out``.
    keep : sequence of str, default=()
        Columns of the input to write in front of the answers, such as an id.
    level : float, default=0.9
        Of ``"predict_interval"``: the share of labels that intervals hold.

    Returns
    -------
    files : list of Path
        The files that were written, in the order of the inputs.

    Raises
    ------
    TypeError, ValueError
        If the model, the method or the names do not fit, a file lacks a column, is damaged or changes while it is read,
        or a value does not fit. A note of the error names the file. Files that were complete by then remain.
    FileNotFoundError
        If a path names no file.
    OSError
        If answers cannot be written, for instance because the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import polars as pl
    >>> from tabmtl import IndependentTasks
    >>> from tabmtl.scale import predict_files
    >>> frame = pl.DataFrame({"id": range(100), "x": [i / 100 for i in range(100)]})
    >>> model = IndependentTasks(random_state=0).fit(frame.select("x"), frame.select(y=2 * pl.col("x")))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame.write_parquet(f"{folder}/new.parquet")
    ...     (file,) = predict_files(model, f"{folder}/*.parquet", f"{folder}/scored", keep=["id"])
    ...     pl.read_parquet(file).columns
    ['id', 'y']
    """
    planned = plan_files(model, paths, Path(folder), method)
    for file, output in planned.items():
        answer_file(model, file, output, method, tuple(keep), level)
    return list(planned.values())


def plan_files(model: MultiTaskEstimator, paths: Paths, folder: Path, method: Method) -> dict[str, Path]:
    """Check a call of `predict_files`, and make its folder; return where the answers of each file belong."""
    _check_model(model, method)
    files = find_files(paths)
    outputs = _outputs(files, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=False) as is_free:  # else a process may be at work there
        if is_free:
            remove_left(folder, {output.name for output in outputs})
    return dict(zip(files, outputs, strict=True))


def answer_file(
    model: MultiTaskEstimator, file: str, output: Path, method: Method, keep: tuple[str, ...], level: float = 0.9
) -> None:
    """Predict the rows of one of several files; an error has its name as a note."""
    try:
        _predict_file(model, file, output, method, keep, level)
    except Exception as error:
        error.add_note(f"in the file {file}")
        raise


def predict_file(
    model: MultiTaskEstimator,
    path: str | PathLike[str],
    output: str | PathLike[str],
    *,
    method: Method = "predict",
    keep: Names = (),
    level: float = 0.9,
) -> int:
    """Predict the rows of one file, and write one, as `predict_files` does.

    Parameters
    ----------
    model, method, keep, level
        As in `predict_files`.
    path : str or path
        Parquet or CSV file.
    output : str or path
        File of the answers, Parquet or CSV by its name. It appears when it is complete, and replaces an older one.

    Returns
    -------
    n_rows : int
        Number of the rows that were answered.

    Raises
    ------
    TypeError, ValueError, OSError
        As `predict_files` does, or if the output is the input, or neither Parquet nor CSV by its name.
    """
    _check_model(model, method)
    file = _one_file(path)
    place = Path(output)
    if not is_table(str(output)):
        raise ValueError(f"{output} is neither .parquet nor .csv by its name; call the answers by one of the two")
    if place.resolve() == Path(file).resolve():
        raise ValueError(f"{output} is the input, which its answers would replace; name another file")
    return _predict_file(model, file, place, method, tuple(keep), level)


def score_files(
    model: MultiTaskEstimator, paths: Paths, *, groups: str | None = None, level: float = 0.95
) -> pl.DataFrame:
    """Score every task of a model on the rows of all files together.

    The files have a column for every target. They are read as in `predict_files`, but labels and answers of all rows
    are in memory at once. If a file lacks a target, its rows count as unlabelled, with a warning; a file without any
    target is an error.

    Parameters
    ----------
    model : fitted estimator of tables
    paths : str, path, or sequence of them
        Parquet and CSV files, and globs.
    groups : str, optional
        Column of the files that holds the group of every row; as in ``model.score_intervals``.
    level : float, default=0.95
        Share of intervals that should hold the true score.

    Returns
    -------
    polars.DataFrame
        As ``model.score_intervals`` gives it.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If there is no such file, or a file lacks a column, is damaged, changes, or holds a value that does not fit. Of
        several files, a note names the one.

    Examples
    --------
    >>> import tempfile
    >>> import polars as pl
    >>> from tabmtl import IndependentTasks
    >>> from tabmtl.scale import score_files
    >>> frame = pl.DataFrame({"x": [i / 100 for i in range(100)]}).with_columns(y=2 * pl.col("x"))
    >>> model = IndependentTasks(random_state=0).fit(frame.select("x"), frame.select("y"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame.write_csv(f"{folder}/new.csv")
    ...     score_files(model, f"{folder}/*.csv").select("task", "metric", "n_labelled").row(0)
    ('y', 'r2', 100)
    """
    _check_model(model, "predict")
    files = find_files(paths)
    found: list[tuple[Any, ...]] = []
    if groups is None and any(map(is_by_group, model.tasks_)):
        groups = model.coder_.group_column
    for file in files:
        try:
            found += _answered(model, file, groups)
        except Exception as error:
            if len(files) > 1:
                error.add_note(f"in the file {file}")
            raise
    if not found:
        raise ValueError(f"{'the files have' if len(files) > 1 else 'the file has'} no rows to score")
    answered = Answered.join(model.tasks_, found)
    warn_of_frequent_classes(model.coder_.labels, model.tasks, model.tasks_, answered.labels)
    return score_intervals(*answered, level=level)


def drift_files(
    model: MultiTaskEstimator,
    paths: Paths,
    *,
    reference: Paths | None = None,
    size: float = 0.1,
    alpha: float = 0.05,
    ignore: str | Names = (),
) -> pl.DataFrame:
    """Tell how far the rows of files are from those of a model's fit.

    Files are read as in `predict_files`, and counted 65 536 rows at a time, so that they may be larger than memory.

    Parameters
    ----------
    model : fitted estimator of tables
    paths : str, path, or sequence of them
        Parquet and CSV files, and globs. Columns are found by name; targets are not needed.
    reference : str, path, or sequence of them, optional
        Files of the rows to compare with, in place of those of fit; all are in memory at once.
    size, alpha, ignore
        As in ``model.drift``.

    Returns
    -------
    polars.DataFrame
        As ``model.drift`` gives it.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As ``model.drift`` does, or if there is no such file, or one lacks a column, is damaged or changes.

    Examples
    --------
    >>> import tempfile
    >>> import polars as pl
    >>> from tabmtl import IndependentTasks
    >>> from tabmtl.scale import drift_files
    >>> frame = pl.DataFrame({"x": [i / 100 for i in range(100)]}).with_columns(y=2 * pl.col("x"))
    >>> model = IndependentTasks(random_state=0).fit(frame.select("x"), frame.select("y"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame.select(pl.col("x") + 0.5).write_csv(f"{folder}/new.csv")
    ...     drift_files(model, f"{folder}/*.csv").filter("is_drift")["name"].to_list()
    ['x', 'y']
    """
    _check_model(model, "predict")
    before = None if reference is None else _rows_of_files(model, reference)
    return model.drift(_rows_of_files(model, paths), reference=before, size=size, alpha=alpha, ignore=ignore)


def _rows_of_files(model: MultiTaskEstimator, paths: Paths) -> Iterator[Any]:
    """Yield the rows of files as the model takes them, a block at a time."""
    for file in find_files(paths):
        since = stamp_of(file)
        with whole(file, since):
            scan, names = _scan(model.coder_, file, ())
        for block in read_blocks(scan, file, _BLOCK_ROWS, since=since):
            yield model.coder_.as_given(block.select(cs.by_name(*names)))


def _answered(model: MultiTaskEstimator, file: str, groups: str | None) -> Iterator[tuple[Any, ...]]:
    """Yield labels, outputs, own tasks and groups of the rows of a file, a block at a time."""
    targets, since = model.coder_.labels.names, stamp_of(file)
    with whole(file, since):
        schema = scan_file(file).collect_schema()
    missing = [name for name in targets if name not in schema]
    known = tuple(name for name in targets if name in schema)
    lacking = f"the file lacks the targets {missing[:10]}{near(missing[0], schema)}" if missing else ""
    if not known:
        raise ValueError(f"{lacking}; it has {[*schema][:20]}")
    if missing:
        warn_user(f"{lacking}; the others are scored")
    with whole(file, since):
        scan, names = _scan(model.coder_, file, known if groups is None else (*known, groups))

    def score(block: pl.DataFrame) -> tuple[Any, ...]:
        rows = model.coder_.as_given(block.select(cs.by_name(*names)))
        labels = block.select(cs.by_name(*known)).with_columns(pl.lit(None).alias(name) for name in missing)
        answered = model.__labelled_answers__(rows, labels.select(cs.by_name(*targets)))
        group = None if groups is None else group_hashes(block[groups], groups).astype(np.int64)
        return answered.labels, answered.outputs, answered.own_task, group

    yield from _each(read_blocks(scan, file, _BLOCK_ROWS, since=since), file, score)


def _each(blocks: Iterable[pl.DataFrame], file: str, answer: Callable[[pl.DataFrame], _Answer]) -> Iterator[_Answer]:
    """Answer the blocks of a file; rows are counted through all of them in errors."""
    start = 0
    for block in blocks:
        try:
            found = answer(block)
        except RowError as error:
            raise error.at(start + error.row, file) from error
        yield found
        start += block.height


def _one_file(path: str | PathLike[str]) -> str:
    files = find_files(path)
    if len(files) > 1:
        raise ValueError(f"{path} names {len(files)} files, expected one; predict_files answers several")
    return files[0]


def _check_model(model: Any, method: str) -> None:
    if not isinstance(model, MultiTaskEstimator):
        is_recommender = hasattr(model, "recommend")
        cure = "; a recommender answers whole sessions: read those of a file, and call recommend" * is_recommender
        cure = cure or by_preprocessor(model)
        raise TypeError(f"expected a fitted estimator of tables, got {type(model).__name__}{cure}")
    check_is_fitted(model)
    check_choice("method", method, get_args(Method))
    labels = model.coder_.labels
    if method == "predict_quantiles":
        check_levels(labels.tasks)
    if method == "predict_interval" and labels.conformal.groups and labels.conformal.column is None:
        raise ValueError(
            "intervals are by groups that conformalize was given as an array, and a file names none; give conformalize "
            "the name of a column"
        )
    has_more = any(task.is_classification or (method == "both" and task.kind.levels) for task in labels.tasks)
    if method in ("predict_proba", "both") and not has_more:
        raise ValueError("probabilities need a classification task; all tasks are regressions")
    if method == "transform" and not hasattr(model, "transform"):
        raise ValueError(f"{type(model).__name__} has no method transform; choose another method")


def _outputs(files: Sequence[str], folder: Path) -> list[Path]:
    outputs: dict[Path, str] = {}
    inputs = {Path(file).resolve() for file in files}
    place = folder.resolve()
    for file in files:
        output = folder / f"{Path(file).stem}.parquet"
        first = outputs.setdefault(output, file)
        if first != file:
            raise ValueError(f"{first} and {file} would both be answered in {output}; give each a folder of its own")
        if place / output.name in inputs or (output.is_symlink() and output.resolve() in inputs):
            raise ValueError(f"{output} is an input, which its answers would replace; name another folder")
    return list(outputs)


def _predict_file(
    model: MultiTaskEstimator, file: str, output: Path, method: Method, keep: tuple[str, ...], level: float
) -> int:
    """Predict the rows of a file, and return their number."""
    groups = model.coder_.labels.conformal.column if method == "predict_interval" else None
    answer, n_rows, since = _answers(model, method, level, groups), 0, stamp_of(file)
    with whole(file, since):
        scan, names = _scan(model.coder_, file, keep if groups is None else (*keep, groups))
        nothing = scan.select(cs.by_name(*keep)).clear().collect()
    blocks = read_blocks(scan, file, _BLOCK_ROWS, since=since)
    answered = _each(blocks, file, lambda block: _beside(block.select(cs.by_name(*keep)), answer(block, names)))
    first = next(answered, None)
    if first is None:  # predict refuses to answer nothing
        first = _beside(nothing, answer(None, names))
    nested = [name for name, dtype in first.schema.items() if dtype.is_nested()]
    if nested and is_csv(output.name):
        raise ValueError(f"CSV holds no lists or sets, such as those of {nested[:10]}; write the answers as .parquet")
    failures: list[Exception] = []

    def read(*_: Any) -> Iterator[pl.DataFrame]:
        nonlocal n_rows
        try:
            for block in chain([first], answered):
                n_rows += block.height
                yield block
        except Exception as error:
            failures.append(error)
            raise

    with written("the answers", output, failures), locked(output.parent, shared=True), replaced(output) as beside:
        answers = register_io_source(read, schema=first.schema)
        answers.sink_csv(beside) if is_csv(output.name) else answers.sink_parquet(beside)
    return n_rows


def _scan(coder: TableCoder, file: str, keep: tuple[str, ...]) -> tuple[pl.LazyFrame, list[str]]:
    """Scan the columns of fit and others to keep; return the names of the former in the file."""
    scan = scan_file(file)
    schema = scan.collect_schema()
    if coder.named:
        names = list(coder.names)
    else:
        names = [name for name in schema if name not in (*keep, *coder.dropped)]
        if len(names) != len(coder.names):
            raise ValueError(f"expected {len(coder.names)} columns, as in fit, got {len(names)}: {names[:10]}")
    for what, wanted in (("the model was fitted on", names), ("keep names", keep)):
        missing = [name for name in wanted if name not in schema]
        if missing:
            raise ValueError(
                f"the file lacks the columns {missing[:10]}, which {what}{near(missing[0], schema)}; "
                f"it has {list(schema)[:20]}"
            )
    if is_csv(file):
        types = _types_of_fit(coder, {own: schema[name] for own, name in zip(coder.names, names, strict=True)})
        types = {names[coder.names.index(own)]: dtype for own, dtype in types.items()}
        scan = scan_file(file, types | _types_of_targets(coder, {name: schema[name] for name in keep}))
    return scan.select(cs.by_name(*dict.fromkeys((*names, *keep)))), names


def _types_of_fit(coder: TableCoder, found: dict[str, pl.DataType]) -> dict[str, pl.DataType]:
    """Return the types of columns, by their names in fit, where the values of a CSV file do not tell them."""
    values = coder.values_of_fit()
    held = {name: type_of(own) for name, own in values.items()}
    numeric = [name for name, own in held.items() if own.is_numeric()]
    types: dict[str, pl.DataType] = {name: pl.Float64() for name in numeric if found[name] == pl.String}
    types |= {name: pl.String() for name, own in values.items() if own == "free text"}
    if coder.list_separator is not None:  # a list of one number is a number to CSV
        types |= {name: pl.String() for name, own in held.items() if isinstance(own, pl.List)}
    if coder.preprocessing is not None:  # which may look at the text itself
        types |= {name: pl.String() for name, own in values.items() if own == "text"}
    for name, known in coder.levels.items():
        texts = pl.DataFrame({"level": pl.Series(known, dtype=pl.String)})
        numbers = texts.select(pl.col("level").cast(pl.Float64, strict=False))
        as_number = numbers.select(text_of("level", pl.Float64())).to_series()
        if found[name].is_numeric() and (as_number != texts["level"]).any():  # a number that is written otherwise
            types[name] = pl.String()
    return types


def _types_of_targets(coder: TableCoder, found: dict[str, pl.DataType]) -> dict[str, pl.DataType]:
    """Return the types of targets, where the values of a CSV file do not tell them."""
    types: dict[str, pl.DataType] = {}
    for name, task in zip(coder.labels.names, coder.labels.column_tasks, strict=True):
        if name in found and any(isinstance(label, str) for label in task.classes or ()):
            types[name] = pl.String()
        elif name in found and task.classes is None and found[name] == pl.String:
            types[name] = pl.Float64()
    return types


def _answers(
    model: MultiTaskEstimator, method: Method, level: float, groups: str | None
) -> Callable[[pl.DataFrame | None, list[str]], pl.DataFrame]:
    """Return the function from rows to their named answers; None is a frame without rows.

    Rows may have a column of groups beside those of fit.
    """
    coder = model.coder_
    labels = coder.labels.in_frames()

    def answer(block: pl.DataFrame | None, names: list[str]) -> pl.DataFrame:
        rows = None if block is None else coder.as_given(block.select(cs.by_name(*names)))
        if method == "transform":
            columns: Any = model.get_feature_names_out()
            features = np.empty((0, len(columns)), np.float32) if rows is None else model.transform(rows)
            return pl.DataFrame(features, schema=list(columns))
        if rows is None:
            outputs = [np.empty(task.kind.answer_shape(0, task.classes)) for task in labels.column_tasks]
        else:
            outputs = model.__answers__(rows)
        if method == "predict_interval":
            values = None if groups is None else [] if block is None else block[groups].to_list()
            return labels.intervals(outputs, level, values)
        answers = [labels.decode(outputs)] if method in ("predict", "both") else []
        if method in ("predict_proba", "both"):
            answers.append(pl.DataFrame(labels.probabilities(outputs)))
        if method in ("predict_quantiles", "both"):
            answers.append(labels.quantiles(outputs)[0])
        return pl.concat(answers, how="horizontal")

    return answer


def _beside(kept: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    both = [name for name in kept.columns if name in answers.columns]
    if both:
        raise ValueError(f"keep names {both}, which the answers are called too; rename the columns in the file")
    return pl.concat([kept, answers], how="horizontal")
