"""Where the tests run: a test is judged by what it leaves itself, whatever lies in the folder that pytest runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import chdir

import pytest


@pytest.fixture(autouse=True, scope="module")
def _empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the tests of a file in an empty folder, which has to be empty at the end."""
    with chdir(tmp_path_factory.mktemp("place")):
        yield
        assert os.listdir() == []
