"""Workers on one study, as processes: ``python swarm.py STORAGE STUDY FOLDER N_WORKERS N_TRIALS``.

They are forked off one process, so that the libraries are loaded once. The first begins a trial, writes its process id
to ``FOLDER/hanging`` and goes no further. Their mates write what went wrong with them to ``FOLDER/error``.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

from tabmtl import SharedBottom
from tabmtl.tuning import Objective, objective, open_study, run_study

GRACE_PERIOD = 3  # seconds


def make_goal(on_epoch=None) -> Objective:
    """An objective of two tasks, a blink of an eye a trial."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    est = SharedBottom(hidden=(8,), head_hidden=0, d_embedding=4, epochs=1, device="cpu", n_jobs=1, on_epoch=on_epoch)
    y = np.column_stack([x[:, 0], x[:, 1] * x[:, 2]])
    space = {"dropout": {"low": 0.0, "high": 0.5}, "batch_size": {"choices": (16, 32)}}
    return objective(est, x[:40], y[:40], X_val=x[40:], y_val=y[40:], per_task=True, search_space=space)


def _work(storage: str, study: str, folder: Path, n_trials: int, *, hangs: bool) -> None:
    def hang(record):
        (folder / "writing").write_text(str(os.getpid()))
        (folder / "writing").rename(folder / "hanging")
        time.sleep(600)

    goal = make_goal(hang if hangs else None)
    run_study(open_study(study, goal, storage=storage, seed=0, grace_period=GRACE_PERIOD), goal, n_trials=n_trials)


def main(storage: str, study: str, folder: Path, n_workers: int, n_trials: int) -> None:
    """Start the workers, and wait for them."""
    # imports torch's compiler: in a worker, that would take seconds of a busy machine from the first grace period
    torch.optim.AdamW([torch.zeros(1)])
    for number in range(n_workers):
        if os.fork() == 0:
            try:
                _work(storage, study, folder, n_trials, hangs=number == 0)
            except BaseException:
                (folder / "error").write_text(traceback.format_exc())
            finally:
                os._exit(0)
    for _ in range(n_workers):
        os.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
