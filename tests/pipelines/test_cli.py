"""The command line itself: its help, its exit codes, what is one line and what keeps its traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import commands
import polars as pl
import pytest

import tabmtl
from tabmtl.base.schema import IdColumnWarning, TabmtlWarning
from tabmtl.encode import FeatureCoder, LabelCoder
from tabmtl.pipelines import cli
from tabmtl.pipelines.terminal import exit_code, in_order, near, one_line, pairs, without_password

ROOT = Path(__file__).parents[2]
COMMANDS = ["demo", "compare", "train", "sweep", "predict", "score", "serve register", "serve promote", "serve start"]


def test_the_command_is_installed():
    (value,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    assert EntryPoint("tabmtl", value, "console_scripts").load() is cli.main


@pytest.mark.parametrize("command", ["", *COMMANDS, "serve"])
def test_help_is_a_short_page_without_markup(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert commands.run(*command.split(), "--help") == 0
    page = capsys.readouterr().out
    assert page.startswith(f"Usage: tabmtl {command}".rstrip())
    assert page.count("\n") <= 78
    assert max(map(len, page.splitlines())) <= 80
    assert "..." not in page.partition("Commands:")[2], "a summary is cut off"
    assert not {"`", "Parameters", "╭"} & {*page}
    assert "Parameters" not in page


def test_options_stand_in_groups(capsys):
    commands.run("sweep", "--help")
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Data:", "Click logs:", "Model:", "Search:", "MLflow:", "Options:"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command, capsys):
    commands.run(*command.split(), "--help")
    entries = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and line[2] != " "]
    assert len(entries) > 3
    for entry in entries:
        name, _, text = entry.strip().partition("  ")
        assert text.strip()[:1].isalpha(), f"{name}: {text}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell):
    script = cli._app().generate_completion(prog_name="tabmtl", shell=shell)
    for word in ("compare", "predict", "report", "probabilities", "split-column"):
        assert word in script, word


def test_completion_is_installed_where_one_says(tmp_path, capsys):
    assert commands.run("--install-completion", "--shell", "fish", "--output", tmp_path / "tabmtl.fish") == 0
    assert "complete -c tabmtl" in (tmp_path / "tabmtl.fish").read_text()
    assert str(tmp_path) in capsys.readouterr().out.replace("\n", "")


def test_the_version_is_that_of_the_package(capsys):
    assert commands.run("--version") == 0
    assert capsys.readouterr().out.strip() == tabmtl.__version__


def test_the_commands_are_a_module_too():
    command = [sys.executable, "-m", "tabmtl", "train", "--help"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert page.startswith("Usage: tabmtl train ")


def test_help_says_which_commands_take_no_click_logs(capsys):
    for command in ("compare", "predict", "score"):
        commands.run(command, "--help")
        assert "does not take click logs" in " ".join(capsys.readouterr().out.split()), command


def test_quiet_leaves_the_result_and_errors(table, capsys):
    words = ["train", *table, *commands.TINY, "--no-mlflow"]
    assert commands.run(*words, "--quiet") == 0
    quiet = capsys.readouterr()
    assert quiet.out.lstrip().startswith("Scores of the test rows") and quiet.err == ""
    assert commands.run(*words) == 0
    plain = capsys.readouterr().out
    assert "SharedBottom on rodents: fitted in " in plain and "epoch 1/2" not in plain
    assert commands.run(*words, "-v") == 0
    assert "SharedBottom  epoch 1/2" in capsys.readouterr().out
    assert commands.run("train", "--data", "none.csv", "--target", "y", "--quiet") == 2
    assert "none.csv" in capsys.readouterr().err
    assert commands.run(*words, "--quiet", "--verbose") == 2
    assert "--quiet and --verbose exclude each other: leave one out" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = "import sys; from tabmtl.pipelines.cli import main; main(['sweep', '--help']); print([*sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = found.splitlines()[-1]
    assert not [name for name in ("torch", "lightgbm", "mlflow", "optuna", "pandas") if f"'{name}'" in loaded]


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, OSError, ModuleNotFoundError, pl.exceptions.ColumnNotFoundError]
)
def test_mistakes_are_one_line_and_have_a_traceback_when_asked(error, capsys):
    error = error("a\n  b")
    assert exit_code(lambda: fail(error), "tabmtl train") == 2
    assert capsys.readouterr().err == "tabmtl train: error: a b\n"
    with pytest.raises(type(error)):
        exit_code(lambda: fail(error), "tabmtl train", traceback=True)


def test_a_line_has_the_notes_of_an_error():
    error = ValueError("a")
    error.add_note("in the\n file x.csv")
    assert one_line(error) == "a (in the file x.csv)"


def test_a_line_leaves_out_the_middle_of_a_whole_file(capsys):
    error = ValueError(f"shop.csv: column 'a' holds '{'1,2 ' * 10**6}', which is no number: mend the cell")
    assert exit_code(lambda: fail(error), "tabmtl train") == 2
    line = capsys.readouterr().err
    assert len(line) < 4_000
    assert line.startswith("tabmtl train: error: shop.csv: column 'a' holds '1,2")
    assert " characters ...] " in line
    assert line.endswith("which is no number: mend the cell\n")


def printing(closed: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code as a command whose streams the shell has closed or redirected."""
    main = f"from tabmtl.pipelines.terminal import exit_code; raise SystemExit(exit_code(lambda: {code}, 'tabmtl'))"
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, main]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_streams_that_are_closed_cost_no_traceback(closed):
    said = printing(closed, "(print('a', flush=True), int('x'))")
    assert said.returncode == 2
    assert "Traceback" not in said.stderr
    assert "Exception" not in said.stderr
    assert ("tabmtl: error: " in said.stderr) == ("2>&-" not in closed)


