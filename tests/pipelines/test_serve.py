"""The registry and the server from the command line: who becomes champion, and how it is served."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import polars as pl
import pytest
from commands import TARGETS, TINY

from tabmtl.pipelines import serve
from tabmtl.pipelines.data.files import RowSource
from tabmtl.pipelines.serve import judge, why_unfair
from tabmtl.pipelines.tracking import REFIT, ROWS

_OPTIONS = ("epochs=30", "batch_size=32", "learning_rate=0.005", "n_jobs=1")
GOOD = ["--model", "SharedBottom", *(word for option in _OPTIONS for word in ("--set", option))]


@pytest.fixture(scope="module")
def rows(rodents):
    return ["--data", str(rodents), "--split-column", "split"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def store(folder, rows):
    """A store with a bad model, version 1 and champion, and a good one, version 2; and what else is asked for."""
    uri = commands.store(folder)
    for words in (TINY, GOOD):
        assert commands.run("train", *rows, *TARGETS, *words, "--register", "rodents", store=uri) == 0
    few = [*TARGETS[:2], *TINY, "--output", str(folder / "one task"), "--register", "others"]
    assert commands.run("train", *rows, *TARGETS[-2:], *TINY, "--register", "others", store=uri) == 0
    assert commands.run("train", *rows, *few, store=uri) == 0
    return uri


@pytest.fixture
def champion(store):
    """Versions by alias; in the end they are as before."""
    registry = commands.Registry(store)
    yield lambda name="rodents": registry.aliases(name)
    registry.client.set_registered_model_alias("rodents", "champion", "1")
    registry.client.set_registered_model_alias("rodents", "challenger", "2")


def promote(store: str, name: str, *words: Any) -> int:
    return commands.run("serve", "promote", name, *words, store=store)


def test_a_better_challenger_becomes_the_champion(store, rows, champion, rodents, capsys):
    assert promote(store, "rodents", *rows, "--margin", 0.15) == 0
    assert champion() == {"champion": "2"}
    said = capsys.readouterr().out
    assert "Champion: version 1 of rodents; challenger: version 2" in said
    assert f"{pl.read_parquet(rodents).filter(split='val').height} rows of rodents (val)" in said
    assert said.count(" ok\n") == 3
    assert "no task falls by more than 0.15" in said
    tags = commands.Registry(store).client.get_model_version("rodents", "2").tags
    assert tags["tabmtl.promotion"] in said
    assert promote(store, "rodents", *rows) == 0
    assert "champion already" in capsys.readouterr().out


def test_the_champion_stays_where_a_task_falls(store, rows, champion, capsys):
    commands.Registry(store).client.set_registered_model_alias("rodents", "champion", "2")
    before = champion()
    assert promote(store, "rodents", *rows, "--version", 1) == 1
    assert champion() == before
    said = capsys.readouterr().out
    assert "The champion stays: weight falls by" in said and "falls\n" in said


def test_validation_rows_without_labels_promote_nothing(store, champion, rodents, tmp_path, capsys):
    fresh = tmp_path / "fresh.parquet"
    pl.read_parquet(rodents).with_columns(male=pl.lit(1)).drop("split").write_parquet(fresh)
    words = ["--data", fresh, "--part", "all", "--margin", 0.02]
    assert promote(store, "rodents", *words) == 1
    assert champion()["champion"] == "1"
    said = capsys.readouterr().out
    assert "no score on these rows of male" in said and "600 rows of fresh (all)" in said
    assert promote(store, "rodents", *words, "--allow-undefined") == 0
    assert champion()["champion"] == "2"
    assert "Passed without a score: male" in capsys.readouterr().out


def test_without_a_champion_the_challenger_becomes_it(store, rows, champion, capsys):
    commands.Registry(store).client.delete_registered_model_alias("rodents", "champion")
    assert promote(store, "rodents", *rows) == 0
    assert champion() == {"champion": "2"}
    assert "There was no champion" in capsys.readouterr().out


def test_other_tasks_cannot_be_compared(store, rows, mistake):
    line = mistake("serve", "promote", "others", *rows, store=store)
    assert "version 2 learns weight (regression, r2)" in line
    assert "the champion, version 1, learns male (binary, roc_auc)" in line
    assert commands.Registry(store).aliases("others") == {"champion": "1", "challenger": "2"}


def test_the_same_file_split_otherwise_is_warned_of(store, rodents, champion, capsys):
    promote(store, "rodents", "--data", rodents, "--split-seed", 7)
    said = capsys.readouterr().err
    for version in ("1", "2"):
        assert f"version {version} was trained with" in said
    assert "it may have learned from these rows" in said


@pytest.mark.all_faces  # two trainings
def test_rows_that_a_version_has_learned_do_not_judge_it(store, rows, rodents, tmp_path, mistake, capsys):
    words = ["--model", "IndependentTasks", "--set", "early_stopping=false", "--set", "n_jobs=1", "--register", "alone"]
    for seed in (0, 1):
        assert commands.run("train", *rows, *TARGETS, *words, "--seed", seed, store=store) == 0
    assert "serve promote alone --data NEW_FILE --part all\n" in capsys.readouterr().out
    line = mistake("serve", "promote", "alone", *rows, store=store)
    assert "version 2 of alone has learned these validation rows, because IndependentTasks chooses by folds" in line
    pl.read_parquet(rodents)[:300].drop("split").write_parquet(tmp_path / "new.parquet")
    assert promote(store, "alone", "--data", tmp_path / "new.parquet", "--part", "all", "--margin", 9) == 0


def test_the_command_that_train_prints_judges_a_model_that_dropped_columns(store, rodents, tmp_path, capsys):
    data = tmp_path / "dated.parquet"
    pl.read_parquet(rodents).with_columns(when=pl.date(2020, 1, "month")).write_parquet(data)
    words = [
        "--data",
        data,
        *TARGETS,
        "--column",
        "when=ignore",
        "--column",
        "split=ignore",
        *TINY,
        "--register",
        "dated",
    ]
    for seed in (0, 1):
        assert commands.run("train", *words, "--seed", seed, store=store) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "serve promote" in line)
    printed = shlex.split(line.partition("promote")[2])
    assert commands.run("serve", "promote", *printed, "--margin", 9, store=store) == 0
    captured = capsys.readouterr()
    assert "120 rows of dated (val)" in captured.out
    assert captured.err == ""


FILE = "--data /there/shop.csv"


@pytest.mark.parametrize(
    ("tags", "options", "part", "reason"),
    [
        ({ROWS: FILE}, {}, "val", None),
        ({ROWS: f"{FILE} --split-seed 3"}, {}, "val", "may have learned from these rows"),
        ({ROWS: FILE}, {}, "all", "has learned from most of the rows"),
        ({ROWS: "--data old.csv", REFIT: "3"}, {"split_seed": 3}, "val", None),
        ({}, {}, "val", "has no record of the rows"),
        ({}, {}, "all", None),
        ({ROWS: FILE, REFIT: "3"}, {}, "val", "is the refit of trial 3"),
    ],
)
def test_what_speaks_against_rows_is_known_by_tags(tags, options, part, reason):
    said = why_unfair(tags, RowSource(data="shop.csv", **options), part)
    assert said is None if reason is None else reason in said


def test_an_alias_that_has_moved_is_left(store, rows, champion, monkeypatch, mistake):
    real, client = serve.score, commands.Registry(store).client

    def score(*given):
        client.set_registered_model_alias("rodents", "champion", "2")
        return real(*given)

    monkeypatch.setattr(serve, "score", score)
    line = mistake("serve", "promote", "rodents", *rows, "--margin", 9, store=store)
    assert "has become version 2 in the meantime" in line


def test_a_recommender_is_promoted(store, tmp_path, capsys):
    clicks, _ = commands.small_log(tmp_path)
    for model in ("Popularity", "SequentialRules"):
        words = ["--data", clicks, "--model", model, "--register", "shop"]
        assert commands.run("train", *words, store=store) == 0
    assert promote(store, "shop", "--data", clicks, "--margin", 1) == 0
    assert "mrr@20" in capsys.readouterr().out
    assert commands.Registry(store).aliases("shop") == {"champion": "2"}


def test_a_saved_model_is_registered(store, folder, capsys):
    words = ["serve", "register", "saved", folder / "one task"]
    assert commands.run(*words, "--rows", "--data rodents.parquet", store=store) == 0
    assert commands.Registry(store).aliases("saved") == {"champion": "1"}
    assert commands.Registry(store).client.get_model_version("saved", "1").tags[ROWS] == "--data rodents.parquet"
    assert "version 1 of saved, alias champion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "moved", "moved_if_undefined"),
    [
        ([0.5, 0.5], [0.6, 0.5], True, True),
        ([0.5, 0.5], [0.9, 0.491], True, True),  # within the margin
        ([0.5, 0.5], [0.9, 0.489], False, False),  # whatever the other task does
        ([0.5, None], [0.9, None], False, True),
        ([0.5, 0.5], [0.9, float("nan")], False, True),
        ([0.5, None], [0.1, None], False, False),
    ],
)
def test_the_alias_moves_when_no_task_falls_by_more_than_the_margin(before, after, moved, moved_if_undefined):
    before, after = ({"a": a, "b": b} for a, b in (before, after))
    found = judge(before, after, 0.01)
    assert (found.moved, found.exit_code) == (moved, 0 if moved else 1)
    assert found.table.columns == ["task", "champion", "challenger", "difference", "verdict"]
    assert judge(before, after, 0.01, allow_undefined=True).moved is moved_if_undefined


@pytest.fixture
def started(monkeypatch):
    """Servers that would have been started: command and environment."""
    calls = []

    def start(command, *, env, start_new_session):
        calls.append((command, env))
        return SimpleNamespace(wait=lambda: 0)

    monkeypatch.setattr(serve.subprocess, "Popen", start)
    return calls


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_the_champion_is_served_on_loopback(store, started, capsys):
    port = free_port()
    assert commands.run("serve", "start", "rodents", "--port", port, store=store) == 0
    ((command, environment),) = started
    assert command[1:] == [
        *("-m", "mlflow", "models", "serve", "-m", "models:/rodents@champion"),
        *("--host", "127.0.0.1", "--port", str(port), "--env-manager", "local"),
    ]
    assert environment["MLFLOW_TRACKING_URI"] == store
    assert environment["PATH"].startswith(str(Path(command[0]).parent))
    captured = capsys.readouterr()
    assert f"http://127.0.0.1:{port}/invocations" in captured.out
    assert captured.err == ""


@pytest.mark.all_faces  # half a minute until MLflow's server is up
def test_the_server_listens_on_loopback_and_ends_with_the_command(store, tmp_path):
    port = free_port()
    words = ["serve", "start", "rodents", "--port", str(port), "--tracking-uri", store]
    with (tmp_path / "log").open("w") as log:
        command = subprocess.Popen([sys.executable, "-m", "tabmtl", *words], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while not (listening := addresses(port)):
            assert command.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        assert listening == {"127.0.0.1"}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=60) as answer:
            assert answer.status == 200
    finally:
        command.send_signal(signal.SIGTERM)
    assert command.wait(60) == 0
    assert addresses(port) == set()
    assert "Shutting down" in (tmp_path / "log").read_text()


def addresses(port: int) -> set[str]:
    """What listens on a port, by the kernel."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = {row[1].partition(":")[0] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    return {socket.inet_ntoa(bytes.fromhex(address)[::-1]) for address in found}


