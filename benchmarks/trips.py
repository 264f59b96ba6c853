"""Trips: own calls and changes of file from `fit` to the first gradient or tree, and frames on the way.

    python -m benchmarks.trips

A call is own if its code lies in the package; lambdas and comprehensions do not count. Construction of networks is
included; tables and logs are tiny.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
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
from benchmarks.harness import parser, print_table
from tabmtl import Shards, sessions
from tabmtl.synth import make_sessions
from tabmtl.testing import features, mixed_targets

#: Folders of own code, which lie beside each other in a checkout.
ROOT = Path(tabmtl.__file__).resolve().parents[1]
OWN = tuple(f"{ROOT / folder}/" for folder in ("tabmtl", "pipelines", "synth"))


class _ThereError(Exception):
    """Error that ends a trip at its goal, or not at all."""


class Trip:
    """Count the own calls of a function until it reaches a gradient or a tree, or its end."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.stack: list[tuple[str, str]] = []

    def run(self, function: Callable[[], Any]) -> dict[str, str]:
        """Take the trip, and return the row of the table."""
        with patch.object(lgb.Booster, "update", self._arrive), patch.object(torch.autograd, "backward", self._arrive):
            sys.setprofile(self._count)
            try:
                function()
            except _ThereError:
                pass
            finally:
                sys.setprofile(None)
        files = [file for file, _ in self.calls]
        changes = sum(one != other for one, other in pairwise(files))
        frames = f"{len(self.stack)} in {len({file for file, _ in self.stack})}" if self.stack else ""
        return {
            "calls": f"{len(self.calls)}",
            "functions": f"{len(set(self.calls))}",
            "files": f"{len(set(files))}",
            "changes": f"{changes}",
            "frames": frames,
        }

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OWN) and not code.co_name.startswith("<"):
            self.calls.append((code.co_filename, code.co_qualname))

    def _arrive(self, *_: object, **__: object) -> None:
        sys.setprofile(None)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename.startswith(OWN):
                self.stack.append((frame.f_code.co_filename, frame.f_code.co_qualname))
            frame = frame.f_back
        raise _ThereError


def trips() -> dict[str, Callable[[], Any]]:
    """Return the trips by name."""
    X = features(200)
    y = mixed_targets(X)
    numbers = np.column_stack([X["plain"], X["plain"] ** 2])
    log = make_sessions(200, 40, random_state=0)
    options: dict[str, Any] = {"random_state": 0, "n_jobs": 1}
    shards = Shards(pl.concat([X, y], how="horizontal").lazy())
    network = tabmtl.MMoE(epochs=1, device="cpu", **options).fit(X, y)
    recommender = sessions.M2TRec(epochs=1, **options).fit(log.clicks)
    return {
        "MMoE.fit": lambda: tabmtl.MMoE(**options).fit(X, y),
        "MultiTabNet.fit": lambda: tabmtl.MultiTabNet(**options).fit(X, y),
        "RMTGB.fit, 2 regressions": lambda: tabmtl.RMTGB(**options).fit(X, numbers),
        "SharedTrees.fit": lambda: tabmtl.SharedTrees(**options).fit(X, y),
        "IndependentTasks.fit": lambda: tabmtl.IndependentTasks(**options).fit(X, y),
        "MultiTaskEnsemble.fit": lambda: tabmtl.MultiTaskEnsemble(**options).fit(X, y),
        "M2TRec.fit": lambda: sessions.M2TRec(**options).fit(log.clicks),
        "MMoE.fit(Shards)": lambda: tabmtl.MMoE(**options).fit(shards, y.columns),
        "MMoE.predict": lambda: network.predict(X),
        "M2TRec.recommend": lambda: recommender.recommend(log.clicks, k=5),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; the arguments are those of the command line."""
    parser("trips", __doc__).parse_args(argv)
    print_table("from the call to the first gradient or tree", {name: Trip().run(go) for name, go in trips().items()})


if __name__ == "__main__":
    main()
