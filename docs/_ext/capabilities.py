"""Write the matrix of capabilities: every estimator is tried, small, in every case, when the site is built.

`python docs/_ext/capabilities.py`, run in the root of a checkout, prints the table.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if __name__ == "__main__":
    sys.path[:0] = ["tests"]

from conformance import FUNNELS, MIXED, features, long_table, targets_for, tiny
from ranks import run_ranks

import tabmtl
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.scale import Shards

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FILE = Path("_generated/capabilities.md")
YES, NO = "✓", "–"


class Refusal(Exception):
    """An estimator lacks a parameter or a method."""


@lru_cache
def fitted(cls: Any) -> Any:
    """Fit targets of three kinds, with nulls among the labels and a weight for every cell."""
    X = features()
    y = targets_for(cls, X)
    weights = pl.DataFrame({name: [1.0, 2.0] * (len(X) // 2) for name in y.columns})
    model = tiny(cls).fit(X, y, sample_weight=weights)
    assert {task.kind.name for task in model.tasks_} == {"binary", "multiclass", "regression"}
    assert any(y.null_count().row(0))
    return model


def fit_long_table(cls: Any) -> None:
    """Fit a table with one task per row."""
    need(cls, "task_column")
    tiny(cls, task_column="school", tasks=None).fit(*long_table())


def fit_funnel(cls: Any) -> None:
    """Fit two targets as steps that follow each other."""
    need(cls, "task_chain")
    steps, X = tiny(tabmtl.ESMM), features()
    tiny(cls, task_chain=steps.task_chain, tasks=steps.tasks).fit(X, targets_for(tabmtl.ESMM, X))


def fit_files(cls: Any) -> None:
    """Fit from a Parquet file that is read in blocks."""
    X = features()
    y = targets_for(cls, X)
    with tempfile.TemporaryDirectory() as folder:
        X.hstack(y).write_parquet(f"{folder}/rows.parquet")
        tiny(cls).fit(Shards(f"{folder}/rows.parquet"), y.columns)


def fit_processes(cls: Any) -> None:
    """Fit from files in two processes that share the work; here they are threads."""
    X = features(2_200)
    y = targets_for(cls, X)
    with tempfile.TemporaryDirectory() as folder:
        X.hstack(y).write_parquet(f"{folder}/rows.parquet")
        run_ranks(2, lambda: tiny(cls).fit(Shards(f"{folder}/rows.parquet"), y.columns))


def has_onnx(cls: Any) -> None:
    """Ask whether it is a network, as an ONNX file holds; tests export every one, which takes minutes."""
    if not issubclass(cls, NetworkEstimator):
        raise Refusal("is no network")


def export_task(cls: Any) -> None:
    """Export one task of a fitted model as a plain LightGBM model."""
    need(cls, "export_task")
    fitted(cls).export_task("delay")


#: Title of the column, and the trial.
CASES: dict[str, Callable[[Any], Any]] = {
    "missing labels": fitted,
    "mixed kinds of targets": fitted,
    "weights": fitted,
    "long tables": fit_long_table,
    "funnels": fit_funnel,
    "files larger than memory": fit_files,
    "more than one machine": fit_processes,
    "ONNX": has_onnx,
    "a LightGBM model per task": export_task,
}


def need(cls: Any, name: str) -> None:
    """Refuse if a class has neither a parameter nor a method of this name."""
    if not hasattr(cls, name) and name not in cls._get_param_names():
        raise Refusal(f"has no `{name}`")


def try_all() -> dict[str, dict[str, str]]:
    """Return, by estimator and case, the words of the refusal, or nothing where the trial went well."""
    with warnings.catch_warnings(action="ignore"):
        return {cls.__name__: {case: outcome_of(trial, cls) for case, trial in CASES.items()} for cls in tried()}


def tried() -> list[Any]:
    """Return the estimators of the matrix, by name."""
    return sorted({*MIXED, *FUNNELS} & set(exported()), key=lambda cls: cls.__name__.lower())


def exported() -> list[Any]:
    """Return the values of the package's public names."""
    return [getattr(tabmtl, name) for name in tabmtl.__all__]


def outcome_of(trial: Callable[[Any], Any], cls: Any) -> str:
    """Return the words of a refusal, or nothing; any error that is not a user's mistake is raised."""
    try:
        trial(cls)
    except (Refusal, TypeError, ValueError) as error:
        return str(error)
    return ""


def matrix(outcomes: dict[str, dict[str, str]]) -> str:
    """Return the table, as Markdown."""
    lines = [["estimator", *CASES], ["---", *[":-:"] * len(CASES)]]
    lines += [
        [f"{{py:obj}}`~tabmtl.{name}`", *(NO if row[case] else YES for case in CASES)] for name, row in outcomes.items()
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def refusals(outcomes: dict[str, dict[str, str]]) -> str:
    """Return what the estimators say where they refuse, as a Markdown list."""
    said: dict[tuple[str, str], list[str]] = {}
    for name, row in outcomes.items():
        for case, words in row.items():
            if words:
                said.setdefault((case, words.replace(name, "...")), []).append(name)
    items = (f"- **{case}**: {', '.join(names)}: {words}\n" for (case, words), names in sorted(said.items()))
    return "".join(items)


def write_matrix(app: Sphinx) -> None:
    """Write the table and the refusals where the page includes them, unless they are newer than the package."""
    file = Path(app.srcdir, FILE)
    sources = [Path(__file__), *Path(tabmtl.__file__).parent.rglob("*.py")]
    if file.exists() and file.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return
    outcomes = try_all()
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{matrix(outcomes)}\n## Where they refuse, and why\n\n{refusals(outcomes)}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Try the estimators before the pages are read."""
    app.connect("builder-inited", write_matrix, priority=110)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    found = try_all()
    print(matrix(found))
    print(refusals(found))
