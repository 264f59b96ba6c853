"""Studies of tests need not outlive a power failure, only kills: SQLite does not wait for the disk."""

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine


def _hurry(connection, _):
    if type(connection).__module__ == "sqlite3":
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(autouse=True)
def _quick_files():
    event.listen(Engine, "connect", _hurry)
    yield
    event.remove(Engine, "connect", _hurry)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
