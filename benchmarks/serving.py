"""Latency of fitted models: in process, in ONNX Runtime, and behind MLflow's server, by the rows of a request.

    python -m benchmarks.serving [--rows 1 32 1024] [--requests 1000] [--no-mlflow] [--quick]

Models are fitted on flights, so that trees are as many as early stopping leaves. One request follows the other, on one
thread, over different rows of the test part; wall time of a request, as p50, p99 and the least. Goals, of p50 for one
row, are printed beside what was measured. Other work on the machine shows in p99 first, and last in the least.

- ``in process``: `predict` from a polars frame to a frame, and the network alone on encoded rows.
- ``ONNX``: ``session.run`` alone, with the encoding of a frame, and with a frame of the answers.
- ``boosted``: `predict`, the trees alone on encoded rows, and the models of `export_task`, each by the number of tasks.
- ``MLflow``: ``mlflow models serve`` on loopback, beside a model that answers a constant under the same signature: the
  floor, which is what MLflow itself takes.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch

from tabmtl import RMTGB, IndependentTasks, MultiTabNet, OnnxCoder, SharedBottom
from tabmtl.pipelines.datasets import load
from tabmtl.pipelines.tracking import server_environment
from tabmtl.training.predict import predict_scores
from tabmtl.trees import tree_matrix

NETWORKS = (MultiTabNet, SharedBottom)
BOOSTED = (RMTGB, IndependentTasks)
GOALS = {"eager": 1.0, "onnx": 0.5, "boosted": 0.1}  # ms, p50 of one row; boosted by task
FLOOR = 1.25  # times MLflow's own latency
_DIFFERENT = 64  # requests before the first comes again
_LEAST, _SECONDS = 30, 20.0  # requests of a measurement, however long they take; and time after which it ends
_START_SECONDS = 180


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Rows to fit on, epochs of the networks, rows of a request, and requests."""

    n_train: int = 20_000
    epochs: int = 2
    rows: Sequence[int] = (1, 32, 1024)
    requests: int = 1000


def measure(ask: Callable[[Any], object], requests: Sequence[Any], n: int) -> list[float]:
    """Median, 99th percentile and least of the milliseconds of n requests, which come again where they are fewer."""
    for i in range(min(n, _LEAST)):
        ask(requests[i % len(requests)])
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(taken) < n and (len(taken) < _LEAST or time.perf_counter() < end):
        request = requests[len(taken) % len(requests)]
        start = time.perf_counter()
        ask(request)
        taken.append(1e3 * (time.perf_counter() - start))
    return np.percentile(taken, [50, 99, 0]).tolist()


def report(what: str, rows: int, found: Sequence[float], goal: float | None = None) -> None:
    """Print a line of the table; goals are those of one row."""
    asked = ""
    if goal is not None and rows == 1:
        asked = f"<= {goal:.3g} ms  {'reached' if found[0] <= goal else 'MISSED'}"
    times = " ".join(f"{value:9.3f}" for value in found)
    print(f"{f'{what}, {rows} row' + 's' * (rows > 1):62} {times}  {asked}".rstrip(), flush=True)


