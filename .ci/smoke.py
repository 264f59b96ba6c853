"""Fit, save and load one small model of every family, in the environment that runs this.

`make test-bounds` runs it on every interpreter at hand, with the lowest versions that `pyproject.toml` allows, first
without the extra `nn`: then all but networks have to work, and these have to name it.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from packaging.requirements import Requirement

import tabmtl
import tabmtl.sessions
from tabmtl import RMTGB, IndependentTasks, MultiTaskEnsemble, SharedTrees, compare
from tabmtl.synth import make_sessions

HAS_TORCH = find_spec("torch") is not None
SMALL = {"epochs": 2, "random_state": 0, "device": "cpu"}


def of_torch(home: Any, *names: str, **params: Any) -> Iterator[Any]:
    """Make what needs torch; without it, check that an error names what brings it."""
    for name in names:
        if HAS_TORCH:
            yield getattr(home, name)(**params)
            continue
        try:
            getattr(home, name)
        except ModuleNotFoundError as error:
            print(f"  {error}", flush=True)
            assert "tabmtl[nn]" in str(error)
        else:
            raise AssertionError(f"{name} needs no torch")


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
        *of_torch(tabmtl, "SharedBottom", "MMoE", "MultiTabNet", **SMALL),
        *(cls(random_state=0) for cls in (SharedTrees, RMTGB, IndependentTasks)),
        MultiTaskEnsemble(models=candidates, n_folds=2, random_state=0),
    ]
    for model in models:
        answer = model.fit(X, y).predict(X)
        model.save(folder / type(model).__name__)
        assert tabmtl.load(folder / type(model).__name__).predict(X).equals(answer), type(model)
        assert model.drift(X).height == X.width + y.width, type(model)
        print(f"  {model.score(X, y):.3f}  {type(model).__name__}", flush=True)
    print(compare(candidates, X, y, X_test=X, y_test=y).standings, flush=True)


def check_sessions(folder: Path) -> None:
    """Check recommenders."""
    log = make_sessions(300, 50, random_state=0)
    networks = of_torch(tabmtl.sessions, "M2TRec", categories=["category"], **SMALL)
    for model in (*networks, *of_torch(tabmtl.sessions, "STAN")):
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
