"""The command line in this process: a small table, a small click log, a store of MLflow, and what was printed."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import polars as pl

from tabmtl.pipelines import cli
from tabmtl.pipelines.datasets import load
from tabmtl.synth import make_sessions

#: A quick network.
TINY = ["--model", "SharedBottom", "--set", "epochs=2", "--set", "hidden=[8]", "--set", "n_jobs=1"]

#: The targets of `small_table`, and its split.
TARGETS = ["--target", "weight", "--target", "hindfoot_length", "--target", "male=binary"]


def small_table(folder: Path) -> Path:
    """600 rodents as a parquet file with a column ``split``, in equal shares of the parts."""
    path = folder / "rodents.parquet"
    table = load("portal").table.drop_nulls(["weight", "hindfoot_length", "male"]).collect().sample(600, seed=0)
    names = ["weight", "hindfoot_length", "male", "month", "year", "plot_type", "species_id", "split"]
    table.select(names).write_parquet(path)
    return path


def small_log(folder: Path) -> tuple[Path, Path]:
    """Clicks and items as CSV files."""
    made = make_sessions(200, 30, random_state=0)
    clicks, items = folder / "clicks.csv", folder / "items.csv"
    made.clicks.write_csv(clicks)
    made.items.select(pl.exclude(pl.List, pl.Array)).write_csv(items)
    return clicks, items


@cache
def _template() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """An empty store, made once, because MLflow takes seconds to make its tables."""
    folder = tempfile.TemporaryDirectory(prefix="tabmtl-store-")
    path = Path(folder.name) / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return folder, path


def store(folder: Path) -> str:
    """The URI of an empty store of MLflow in a folder."""
    path = folder / "mlflow.db"
    shutil.copy(_template()[1], path)
    return f"sqlite:///{path}"


def run(*words: Any, store: str | None = None) -> int:
    """Exit code of a command; its warnings are printed, not raised."""
    words = (*words, *(["--tracking-uri", store] if store else []))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return cli.main([str(word) for word in words])


class Registry:
    """What a store holds."""

    def __init__(self, uri: str) -> None:
        self.client = mlflow.MlflowClient(uri)

    def runs(self, experiment: str = "tabmtl") -> dict[str, Any]:
        """Runs by name; the names of lists of runs differ."""
        found = self.client.get_experiment_by_name(experiment)
        runs: Sequence[Any] = self.client.search_runs([found.experiment_id]) if found else []
        return {run.info.run_name: run for run in runs}

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version of a registered model."""
        return {alias: str(version) for alias, version in self.client.get_registered_model(name).aliases.items()}

    def versions(self, name: str) -> list[str]:
        """All versions, in order."""
        return sorted(str(version.version) for version in self.client.search_model_versions(f"name = '{name}'"))