def test_another_address_is_warned_of(store, started, capsys):
    assert commands.run("serve", "start", "rodents", "--host", "0.0.0.0", "--port", free_port(), store=store) == 0
    assert len(started) == 1
    assert "has no authentication" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("promote rodent --data portal", "there is no registered model 'rodent'; there are"),
        ("promote rodents --data portal --version 9", "no version 9; the newest is 2"),
        ("promote rodents --data other.csv --version 2", "no column 'hindfoot_length'"),
        ("promote rodents --data nowhere.csv --version 2", "no file 'nowhere.csv'"),
        ("start rodent", "there is no registered model 'rodent'"),
        ("start rodents --port 70000", "--port must be from 1 to 65535"),
        ("start rodents'", "must not hold / : @ % or quotes"),
        ("start rodents --host no.such.host.invalid", "cannot listen on no.such.host.invalid"),
        ("start rodents --port {taken}", "cannot listen on 127.0.0.1:{taken} (Address already in use)"),
    ],
)
def test_a_mistake_starts_and_moves_nothing(words, message, store, started, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text("weight,male\n1,2\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert commands.run("serve", *words.format(taken=taken).split(), store=store) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"tabmtl serve {words.split()[0]}: error: ")
    assert message.format(taken=taken) in line
    assert started == []
    assert commands.Registry(store).aliases("rodents") == {"champion": "1", "challenger": "2"}
