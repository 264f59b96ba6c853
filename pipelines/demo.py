"""The main demonstration: four targets of real flights, by one network, and by an ensemble where one has few labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl

import tabmtl
from tabmtl.params import check_count
from tabmtl.pipelines.data.tables import DataSource, TableRows, open_table
from tabmtl.pipelines.model_choice import ModelChoice, make
from tabmtl.pipelines.tracking import DEFAULT_URI, ROWS, Tracking, open_log
from tabmtl.pipelines.train import (
    Fitted,
    check_output,
    fit_single_tasks,
    kept_epoch,
    print_gain,
    print_places,
    timed_fit,
    watch,
)

#: Of the experiment, and of the registered model.
NAME = "flights"

#: Files beside the model.
FILES = ("table.csv", "learning_curves.png", "gain.png")

#: The target with few labels, how many it keeps, and the rows with all labels of the others.
SCARCE, N_LABELS, N_ROWS = "cancelled", 500, 4_000


def demo(
    *,
    full: bool = False,
    folder: Path | None = None,
    seed: int = 0,
    epochs: int = 12,
    output: Path = Path("demo_output"),
    tracking_uri: str = DEFAULT_URI,
    no_mlflow: bool = False,
) -> None:
    """Train on real flights and compare with one LightGBM per target.

    One network learns four targets of flights. The command saves the model, its learning curves and the table, and
    registers the model in MLflow, ready to be served. Then one target keeps few labels, and an ensemble learns it
    beside the others.

    Parameters
    ----------
    full : bool
        Read all rows instead of the shipped sample.
    folder : Path, optional
        Read all rows, from flights/data.parquet of this folder; default with --full: ``$TABMTL_DATA``.
    seed : int
        Random seed.
    epochs : int
        Epochs of the network, at most.
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
    from tabmtl.plots.display import check_matplotlib

    check_count("--epochs", epochs)
    check_matplotlib("the demo")
    model = make(tabmtl.MultiTabNet, ModelChoice(seed=seed), {"epochs": epochs, "verbose": 1})
    check_output(output / "model")
    output.mkdir(parents=True, exist_ok=True)
    whole = full or folder is not None
    rows = open_table(DataSource(data="flights", folder=folder, full=whole))
    _describe(rows, whole=whole)
    # not the store of the environment, where others may serve a model of this name
    tracking = Tracking(tracking_uri=tracking_uri, experiment=NAME, no_mlflow=no_mlflow)
    with open_log(tracking) as log, nullcontext() if log is None else log.run("demo") as run_id:
        callback = watch(model, run_id)
        gain, table, single = _compare(rows, model.set_params(**rows.facts))
        _save(rows, model, gain, table, output)
        _compare_scarce(rows, seed)
        if log is not None:
            import mlflow

            rows.log_fitted(callback, model, single)
            for name in FILES:
                mlflow.log_artifact(str(output / name))
            version, alias = log.log_model(model, example=rows.example(), register=NAME, tags={ROWS: rows.origin})
            fitted = Fitted(scores=gain.table, run_id=run_id, version=version, alias=alias)
            print_places(log, fitted, NAME, rows.origin)


def _describe(rows: TableRows, *, whole: bool) -> None:
    """Print the rows and the targets."""
    sizes, (X, y) = rows.sizes, rows.parts["train"]
    which = "all rows" if whole else "the sample of whole days that ships with tabmtl; --full takes all rows"
    print(f"Flights from New York City in 2013: {sum(sizes.values()):,} rows ({which}).")
    print(
        f"Split by day: {sizes['train']:,} rows to train on, {sizes['val']:,} to stop on, {sizes['test']:,} to score."
    )
    print(f"The model learns {y.width} targets from {X.width} features known by the scheduled departure:")
    for name, kind in rows.facts["tasks"].items():
        null = y[name].null_count() / max(len(y), 1)
        print(f"  {name:<10} {kind:<11} {f'{null:.1%} unlabelled' if null else 'labelled in every row'}")
    print("A cancelled flight has no delay: such cells are null, and do not count in losses and scores.")


def _compare(
    rows: TableRows, model: tabmtl.MultiTabNet
) -> tuple[tabmtl.MultitaskGain, pl.DataFrame, tabmtl.IndependentTasks]:
    """Fit the network and one LightGBM per target, and score both; return the gain, and its table with intervals."""
    print(f"\nMultiTabNet: one network for all targets, at most {model.epochs} epochs ...", flush=True)
    print(f"MultiTabNet: fitted in {timed_fit(rows, model):.1f} s{kept_epoch(model)}", flush=True)
    single = fit_single_tasks(rows, model)
    print("\nScores are ROC AUC of binary targets and R² of regressions, higher is better.")
    gain, table = print_gain(rows, model, "test", single)
    better = table.filter(pl.col("low") > 0)["task"].to_list()
    worse = table.filter(pl.col("high") < 0)["task"].to_list()
    print(f"MultiTabNet is {_clearly('better', better)} and {_clearly('worse', worse)} than LightGBM.")
    return gain, table, single


