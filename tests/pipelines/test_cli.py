"""The command line itself: its help, its exit codes, what is one line and what keeps its traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import commands
import polars as pl
import pytest

from tabmtl.pipelines import cli, demo
from tabmtl.pipelines.options import Help, as_command, near, pairs
from tabmtl.pipelines.terminal import in_order, is_mistake, one_line, without_password
from tabmtl.schema import TabmtlWarning

ROOT = Path(__file__).parents[2]
COMMANDS = ["train", "sweep", "serve register", "serve promote", "serve start"]


def test_the_command_is_installed() -> None:
    (value,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    assert EntryPoint("tabmtl", value, "console_scripts").load() is cli.main


@pytest.mark.parametrize("command", ["", *COMMANDS, "serve"])
def test_help_is_a_short_page_without_markup(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert commands.run(*command.split(), "--help") == 0
    page = capsys.readouterr().out
    assert page.startswith(f"Usage: tabmtl {command}".rstrip())
    assert page.count("\n") <= 75
    assert max(map(len, page.splitlines())) <= 80
    assert "..." not in page.partition("Commands:")[2], "a summary is cut off"
    assert not {"`", "Parameters", "╭"} & {*page}
    assert "Parameters" not in page


def test_options_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    commands.run("sweep", "--help")
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Data:", "Click logs:", "Model:", "Search:", "MLflow:", "Options:"]


@pytest.mark.parametrize("module", ["train", "sweep", "serve"])
def test_modules_are_commands_too(module: str) -> None:
    command = [sys.executable, "-m", f"tabmtl.pipelines.{module}", "--help"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert page.startswith(f"Usage: tabmtl {module} ")


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from tabmtl.pipelines.cli import main; main(['sweep', '--help']); print([*sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = found.splitlines()[-1]
    assert not [name for name in ("torch", "lightgbm", "mlflow", "optuna", "pandas") if f"'{name}'" in loaded]


USAGE = {
    "unknown command": (["trian"], "tabmtl trian: error: No such command 'trian'"),
    "unknown option": (["train", "--dat", "x"], "tabmtl train: error: No such option"),
    "missing option": (["train"], "tabmtl train: error: Missing option '--data'"),
    "not a number": (["sweep", "--data", "portal", "--trials", "x"], "tabmtl sweep: error: Invalid value"),
    "missing argument": (["serve", "start"], "tabmtl serve start: error: Missing argument"),
}


@pytest.mark.parametrize(("words", "message"), USAGE.values(), ids=USAGE)
def test_usage_errors_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def raised_by(function: Any) -> BaseException:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def test_what_we_say_is_a_mistake_and_what_python_says_a_bug() -> None:
    assert is_mistake(raised_by(lambda: [*pairs(["x"], "--set")]))
    assert is_mistake(raised_by(lambda: Path("/no/such/file").read_text()))
    assert is_mistake(raised_by(lambda: pl.DataFrame().select("x")))
    assert not is_mistake(raised_by(lambda: int("x")))
    assert not is_mistake(raised_by(lambda: near(3, ["a"])))  # type: ignore[arg-type]
    assert not is_mistake(raised_by(lambda: [*pairs([None], "--set")]))  # type: ignore[list-item]
    assert not is_mistake(ValueError("never raised"))


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "main", lambda words: int("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        commands.run("demo")


def test_without_typer_the_cure_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert commands.run("train", "--help") == 2
    assert capsys.readouterr().err == (
        "tabmtl: error: the commands need typer, which is missing: pip install 'tabmtl[cli]'\n"
    )


def test_the_demonstration_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(demo, "main", lambda words: given.append(words) or 0)
    assert commands.run("demo", "--epochs", 2, "--no-mlflow", "--folder", "x") == 0
    assert given == [["--epochs", "2", "--no-mlflow", "--folder", "x"]]


def test_warnings_are_one_line_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        with in_order():
            for _ in range(2):
                warnings.warn("a task\n  is undefined", TabmtlWarning, stacklevel=1)
        assert warnings.showwarning is before
    assert capsys.readouterr().err == "warning: a task is undefined\n"


def test_a_kind_that_is_to_be_declared_is_said_as_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), in_order():
        warnings.simplefilter("always")
        warnings.warn("say which it is: tasks={'rating': 'multiclass'}", TabmtlWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: say which it is: --target rating=multiclass\n"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_in_order(end: signal.Signals) -> None:
    before = signal.getsignal(end)
    with pytest.raises(KeyboardInterrupt), in_order():
        os.kill(os.getpid(), end)
    assert signal.getsignal(end) is before


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with in_order():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


PASSWORDS = {
    "postgresql://me:secret@host/runs": "postgresql://me:***@host/runs",
    "postgresql://me:s@cret@host/runs": "postgresql://me:***@host/runs",
    "postgresql://me:se/cret?@host/runs": "postgresql://me:***@host/runs",
    "postgresql://:secret@host": "postgresql://:***@host",
    "postgresql://host/runs?user=me&password=secret&x=1": "postgresql://host/runs?user=me&password=***&x=1",
    "http://127.0.0.1:5000/runs": "http://127.0.0.1:5000/runs",
    "sqlite:////a/b:c@d/mlflow.db": "sqlite:////a/b:c@d/mlflow.db",
}


@pytest.mark.parametrize(("uri", "shown"), PASSWORDS.items())
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown
    assert one_line(ValueError(f"cannot open\n{uri} (refused)")) == f"cannot open {shown} (refused)"


@dataclass(frozen=True, kw_only=True)
class Fruit:
    """Fruit: what is eaten."""

    name: Annotated[str, Help("of the fruit")] = "apple"
    parts: Annotated[list[str], Help("of it", flag="--part")] = field(default_factory=list)


def test_groups_become_options_and_groups_again() -> None:
    def eat(fruit: Fruit, *, often: Annotated[int, Help("how often")] = 1) -> tuple[Fruit, int]:
        """Eat `fruit`.

        Parameters
        ----------
        fruit : Fruit
        """
        return fruit, often

    eat.__annotations__ = {"fruit": Fruit, "often": Annotated[int, Help("how often")], "return": tuple}
    command = as_command(eat)
    assert command.__doc__ == "Eat fruit."
    assert command(name="pear", parts=["stem"], often=2) == (Fruit(name="pear", parts=["stem"]), 2)


def test_a_parameter_without_help_is_refused() -> None:
    def silent(count: int) -> None:
        """Say nothing."""

    silent.__annotations__ = {"count": int}
    with pytest.raises(TypeError, match="'count'"):
        as_command(silent)


def test_near_names_and_pairs() -> None:
    assert near("epoch", ["epochs", "seed"]) == "near is epochs"
    assert near("zzz", ["epochs", "seed"]) == "known are epochs, seed"
    assert dict(pairs(["a=1", "b=x=y"], "--set")) == {"a": "1", "b": "x=y"}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(ValueError, match="--set"):
            list(pairs(wrong, "--set"))
