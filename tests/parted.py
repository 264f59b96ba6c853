"""An estimator made of others, whose folder therefore holds folders, and forgeries of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from conformance import features, mixed_targets, tiny
from forging import forge
from sklearn.base import clone

from tabmtl import IndependentTasks, SharedBottom, SharedTrees
from tabmtl.estimators.base import FromFitted
from tabmtl.estimators.tables import MultiTaskEstimator, TableState


@dataclass(frozen=True, kw_only=True, eq=False)
class TeamState(TableState):
    members_: dict[str, tuple[MultiTaskEstimator, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedTeam:
    members: dict[str, tuple[MultiTaskEstimator, ...]]

    def answer(self, rows: Any, labels: Any, how: Any, X: Any = None, places: Any = None) -> list[np.ndarray]:
        said = [member.__answers__(X) for members in self.members.values() for member in members]
        found = [np.mean(outputs, axis=0) for outputs in zip(*said, strict=True)]
        return found if places is None else [found[t] for t in places]


@dataclass(kw_only=True, eq=False, repr=False)
class Team(MultiTaskEstimator):
    """Mean of the answers of other estimators, of a wide table.

    Parameters
    ----------
    candidates : mapping of str to MultiTaskEstimator
        Fitted twice each.
    """

    candidates: Mapping[str, MultiTaskEstimator] | None = None

    _stored: ClassVar[type] = TeamState
    members_ = FromFitted("members")

    def _fit(self, coder: Any, rows: Any, valid: Any, seed: int) -> dict[str, Any]:
        columns = zip(coder.labels.tasks, rows.batch.y.T, strict=True)
        y = pl.DataFrame({task.name: [_label(task, value) for value in values] for task, values in columns})
        members = {
            name: tuple(clone(candidate).set_params(random_state=seed + i).fit(rows.frame, y) for i in range(2))
            for name, candidate in (self.candidates or {}).items()
        }
        return {"_fitted": FittedTeam(members=members)}

    def _fitted_of(self, coder: Any, parts: dict[str, Any]) -> FittedTeam:
        return FittedTeam(**parts)


def _label(task: Any, value: float) -> Any:
    if np.isnan(value):
        return None
    return task.classes[int(value)] if task.classes else value


def candidates() -> dict[str, MultiTaskEstimator]:
    """A network and trees, in tiny forms; one name has a dot in it."""
    return {"net": tiny(SharedBottom), "trees v1.0": tiny(SharedTrees)}


def fit_team(**others: MultiTaskEstimator) -> tuple[Team, pl.DataFrame, pl.DataFrame]:
    """A fitted team of `candidates` and others, its features and its targets."""
    X = features()
    y = mixed_targets(X)
    return Team(candidates=candidates() | others, random_state=0).fit(X, y), X, y


@cache
def fitted_team() -> tuple[Team, pl.DataFrame, pl.DataFrame]:
    """A fitted team, its features and its targets; not to be changed."""
    return fit_team(single=tiny(IndependentTasks))


def part_of(folder: Path, name: str = "part0") -> Path:
    """The folder of a part."""
    return folder / json.loads((folder / "manifest.json").read_text())["parts"][name]["folder"]


def forge_part(folder: Path, change: Callable[[Path], Any], name: str = "part0") -> Path:
    """Change a part in place, and make the checksum that the model around it has for it right again."""
    change(part_of(folder, name))
    checksum = json.loads((part_of(folder, name) / "manifest.json").read_text())["sha256"]
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    parts[name]["sha256"] = checksum
    return forge(folder, parts=parts)
