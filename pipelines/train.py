"""Fit one model on a table or a click log, score it, and log, register and save it: ``tabmtl train``.

``python -m tabmtl.pipelines.train`` is the same; ``--help`` lists the options.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl

from tabmtl.pipelines.data import Rows, open_rows
from tabmtl.pipelines.data.files import ClickColumns, DataSource, Part, same_rows
from tabmtl.pipelines.data.tables import TableRows
from tabmtl.pipelines.layout import lay_out
from tabmtl.pipelines.model_choice import ModelChoice, find_class, make
from tabmtl.pipelines.options import Help
from tabmtl.pipelines.tracking import (
    CHAMPION,
    ROWS,
    Log,
    Tracking,
    check_writable,
    open_log,
    page_command,
    program,
    without_password,
)

if TYPE_CHECKING:
    from tabmtl import IndependentTasks


def train(
    source: DataSource,
    clicks: ClickColumns,
    choice: ModelChoice,
    tracking: Tracking,
    *,
    baseline: Annotated[bool, Help("fit one LightGBM per task too, and show what learning together gains")] = False,
    output: Annotated[Path | None, Help("save the model to this folder; tabmtl.load reads it", "FOLDER")] = None,
) -> Any:
    """Fit one model, score it, and log and register it.

    It learns from train rows, stops on validation rows, and is scored on test rows once. MLflow gets parameters,
    epochs, scores, plots and the model.

    Parameters
    ----------
    source, clicks : DataSource, ClickColumns
        Where the rows come from.
    choice : ModelChoice
    tracking : Tracking
    baseline : bool, default=False
        Of tables: compare with `IndependentTasks` on the same rows.
    output : Path, optional

    Returns
    -------
    estimator
        Fitted.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option does not fit; nothing is trained then.
    """
    rows, estimator = open_problem(source, clicks, choice)
    if baseline:
        _check_baseline(rows, choice)
    if output is not None:
        check_output(output)
    estimator.set_params(**({"verbose": 1} if _can_show(estimator, choice) else {}))
    print(rows.describe(), flush=True)
    with open_log(tracking) as log:
        fitted = fit_and_report(
            rows,
            estimator,
            log,
            name=f"{choice.model} on {rows.name}",
            baseline=baseline,
            register=tracking.register,
            output=output,
        )
        if log is not None:
            say_where(log, fitted, tracking.register, source)
    return estimator


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fit has left.

    Parameters
    ----------
    scores : polars.DataFrame
        Of the test rows, or of the validation rows where there are no test rows.
    run_id : str or None
        Of MLflow.
    version, alias : str or None
        Of the registered model.
    """

    scores: pl.DataFrame
    run_id: str | None = None
    version: str | None = None
    alias: str | None = None


def open_problem(source: DataSource, clicks: ClickColumns, choice: ModelChoice) -> tuple[Rows, Any]:
    """The rows, and the estimator that is to learn from them.

    Raises
    ------
    ValueError, OSError
        If there is no such model, parameter, set, file or column.
    """
    cls = find_class(choice.model)
    make(cls, choice, {})  # a wrong parameter is said before the rows are read
    rows = open_rows(source, clicks, cls)
    if isinstance(rows, TableRows):
        rows.check_features()
    return rows, make(cls, choice, rows.facts)


