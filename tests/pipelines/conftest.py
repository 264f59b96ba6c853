"""The small table and its options, a store, and mistakes, which are one line."""

import commands
import pytest
from commands import TARGETS


@pytest.fixture(scope="session")
def rodents(tmp_path_factory):
    """The file of the small table; not to be changed."""
    return commands.small_table(tmp_path_factory.mktemp("rodents"))


@pytest.fixture(scope="session")
def table(rodents):
    """The options that name the small table, its split and its targets."""
    return ["--data", str(rodents), "--split-column", "split", *TARGETS]


@pytest.fixture
def store(tmp_path):
    return commands.store(tmp_path)


@pytest.fixture
def mistake(capsys):
    """Give the one line of the error of a command, which ends with 2."""

    def line_of(*words, store=None):
        capsys.readouterr()
        assert commands.run(*words, store=store) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return line_of
