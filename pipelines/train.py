"""Fit one model on a table or a click log, score it, and log, register and save it: ``tabmtl train``."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass, fields
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

import tabmtl.serving.mlflow
from tabmtl.base.lazy import exported
from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.pipelines.data import (
    ClickColumns,
    ClickRows,
    Rows,
    RowSource,
    ShardRows,
    TableRows,
    TrainSource,
    open_rows,
    open_shards,
    rows_for,
)
from tabmtl.pipelines.data.files import asked
from tabmtl.pipelines.model_choice import ModelChoice, make, recommends
from tabmtl.pipelines.saved import SavedModel
from tabmtl.pipelines.terminal import lay_out, tell, verbosity, without_password
from tabmtl.pipelines.tracking import (
    CONTINUED,
    ROWS,
    Log,
    Store,
    Tracking,
    check_writable,
    open_log,
    program,
)
from tabmtl.serving.mlflow.aliases import CHAMPION

AnyRows = TypeVar("AnyRows", bound=Rows | ShardRows)


def train(
    source: TrainSource = TrainSource(),
    clicks: ClickColumns = ClickColumns(),
    choice: ModelChoice = ModelChoice(),
    tracking: Tracking = Tracking(),
    *,
    baseline: bool = False,
    output: Path | None = None,
    checkpoint: Path | None = None,
    continue_: str | None = None,
) -> Any:
    """Fit one model, score it, and log and register it.

    Begin with tabmtl compare, and train the model that is ahead. Without --model, folds mix IndependentTasks and
    SharedTrees for each target. A model learns from train rows, stops on validation rows, and is scored on test rows
    once. A model that chooses by folds of its own, such as MultiTaskEnsemble, learns the validation rows too. MLflow
    logs parameters, epochs, scores, plots and the model, if it is installed. Processes that torchrun starts share
    --shards of a network, such as --model MMoE; the first one logs and saves.

    Parameters
    ----------
    source, clicks : TrainSource, ClickColumns
        Source of the rows.
    choice : ModelChoice
        The estimator.
    tracking : Tracking
        Where to log the fit.
    baseline : bool, default=False
        Also fit IndependentTasks, which learns each task alone by LightGBM, a forest and curves, and show the gain.
    output : Path, optional
        Save the model to this folder; tabmtl.load reads it.
    checkpoint : Path, optional
        Folder from which a network, such as MMoE, goes on after its last epoch if it was cut off.
    continue_ : str, optional
        Folder or models:/NAME@ALIAS of a model, which goes on by these rows.

    Returns
    -------
    estimator
        Fitted.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option does not fit; raised before any training.
    """
    _check_source(source)
    with _group(source, checkpoint) as group:
        if continue_ is None:
            opened: Any = partial(open_shards if source.shards else open_rows, source, clicks)
            rows, estimator = prepare(opened, choice.named("SharedTrees") if source.shards else choice)
        else:
            _check_continued(source, clicks, choice, tracking, baseline, output, checkpoint)
            rows, estimator = _continued(continue_, source, clicks, choice, tracking)
        _check_baseline(baseline, rows, choice)
        _check_checkpoint(checkpoint, estimator)
        if output is not None:
            check_output(output)
        if "verbose" not in choice.params:
            estimator.set_params(verbose=int(verbosity.get() > 1))
        if group.rank:
            with redirect_stdout(StringIO()):
                timed_fit(rows, estimator)
            return estimator
        tell(rows.describe())
        with open_log(tracking) as log:
            name, register = f"{type(estimator).__name__} on {rows.name}", tracking.register
            options: Any = {"baseline": baseline, "register": register, "output": output}
            tags = {} if continue_ is None else {CONTINUED: continue_}
            fitted = fit_and_report(rows, estimator, log, name=name, tags=tags, **options)
            if log is not None:
                print_places(log, fitted, register, rows_to_promote(rows, estimator))
    return estimator


def _check_source(source: TrainSource) -> None:
    if not (source.data or source.shards):
        raise ValueError("name the rows to train on: --data is a set or a file, --shards files larger than memory")
    if not source.shards and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("several processes share the rows of --shards; --data is for one: leave torchrun out")


def _group(source: TrainSource, checkpoint: Path | None) -> AbstractContextManager[Ranks]:
    """Return the context of the processes that fit together, and of their checkpoints."""
    if not source.shards and checkpoint is None:
        return nullcontext(ALONE)
    from tabmtl.scale import joined

    return joined(checkpoint=checkpoint)


def _check_checkpoint(checkpoint: Path | None, estimator: Any) -> None:
    if checkpoint is not None and not hasattr(estimator, "on_epoch"):
        raise ValueError(
            f"--checkpoint keeps the epochs of a network, and {type(estimator).__name__} has none: leave it out, or "
            "name a network such as --model MMoE"
        )


def _check_continued(
    source: TrainSource,
    clicks: ClickColumns,
    choice: ModelChoice,
    tracking: Tracking,
    baseline: bool,
    output: Path | None,
    checkpoint: Path | None,
) -> None:
    """Raise a ValueError for options that have no effect on a model that goes on, or that keep it nowhere."""
    of_rows = {entry.name for entry in fields(RowSource)}
    found = [name for name in (*asked(source), *asked(clicks)) if name not in {*of_rows, "items"}]
    found += [name for name in asked(choice) if name != "set"]
    found += [name for name, value in (("baseline", baseline), ("checkpoint", checkpoint)) if value]
    if found:
        raise ValueError(
            f"--{found[0].replace('_', '-')} has no effect with --continue, which goes on with the model, its targets "
            "and its columns: leave it out"
        )
    if output is None and not tracking.logs:
        cure = "leave --no-mlflow out" if tracking.no_mlflow else "pip install 'tabmtl[mlflow]'"
        raise ValueError(
            "--continue would lose the model after its training, since neither a folder nor MLflow keeps it: name a "
            f"folder by --output, or {cure}"
        )


def _continued(
    model: str, source: TrainSource, clicks: ClickColumns, choice: ModelChoice, store: Store
) -> tuple[Rows, Any]:
    """Return a saved model, and the rows by which it goes on.

    Raises
    ------
    ValueError, OSError, ImportError
        If there is no such model, it cannot go on, or the rows do not fit it.
    """
    estimator = SavedModel(model=model, tracking_uri=store.tracking_uri).load("--continue")
    try:
        _ = estimator.partial_fit
    except AttributeError as error:
        raise ValueError(f"--continue: {error}") from None
    estimator.set_params(**choice.params)
    return rows_for(estimator, source, items=clicks.items).for_model(estimator), estimator


def _check_baseline(baseline: bool, rows: Rows | ShardRows, choice: ModelChoice) -> None:
    if not baseline:
        return
    from tabmtl.training.run import check_alone

    check_alone("--baseline", "leave it out, or fit the model by one process")
    if isinstance(rows, ClickRows):
        raise ValueError("--baseline learns each task of a table alone; fit another recommender on the same clicks")
    if (choice.model or "").startswith("IndependentTasks"):
        raise ValueError("--baseline fits IndependentTasks, but --model is IndependentTasks already: leave it out")
    if rows.judged is None:
        raise ValueError("--baseline is compared on rows that no fit has seen: name files by --test-shards")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Scores of a fit, and the run and version that logged it.

    Parameters
    ----------
    scores : polars.DataFrame
        Of the test rows, or of the validation rows where there are no test rows; empty if there are neither.
    run_id : str or None
        Of MLflow.
    version, alias : str or None
        Of the registered model.
    """

    scores: pl.DataFrame
    run_id: str | None = None
    version: str | None = None
    alias: str | None = None


