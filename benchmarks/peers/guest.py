"""The process of a peer in an environment of its own: it fits and answers what :mod:`benchmarks.peers.outside` asks.

A peer is a module that calls `serve` with its function to fit one task. Its environment has pandas and pyarrow, and not
this package. A request and a reply are a line of JSON each, on standard input and output; rows, labels and answers are
Parquet files. What the peer itself prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

#: Answers values, or probabilities of the second class (n,).
Predict = Callable[[pd.DataFrame], np.ndarray]
#: Fits rows, labels, the kind of the task and a seed; other parameters are options of the peer.
Fit = Callable[..., Predict]


def serve(fit: Fit) -> None:
    """Tell the CPU seconds of the start, and then obey one request a line until there are no more.

    ``{"X", "y", "kinds", "seed", "texts", "options"}`` fits a model for each task, on its labelled rows;
    ``{"X", "answers"}`` writes the answers of all tasks to a file. The reply is ``{"seconds"}``: the CPU seconds that
    the request took, or ``{"error"}``.
    """
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    replies.write(json.dumps({"seconds": cpu_seconds()}) + "\n")
    models: dict[str, Predict] = {}
    for line in sys.stdin:
        request, before = json.loads(line), cpu_seconds()
        X = pd.read_parquet(request["X"])
        try:
            if "y" in request:
                y = pd.read_parquet(request["y"])
                models = {task: fit_task(fit, X, y[task], kind, request) for task, kind in request["kinds"].items()}
            else:
                pd.DataFrame({task: ask(X) for task, ask in models.items()}).to_parquet(request["answers"])
        except Exception as error:  # the other process raises it
            traceback.print_exc()
            replies.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        else:
            replies.write(json.dumps({"seconds": cpu_seconds() - before}) + "\n")


def fit_task(fit: Fit, X: pd.DataFrame, y: pd.Series, kind: str, request: dict[str, Any]) -> Predict:
    """Fit one task on its labelled rows, whose text becomes categories but for ``texts``; unseen ones are missing."""
    labelled = y.notna()
    own = X[labelled].reset_index(drop=True)
    named = [name for name in own.select_dtypes(["object", "string"]).columns if name not in request["texts"]]
    levels = {name: pd.CategoricalDtype(sorted(own[name].dropna().unique())) for name in named}
    labels = y[labelled].reset_index(drop=True).astype(float if kind == "regression" else int)
    ask = fit(own.astype(levels), labels, kind, request["seed"], **request["options"])

    def answer(rows: pd.DataFrame) -> np.ndarray:
        return np.asarray(ask(rows.astype(levels)), dtype=float)

    return answer


def cpu_seconds() -> float:
    """Return the CPU seconds of the process, of the system for it, and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
