"""Latency of fitted models: in process, in ONNX Runtime, and behind MLflow's server, by the rows of a request.

Models are fitted on flights, so that early stopping sets the number of trees. One request follows the other, on one
thread, over different rows of the test part. Other work on the machine shows in p99 first, and last in the least.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import torch

import tabmtl
from benchmarks.cases.boosted import draw_columns, related_targets
from benchmarks.harness import ROOT, Measures, Side, Sides, asking
from tabmtl.pipelines.datasets import load
from tabmtl.pipelines.tracking import server_environment
from tabmtl.serving.onnx import OnnxCoder, export
from tabmtl.training.predict import predict_scores

FLOOR = "a constant"
_DIFFERENT = 64  # requests before the first comes again
_START_SECONDS = 180


@cache
def fitted(model: str, rows_to_fit: int) -> tuple[Any, pl.DataFrame]:
    """Return a model that is fitted on flights, and rows to answer."""
    data = load("flights")
    (X, y), (X_test, _) = data.part("train"), data.part("test")
    cls, options = getattr(tabmtl, model), {"epochs": 2, "device": "cpu", "n_jobs": 1, "random_state": 0}
    known = cls().get_params(deep=False)
    estimator = cls(**{name: value for name, value in options.items() if name in known})
    return estimator.fit(X.head(rows_to_fit), y.head(rows_to_fit)), X_test


def frames_of(X: pl.DataFrame, rows: int) -> list[pl.DataFrame]:
    """Cut requests of some rows each from a table that may be shorter than one."""
    X = pl.concat([X] * (-(-rows // len(X)) + 1))
    return [X.slice(i * rows, rows).rechunk() for i in range(min(_DIFFERENT, len(X) // rows))]


def in_process(model: str = "MultiTabNet", rows: int = 1, requests: int = 1000, rows_to_fit: int = 20_000) -> Sides:
    """Measure `predict` from frame to frame, reading and the network alone, and models of `export_task`, all tasks."""
    estimator, X = fitted(model, rows_to_fit)
    frames = frames_of(X, rows)
    read = estimator.coder_.read
    sides = {"predict": asking(estimator.predict, frames, requests), "reading": asking(read, frames, requests)}
    if hasattr(estimator, "fitted_network"):
        alone = partial(predict_scores, estimator.fitted_network()[0])
        sides["network alone"] = asking(alone, [read(frame).map(torch.from_numpy) for frame in frames], requests)
    if hasattr(estimator, "export_task"):
        models = [estimator.export_task(task.name) for task in estimator.tasks_]
        encoded = [estimator.encode(frame).to_numpy() for frame in frames]

        def ask(matrix: np.ndarray) -> list[Any]:
            return [each.predict(matrix, num_threads=1) for each in models]

        sides["export_task, all tasks"] = asking(ask, encoded, requests)
    return sides


@cache
def fitted_to_tasks(model: str, n_tasks: int, rows_to_fit: int, **params: Any) -> tuple[Any, pl.DataFrame]:
    """Return a model that is fitted to tasks of which half are classes, and rows to answer."""
    columns, y = draw_columns(1, 10_000, 20)
    targets = related_targets(columns, y, n_tasks).with_columns(cs.by_index(range(0, n_tasks, 2)) > 0)
    X, cls = pl.DataFrame(columns).drop("task"), getattr(tabmtl, model)
    options = {"epochs": 2, "device": "cpu", "n_jobs": 1, "random_state": 0}
    known = cls().get_params(deep=False)
    estimator = cls(**{name: value for name, value in options.items() if name in known}, **params)
    return estimator.fit(X.head(rows_to_fit), targets.head(rows_to_fit)), X


def asked(model: str = "MMoE", rows: int = 1, n_tasks: int = 8, requests: int = 200, rows_to_fit: int = 2000) -> Sides:
    """Measure `predict` of all tasks and of the last one alone: CPU ms a call."""
    estimator, X = fitted_to_tasks(model, n_tasks, rows_to_fit)

    def asking_for(tasks: list[str] | None) -> Side:
        def side(_: int) -> Measures:
            spent = []
            for _ in range(min(requests, max(3, 20_000 // rows)) + 1):  # the first one prepares
                start = time.process_time()
                estimator.predict(X[:rows], tasks=tasks)
                spent.append(1e3 * (time.process_time() - start))
            return {"ms CPU": float(np.median(spent[1:]))}

        return side

    return {"all": asking_for(None), "one task": asking_for([estimator.tasks_[-1].name])}


def session_of(estimator: Any) -> Any:
    """Return a session of onnxruntime with an exported network, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(estimator, path)
        return onnxruntime.InferenceSession(path, options)


def onnx(model: str = "MultiTabNet", rows: int = 1, requests: int = 1000, rows_to_fit: int = 20_000) -> Sides:
    """Measure the exported network, alone and from frame to frame."""
    estimator, X = fitted(model, rows_to_fit)
    session = session_of(estimator)
    coder, run, frames = OnnxCoder(session), partial(session.run, None), frames_of(X, rows)
    sides: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "session.run": (run, [coder.encode(frame) for frame in frames]),
        "encode, session.run": (lambda frame: run(coder.encode(frame)), frames),
        "encode, session.run, decode": (lambda frame: coder.decode(run(coder.encode(frame))), frames),
    }
    return {name: asking(*side, requests) for name, side in sides.items()}


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


def over_http(model: str = "MultiTabNet", rows: int = 1, requests: int = 300, rows_to_fit: int = 20_000) -> Sides:
    """Measure requests to MLflow's server, beside those to a constant under the same signature: MLflow's own time."""
    from tabmtl.serving.mlflow import save_model

    estimator, X = fitted(model, rows_to_fit)

    def side(loader: str, seed: int) -> Measures:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            save_model(estimator, path, loader_module=loader, input_example=X.head(5))
            with served(path) as connection:
                bodies = [_body(frame) for frame in frames_of(X, rows)]
                return asking(partial(_post, connection), bodies, requests)(seed)

    return {FLOOR: partial(side, "benchmarks.cases.serving"), model: partial(side, "tabmtl.serving.mlflow")}


def parts(model: str = "MultiTabNet", rows: int = 1, requests: int = 300, rows_to_fit: int = 20_000) -> Sides:
    """Measure the parts of a request as the server's code runs them, one after the other, without the server."""
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    from tabmtl.serving.mlflow import save_model

    estimator, X = fitted(model, rows_to_fit)
    with TemporaryDirectory() as folder:
        save_model(estimator, Path(folder) / "model", input_example=X.head(5))
        loaded = mlflow.pyfunc.load_model(str(Path(folder) / "model"))
    schema = loaded.metadata.get_input_schema()

    def parse(body: str) -> Any:
        return scoring_server.infer_and_parse_data(json.loads(body), schema)

    bodies = [_body(frame) for frame in frames_of(X, rows)]
    parsed = [parse(body) for body in bodies]
    answers = [loaded.predict(frame) for frame in parsed]
    return {
        "MLflow parses the request": asking(parse, bodies, requests),
        "the model, from frame to frame": asking(loaded.predict, parsed, requests),
        "MLflow writes the answer": asking(
            lambda answer: scoring_server.predictions_to_json(answer, StringIO()), answers, requests
        ),
    }


def _body(frame: pl.DataFrame) -> str:
    return json.dumps({"dataframe_split": {"columns": frame.columns, "data": frame.rows()}})


def _post(connection: http.client.HTTPConnection, body: str) -> bytes:
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"MLflow's server answered {answer.status}: {content[:500]!r}")
    return content