def prepare(opened: Callable[[str], AnyRows], choice: ModelChoice) -> tuple[AnyRows, Any]:
    """Read the rows for a model, and make the estimator that will learn from them.

    Raises
    ------
    ValueError, OSError
        If there is no such model, parameter, set, file or column.
    """
    name = choice.model or "MultiTaskEnsemble"
    recommends(name)  # reports a wrong one
    if choice.params:
        make(exported(name), choice, {})  # reports a wrong parameter before the rows are read
    rows = opened(name)
    if not isinstance(rows, ClickRows):
        rows.check_features()
    return rows, make(exported(name), choice, rows.facts)


def fit_and_report(
    rows: Rows | ShardRows,
    estimator: Any,
    log: Log | None,
    *,
    name: str,
    baseline: bool = False,
    register: str | None = None,
    output: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> Fitted:
    """Fit, save, print and log the scores of the test rows, and log and register the model.

    It is saved first, so that nothing that fails later costs the fit.

    Parameters
    ----------
    rows : TableRows, ClickRows or ShardRows
    estimator : estimator
        Becomes fitted.
    log : Log, optional
        Without it, nothing is logged.
    name : str
        Of the run.
    baseline : bool, default=False
    register : str, optional
    output : Path, optional
    tags : mapping of str to str, optional
        Of the run and of the registered version.

    Returns
    -------
    Fitted
    """
    with nullcontext() if log is None else log.run(name, tags=tags) as run_id:
        callback = watch(estimator, run_id)
        seconds = timed_fit(rows, estimator)
        tell(f"{name}: fitted in {seconds:.1f} s{kept_epoch(estimator)}{learned_rows(rows, estimator)}")
        if output is not None:
            estimator.save(output)
            tell(f"Saved in {output}: tabmtl.load({str(output)!r}) gives the model.")
        reference = fit_single_tasks(rows, estimator) if baseline else None
        scores, gain = pl.DataFrame(), None
        if rows.judged is None:
            print("No rows are left to score: name files by --test-shards.")
        else:
            scores, gain = _print_scores(rows, estimator, rows.judged, reference)
        if log is None:
            return Fitted(scores=scores)
        rows.log_fitted(callback, estimator)
        if gain is not None:
            callback.log_gain(gain, names=(type(estimator).__name__, type(reference).__name__), tasks=estimator.tasks_)
        if rows.judged is not None:
            callback.log_scores(rows.metrics(scores, rows.judged))
        version, alias = log.log_model(
            estimator, example=rows.example(), register=register, tags={ROWS: rows.origin, **(tags or {})}
        )
        return Fitted(scores=scores, run_id=run_id, version=version, alias=alias)


def fit_single_tasks(rows: Rows | ShardRows, estimator: Any, **options: Any) -> tabmtl.IndependentTasks:
    """Fit the reference of an estimator of tables, which learns each task alone, on rows with the same labels.

    Parameters
    ----------
    rows : TableRows or ShardRows
    estimator : estimator
    **options
        Of `TableRows.fit`.
    """
    single = tabmtl.IndependentTasks(tune="all", random_state=estimator.random_state, **rows.facts)
    seconds = timed_fit(rows, single, **options)
    tell(f"IndependentTasks, each task alone: fitted in {seconds:.1f} s")
    return single


def check_output(output: Path) -> None:
    """Raise an error before anything is trained if a model cannot be saved there."""
    from tabmtl.base.storage.persist import check_ours

    check_ours(output)
    check_writable(output, "--output")


def rows_to_promote(rows: Rows | ShardRows, estimator: Any) -> str:
    """Return the options of rows that may judge an estimator beside the champion: those that it has not learned."""
    if isinstance(rows, TableRows) and rows.learns_val(estimator):
        return "--data NEW_FILE --part all"
    return rows.origin or "--data FILE"


def print_places(log: Log, fitted: Fitted, register: str | None, to_promote: str) -> None:
    """Print where the run, the model and its files are, and the commands that continue from there."""
    files = without_password(log.experiment.artifact_location)
    tell(f"Logged to {log.uri}, experiment {log.experiment.name}, run {fitted.run_id}; files in {files}")
    if register is not None:
        tell(f"Registered as version {fitted.version} of the model {register}, alias {fitted.alias}.")
        own = program("tabmtl")
        if fitted.alias != CHAMPION:
            tell(f"  compare with the champion:  {own} serve promote {register} {to_promote}")
        tell(f"  serve the champion:         {own} serve start {register}")
    server = log.uri.rstrip("/")
    if not server.startswith(("http://", "https://")):
        mlflow, store, server = program("mlflow"), shlex.quote(log.uri), "http://127.0.0.1:5000"
        command = f"{mlflow} server --backend-store-uri {store} --host 127.0.0.1 --port 5000 --workers 1"
        tell(f"  start MLflow's page:        {command}")
    tell(f"  open the run:               {server}/#/experiments/{log.experiment.experiment_id}/runs/{fitted.run_id}")


def watch(estimator: Any, run_id: str | None) -> Any:
    """Make a callback that logs to the run; networks call it after every epoch."""
    if run_id is None:
        return None
    callback = tabmtl.serving.mlflow.MLflowCallback(run_id=run_id)
    if "on_epoch" in estimator.get_params(deep=False):
        estimator.set_params(on_epoch=callback)
    return callback


def timed_fit(rows: Rows | ShardRows, estimator: Any, **options: Any) -> float:
    """Fit on the rows, and return the seconds."""
    start = time.perf_counter()
    rows.fit(estimator, **options)
    return time.perf_counter() - start


def kept_epoch(estimator: Any) -> str:
    """Return the kept epoch of a network, as the end of a line."""
    if not hasattr(estimator, "best_iteration_") or not hasattr(estimator, "history_"):
        return ""
    return f"; the weights after epoch {estimator.best_iteration_} of {estimator.history_.height} are kept"


def learned_rows(rows: Rows | ShardRows, estimator: Any) -> str:
    """Return what an estimator that chooses by folds of its own has learned, as the end of a line."""
    if not isinstance(rows, ShardRows) and rows.goes_on and rows.judged == "test":
        return f"; nothing stops what goes on, so it has learned the {rows.sizes['val']:,} {rows.unit} to stop on too"
    if not (isinstance(rows, TableRows) and rows.learns_val(estimator)):
        return ""
    return f"; it chose by folds of its own, so it has learned the {rows.sizes['val']:,} rows to stop on too"


def _print_scores(
    rows: Rows | ShardRows, estimator: Any, part: str, reference: Any
) -> tuple[pl.DataFrame, tabmtl.MultitaskGain | None]:
    """Print the scores of a part and the gain over the reference, if there is one; return both."""
    which, why = ("test", "which are scored once") if part == "test" else ("validation", "on which it was stopped")
    if part == "val" and isinstance(rows, TableRows) and (rows.goes_on or estimator.__learns_all_rows__):
        why = "which it has not learned"
    scores = rows.table(estimator, part)
    print(f"\nScores of the {which} rows, {why}; higher is better.\n\n{lay_out(scores)}\n")
    if reference is None:
        return scores, None
    assert not isinstance(rows, ClickRows)
    gain, _ = print_gain(rows, estimator, part, reference)
    return scores, gain


def print_gain(
    rows: TableRows | ShardRows, estimator: Any, part: str, reference: Any
) -> tuple[tabmtl.MultitaskGain, pl.DataFrame]:
    """Print the gain over the reference, of a table with intervals paired row by row; return it, and the table."""
    table, mean = rows.differences(estimator, reference, part)
    which = {"test": "test", "val": "validation"}[part]
    print(f"Gain on the {which} rows over IndependentTasks, which learns each task alone:\n")
    signed = [name for name in ("difference", "low", "high") if name in table.columns]
    print(lay_out(table, signed=signed), "\n")
    scores, references = (dict(table.select("task", name).iter_rows()) for name in ("score", "reference"))
    gain = tabmtl.multitask_gain(scores, references)
    interval = "" if mean.low is None else f", 95 % interval {mean.low:+z.4f} to {mean.high:+z.4f}"
    average = "" if mean.score is None else f"mean difference {mean.score:+z.4f}{interval}; "
    joint = f" and joint over {table.height} tasks" if table.height > 1 else ""
    paired = f"Low and high are 95 % intervals of the difference, paired row by row{joint}; "
    print(f"{paired if 'low' in table.columns else ''}{average}{gain.summary}.\n")
    return gain, table
