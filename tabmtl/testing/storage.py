"""Promises about the bits of a fit: in a second fit, in copies and in files."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import polars as pl
from sklearn.base import clone

import tabmtl
from tabmtl.base.storage.persist import load
from tabmtl.testing.comparisons import answers, parameters_of, same
from tabmtl.testing.promises import of_each_model, raises
from tabmtl.testing.subject import STEPS, Subject
from tabmtl.testing.tables import features

Answer = TypeVar("Answer")


def reload(estimator: Any, folder: Path) -> Any:
    """Save and load a model; classes of the package are found by their name."""
    estimator.save(folder)
    cls = type(estimator)
    return load(folder, cls=None if getattr(tabmtl, cls.__name__, None) is cls else cls)


def copies_of(estimator: Any, folder: Path) -> dict[str, Any]:
    """Copy a model in every way."""
    return {
        "load": reload(estimator, folder),
        "pickle": pickle.loads(pickle.dumps(estimator)),
        "deepcopy": copy.deepcopy(estimator),
    }


def with_other_global_seeds(ask: Callable[[], Answer]) -> tuple[Answer, Answer]:
    """Return two answers, the second after other seeds of all global generators; the first must not move these."""
    import torch

    def states() -> Any:
        legacy: Any = np.random.get_state()
        return random.getstate(), legacy[1].tolist(), legacy[2:], torch.get_rng_state().tolist()

    before = states()
    first = ask()
    assert states() == before, "a global generator has moved"
    random.seed(1)
    np.random.seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return first, ask()


def _files_of(folder: Path) -> dict[Path, bytes]:
    """Return the files of a model and of its parts."""
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class Storage(Subject):
    """Promises about the bits of a fit: in a second fit, in copies and in files."""

    @of_each_model
    def check_the_same_seed_gives_the_same_bits_and_leaves_the_global_generators_alone(self) -> None:
        X, y = self.table()
        said, again = with_other_global_seeds(lambda: self.said(X, y))
        assert same(said, again)
        assert same(said, answers(clone(self.fitted()[0]).fit(X, y), X))
        seeded = [self.said(X, y, random_state=np.random.RandomState(7)) for _ in range(2)]
        assert same(*seeded), "two fits with one RandomState differ"

    @of_each_model
    def check_fit_again_equals_a_first_fit(self) -> None:
        estimator, X, y = self.fitted()
        once = answers(estimator, X)
        estimator.fit(X.select("plain", "text"), y.select(STEPS if self.is_funnel else y.columns[0]))
        assert same(once, answers(estimator.fit(X, y), X))

    @of_each_model
    def check_copies_and_files_give_the_same_bits(self) -> None:
        estimator, X, y = self.fitted()
        said = answers(estimator, X)
        with TemporaryDirectory() as folder:
            copies = copies_of(estimator, Path(folder))
        for how, other in copies.items():
            assert type(other) is type(self.model), how
            assert parameters_of(other) == parameters_of(estimator), how
            assert same(said, answers(other, X)), how
            assert other.tasks_ == estimator.tasks_, how
            assert other.score_tasks(X, y) == estimator.score_tasks(X, y), how
            assert sorted(vars(other)) == sorted(vars(estimator)), how
        assert same(said, answers(estimator, X))

    def check_decisions_are_kept_in_copies_and_files_and_end_with_a_new_fit(self) -> None:
        estimator, X, y = self.fitted()
        said, others = answers(estimator, X), features(200, seed=1)
        labels = self.targets(others)
        if not self.takes_classes:
            with raises(ValueError, "calibrate is for tasks of classes"):
                estimator.calibrate(others, labels)
            return
        estimator.calibrate(others, labels, method="temperature")
        assert not same(said, answers(estimator, X)), "calibrated probabilities are the old ones"
        costs = {("late", "on time"): 1000.0, ("on time", "late"): 1.0}  # more than all other mistakes together
        estimator.tune_thresholds(others, labels, tasks="late", costs=costs)
        found = estimator.predict(others)["late"].filter(labels["late"] == "late")
        assert (found == "late").all(), "the dear mistake is made"
        decided = estimator.predict(X)
        assert estimator.predict(X[:7]).equals(decided[:7])
        with TemporaryDirectory() as folder:
            copies = copies_of(estimator, Path(folder))
        for how, other in copies.items():
            assert same(answers(estimator, X), answers(other, X)), how
            assert decided.equals(other.predict(X)), how
            assert estimator.thresholds_.equals(other.thresholds_), how
        assert same(said, answers(estimator.fit(X, y), X)), "calibrators outlive a fit"
        assert not hasattr(estimator, "thresholds_")

    def check_drift_from_the_rows_of_fit_is_found_and_copies_and_files_tell_the_same(self) -> None:
        estimator, X, _ = self.fitted()
        found = estimator.drift(X)
        assert found["name"].to_list() == [*X.columns, *(task.name for task in estimator.tasks_)]
        assert not found.filter(kind="column")["is_drift"].any(), "rows of fit differ from themselves"
        assert estimator.drift(X.with_columns(pl.col("plain") + 1000)).filter(name="plain")["is_drift"].item()
        with raises(ValueError, "X has 1 row"):
            estimator.drift(X[:1])
        with TemporaryDirectory() as folder:
            copies = copies_of(estimator, Path(folder))
        for how, other in copies.items():
            assert found.equals(other.drift(X)), how

    def check_a_second_generation_file_holds_the_same_bytes(self) -> None:
        with TemporaryDirectory() as folder:
            first, second = Path(folder, "first"), Path(folder, "second")
            reload(self.fitted()[0], first).save(second)
            found = [_files_of(path) for path in (first, second)]
        assert found[0] == found[1]
