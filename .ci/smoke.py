"""Fit, save and load one small model of every family, in the environment that runs this.

`make test-bounds` runs it on every interpreter at hand, with the lowest versions that `pyproject.toml` allows.
"""

from __future__ import annotations

import platform
import tempfile
from importlib.metadata import requires, version
from pathlib import Path

import numpy as np
import polars as pl
from packaging.requirements import Requirement

import tabmtl
from tabmtl import RMTGB, IndependentTasks, MMoE, MultiTabNet, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.sessions import STAN, M2TRec
from tabmtl.synth import make_sessions

SMALL = {"epochs": 2, "random_state": 0, "device": "cpu"}


def check_table(folder: Path) -> None:
    """Check estimators of tables."""
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"x": rng.normal(size=300), "text": rng.choice(["a", "b", None], 300)})
    noise = rng.normal(size=(2, 300))
    y = pl.DataFrame({"value": X["x"] * 2 + noise[0], "late": X["x"] + noise[1] > 0}).with_columns(
        pl.when(pl.int_range(300) % 3 > 0).then("value")
    )
    candidates = {"alone": IndependentTasks(families=("lightgbm",)), "together": SharedTrees(n_estimators=20)}
    models = [
        *(cls(**SMALL) for cls in (SharedBottom, MMoE, MultiTabNet)),
        *(cls(random_state=0) for cls in (SharedTrees, RMTGB, IndependentTasks)),
        MultiTaskEnsemble(models=candidates, n_folds=2, random_state=0),
    ]
    for model in models:
        answer = model.fit(X, y).predict(X)
        model.save(folder / type(model).__name__)
        assert tabmtl.load(folder / type(model).__name__).predict(X).equals(answer), type(model)
        print(f"  {model.score(X, y):.3f}  {type(model).__name__}", flush=True)


def check_sessions(folder: Path) -> None:
    """Check recommenders."""
    log = make_sessions(300, 50, random_state=0)
    for model in (M2TRec(categories=["category"], **SMALL), STAN()):
        answer = model.fit(log.clicks, items=log.items).recommend(log.clicks.head(20), k=5)
        model.save(folder / type(model).__name__)
        assert tabmtl.load(folder / type(model).__name__).recommend(log.clicks.head(20), k=5).equals(answer)
        print(f"  {model.score(log.clicks):.3f}  {type(model).__name__}", flush=True)


def main() -> None:
    """Check all, and say with which versions."""
    needed = [Requirement(line) for line in requires("tabmtl") or ()]
    core = [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    print(f"Python {platform.python_version()}:", ", ".join(f"{name} {version(name)}" for name in core), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        check_table(Path(folder))
        check_sessions(Path(folder))


if __name__ == "__main__":
    main()
