"""Latency of fitted models: in process, in ONNX Runtime, and behind MLflow's server, by the rows of a request.

    python -m benchmarks.serving [--rows 1 32 1024] [--requests 1000] [--no-mlflow] [--quick]

Models are fitted on flights, so that early stopping sets the number of trees. One request follows the other, on one
thread, over different rows of the test part; wall time of a request, as p50, p99 and the least. Goals, of p50 for one
row, are printed beside the measurements. Other work on the machine shows in p99 first, and last in the least.

- ``in process``: `predict` from a polars frame to a frame, and the network alone on encoded rows.
- ``ONNX``: ``session.run`` alone, with the encoding of a frame, and with a frame of the answers.
- ``boosted``: `predict`, the trees alone on encoded rows, and the models of `export_task`, each by the number of tasks.
- ``MLflow``: ``mlflow models serve`` on loopback, beside a model that answers a constant under the same signature: the
  floor, which is MLflow's own time. Then the parts of a request, one after the other, without the server: they say
  where the time goes beyond the floor.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.harness import ROOT, at_most, latency, say, speed_parser
from tabmtl import RMTGB, IndependentTasks, MultiTabNet, OnnxCoder, SharedBottom
from tabmtl.estimators.boosted.data import tree_matrix
from tabmtl.pipelines.datasets import load
from tabmtl.pipelines.tracking import server_environment
from tabmtl.training.predict import predict_scores

NETWORKS = (MultiTabNet, SharedBottom)
BOOSTED = (RMTGB, IndependentTasks)
GOALS = {"eager": 1.0, "onnx": 0.5, "boosted": 0.1}  # ms, p50 of one row; boosted by task
FLOOR = 1.3  # times MLflow's own latency
_DIFFERENT = 64  # requests before the first comes again
_START_SECONDS = 180


def report(what: str, rows: int, found: Sequence[float], goal: float | None = None) -> None:
    """Print a line of the table; goals apply to one row."""
    judged = "" if goal is None or rows > 1 else at_most(found[0], goal, " ms")
    say(f"{what}, {rows} row" + "s" * (rows > 1), *(f"{ms:.3f}" for ms in found), goal=judged)


def frames_of(X: pl.DataFrame, rows: int) -> list[pl.DataFrame]:
    """Cut requests of some rows each from a table that may be shorter than one."""
    X = pl.concat([X] * (-(-rows // len(X)) + 1))
    return [X.slice(i * rows, rows).rechunk() for i in range(min(_DIFFERENT, len(X) // rows))]


def time_network(estimator: Any, X: pl.DataFrame, given: Namespace) -> None:
    """Time `predict`, and the network alone."""
    name, network = type(estimator).__name__, estimator.fitted_network()[0]
    for rows in given.rows:
        frames = frames_of(X, rows)
        found = latency(estimator.predict, frames, given.requests)
        report(f"in process: {name}.predict", rows, found, GOALS["eager"])
        batches = [estimator.coder_.read(frame).map(torch.from_numpy) for frame in frames]
        found = latency(partial(predict_scores, network), batches, given.requests)
        report(f"in process: {name}, network alone", rows, found, GOALS["eager"])


def time_onnx(estimator: Any, X: pl.DataFrame, given: Namespace) -> None:
    """Time the exported network, alone and from frame to frame."""
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
    coder, run = OnnxCoder(session), partial(session.run, None)
    sides: dict[str, Callable[[Any], object]] = {
        "session.run": run,
        "encode, session.run": lambda frame: run(coder.encode(frame)),
        "encode, session.run, decode": lambda frame: coder.decode(run(coder.encode(frame))),
    }
    for rows in given.rows:
        frames = frames_of(X, rows)
        for side, ask in sides.items():
            requests = [coder.encode(frame) for frame in frames] if ask is run else frames
            report(f"ONNX: {name}, {side}", rows, latency(ask, requests, given.requests), GOALS["onnx"])


def time_boosted(estimator: Any, X: pl.DataFrame, given: Namespace) -> None:
    """Time `predict`, the trees alone, and the exported model of every task, per task."""
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
    for rows in given.rows:
        requests = [(frame, estimator.coder_.read(frame)) for frame in frames_of(X, rows)]
        for side, ask in sides.items():
            found = latency(ask, requests, given.requests)
            report(f"boosted: {side}, per task", rows, [ms / n_tasks for ms in found], GOALS["boosted"])


class Constant:
    """Model that returns the same for every row: the rest of a request's time is MLflow's."""

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Return one number per row."""
        return np.zeros(len(model_input))


def _load_pyfunc(path: str) -> Constant:
    return Constant()


