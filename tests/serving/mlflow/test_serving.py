"""MLflow's server, on loopback too: right answers, or a 400 that names the column; never a 500."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import mlflow
import polars as pl
import pytest
import requests
from cases import later
from models_at_hand import fitted
from tracking import CSV, JSON, bodies, invoke, store_uri, tracking

from tabmtl import SharedBottom, SharedTrees
from tabmtl.serving.mlflow import log_model
from tabmtl.serving.mlflow.serving import TableModel
from tabmtl.testing import features, mixed_targets

FORMATS = ["dataframe_records", "dataframe_split", "inputs", "csv"]
SECONDS_TO_START = 180


@pytest.fixture(scope="module")
def fit():
    """A network, and its features."""
    return fitted(SharedBottom)[:2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def url(fit, tmp_path_factory):
    """Address of a server of the registered model with the alias champion, which refuses pickles."""
    estimator, X = fit
    with tracking("serving"):
        info = log_model(estimator, input_example=X.head(2), registered_model_name="served")
        mlflow.MlflowClient().set_registered_model_alias("served", "champion", info.registered_model_version)
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log.txt"
    tool = Path(sys.executable).with_name("mlflow")
    command = f"{tool} models serve -m models:/served@champion -h 127.0.0.1 -p {port} --env-manager local".split()
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": store_uri(),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}",
    }
    with log.open("wb") as output:
        # a group of its own, because the server is a child of a child
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(server, f"{address}/ping", log)
        yield f"{address}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(server, ping, log):
    for _ in range(SECONDS_TO_START * 5):
        try:
            requests.get(ping, timeout=5)
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"no server after {SECONDS_TO_START} seconds:\n{log.read_text()}")


@pytest.fixture(scope="module", params=["code", pytest.param("server", marks=pytest.mark.all_faces)])
def ask(request, fit, serve):
    """A function that gives the status, and the predictions or the message of the error."""

    def post(url, content, content_type):
        answer = requests.post(url, content.encode(), headers={"Content-Type": content_type}, timeout=60)
        return answer.status_code, answer.json()["predictions"] if answer.ok else answer.text

    here = request.param == "code"
    answer = partial(invoke, serve(*fit)) if here else partial(post, request.getfixturevalue("url"))
    return lambda body, form=JSON: answer(body if isinstance(body, str) else json.dumps(body), form)


@pytest.mark.parametrize("name", FORMATS)
def test_good_rows_with_nulls_are_answered_by_task(ask, fit, name):
    estimator, rows = fit[0], fit[1].head(40)
    assert rows["text"].null_count()
    assert rows["holes"].null_count()
    status, found = ask(*bodies(rows.to_dicts())[name])
    assert (status, found) == (200, estimator.predict(rows).to_dicts())
    assert list(found[0]) == ["late", "size", "delay"]


def test_many_ask_at_once(ask, fit):
    estimator, rows = fit[0], fit[1].head(24)
    expected = estimator.predict(rows).to_dicts()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: ask({"dataframe_records": [row]}), rows.to_dicts()))
    assert found == [(200, [row]) for row in expected]


BROKEN = [
    "",
    "{",
    "{}",
    '{"dataframe_records": []}',
    '{"dataframe_records": [1, 2]}',
    '{"dataframe_split": {"columns": ["plain", "plain"], "data": [[1, 2]]}}',
    '{"inputs": 3}',
    '{"instances": {"plain": {"a": 1}}}',
    '{"messages": [{"role": "user", "content": "hello"}]}',
]


BROKEN_CSV = ["", "\n", "plain,holes\n1,2,3\n", '"']


@pytest.mark.parametrize(("body", "form"), [*((body, JSON) for body in BROKEN), *((body, CSV) for body in BROKEN_CSV)])
def test_what_is_no_table_is_refused(ask, body, form):
    assert ask(body, form)[0] == 400


ODD = [[], {}, [1], {"a": 1}, "", "x", "nan", 1e308, -(10**400), 10**30, float("nan"), float("inf"), True, None]


@pytest.mark.parametrize("column", later(["plain", "count", "flag", "text"], "plain", "flag"))
def test_no_value_makes_an_error_of_the_server(ask, fit, column):
    X = fit[1]
    for value in ODD:
        rows = [X.row(0, named=True) | {column: value}]
        for name in FORMATS[:3]:
            content = rows
            if name == "dataframe_split":
                content = {"columns": X.columns, "data": [list(rows[0].values())]}
            elif name == "inputs":
                content = {key: [value] for key, value in rows[0].items()}
            status, answer = ask({name: content})
            assert status in (200, 400), (name, value, answer)
            assert status == 200 or column in answer or name == "inputs", (name, value, answer)


def test_intervals_are_served():
    X = features(600)
    model = SharedTrees(n_estimators=20, n_estimators_task=5, random_state=0).fit(X[:200], mixed_targets(X)[:200])
    model.conformalize(X[200:400], mixed_targets(X)[200:400])
    found = TableModel(model).predict(X[400:].to_pandas(), {"method": "predict_interval", "level": 0.8})
    assert pl.DataFrame(found.to_dict("list")).equals(model.predict_interval(X[400:], level=0.8))
