"""Where the tests run: a test is judged by what it leaves itself, whatever lies in the folder that pytest runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import chdir

import pytest
from hypothesis import settings

# The first database of a process is told by a line of MLflow's log, wherever a test reads what was printed.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

# Time is measured nowhere: a busy machine is slow. `make test-all` draws more examples.
settings.register_profile("quick", deadline=None, max_examples=40)
settings.register_profile("all", deadline=None, max_examples=100)
settings.load_profile("quick")


@pytest.fixture(autouse=True, scope="module")
def _empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the tests of a file in an empty folder, which has to be empty at the end."""
    with chdir(tmp_path_factory.mktemp("place")):
        yield
        assert os.listdir() == []
