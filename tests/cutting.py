"""Fits in a job with checkpoints, which are cut off and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conformance import features, mixed_targets

from tabmtl.training.run import current, entered

TARGETS = ["late", "size", "delay"]


class CutOff(Exception):
    """The end of a machine."""


def table(n: int = 300) -> pl.DataFrame:
    """Return features and targets."""
    X = features(n)
    return X.hstack(mixed_targets(X))


def cut_off(after: int) -> Any:
    """Return a hook that ends the machine after an epoch."""

    def hook(record):
        if record["epoch"] == after:
            raise CutOff

    return hook


def train(folder: Path, fit: Any, cut_after: int | None = None) -> Any:
    """Fit in a job with checkpoints, which may be cut off in an epoch."""
    with entered(current(), folder):
        return fit(None if cut_after is None else cut_off(cut_after))


def cut_and_resumed(folder: Path, fit: Any, cut_after: int = 2) -> Any:
    """Return the model of a fit that was cut off in an epoch, and went on."""
    with pytest.raises(CutOff):
        train(folder, fit, cut_after)
    assert [file.name for file in folder.iterdir()] == ["fit-1.safetensors"]
    seen = []
    model = train(folder, lambda _: fit(lambda record: seen.append(record["epoch"])))
    assert seen == list(range(cut_after, model.history_.height))
    assert not list(folder.iterdir())
    return model


def assert_equal(model: Any, other: Any) -> None:
    """Check that two trainings were the same to the last bit."""
    assert model.history_.equals(other.history_)
    assert model.best_iteration_ == other.best_iteration_
    assert {name: weights.tobytes() for name, weights in model.weights_.items()} == {
        name: weights.tobytes() for name, weights in other.weights_.items()
    }
