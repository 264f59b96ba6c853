"""Peers that need an environment of their own, as models of :mod:`benchmarks.evidence`.

A variable names the environment of each peer; the module of a peer says how to make it:

=====================  ===================================  =============================
variable               module                               models
=====================  ===================================  =============================
TABMTL_AUTOGLUON       :mod:`benchmarks.peers.autogluon`    `AutoGluon`
TABMTL_PYTABKIT        :mod:`benchmarks.peers.pytabkit`     `RealMLP`, `TabM`
=====================  ===================================  =============================

Its process starts at `fit`, has one thread, and ends with the model.
"""

from __future__ import annotations

import json
import os
import subprocess
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import ROOT

#: Last lines of what a peer printed that an error shows.
SHOWN = 20
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
_QUIET = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore"}


class Outside:
    """A peer in an environment of its own: a model for each task, fitted and asked in one process of its Python.

    Parameters
    ----------
    module : str
        The module of the peer, which calls :func:`benchmarks.peers.guest.serve`.
    variable : str
        The variable that names the folder of the environment.
    tasks : dict of str to object
        Names of the tasks, and their kinds.
    random_state : int
        The seed.
    texts : sequence of str
        Columns of free text, which stay text; all other text becomes categories.
    **options : object
        Options of the peer, which JSON can hold.

    Attributes
    ----------
    seconds : float
        CPU seconds of the last call in the process of the peer, without those of its start.
    start_seconds : float
        CPU seconds of the start of that process, imports included.
    """

    seconds: float
    start_seconds: float

    def __init__(
        self,
        module: str,
        variable: str,
        *,
        tasks: dict[str, Any],
        random_state: int,
        texts: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self._module, self._python = module, python_of(variable, module)
        kinds = {task: str(kind) for task, kind in tasks.items()}
        self._facts = {"kinds": kinds, "seed": random_state, "texts": [*texts]}
        self._options = options

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Start the process, and fit a model for each task on its labelled rows; groups are not used."""
        self._start()
        _of_pandas(X).write_parquet(self._folder / "X.parquet")
        y.write_parquet(self._folder / "y.parquet")
        files = {name: str(self._folder / f"{name}.parquet") for name in ("X", "y")}
        self.seconds = self._ask({**files, **self._facts, "options": self._options})

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,), of every task."""
        asked, answers = self._folder / "asked.parquet", self._folder / "answers.parquet"
        _of_pandas(X).write_parquet(asked)
        self.seconds = self._ask({"X": str(asked), "answers": str(answers)})
        return {column.name: column.to_numpy() for column in pl.read_parquet(answers)}

    def _start(self) -> None:
        folder = TemporaryDirectory()
        self._folder, self._log = Path(folder.name), Path(folder.name) / "log.txt"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", self._module],
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD, **_QUIET, "TMPDIR": folder.name},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        weakref.finalize(self, _end, self._process, folder)
        self.start_seconds = self._reply()

    def _ask(self, request: dict[str, Any]) -> float:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> float:
        assert self._process.stdout
        reply = json.loads(self._process.stdout.readline() or '{"error": "its process ended"}')
        if "error" in reply:
            printed = "\n".join(self._log.read_text(errors="replace").splitlines()[-SHOWN:])
            raise RuntimeError(f"{self._module} failed: {reply['error']}. Its last lines:\n{printed}")
        return reply["seconds"]


def _of_pandas(X: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose dates are of the type that pandas has for them."""
    return X.with_columns(pl.col(pl.Date).cast(pl.Datetime("ns")))


def python_of(variable: str, module: str) -> str:
    """Return the Python of the environment that a variable names."""
    folder = os.environ.get(variable)
    python = Path(folder or "", "bin", "python")
    if not folder or not python.exists():
        found = f"{variable}={folder} holds no bin/python" if folder else f"{variable} is not set"
        raise FileNotFoundError(
            f"{module} needs an environment of its own, but {found}; its docstring says how to make one"
        )
    return str(python.absolute())


def _end(process: subprocess.Popen, folder: TemporaryDirectory) -> None:
    """End the process, which leaves its loop once nothing more can come, and remove its files."""
    process.communicate()
    folder.cleanup()


AutoGluon = partial(Outside, "benchmarks.peers.autogluon", "TABMTL_AUTOGLUON")
RealMLP, TabM = (
    partial(Outside, "benchmarks.peers.pytabkit", "TABMTL_PYTABKIT", model=model) for model in ("RealMLP_TD", "TabM_D")
)
