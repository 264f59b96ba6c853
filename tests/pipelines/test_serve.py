"""The registry and the server from the command line: who becomes champion, and how it is served."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    commands.small_table(folder)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[str]:
    return ["--data", str(folder / "rodents.parquet"), "--split-column", "split"]


@pytest.fixture(scope="module")
def store(folder: Path, rows: list[str]) -> str:
    """A store with a bad model, version 1 and champion, and a good one, version 2; and what else is asked for."""
    uri = commands.store(folder)
    for words in (TINY, GOOD):
        assert commands.run("train", *rows, *TARGETS, *words, "--register", "rodents", store=uri) == 0
    few = [*TARGETS[:2], *TINY, "--output", str(folder / "one task"), "--register", "others"]
    assert commands.run("train", *rows, *TARGETS[-2:], *TINY, "--register", "others", store=uri) == 0
    assert commands.run("train", *rows, *few, store=uri) == 0
    return uri


@pytest.fixture
def champion(store: str) -> Iterator[Any]:
    """Versions by alias; in the end they are as before."""
    registry = commands.Registry(store)
    yield lambda name="rodents": registry.aliases(name)
    registry.client.set_registered_model_alias("rodents", "champion", "1")
    registry.client.set_registered_model_alias("rodents", "challenger", "2")


def promote(store: str, name: str, *words: Any) -> int:
    return commands.run("serve", "promote", name, *words, store=store)


def test_a_better_challenger_becomes_the_champion(
    store: str, rows: list[str], champion: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(store, "rodents", *rows, "--margin", 0.15) == 0
    assert champion() == {"champion": "2"}
    said = capsys.readouterr().out
    assert "Champion: version 1 of rodents; challenger: version 2" in said
    judges = pl.read_parquet(folder / "rodents.parquet").filter(split="val").height
    assert f"{judges} rows of rodents (val)" in said
    assert said.count(" ok\n") == 3
    assert "no task falls by more than 0.15" in said
    tags = commands.Registry(store).client.get_model_version("rodents", "2").tags
    assert tags["tabmtl.promotion"] in said
    assert promote(store, "rodents", *rows) == 0
    assert "champion already" in capsys.readouterr().out


def test_the_champion_stays_where_a_task_falls(
    store: str, rows: list[str], champion: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.Registry(store).client.set_registered_model_alias("rodents", "champion", "2")
    before = champion()
    assert promote(store, "rodents", *rows, "--version", 1) == 1
    assert champion() == before
    said = capsys.readouterr().out
    assert "The champion stays: weight falls by" in said
    assert "falls\n" in said


def test_validation_rows_without_labels_promote_nothing(
    store: str, rows: list[str], champion: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = pl.read_parquet(folder / "rodents.parquet").with_columns(male=pl.lit(1)).drop("split")
    fresh.write_parquet(folder / "fresh.parquet")
    words = ["--data", folder / "fresh.parquet", "--part", "all", "--margin", 0.02]
    assert promote(store, "rodents", *words) == 1
    assert champion()["champion"] == "1"
    captured = capsys.readouterr()
    assert "no score on these rows of male" in captured.out
    assert "600 rows of fresh (all)" in captured.out
    assert promote(store, "rodents", *words, "--allow-undefined") == 0
    assert champion()["champion"] == "2"
    assert "Passed without a score: male" in capsys.readouterr().out


def test_without_a_champion_the_challenger_becomes_it(
    store: str, rows: list[str], champion: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.Registry(store).client.delete_registered_model_alias("rodents", "champion")
    assert promote(store, "rodents", *rows) == 0
    assert champion() == {"champion": "2"}
    assert "There was no champion" in capsys.readouterr().out


def test_other_tasks_cannot_be_compared(store: str, rows: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert promote(store, "others", *rows) == 2
    error = capsys.readouterr().err
    assert "version 2 learns weight (regression, r2)" in error
    assert "the champion, version 1, learns male (binary, roc_auc)" in error
    assert commands.Registry(store).aliases("others") == {"champion": "1", "challenger": "2"}


def test_the_same_file_split_otherwise_is_warned_of(
    store: str, folder: Path, champion: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(store, "rodents", "--data", folder / "rodents.parquet", "--split-seed", 7)
    said = capsys.readouterr().err
    for version in ("1", "2"):
        assert f"version {version} was trained with" in said
    assert "it may have learned from these rows" in said


def test_the_command_that_train_prints_judges_a_model_that_dropped_columns(
    store: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder / "dated.parquet"
    pl.read_parquet(folder / "rodents.parquet").with_columns(when=pl.date(2020, 1, "month")).write_parquet(data)
    words = ["--data", data, *TARGETS, "--drop", "when", "--drop", "split", *TINY, "--register", "dated"]
    for seed in (0, 1):
        assert commands.run("train", *words, "--seed", seed, store=store) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "serve promote" in line)
    printed = shlex.split(line.partition("promote")[2])
    assert commands.run("serve", "promote", *printed, "--margin", 9, store=store) == 0
    captured = capsys.readouterr()
    assert "120 rows of dated (val)" in captured.out
    assert captured.err == ""


FILE = "--data /there/shop.csv"
UNFAIR = {
    "the same split": ({ROWS: FILE}, {}, "val", None),
    "another split": ({ROWS: f"{FILE} --split-seed 3"}, {}, "val", "may have learned from these rows"),
    "all rows, the same file": ({ROWS: FILE}, {}, "all", "has learned from most of the rows"),
    "another file": ({ROWS: "--data old.csv", REFIT: "3"}, {"split_seed": 3}, "val", None),
    "no record": ({}, {}, "val", "has no record of the rows"),
    "no record, new rows": ({}, {}, "all", None),
    "chosen by these rows": ({ROWS: FILE, REFIT: "3"}, {}, "val", "is the refit of trial 3"),
}


@pytest.mark.parametrize(("tags", "options", "part", "reason"), UNFAIR.values(), ids=UNFAIR)
def test_what_speaks_against_rows_is_known_by_tags(
    tags: dict[str, str], options: dict[str, Any], part: str, reason: str | None
) -> None:
    said = why_unfair(tags, RowSource(data="shop.csv", **options), part)
    assert (said is None) == (reason is None)
    assert (reason or "") in (said or "")


def test_an_alias_that_has_moved_is_left(
    store: str, rows: list[str], champion: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, client = serve.score, commands.Registry(store).client

    def score(*given: Any) -> Any:
        client.set_registered_model_alias("rodents", "champion", "2")
        return real(*given)

    monkeypatch.setattr(serve, "score", score)
    assert promote(store, "rodents", *rows, "--margin", 9) == 2
    assert "has become version 2 in the meantime" in capsys.readouterr().err


def test_a_recommender_is_promoted(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clicks, _ = commands.small_log(tmp_path)
    for model in ("Popularity", "SequentialRules"):
        words = ["--data", clicks, "--model", model, "--register", "shop"]
        assert commands.run("train", *words, store=store) == 0
    assert promote(store, "shop", "--data", clicks, "--margin", 1) == 0
    assert "mrr@20" in capsys.readouterr().out
    assert commands.Registry(store).aliases("shop") == {"champion": "2"}


def test_a_saved_model_is_registered(store: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "register", "saved", folder / "one task"]
    assert commands.run(*words, "--rows", "--data rodents.parquet", store=store) == 0
    assert commands.Registry(store).aliases("saved") == {"champion": "1"}
    assert commands.Registry(store).client.get_model_version("saved", "1").tags[ROWS] == "--data rodents.parquet"
    assert "version 1 of saved, alias champion" in capsys.readouterr().out


CASES = {
    "all rise": ({"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.5}, True),
    "falls within the margin": ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.491}, True),
    "falls too far, whatever the others do": ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.489}, False),
    "undefined for both": ({"a": 0.5, "b": None}, {"a": 0.9, "b": None}, False),
    "undefined for one": ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": float("nan")}, False),
}


@pytest.mark.parametrize(("champion", "challenger", "moved"), CASES.values(), ids=CASES)
def test_the_alias_moves_when_no_task_falls_by_more_than_the_margin(
    champion: dict[str, Any], challenger: dict[str, Any], moved: bool
) -> None:
    found = judge(champion, challenger, 0.01)
    assert found.moved is moved
    assert found.exit_code == (0 if moved else 1)
    assert found.table is not None
    assert found.table.columns == ["task", "champion", "challenger", "difference", "verdict"]


def test_tasks_without_a_score_pass_only_when_asked_but_falls_never() -> None:
    before, after = {"a": 0.5, "b": None}, {"a": 0.1, "b": None}
    assert judge({"b": None}, {"b": None}, 0.0, allow_undefined=True).moved
    assert not judge(before, after, 0.0, allow_undefined=True).moved


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """Servers that would have been started: command and environment."""
    calls: list[tuple[list[str], dict[str, str]]] = []

    def start(command: list[str], *, env: dict[str, str], start_new_session: bool) -> Any:
        calls.append((command, env))
        return SimpleNamespace(wait=lambda: 0)

    monkeypatch.setattr(serve.subprocess, "Popen", start)
    return calls


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_the_champion_is_served_on_loopback(store: str, started: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
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
def test_the_server_listens_on_loopback_and_ends_with_the_command(store: str, tmp_path: Path) -> None:
    port = free_port()
    words = ["serve", "start", "rodents", "--port", str(port), "--tracking-uri", store]
    with (tmp_path / "log").open("w") as log:
        command = subprocess.Popen([sys.executable, "-m", "tabmtl.pipelines.cli", *words], stdout=log, stderr=log)
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


def test_another_address_is_warned_of(store: str, started: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run("serve", "start", "rodents", "--host", "0.0.0.0", "--port", free_port(), store=store) == 0
    assert len(started) == 1
    assert "has no authentication" in capsys.readouterr().err


def test_a_taken_port_is_a_mistake(store: str, started: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert commands.run("serve", "start", "rodents", "--port", port, store=store) == 2
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in capsys.readouterr().err
    assert started == []


MISTAKES = {
    "unknown model": (["promote", "rodent", "--data", "portal"], "there is no registered model 'rodent'; there are"),
    "unknown version": (["promote", "rodents", "--data", "portal", "--version", "9"], "no version 9; the newest is 2"),
    "negative margin": (["promote", "rodents", "--data", "portal", "--margin", "-1"], "--margin must be at least 0"),
    "unknown part": (["promote", "rodents", "--data", "portal", "--part", "test"], 'Choose from: "val", "all"'),
    "other columns": (["promote", "rodents", "--data", "other.csv", "--version", "2"], "no column 'hindfoot_length'"),
    "no rows": (["promote", "rodents", "--data", "nowhere.csv", "--version", "2"], "no file 'nowhere.csv'"),
    "no model to serve": (["start", "rodent"], "there is no registered model 'rodent'"),
    "no model in the folder": (["register", "x", "nowhere"], "nowhere"),
    "no such port": (["start", "rodents", "--port", "70000"], "--port must be from 1 to 65535"),
    "no such host": (["start", "rodents", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    "rows that are no options": (["register", "x", "nowhere", "--rows", "shop.csv"], "begin with --data"),
    "bad name": (["start", "rodents' or 'x"], "must not hold / : @ % or quotes"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(
    words: list[str],
    message: str,
    store: str,
    started: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text("weight,male\n1,2\n")
    assert commands.run("serve", *words, store=store) == 2
    error = capsys.readouterr().err.splitlines()[-1:]
    assert message in error[0]
    assert error[0].startswith(f"tabmtl serve {words[0]}: error: ")
    assert started == []


def test_the_saved_model_answers_as_the_registered_one(store: str, folder: Path) -> None:
    import mlflow

    import tabmtl.mlflow

    saved = tabmtl.load(folder / "one task")
    mlflow.set_tracking_uri(store)
    try:
        same = tabmtl.mlflow.load_model("models:/others/2")
    finally:
        mlflow.set_tracking_uri(None)
    X = pl.read_parquet(folder / "rodents.parquet").select(list(saved.feature_names_in_))
    assert same.predict(X).equals(saved.predict(X))
