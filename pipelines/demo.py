"""The main demonstration: one network for four targets of real flights, against one LightGBM per target.

Run it by ``python -m tabmtl.pipelines.demo``, or ``tabmtl demo``; ``--help`` lists the options. The model is registered
in a database of MLflow in the current folder, from where it is served.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

import tabmtl
from tabmtl.pipelines.data.files import RowSource, same_rows
from tabmtl.pipelines.datasets import Dataset, load
from tabmtl.pipelines.tracking import (
    CHAMPION,
    DEFAULT_URI,
    ROWS,
    Log,
    Tracking,
    open_log,
    page_command,
    program,
)
from tabmtl.pipelines.train import check_output
from tabmtl.plots import GainDisplay, HistoryDisplay

#: Of the experiment, and of the registered model.
NAME = "flights"

#: Enough for the scores to level off, few enough for some minutes on two cores.
EPOCHS = 12

#: What is left beside the model.
FILES = ("table.csv", "learning_curves.png", "gain.png")

Parts = dict[str, tuple[pl.DataFrame, Any]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; exit code 2 is a mistake of the user."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default those of the command line.

    Returns
    -------
    int
        Exit code 0. A mistake of the user (an option, a missing table, a folder that cannot be written) leaves by
        ``SystemExit`` with code 2 and one line on the standard error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    if not 0 <= args.seed < 2**31:
        parser.error(f"--seed must be a whole number from 0 to 2147483647, got {args.seed}")
    if find_spec("matplotlib") is None:
        parser.error("the plots need matplotlib, which is missing: pip install 'tabmtl[plot]'")
    if find_spec("mlflow") is None and not args.no_mlflow:
        parser.error("MLflow is missing: pip install 'tabmtl[mlflow]', or go on with --no-mlflow")
    # not the store of the environment, where others may serve a model of this name
    tracking = Tracking(tracking_uri=args.tracking_uri, experiment=NAME, no_mlflow=args.no_mlflow)
    try:
        check_output(args.output / "model")
        args.output.mkdir(parents=True, exist_ok=True)
        data = load("flights", folder=args.folder, full=args.full)
        parts = {name: data.part(name) for name in ("train", "val", "test")}
        _describe(data, parts, whole=args.full or args.folder is not None)
        with open_log(tracking) as log, nullcontext() if log is None else log.run("demo") as run_id:
            source = RowSource(data="flights", folder=args.folder, full=args.full or args.folder is not None)
            _compare(data, parts, args, None if log is None else _Logged(log, str(run_id), source))
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        parser.error(" ".join(str(error).split()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tabmtl.pipelines.demo",
        description="Train one network on four targets of real flights, compare it with one LightGBM per target on the "
        "same rows, and save the model, its learning curves and the table.",
    )
    parser.add_argument("--full", action="store_true", help="all rows in place of the sample that ships with tabmtl")
    parser.add_argument(
        "--folder",
        type=Path,
        help="read all rows from flights/data.parquet of this folder; default with --full: $TABMTL_DATA",
    )
    parser.add_argument("--seed", type=int, default=0, help="ruler of all randomness (default: 0)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of the network, at most (default: {EPOCHS})")
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="where the files go (default: ./demo_output)"
    )
    parser.add_argument("--tracking-uri", default=DEFAULT_URI, help=f"of MLflow (default: {DEFAULT_URI})")
    parser.add_argument("--no-mlflow", action="store_true", help="log and register nothing")
    return parser


def _describe(data: Dataset, parts: Parts, *, whole: bool) -> None:
    """Say which rows these are, and what is to be learned from them."""
    sizes = {name: len(X) for name, (X, _) in parts.items()}
    which = "all rows" if whole else "the sample of whole days that ships with tabmtl; --full takes all rows"
    print(f"Flights from New York City in 2013: {sum(sizes.values()):,} rows ({which}).")
    print(
        f"Split by day: {sizes['train']:,} rows to train on, {sizes['val']:,} to stop on, {sizes['test']:,} to score."
    )
    X, y = parts["train"]
    print(f"From {X.width} features known by the scheduled departure, {y.width} targets are learned:")
    for name, kind in data.tasks.items():
        null = y[name].null_count() / max(len(y), 1)
        print(f"  {name:<10} {kind:<11} {f'{null:.1%} unlabelled' if null else 'labelled in every row'}")
    print("A flight that was cancelled has no delay: such cells are null, and are left out of losses and scores.")


class _Logged:
    """The run of MLflow that the demonstration leaves."""

    def __init__(self, log: Log, run_id: str, source: RowSource) -> None:
        from tabmtl.mlflow import MLflowCallback

        self.log, self.source, self.callback = log, source, MLflowCallback(run_id=run_id)

    def finish(self, model: tabmtl.MultiTabNet, single: tabmtl.IndependentTasks, parts: Parts, output: Path) -> None:
        """Log what is known when training is over, register the model, and say how it is served."""
        import mlflow

        from tabmtl.mlflow import log_model

        X_val, y_val = parts["val"]
        self.callback.log_fitted(model, *parts["train"], X_val=X_val, y_val=y_val, reference=single)
        for name in FILES:
            mlflow.log_artifact(str(output / name))
        info = log_model(model, input_example=parts["train"][0].head(5), registered_model_name=NAME)
        version = str(info.registered_model_version)
        rows = same_rows(self.source)
        alias = self.log.label(NAME, version, {ROWS: rows})
        print(f"\nLogged to {self.log.shown}, and registered as version {version} of the model {NAME}, alias {alias}.")
        if alias != CHAMPION:
            print("The champion stays until this version is promoted:\n")
            print(f"  {program('tabmtl')} serve promote {NAME} {rows}\n")
        print("The two commands that serve the champion and open MLflow's page, both for this machine alone:\n")
        print(f"  {program('tabmtl')} serve start {NAME}")
        print(f"  {page_command(self.log.uri)}")


def _compare(data: Dataset, parts: Parts, args: argparse.Namespace, logged: _Logged | None) -> None:
    """Fit both, score both, and leave the files."""
    X_test, y_test = parts["test"]
    print(f"\nMultiTabNet: one network for all targets, at most {args.epochs} epochs ...", flush=True)
    watch = None if logged is None else logged.callback
    model = tabmtl.MultiTabNet(tasks=data.tasks, epochs=args.epochs, random_state=args.seed, verbose=1, on_epoch=watch)
    seconds = _fit(model, parts)
    kept = f"the weights after epoch {model.best_iteration_} of {model.history_.height}"
    print(f"  fitted in {seconds:.1f} s; {kept} are kept")
    print(f"IndependentTasks: {len(data.tasks)} LightGBM models, one for each target ...", flush=True)
    single = tabmtl.IndependentTasks(tasks=data.tasks, random_state=args.seed)
    print(f"  fitted in {_fit(single, parts):.1f} s")

    gain = tabmtl.multitask_gain(model.score_tasks(X_test, y_test), single.score_tasks(X_test, y_test))
    print("\nScores on the test rows: ROC AUC of binary targets, R² of regressions, higher is better.")
    print("The reference is the single-task score.\n")
    print(gain)
    _conclude(gain)
    _check_saved(model, args.output / "model", X_test)
    table = gain.table.rename({"reference": "single_task_score"})
    table.write_csv(args.output / "table.csv")
    _draw(model, gain, args.output)
    names = f"model/ (tabmtl.load reads it), {', '.join(FILES)}"
    print(f"\nSaved in {args.output}: {names}.\nThe saved model was loaded again: its predictions are bit-equal.")
    if logged is not None:
        logged.finish(model, single, parts, args.output)


def _fit(model: tabmtl.MultiTabNet | tabmtl.IndependentTasks, parts: Parts) -> float:
    """Fit with early stopping on the validation rows; returns wall seconds."""
    start = time.perf_counter()
    X_val, y_val = parts["val"]
    model.fit(*parts["train"], X_val=X_val, y_val=y_val)
    return time.perf_counter() - start


def _conclude(gain: tabmtl.MultitaskGain) -> None:
    """Say in words whether it helped."""
    defined = gain.table.drop_nulls("difference")
    better = defined.filter(pl.col("difference") > 0)["task"].to_list()
    worse = defined.filter(pl.col("difference") <= 0)["task"].to_list()
    print(f"\nOne network was better than single-task LightGBM on {len(better)} of {gain.n_tasks} targets", end="")
    print(f" ({', '.join(better)})" if better else "", end="")
    print(f", and no better on {', '.join(worse)}." if worse else ".")


def _check_saved(model: tabmtl.MultiTabNet, path: Path, X: pl.DataFrame) -> None:
    """Save, load, and hold the predictions of both against each other, bit by bit."""
    model.save(path)
    loaded = tabmtl.load(path)
    before, after = model.predict_proba(X), loaded.predict_proba(X)
    same = all(np.array_equal(before[task], after[task]) for task in before)
    if not (same and loaded.predict(X).equals(model.predict(X))):
        raise RuntimeError(f"{path}: the loaded model predicts otherwise than the saved one; please report this")


def _draw(model: tabmtl.MultiTabNet, gain: tabmtl.MultitaskGain, output: Path) -> None:
    # A Figure without pyplot needs neither a screen nor a choice of backend.
    from matplotlib.figure import Figure

    for name in ("learning_curves", "gain"):
        figure = Figure(figsize=(8, 5), layout="constrained")
        ax = figure.subplots()
        if name == "gain":
            GainDisplay.from_gain(gain, names=("MultiTabNet", "LightGBM per target"), ax=ax)
        else:
            HistoryDisplay.from_estimator(model, ax=ax)
            ax.set_title("MultiTabNet on flights")
        figure.savefig(output / f"{name}.png", dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
