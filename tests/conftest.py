"""Where the tests run, so that a test is judged by what it leaves itself, and how long each room takes."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import chdir
from pathlib import PurePosixPath

import pytest
from hypothesis import settings

from tabmtl import schema

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


#: Seconds by room: a folder of `tests`, or a file outside the folders.
_seconds: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up set-ups, calls and ends of tests; with pytest-xdist, where the reports of all workers arrive."""
    place = PurePosixPath(report.nodeid.partition("::")[0])
    _seconds["/".join(place.parts[:2])] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds of each room, the slowest first."""
    if not _seconds:
        return
    terminalreporter.section("seconds by room")
    for room, seconds in _seconds.most_common():
        terminalreporter.line(f"{seconds:7.1f}  {room}")
    terminalreporter.line(f"{_seconds.total():7.1f}  all")
