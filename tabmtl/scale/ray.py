"""Fits and predictions of files on a cluster of Ray, which starts the processes and starts them again where some die.

It needs ``pip install 'tabmtl[ray]'`` on all machines. Ray's reports on its usage are off, unless
``RAY_USAGE_STATS_ENABLED`` says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from tabmtl.base.params import Names, check_count
from tabmtl.base.ranks import Ranks
from tabmtl.base.storage.persist import load
from tabmtl.columns.declared import ignored
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.scale.blocks import Roles
from tabmtl.scale.files import Method, answer_file, plan_files
from tabmtl.scale.paths import Paths
from tabmtl.scale.shards import Shards
from tabmtl.scale.torch_group import joined
from tabmtl.training.run import entered

__all__ = ["fit", "predict"]

Model = TypeVar("Model", bound=MultiTaskEstimator)

_TIMEOUT = 600  # seconds that a process waits for the others


def fit(
    model: Model,
    X: Shards,
    y: Any,
    *,
    num_workers: int,
    storage_path: str | PathLike[str],
    name: str | None = None,
    max_failures: int = 0,
    use_gpu: bool = False,
    **rows: Any,
) -> Model:
    """Fit a model in several processes of a Ray cluster, which share the rows.

    The processes work as in `tabmtl.scale.joined`, with checkpoints. Ray Train starts them as a process group of torch.
    If a process is lost, Ray Train starts all of them again, up to ``max_failures`` times, and networks go on after the
    last epoch. The cluster is the one that this process is connected to; otherwise one is started on this machine.

    Parameters
    ----------
    model : estimator of tables
        Model whose parameters are used. It stays unfitted.
    X : Shards
        Rows of files that all machines see under the same path or address, and likewise its ``cache``.
    y : str or list of str
        Columns with the targets, as in ``fit`` of the model.
    num_workers : int
        Number of processes, with one CPU each.
    storage_path : str or path
        Folder that all machines see. Ray keeps its state of the run in ``<storage_path>/<name>``. The same folder holds
        ``checkpoints`` until the run is over, and the saved ``model``.
    name : str, optional
        Name of the run; by default a new one. A run that was cut off goes on if it is started again under its name.
    max_failures : int, default=0
        Number of lost processes to recover from; -1 for any number. An error of the fit counts as a loss, so with -1 it
        is tried again for ever.
    use_gpu : bool, default=False
        Give each process a GPU.
    **rows
        ``sample_weight``, ``groups``, ``time``, ``X_val`` and ``y_val``, as in ``fit`` of the model.

    Returns
    -------
    fitted model
        Of the class of ``model``, with the fitted attributes that are saved.

    Raises
    ------
    TypeError, ValueError
        If the model, X or another argument does not fit, or storage_path is an address.
    ImportError
        If Ray is missing.
    ray.train.TrainingFailedError
        If the processes fail once too often; it tells the error of each.

    Notes
    -----
    Ray gives up if the processes do not stand after 60 seconds; ``RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S`` gives slow
    machines more.

    Examples
    --------
    ::

        from tabmtl import SharedBottom
        from tabmtl.scale import Shards
        from tabmtl.scale import ray

        train = Shards("/data/train/*.parquet")
        model = ray.fit(
            SharedBottom(), train, ["click", "spend"], num_workers=8, storage_path="/data/runs", max_failures=3
        )
        ray.predict(model, "/data/new/*.parquet", "/data/scored", num_workers=8)
    """
    check_count("num_workers", num_workers)
    check_count("max_failures", max_failures, low=-1)
    given = _checked(model, {"X": X, "y": y, **rows}, num_workers)
    if "://" in str(storage_path):
        raise ValueError(
            f"storage_path={str(storage_path)!r} is an address, and checkpoints need a folder: mount it on all machines"
        )
    _check_ray()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    storage, name = Path(storage_path).absolute(), name or f"{type(model).__name__}-{uuid4().hex[:12]}"
    trainer = TorchTrainer(
        _fit_in_group,
        train_loop_config={"model": model, "rows": given, "folder": storage / name},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout_s=_TIMEOUT),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name, storage_path=str(storage), failure_config=FailureConfig(max_failures=max_failures)
        ),
    )
    trainer.fit()
    return load(storage / name / "model", cls=type(model))


def predict(
    model: MultiTaskEstimator,
    paths: Paths,
    folder: str | PathLike[str],
    *,
    num_workers: int,
    method: Method = "predict",
    keep: Names = (),
    level: float = 0.9,
    use_gpu: bool = False,
) -> list[Path]:
    """Predict the rows of files in several processes of a Ray cluster, and write a Parquet file for each.

    Each process takes one file after the other, and answers it as `tabmtl.scale.predict_files` does: there should be
    more files than processes. If a process is lost, another one answers its file.

    Parameters
    ----------
    model, paths, folder, method, keep, level
        As in `tabmtl.scale.predict_files`. All machines see the files and the folder under the same path.
    num_workers : int
        Number of processes, at most.
    use_gpu : bool, default=False
        Give each process a GPU.

    Returns
    -------
    files : list of Path
        The files that were written, in the order of the inputs.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As `tabmtl.scale.predict_files` does before it reads a row.
    ImportError
        If Ray is missing.
    ray.exceptions.RayTaskError
        If a row does not fit; it tells the error and the file.
    """
    check_count("num_workers", num_workers)
    _check_ray()
    planned = plan_files(model, paths, Path(folder).absolute(), method)
    import ray.data

    tasks = [{"file": _absolute(file), "output": str(output)} for file, output in planned.items()]
    stored = ray.put(model)  # held here, for a process that is started again
    ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        _Predictor,
        fn_constructor_args=(stored, method, tuple(keep), level),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_workers, len(tasks))),
        num_cpus=1,
        num_gpus=1 if use_gpu else None,
    ).materialize()
    return list(planned.values())


def _fit_in_group(job: dict[str, Any]) -> None:
    """Fit in a process that Ray has started, whose process group stands."""
    with joined(checkpoint=job["folder"] / "checkpoints") as ranks:
        model = job["model"].fit(**job["rows"])
        if ranks.rank == 0:
            model.save(job["folder"] / "model")


class _Predictor:
    """A process that answers files."""

    def __init__(self, stored: Any, *asked: Any) -> None:
        import ray

        self._model, self._asked = ray.get(stored), asked

    def __call__(self, tasks: dict[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        for file, output in zip(tasks["file"], tasks["output"], strict=True):
            answer_file(self._model, str(file), Path(output), *self._asked)
        return tasks


def _check_ray() -> None:
    """Turn Ray's reports on its usage off, and raise an ImportError if it is missing."""
    if find_spec("ray") is None:
        raise ModuleNotFoundError("tabmtl.scale.ray needs ray, which is missing: pip install 'tabmtl[ray]'", name="ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _checked(model: Any, given: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the arguments of fit for any process, after checks that need none."""
    if not isinstance(model, MultiTaskEstimator):
        raise TypeError(
            f"expected an estimator of tables, such as MMoE(), got {type(model).__name__}; M2TRec is fitted by a "
            "script of your own, inside of tabmtl.scale.joined()"
        )
    signature(type(model).fit).bind(model, **given)
    X, X_val = given["X"], given.get("X_val")
    if not isinstance(X, Shards):
        raise TypeError(
            f"expected Shards, whose rows the processes share, got {type(X).__name__}: write its rows to files"
        )
    planned = Ranks()
    planned.size = size  # of which a check asks no more
    with entered(planned):
        model.__learner__().check(X, X_val, given.get("y_val"))
    weight, groups, time = (given.get(name) for name in ("sample_weight", "groups", "time"))
    Roles.of(X, given["y"], weight, groups, time).without(ignored(model.columns))
    return given | {"X": _anywhere(X), "X_val": None if X_val is None else _anywhere(X_val)}


def _anywhere(X: Shards) -> Shards:
    """Return shards by paths that do not depend on the folder that a process runs in."""
    if X.files is None:
        return X
    cache = None if X.cache is None else X.cache.absolute()
    return Shards([_absolute(file) for file in X.files], X.schema.names(), cache, X.dates)


def _absolute(file: str) -> str:
    return file if "://" in file else str(Path(file).absolute())
