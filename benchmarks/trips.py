"""Trips: own calls and changes of file from `fit` to the first gradient or tree, and frames on the way.

    python -m benchmarks.trips

A call is own if its code lies in the package. Lambdas, comprehensions and generators count, a generator once and not
each time that it goes on; ``named`` are the calls without lambdas and comprehensions. Bodies of modules do not count.
Every trip is the first one of a fresh process. Construction of networks is included; tables and logs are tiny.

The second table counts the calls of whole fits, so that nothing is hidden behind the first gradient. The network has
two epochs and SharedTrees few rounds, but IndependentTasks stops by itself: its count depends a little on the machine.
Another version of Python counts otherwise: from 3.12, most comprehensions are no calls.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import lightgbm as lgb
import numpy as np
import polars as pl
import torch

import tabmtl
from benchmarks.harness import in_own_process, parser, print_table
from tabmtl import sessions
from tabmtl.scale import Shards
from tabmtl.synth import make_sessions
from tabmtl.testing import features, mixed_targets

#: Folders of own code, which lie beside each other in a checkout.
ROOT = Path(tabmtl.__file__).resolve().parents[1]
OWN = tuple(f"{ROOT / folder}/" for folder in ("tabmtl", "pipelines", "synth"))


class _ThereError(Exception):
    """Error that ends a trip at its goal, or not at all."""


class Trip:
    """Count the own calls of a function until it reaches a gradient or a tree, or its end.

    Parameters
    ----------
    whole : bool, optional
        Whether only the end of the function ends the trip.
    """

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole
        self.calls: list[tuple[str, str]] = []
        self.stack: list[tuple[str, str]] = []

    def run(self, function: Callable[[], Any]) -> dict[str, int]:
        """Take the trip, and return what is counted, by name."""
        with ExitStack() as goals:
            if not self.whole:
                goals.enter_context(patch.object(lgb.Booster, "update", self._arrive))
                goals.enter_context(patch.object(torch.autograd, "backward", self._arrive))
            sys.setprofile(self._count)
            try:
                function()
            except _ThereError:
                pass
            finally:
                sys.setprofile(None)
        files = [file for file, _ in self.calls]
        return {
            "calls": len(self.calls),
            "named": sum(not name.endswith(">") for _, name in self.calls),
            "functions": len({*self.calls}),
            "files": len({*files}),
            "changes": sum(one != other for one, other in pairwise(files)),
            "frames": len(self.stack),
            "files of frames": len({file for file, _ in self.stack}),
        }

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OWN) and code.co_name != "<module>" and _begins(frame):
            self.calls.append((code.co_filename, code.co_qualname))

    def _arrive(self, *_: object, **__: object) -> None:
        sys.setprofile(None)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename.startswith(OWN):
                self.stack.append((frame.f_code.co_filename, frame.f_code.co_qualname))
            frame = frame.f_back
        raise _ThereError


def _begins(frame: FrameType) -> bool:
    """Tell whether a call is a new one, and no generator that goes on: ``RESUME`` says so by its argument."""
    code = frame.f_code
    return not code.co_flags & inspect.CO_GENERATOR or code.co_code[frame.f_lasti + 1] & 3 == 0


def fits(name: str, targets: str = "mixed", **options: Any) -> Callable[[], Any]:
    """Return a trip that makes an estimator of tabmtl and fits it on a tiny table."""
    X = features(200)
    y: Any = mixed_targets(X)
    estimator = getattr(tabmtl, name)
    if targets == "numbers":
        y = np.column_stack([X["plain"], X["plain"] ** 2])
    if targets == "shards":
        shards = Shards(pl.concat([X, y], how="horizontal").lazy())
        return lambda: estimator(**OPTIONS, **options).fit(shards, y.columns)
    return lambda: estimator(**OPTIONS, **options).fit(X, y)


def predicts() -> Callable[[], Any]:
    """Return a trip that asks a fitted network for predictions."""
    X = features(200)
    network = tabmtl.MMoE(epochs=1, device="cpu", **OPTIONS).fit(X, mixed_targets(X))
    return lambda: network.predict(X)


def fits_sessions() -> Callable[[], Any]:
    """Return a trip that makes a recommender and fits it on a tiny log."""
    clicks = make_sessions(200, 40, random_state=0).clicks
    return lambda: sessions.M2TRec(**OPTIONS).fit(clicks)


def recommends() -> Callable[[], Any]:
    """Return a trip that asks a fitted recommender for items."""
    clicks = make_sessions(200, 40, random_state=0).clicks
    recommender = sessions.M2TRec(epochs=1, **OPTIONS).fit(clicks)
    return lambda: recommender.recommend(clicks, k=5)


OPTIONS: dict[str, Any] = {"random_state": 0, "n_jobs": 1}
#: Functions that prepare a trip, and return it, by its name.
TRIPS: dict[str, Callable[[], Callable[[], Any]]] = {
    "MMoE.fit": partial(fits, "MMoE"),
    "MultiTabNet.fit": partial(fits, "MultiTabNet"),
    "RMTGB.fit, 2 regressions": partial(fits, "RMTGB", "numbers"),
    "SharedTrees.fit": partial(fits, "SharedTrees"),
    "IndependentTasks.fit": partial(fits, "IndependentTasks"),
    "MultiTaskEnsemble.fit": partial(fits, "MultiTaskEnsemble"),
    "M2TRec.fit": fits_sessions,
    "MMoE.fit(Shards)": partial(fits, "MMoE", "shards"),
    "MMoE.predict": predicts,
    "M2TRec.recommend": recommends,
}
#: The same for trips that go on to their end.
WHOLE_TRIPS = {
    "MMoE.fit": partial(fits, "MMoE", epochs=2, device="cpu"),
    "SharedTrees.fit": partial(fits, "SharedTrees", n_estimators=20, n_estimators_task=10),
    "IndependentTasks.fit": partial(fits, "IndependentTasks"),
}


def counted(name: str, whole: bool = False) -> dict[str, int]:
    """Take a trip in this process, and return what is counted, by name."""
    go = (WHOLE_TRIPS if whole else TRIPS)[name]()
    return Trip(whole).run(go)


def _cells(counts: Mapping[str, int]) -> dict[str, str]:
    """Return the row of a table of trips that end at their goal."""
    cells = {name: f"{count}" for name, count in counts.items()}
    in_files = cells.pop("files of frames")
    return cells | {"frames": f"{cells['frames']} in {in_files}" if counts["frames"] else ""}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables; the arguments are those of the command line."""
    parser("trips", __doc__).parse_args(argv)
    to_goal = {name: _cells(in_own_process(counted, name)) for name in TRIPS}
    print_table("from the call to the first gradient or tree", to_goal)
    whole = {name: {"calls": f"{in_own_process(counted, name, True)['calls']}"} for name in WHOLE_TRIPS}
    print_table("whole fits", whole)


if __name__ == "__main__":
    main()