def fit_and_report(
    rows: Rows,
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
    rows : TableRows or ClickRows
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
        callback = _watch(estimator, run_id)
        seconds = _fit(rows, estimator)
        print(f"{name}: fitted in {seconds:.1f} s{_kept(estimator)}", flush=True)
        if output is not None:
            estimator.save(output)
            print(f"Saved in {output}: tabmtl.load({str(output)!r}) gives the model.", flush=True)
        reference = fit_single_tasks(rows, estimator) if baseline else None
        part = "test" if "test" in rows.parts else "val"
        scores = _print_scores(rows, estimator, part, reference)
        if log is None:
            return Fitted(scores=scores)
        rows.log_fitted(callback, estimator, reference)
        version = _log_model(rows, estimator, rows.metrics(scores, part), register)
        alias = None
        if register is not None and version is not None:
            alias = log.label(register, version, {ROWS: rows.origin, **(tags or {})})
        return Fitted(scores=scores, run_id=run_id, version=version, alias=alias)


def fit_single_tasks(rows: Rows, estimator: Any) -> IndependentTasks:
    """Fit what an estimator of tables is to beat: one LightGBM per task, with its defaults, on the same rows."""
    from tabmtl import IndependentTasks

    single = IndependentTasks(random_state=estimator.random_state, **rows.facts)
    print(f"IndependentTasks, one LightGBM per task: fitted in {_fit(rows, single):.1f} s", flush=True)
    return single


def check_output(output: Path) -> None:
    """Raise an error before anything is trained if a model cannot be saved there."""
    from tabmtl.storage.persist import check_ours

    check_ours(output)
    check_writable(output, "--output")


def say_where(log: Log, fitted: Fitted, register: str | None, source: DataSource) -> None:
    """Print where the run, the model and its files are, and the commands that go on from there."""
    files = without_password(log.artifacts)
    print(f"Logged to {log.shown}, experiment {log.experiment}, run {fitted.run_id}; files in {files}")
    if register is not None:
        print(f"Registered as version {fitted.version} of {register}, alias {fitted.alias}.")
        own = program("tabmtl")
        if fitted.alias != CHAMPION:
            print(f"  compare with the champion:  {own} serve promote {register} {same_rows(source)}")
        print(f"  serve the champion:         {own} serve start {register}")
    print(f"  open the page:              {page_command(log.uri)}")


def _check_baseline(rows: Rows, choice: ModelChoice) -> None:
    if not isinstance(rows, TableRows):
        raise ValueError("--baseline is one LightGBM per task, for tables; fit another recommender on the same clicks")
    if choice.model.startswith("IndependentTasks"):
        raise ValueError("--baseline is IndependentTasks, which --model is already")


def _can_show(estimator: Any, choice: ModelChoice) -> bool:
    return "verbose" in estimator.get_params(deep=False) and "verbose" not in choice.params


def _watch(estimator: Any, run_id: str | None) -> Any:
    """A callback that logs to the run; networks call it after every epoch."""
    if run_id is None:
        return None
    from tabmtl.mlflow import MLflowCallback

    callback = MLflowCallback(run_id=run_id)
    if "on_epoch" in estimator.get_params(deep=False):
        estimator.set_params(on_epoch=callback)
    return callback


def _fit(rows: Rows, estimator: Any) -> float:
    start = time.perf_counter()
    rows.fit(estimator)
    return time.perf_counter() - start


def _kept(estimator: Any) -> str:
    if not hasattr(estimator, "best_iteration_") or not hasattr(estimator, "history_"):
        return ""
    return f"; the weights after epoch {estimator.best_iteration_} of {estimator.history_.height} are kept"


def _print_scores(rows: Rows, estimator: Any, part: Part, reference: Any) -> pl.DataFrame:
    from tabmtl import multitask_gain

    which, why = ("test", "which are scored once") if part == "test" else ("validation", "on which it was stopped")
    scores = rows.table(estimator, part)
    print(f"\nScores of the {which} rows, {why}; higher is better.\n\n{lay_out(scores)}\n")
    if reference is not None:
        own = dict(scores.select("task", "score").iter_rows())
        print(f"Gain on the {which} rows over one LightGBM per task, with its defaults:\n")
        print(multitask_gain(own, rows.scores(reference, part)), "\n")
    return scores


def _log_model(rows: Rows, estimator: Any, metrics: Mapping[str, float | None], register: str | None) -> str | None:
    import mlflow

    import tabmtl.mlflow
    from tabmtl.mlflow.callback import metric_name

    mlflow.log_metrics({metric_name(key): value for key, value in metrics.items() if value is not None})
    info = tabmtl.mlflow.log_model(estimator, input_example=rows.example(), registered_model_name=register)
    return None if info.registered_model_version is None else str(info.registered_model_version)


if __name__ == "__main__":
    from tabmtl.pipelines.cli import main

    raise SystemExit(main(["train", *sys.argv[1:]]))