def frames_of(X: pl.DataFrame, rows: int) -> list[pl.DataFrame]:
    """Requests of so many rows each, from a table that may be shorter than one."""
    X = pl.concat([X] * (-(-rows // len(X)) + 1))
    return [X.slice(i * rows, rows).rechunk() for i in range(min(_DIFFERENT, len(X) // rows))]


def time_network(estimator: Any, X: pl.DataFrame, setting: Setting) -> None:
    """`predict`, and the network alone."""
    name, network = type(estimator).__name__, estimator._fitted_network()[0]
    for rows in setting.rows:
        frames = frames_of(X, rows)
        report(
            f"in process: {name}.predict", rows, measure(estimator.predict, frames, setting.requests), GOALS["eager"]
        )
        batches = [estimator._coder.read(frame).map(torch.from_numpy) for frame in frames]
        found = measure(partial(predict_scores, network), batches, setting.requests)
        report(f"in process: {name}, network alone", rows, found, GOALS["eager"])


def time_onnx(estimator: Any, X: pl.DataFrame, setting: Setting) -> None:
    """The exported network, alone and from frame to frame."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        start = time.perf_counter()
        estimator.export_onnx(path)
        name, size, taken = type(estimator).__name__, path.stat().st_size / 1e6, time.perf_counter() - start
        print(f"ONNX: {name}, export and check in {taken:.1f} s, {size:.2f} MB", flush=True)
        session = onnxruntime.InferenceSession(path, options)
    coder = OnnxCoder(session)
    sides = {
        "session.run": lambda inputs: session.run(None, inputs),
        "encode, session.run": lambda frame: session.run(None, coder.encode(frame)),
        "encode, session.run, decode": lambda frame: coder.decode(session.run(None, coder.encode(frame))),
    }
    for rows in setting.rows:
        frames = frames_of(X, rows)
        for side, ask in sides.items():
            requests = [coder.encode(frame) for frame in frames] if side == "session.run" else frames
            report(f"ONNX: {name}, {side}", rows, measure(ask, requests, setting.requests), GOALS["onnx"])


def time_boosted(estimator: Any, X: pl.DataFrame, setting: Setting) -> None:
    """`predict`, the trees alone, and what exports every task as one model, per task."""
    name, n_tasks = type(estimator).__name__, len(estimator.tasks_)
    sides: dict[str, Callable[[Any], object]] = {
        f"{name}.predict": lambda request: estimator.predict(request[0]),
        f"{name}, trees alone": lambda request: estimator._outputs(*request),
    }
    if hasattr(estimator, "export_task"):
        models = [estimator.export_task(task.name) for task in estimator.tasks_]
        sides[f"{name}.export_task"] = lambda request: [
            model.predict(tree_matrix(request[1]), num_threads=1) for model in models
        ]
    for rows in setting.rows:
        requests = [(frame, estimator._coder.read(frame)) for frame in frames_of(X, rows)]
        for what, ask in sides.items():
            found = measure(ask, requests, setting.requests)
            report(f"boosted: {what}, per task", rows, [ms / n_tasks for ms in found], GOALS["boosted"])


class Constant:
    """What answers the same for every row: the rest of a request's time is MLflow's."""

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """One number a row."""
        return np.zeros(len(model_input))


def _load_pyfunc(path: str) -> Constant:
    return Constant()


@contextmanager
def served(model: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to MLflow's server of a model on loopback; the server ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-h", "127.0.0.1", "-p", str(port)]
    environment = {**server_environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with (model.parent / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--env-manager", "local"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        _wait(server, connection, model.parent / "server.log")
        yield connection
    finally:
        connection.close()
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # of its own session: the server and its workers
        server.wait()


def _wait(server: subprocess.Popen, connection: http.client.HTTPConnection, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            connection.request("GET", "/ping")
            if connection.getresponse().read() is not None:
                return
        except OSError:
            connection.close()
            time.sleep(0.2)
    raise RuntimeError(f"MLflow's server did not start in {_START_SECONDS} s; it said: {log.read_text()[-1000:]}")


def time_mlflow(estimator: Any, X: pl.DataFrame, setting: Setting) -> None:
    """Requests over HTTP, beside those to a constant."""
    from tabmtl.mlflow import save_model

    floors: dict[int, float] = {}
    for name, loader in (
        ("a constant", "benchmarks.serving"),
        (type(estimator).__name__, "tabmtl.mlflow"),
    ):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            save_model(estimator, path, loader_module=loader, input_example=X.head(5))
            with served(path) as connection:
                for rows in setting.rows:
                    bodies = [_body(frame) for frame in frames_of(X, rows)]
                    found = measure(partial(_post, connection), bodies, min(setting.requests, 300))
                    goal = FLOOR * floors[rows] if rows in floors else None
                    floors.setdefault(rows, found[0])
                    report(f"MLflow: {name} over HTTP", rows, found, goal)


def _body(frame: pl.DataFrame) -> str:
    return json.dumps({"dataframe_split": {"columns": frame.columns, "data": frame.rows()}})


def _post(connection: http.client.HTTPConnection, body: str) -> bytes:
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"MLflow's server answered {answer.status}: {content[:500]!r}")
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Latency of fitted models, one thread.")
    parser.add_argument("--rows", nargs="+", type=int, default=Setting.rows, help="of a request")
    parser.add_argument("--requests", type=int, default=Setting.requests, help="of a measurement, at most")
    parser.add_argument("--no-mlflow", action="store_true", help="leave out MLflow's server")
    parser.add_argument("--quick", action="store_true", help="small models, few requests: goals mean nothing then")
    given = parser.parse_args(arguments)
    setting = Setting(rows=given.rows, requests=given.requests)
    if given.quick:
        setting = Setting(n_train=1000, epochs=1, rows=given.rows, requests=min(given.requests, 20))
    torch.set_num_threads(1)
    data = load("flights")
    (X, y), (X_test, _) = data.part("train"), data.part("test")
    X, y = X.head(setting.n_train), y.head(setting.n_train)
    load_average = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"{os.cpu_count()} CPUs, load {load_average}; {len(X)} rows of flights to fit on")
    print(f"{'milliseconds of a request':62} {'p50':>9} {'p99':>9} {'least':>9}  goal of p50")
    fixed: dict[str, Any] = {"n_jobs": 1, "random_state": 0}
    networks = [cls(epochs=setting.epochs, device="cpu", **fixed).fit(X, y) for cls in NETWORKS]
    for network in networks:
        time_network(network, X_test, setting)
        if all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
            time_onnx(network, X_test, setting)
        else:
            print("ONNX: skipped, not installed: pip install 'tabmtl[onnx]'")
    for cls in BOOSTED:
        time_boosted(cls(**fixed).fit(X, y), X_test, setting)
    if given.no_mlflow or importlib.util.find_spec("mlflow") is None:
        print(f"MLflow: skipped, {'--no-mlflow' if given.no_mlflow else 'it is not installed'}")
    else:
        time_mlflow(networks[0], X_test, setting)


if __name__ == "__main__":
    main()
