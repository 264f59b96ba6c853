"""Where the tests run, so that a test is judged by what it leaves itself, and how long each room takes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from contextlib import chdir
from pathlib import PurePosixPath

import pytest
from hypothesis import settings

from tabmtl.base import schema

# The first database of a process is told by a line of MLflow's log, wherever a test reads what was printed.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

# Time is measured nowhere: a busy machine is slow. `make test-all` draws more examples.
settings.register_profile("quick", deadline=None, max_examples=40)
settings.register_profile("all", deadline=None, max_examples=100)
settings.load_profile("quick")


@pytest.fixture(autouse=True, scope="module")
def _empty_folder(tmp_path_factory):
    """Run the tests of a file in an empty folder, which has to be empty at the end."""
    with chdir(tmp_path_factory.mktemp("place")):
        yield
        assert os.listdir() == []


@pytest.fixture(autouse=True)
def _nothing_told():
    """Let every test see the warnings about columns and tasks that a process gives once."""
    schema.told.clear()


@pytest.fixture
def reloaded(tmp_path):
    """Save a model and load it."""
    from tabmtl.testing.storage import reload

    return lambda model: reload(model, tmp_path / "reloaded")


@pytest.fixture
def torch_seed():
    """Draw from torch's global generator as after the seed 0, and leave it as it was."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def three_folds(monkeypatch):
    """Let IndependentTasks choose its trees by three folds of few rows in place of ten."""
    monkeypatch.setattr("tabmtl.models.independent.choice.MOST_FOLDS", 3)
    monkeypatch.setattr("models_at_hand._pickled", {})  # of ten folds


#: CPU seconds that a room may take in `make test`, and those of larger ones: twice those of a quiet machine, which
#: a busy one does not pass. Who adds tests makes others cheaper; a budget is lowered, not raised.
BUDGET = 12
BUDGETS = {
    "tests/benchmarks": 35,
    "tests/base": 55,
    "tests/encode": 35,
    "tests/ensemble": 36,
    "tests/estimators": 120,
    "tests/metrics": 35,
    "tests/inspection": 20,
    "tests/serving": 50,
    "tests/models": 150,
    "tests/nn": 15,
    "tests/pipelines": 85,
    "tests/scale": 30,
    "tests/sessions": 160,
    "tests/extras": 25,
    "tests/synth": 50,
    "tests/targets": 65,
    "tests/test_check_estimator.py": 20,
    "tests/test_conformance.py": 90,
    "tests/test_docs.py": 50,
    "tests/test_fuzz.py": 20,
    "tests/test_row_bits.py": 15,
    "tests/test_without_torch.py": 14,
    "tests/training": 35,
    "tests/tuning": 35,
}
#: CPU seconds by room: a folder of `tests`, or a file outside the folders.
_seconds: Counter[str] = Counter()
_marks = [0.0]


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def pytest_runtest_logstart() -> None:
    """Start the clock of a test."""
    _marks[0] = _cpu_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give the report of a set-up, a call or an end its CPU seconds."""
    report = yield
    now = _cpu_seconds()
    report.cpu_seconds = now - _marks[0]
    _marks[0] = now
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up set-ups, calls and ends of tests; with pytest-xdist, where the reports of all workers arrive."""
    place = PurePosixPath(report.nodeid.partition("::")[0])
    # the report of a worker that died has none
    _seconds["/".join(place.parts[:2])] += getattr(report, "cpu_seconds", 0.0)


def _over_budget(config: pytest.Config) -> list[str]:
    """Name the rooms whose tests took more than their budget, where `make test` ran."""
    if config.option.markexpr != "not all_faces":
        return []
    return [
        f"{room} took {seconds:.0f} CPU seconds, at most {BUDGETS.get(room, BUDGET)}: make its tests cheaper, or leave "
        "some to make test-all (tests/cases.py)"
        for room, seconds in _seconds.items()
        if seconds > BUDGETS.get(room, BUDGET)
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where a room takes more than its budget."""
    if _over_budget(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the CPU seconds of each room, the slowest first, and those that are over their budget."""
    if not _seconds:
        return
    terminalreporter.section("CPU seconds by room")
    for room, seconds in _seconds.most_common():
        terminalreporter.line(f"{seconds:7.1f}  {room}")
    terminalreporter.line(f"{_seconds.total():7.1f}  all")
    for line in _over_budget(config):
        terminalreporter.line(line, red=True)
