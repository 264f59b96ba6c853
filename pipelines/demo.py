"""The main demonstration: a target of real flights with few labels, alone and beside others; then all labels."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

import tabmtl
from tabmtl.base.params import check_count
from tabmtl.pipelines.data.tables import DataSource, TableRows, open_table
from tabmtl.pipelines.model_choice import ModelChoice, make
from tabmtl.pipelines.terminal import tell, verbosity
from tabmtl.pipelines.tracking import DEFAULT_URI, ROWS, Tracking, open_log
from tabmtl.pipelines.train import Fitted, check_output, print_places, watch

#: Of the experiment, and of the registered model.
NAME = "flights"

#: Files beside the model.
FILES = ("few_labels.csv", "table.csv")

#: The target with few labels, how many it keeps, the rows with all labels of the others, and the draws of these rows.
SCARCE, N_LABELS, N_ROWS, N_DRAWS = "cancelled", 500, 4_000, 6

#: Columns of the table; times differ from run to run.
COLUMNS = ("model", "task", "metric", "score", "low", "high", "difference", "difference_low", "difference_high")


def demo(
    *,
    full: bool = False,
    folder: Path | None = None,
    seed: int = 0,
    epochs: int = 5,
    output: Path = Path("demo_output"),
    tracking_uri: str = DEFAULT_URI,
    no_mlflow: bool = False,
) -> None:
    """Learn targets of real flights together, and compare with models of each target alone.

    First, one target keeps few labels: it is learned alone and beside three others, in several draws of rows. Then
    three models learn all targets from all labels of the same rows. The command saves SharedTrees and the tables, and
    registers the model in MLflow, ready to be served.

    Parameters
    ----------
    full : bool
        Read all rows instead of the shipped sample.
    folder : Path, optional
        Read all rows, from flights/data.parquet of this folder; default with --full: ``$TABMTL_DATA``.
    seed : int
        Random seed.
    epochs : int
        Epochs of the network in the table, at most.
    output : Path
        Folder of the files.
    tracking_uri : str
        Database or server of MLflow.
    no_mlflow : bool
        Log and register nothing.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option does not fit, or a library is missing; raised before any training.
    """
    check_count("--epochs", epochs)
    network = make(tabmtl.MultiTabNet, ModelChoice(seed=seed), {"epochs": epochs})
    check_output(output / "model")
    output.mkdir(parents=True, exist_ok=True)
    whole = full or folder is not None
    rows = open_table(DataSource(data="flights", folder=folder, full=whole))
    _describe(rows, whole=whole)
    # not the store of the environment, where others may serve a model of this name
    tracking = Tracking(tracking_uri=tracking_uri, experiment=NAME, no_mlflow=no_mlflow)
    with open_log(tracking) as log, nullcontext() if log is None else log.run("demo") as run_id:
        _learn_few(rows, seed, output)
        found = _compare(rows, network, seed)
        model = found.models["SharedTrees"]
        found.frame.select(COLUMNS).write_csv(output / "table.csv")
        model.save(output / "model")
        tell(f"\nSaved in {output}: model/ (SharedTrees; tabmtl.load reads it), {', '.join(FILES)}.\n")
        if log is not None:
            import mlflow

            _log_fitted(rows, found, watch(model, run_id))
            for name in FILES:
                mlflow.log_artifact(str(output / name))
            version, alias = log.log_model(model, example=rows.example(), register=NAME, tags={ROWS: rows.origin})
            fitted = Fitted(scores=found.frame, run_id=run_id, version=version, alias=alias)
            print_places(log, fitted, NAME, rows.origin)


def _describe(rows: TableRows, *, whole: bool) -> None:
    """Print the rows and the targets."""
    sizes = rows.sizes
    X, y = rows.parts["train"]
    which = "all rows" if whole else "the sample of whole days that ships with tabmtl; --full takes all rows"
    tell(f"Flights from New York City in 2013: {sum(sizes.values()):,} rows ({which}).")
    tell(f"Days: {sizes['train']:,} to train on, {sizes['test']:,} to score, {sizes['val']:,} to stop on.")
    tell(f"{y.width} targets, {X.width} features known by the scheduled departure:")
    for name, kind in rows.facts["tasks"].items():
        null = y[name].null_count() / max(len(y), 1)
        tell(f"  {name:<10} {kind:<11} {f'{null:.1%} unlabelled' if null else 'labelled in every row'}")
    tell("A cancelled flight has no delay: such cells are null, and do not count in losses and scores.")


def _learn_few(rows: TableRows, seed: int, output: Path) -> None:
    """Learn a target of few labels in several draws, alone and beside the others; print and save the scores."""
    from scipy import stats  # the help of every command would load it

    n_rows, n_others = min(N_ROWS, rows.sizes["train"]), len(rows.facts["tasks"]) - 1
    tell(f"\nFew labels: {n_rows:,} flights have all labels of {n_others} targets, and {N_LABELS} labels of {SCARCE}.")
    tell(f"IndependentTasks learns {SCARCE} from its labels alone, SharedTrees all {n_others + 1} targets together.")
    tell(f"ROC AUC of {SCARCE} on other days, in {N_DRAWS} draws of flights:")
    draws = pl.DataFrame([_draw(rows, seed + number) for number in range(N_DRAWS)])
    together, alone = (draws[name].to_numpy() for name in ("together", "alone"))
    low, high = stats.ttest_rel(together, alone).confidence_interval(0.95)
    means = (f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}" for scores in (together, alone))
    print(
        "{} has {} together and {} alone: mean ± standard deviation over the draws, ".format(SCARCE, *means)
        + f"paired difference {(together - alone).mean():+.2f}, 95 % interval {low:+.2f} to {high:+.2f}."
    )
    draws.write_csv(output / "few_labels.csv")


def _draw(rows: TableRows, seed: int) -> dict[str, float]:
    """Draw rows, leave one target few labels, and score it, learned alone and together with the others."""
    X, y = (part.sample(min(N_ROWS, len(part)), seed=seed) for part in rows.parts["train"])
    X_test, y_test = rows.parts["test"]
    few = y.with_columns(pl.when(pl.int_range(pl.len()) < N_LABELS).then(SCARCE).alias(SCARCE))
    together = tabmtl.SharedTrees(**rows.facts, random_state=seed).fit(X, few)
    alone = tabmtl.IndependentTasks(tasks={SCARCE: rows.facts["tasks"][SCARCE]}, random_state=seed)
    alone.fit(X[:N_LABELS], few[:N_LABELS, [SCARCE]])
    found = {
        "draw": seed,
        "yes": few[SCARCE].sum(),
        "together": together.score_tasks(X_test, y_test)[SCARCE],
        "alone": alone.score_tasks(X_test, y_test.select(SCARCE))[SCARCE],
    }
    line = "  draw {draw}: {together:.2f} together, {alone:.2f} alone, from {yes} flights that were cancelled"
    tell(line.format(**found))
    return found


def _compare(rows: TableRows, network: tabmtl.MultiTabNet, seed: int) -> tabmtl.Comparison:
    """Fit three models on all labels of the same rows, and print their scores on the same other rows."""
    models = {
        "IndependentTasks": tabmtl.IndependentTasks(tune="all"),  # the reference: each target alone
        "SharedTrees": tabmtl.SharedTrees(),
        "MultiTabNet": network,
    }
    tell("\nAll labels: each target alone, SharedTrees and a network, on the same rows ...")
    (X_val, y_val), (X_test, y_test) = rows.parts["val"], rows.parts["test"]
    found = tabmtl.compare(
        models,
        *rows.parts["train"],
        X_val=X_val,
        y_val=y_val,
        X_test=X_test,
        y_test=y_test,
        groups=tuple(rows.groups[part] for part in ("train", "val", "test")),
        random_state=seed,
        seeds=1,
        verbose=verbosity.get(),
        **rows.facts,
    )
    found = replace(found, how="other days")
    print(f"\n{found}")
    if found.is_interrupted:
        raise KeyboardInterrupt
    return found


def _log_fitted(rows: TableRows, found: tabmtl.Comparison, callback: Any) -> None:
    """Log the facts of SharedTrees, and its gain over models of each target alone on the rows to test."""
    pair = ("SharedTrees", "IndependentTasks")
    rows.log_fitted(callback, found.models[pair[0]])
    scores, reference = (dict(found.frame.filter(model=name)["task", "score"].iter_rows()) for name in pair)
    callback.log_gain(tabmtl.multitask_gain(scores, reference), names=pair, tasks=found.tasks)