@contextmanager
def served(model: Path) -> Iterator[http.client.HTTPConnection]:
    """Yield a connection to MLflow's server of a model on loopback; the server ends with the block."""
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-h", "127.0.0.1", "-p", str(port)]
    environment = {**server_environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command += ["--env-manager", "local"]
    with (model.parent / "server.log").open("w+") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            ScoringServerClient("127.0.0.1", port).wait_server_ready(_START_SECONDS, server)
            yield connection
        except Exception as error:
            log.seek(0)
            raise RuntimeError(f"MLflow's server failed; it said: {log.read()[-1000:]}") from error
        finally:
            connection.close()
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)  # of its own session: the server and its workers
            server.wait()


def time_mlflow(estimator: Any, X: pl.DataFrame, given: Namespace) -> None:
    """Time requests over HTTP, beside those to a constant."""
    from tabmtl.mlflow import save_model

    floors: dict[int, float] = {}
    for name, loader in {"a constant": "benchmarks.serving", type(estimator).__name__: "tabmtl.mlflow"}.items():
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            save_model(estimator, path, loader_module=loader, input_example=X.head(5))
            with served(path) as connection:
                for rows in given.rows:
                    bodies = [_body(frame) for frame in frames_of(X, rows)]
                    found = latency(partial(_post, connection), bodies, min(given.requests, 300))
                    goal = FLOOR * floors[rows] if rows in floors else None
                    floors.setdefault(rows, found[0])
                    report(f"MLflow: {name} over HTTP", rows, found, goal)


def time_parts(estimator: Any, X: pl.DataFrame, given: Namespace) -> None:
    """Time the parts of a request as the server's code runs them."""
    from io import StringIO

    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    from tabmtl.mlflow import save_model

    with TemporaryDirectory() as folder:
        save_model(estimator, Path(folder) / "model")
        served_model = mlflow.pyfunc.load_model(str(Path(folder) / "model"))
    schema, model = served_model.metadata.get_input_schema(), served_model._model_impl

    def parse(body: str) -> Any:
        return scoring_server.infer_and_parse_data(json.loads(body), schema)

    def write(answer: Any) -> None:
        scoring_server.predictions_to_json(answer, StringIO())

    for rows in given.rows:
        bodies = [_body(frame) for frame in frames_of(X, rows)]
        parsed = [parse(body) for body in bodies]
        read = [model._read(frame) for frame in parsed]
        answers = [model.predict(frame) for frame in parsed]
        sides: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
            "MLflow parses the request": (parse, bodies),
            "the model reads the frame": (model._read, parsed),
            "the network answers": (estimator.answer, read),
            "all of the model, from frame to frame": (model.predict, parsed),
            "MLflow writes the answer": (write, answers),
        }
        for side, (ask, requests) in sides.items():
            report(f"MLflow, parts: {side}", rows, latency(ask, requests, min(given.requests, 300)))


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
    parser = speed_parser("serving", __doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 32, 1024], help="of a request")
    parser.add_argument("--requests", type=int, default=1000, help="of a measurement, at most; --quick takes 20")
    parser.add_argument("--no-mlflow", action="store_true", help="leave out MLflow's server")
    given = parser.parse_args(arguments)
    n_train, epochs = 20_000, 2
    if given.quick:
        n_train, epochs, given.requests = 1000, 1, min(given.requests, 20)
    torch.set_num_threads(1)
    data = load("flights")
    (X, y), (X_test, _) = data.part("train"), data.part("test")
    X, y = X.head(n_train), y.head(n_train)
    load_average = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"{os.cpu_count()} CPUs, load {load_average}; {len(X)} rows of flights to fit on")
    say("milliseconds of a request", "p50", "p99", "least", goal="goal of p50")
    fixed: dict[str, Any] = {"n_jobs": 1, "random_state": 0}
    networks = [cls(epochs=epochs, device="cpu", **fixed).fit(X, y) for cls in NETWORKS]
    for network in networks:
        time_network(network, X_test, given)
        if all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
            time_onnx(network, X_test, given)
        else:
            print("ONNX: skipped, not installed: pip install 'tabmtl[onnx]'")
    for cls in BOOSTED:
        time_boosted(cls(**fixed).fit(X, y), X_test, given)
    if given.no_mlflow or find_spec("mlflow") is None:
        print(f"MLflow: skipped, {'--no-mlflow' if given.no_mlflow else 'it is not installed'}")
    else:
        time_mlflow(networks[0], X_test, given)
        time_parts(networks[0], X_test, given)


if __name__ == "__main__":
    main()