def test_text_that_has_no_code_is_escaped():
    said = printing("", "(print('column a\\udcff'), int('\\udcff'))")
    assert (said.returncode, said.stdout) == (2, "column a\\udcff\n")
    assert "invalid literal" in said.stderr


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), AssertionError("x"), ZeroDivisionError("x")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        exit_code(lambda: fail(error), "tabmtl train")


def test_traceback_is_an_option_of_every_command(capsys):
    for words in (["train", "--data", "portl", "--traceback"], ["--traceback", "train", "--data", "portl"]):
        with pytest.raises(ValueError, match="near is portal"):
            commands.run(*words)
    assert commands.run("train", "--data", "portl") == 2
    for command in COMMANDS:
        commands.run(*command.split(), "--help")
        assert "  --traceback  " in capsys.readouterr().out


def test_the_exit_code_is_that_of_the_result():
    assert exit_code(lambda: None, "tabmtl") == exit_code(lambda: "version 3", "tabmtl") == 0
    assert exit_code(lambda: 7, "tabmtl") == 7
    assert exit_code(lambda: fail(KeyboardInterrupt()), "tabmtl") == 130


def test_without_cyclopts_the_cure_is_said(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert commands.run("train", "--help") == 2
    assert capsys.readouterr().err == (
        "tabmtl: error: the commands need cyclopts, which is missing: pip install 'tabmtl[cli]'\n"
    )


def test_functions_and_data_do_not_need_cyclopts():
    code = (
        "import sys; sys.modules['cyclopts'] = None; from tabmtl.pipelines import demo, serve, sweep, train; "
        "from tabmtl.pipelines.datasets import load; print(load('portal').name)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "portal\n"


def test_warnings_are_one_line_and_said_once(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        with in_order():
            for _ in range(2):
                warnings.warn("a task\n  is undefined", TabmtlWarning, stacklevel=1)
        assert warnings.showwarning is before
    assert capsys.readouterr().err == "warning: a task is undefined\n"


def test_cures_are_options_and_changes_of_the_file():
    frame = pl.DataFrame({"tags": [[[1]]], "size": [1.0]})
    texts = [f"{i}.5" for i in range(98)] + ["n/a", "?"]

    def fit(frame):
        FeatureCoder.fit(frame)

    with in_order():
        with pytest.raises(TypeError, match=r"'tags' has type List.* say --column tags=ignore$"):
            fit(frame)
        with pytest.warns(TabmtlWarning, match="say which it is: --target rating=multiclass$"):
            LabelCoder.fit(pl.DataFrame({"rating": [1, 2, 3]}))
        with pytest.warns(
            TabmtlWarning,
            match=r"like; replace those by null and say --column price=number, or --column price=category$",
        ):
            fit(pl.DataFrame({"price": texts}))
        with pytest.warns(IdColumnWarning, match="say --column row=ignore, or --column row=number if it is a time$"):
            fit(pl.DataFrame({"row": range(100)}))
    with pytest.raises(TypeError, match=r"'tags' has type List.* say columns=\{'tags': 'ignore'\}$"):
        fit(frame)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_in_order(end):
    outer = signal.signal(end, signal.SIG_DFL)  # nohup ignores SIGHUP
    try:
        with pytest.raises(KeyboardInterrupt), in_order():
            os.kill(os.getpid(), end)
        assert signal.getsignal(end) is signal.SIG_DFL
    finally:
        signal.signal(end, outer)


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with in_order():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
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
def test_passwords_are_not_shown(uri, shown):
    assert without_password(uri) == shown
    assert one_line(ValueError(f"cannot open\n{uri} (refused)")) == f"cannot open {shown} (refused)"


def test_near_names_and_pairs():
    assert near("epoch", ["epochs", "seed"]) == "near is epochs"
    assert near("zzz", ["epochs", "seed"]) == "known are epochs, seed"
    assert pairs(["a=1", "b=x=y"], "--set") == {"a": "1", "b": "x=y"}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(ValueError, match="--set"):
            pairs(wrong, "--set")