def _clearly(how: str, tasks: Sequence[str]) -> str:
    """Say on how many targets, and on which."""
    names = f" ({', '.join(tasks)})" if tasks else ""
    return f"clearly {how} on {len(tasks)}{names}"


def _compare_scarce(rows: TableRows, seed: int) -> None:
    """Leave one target few labels, and compare LightGBM on these with an ensemble that learns all targets."""
    drawn = np.random.default_rng(seed).permutation(rows.sizes["train"])[:N_ROWS]
    X, y = (part[drawn] for part in rows.parts["train"])
    days = X.select(pl.concat_str("month", "day", separator="-")).to_series()  # weather is shared within one
    labels = y.select(SCARCE)[:N_LABELS]
    n_days = days[:N_LABELS].filter(labels[SCARCE] == 1).n_unique()
    print(f"A target with few labels: {len(labels)} of {SCARCE}, {labels[SCARCE].sum()} of them yes, on {n_days} days,")
    print(f"beside all labels of the others in {len(X):,} rows.", flush=True)
    kind = {SCARCE: rows.facts["tasks"][SCARCE]}
    single = tabmtl.IndependentTasks(tune="all", tasks=kind, random_state=seed)
    single.fit(X[:N_LABELS], labels, groups=days[:N_LABELS])
    candidates = {"IndependentTasks": tabmtl.IndependentTasks(tune="all"), "SharedTrees": tabmtl.SharedTrees()}
    print("MultiTaskEnsemble, of two of its default candidates and linear models to save time ...", flush=True)
    ensemble = tabmtl.MultiTaskEnsemble(models=candidates, n_folds=5, random_state=seed, **rows.facts)
    scarce = pl.when(pl.int_range(pl.len()) < N_LABELS).then(SCARCE).alias(SCARCE)
    ensemble.fit(X, y.with_columns(scarce), groups=days)
    X_test, y_test = rows.parts["test"]
    print(f"ROC AUC of {SCARCE} on the test rows, with its standard error:")
    for name, model, scored in (
        ("LightGBM for this target alone", single, y_test.select(SCARCE)),
        ("MultiTaskEnsemble", ensemble, y_test),
    ):
        found = model.score_intervals(X_test, scored).row(by_predicate=pl.col("task") == SCARCE, named=True)
        print(f"  {name:<31}{found['score']:.3f} ± {found['standard_error']:.3f}")
    weights = ensemble.model_weights_.row(by_predicate=pl.col("task") == SCARCE, named=True)
    del weights["task"]
    print(f"  It is mixed of {', '.join(f'{name} {weight:.2f}' for name, weight in weights.items() if weight)}.\n")


def _save(
    rows: TableRows, model: tabmtl.MultiTabNet, gain: tabmtl.MultitaskGain, table: pl.DataFrame, output: Path
) -> None:
    """Save the model, the table and the plots."""
    # a Figure without pyplot needs neither a screen nor a choice of backend
    from matplotlib.figure import Figure

    from tabmtl.plots import GainDisplay, HistoryDisplay

    _check_saved(model, output / "model", rows.parts["test"][0])
    table.rename({"reference": "single_task_score"}).write_csv(output / "table.csv")
    curves, gains = (Figure(figsize=(8, 5), layout="constrained") for _ in range(2))
    HistoryDisplay.from_estimator(model, ax=curves.subplots())
    curves.axes[0].set_title("MultiTabNet on flights")
    names = "MultiTabNet", "LightGBM per target"
    GainDisplay.from_gain(gain, names=names, tasks=model.tasks_, ax=gains.subplots())
    curves.savefig(output / "learning_curves.png", dpi=120)
    gains.savefig(output / "gain.png", dpi=120)
    print(f"\nSaved in {output}: model/ (tabmtl.load reads it), {', '.join(FILES)}.")
    print("Loaded again, the saved model gives bit-equal predictions.\n")


def _check_saved(model: tabmtl.MultiTabNet, path: Path, X: pl.DataFrame) -> None:
    """Save, load, and compare the predictions of both, bit by bit."""
    model.save(path)
    loaded = tabmtl.load(path)
    before, after = model.predict_proba(X), loaded.predict_proba(X)
    same = all(np.array_equal(before[task], after[task]) for task in before)
    if not (same and loaded.predict(X).equals(model.predict(X))):
        raise RuntimeError(f"{path}: the loaded model and the saved one predict differently; please report this")
