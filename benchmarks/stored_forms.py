"""Small forms of all models, and what models answer and tell as arrays, for `benchmarks.stored_answers`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

import tabmtl
from tabmtl import sessions
from tabmtl.estimators.boosted.lightgbm import LightGBMEstimator
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.testing import mixed_targets
from tabmtl.testing.small import small
from tabmtl.testing.subject import FUNNEL, STEPS

#: Arrays by the name of what they hold, parts behind a slash.
Arrays = dict[str, np.ndarray]
Case = Callable[[], Arrays]
#: Numbers of an array that are kept, such as those of the weights of words; of a larger one, as many, and its checksum.
LARGE = 20_000
#: How the names of parts begin that are files of models.
FILES = "files/"
FUNNELS = ("APEM", "ESMM", "AITM")
#: Fitted attributes that tell what a fit has learned, of estimators and recommenders.
ATTRIBUTES = (
    "batch_size_",
    "best_iteration_",
    "blend_weights_",
    "block_importances_",
    "block_rounds_",
    "configuration_",
    "configuration_scores_",
    "dead_expert_rate_",
    "directed_strength_",
    "expert_utilisation_",
    "experts_",
    "family_weights_",
    "feature_importances_",
    "feature_names_in_",
    "history_",
    "item_counts_",
    "item_ids_",
    "leaderboard_",
    "model_weights_",
    "n_distinct_metadata_",
    "n_features_in_",
    "new_item_report_",
    "oracle_ceiling_",
    "outlier_score_",
    "pruned_",
    "repeat_weights_",
    "rounds_",
    "stretch_",
    "thresholds_",
    "weights_",
)


def made(name: str, **params: Any) -> Any:
    """Make an estimator or recommender in its small form; parameters that it does not have are left out."""
    funnel = FUNNEL if name in FUNNELS else {}
    cls = getattr(tabmtl, name, None) or getattr(sessions, name)
    own = {"n_jobs": None} if name == "MultiTaskEnsemble" else {}  # its models have their own
    return small(cls, **{"epochs": 3, "n_folds": 3} | own | funnel | params)


def estimators() -> list[str]:
    """Return the names of all estimators of tables without their faces."""
    found = [(name, getattr(tabmtl, name)) for name in dir(tabmtl)]
    is_mixed = [(name, isinstance(cls, type) and issubclass(cls, MultiTaskEstimator)) for name, cls in found]
    return [name for name, is_model in is_mixed if is_model and not name.endswith(("Classifier", "Regressor"))]


def recommenders() -> list[str]:
    """Return the names of all recommenders."""
    return [name for name in dir(sessions) if hasattr(getattr(sessions, name), "recommend")]


def targets(name: str, X: pl.DataFrame) -> pl.DataFrame:
    """Make targets of every kind, and a second step of a funnel; "on time", the second class, is the step taken."""
    y = mixed_targets(X)
    late = pl.when(pl.col("late") == "late").then(None).otherwise(pl.lit("late")).alias(STEPS[1])
    return y.with_columns(late) if name in FUNNELS else y


def numbered(arrays: Sequence[np.ndarray]) -> Arrays:
    """Name arrays by their position; labels are text."""
    return {f"{i}": array.astype(str) if array.dtype == object else array for i, array in enumerate(arrays)}


def arrays_of(value: Any, name: str) -> Arrays:
    """Return the arrays of a value under its name: a number, a text, a frame, or mappings and sequences of such."""
    if isinstance(value, pl.DataFrame):
        value = {column: value[column] for column in value.columns if "seconds" not in column}
    if isinstance(value, Mapping):
        return {key: own for part in sorted(value) for key, own in arrays_of(value[part], f"{name}/{part}").items()}
    if isinstance(value, pl.Series):
        return _series_arrays(value, name)
    value = np.frombuffer(value, dtype=np.uint8) if isinstance(value, bytes) else value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {key: own for i, part in enumerate(value) for key, own in arrays_of(part, f"{name}/{i}").items()}
    array = np.asarray("missing" if value is None else value)
    if array.size > LARGE:
        some = array.ravel()[:: array.size // LARGE + 1]
        return {name: some, f"{name}/sha256": np.array(hashlib.sha256(array.tobytes()).hexdigest())}
    return {name: array.astype(str) if array.dtype == object else array}


def _series_arrays(values: pl.Series, name: str) -> Arrays:
    """Return a column as numbers or text; of lists, the lengths and the entries of all."""
    if values.dtype == pl.List:
        lengths = {f"{name}/lengths": values.list.len().to_numpy().astype(float)}
        return lengths | _series_arrays(values.explode(), f"{name}/entries")
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    return {name: values.to_numpy().astype(float) if is_number else values.cast(pl.String).to_numpy().astype(str)}


def joined(**values: Any) -> Arrays:
    """Return the arrays of several values by name; those that hold nothing leave no array."""
    return {key: own for name, value in values.items() for key, own in arrays_of(value, name).items()}


def told(model: Any) -> Arrays:
    """Return what a fit has told: its fitted attributes, and the name, kind and classes of every task."""
    found = joined(**{name: getattr(model, name) for name in ATTRIBUTES if hasattr(model, name)})
    if isinstance(model, LightGBMEstimator) and not any(hasattr(own, "fit") for own in model.get_params().values()):
        found |= joined(importances_=tabmtl.gain_importances(model))
    tasks = [(task.name, task.kind.name, list(map(str, task.classes or ()))) for task in getattr(model, "tasks_", ())]
    return found | joined(tasks=tasks)


def folder_of(model: Any) -> dict[str, bytes]:
    """Return the files that a model writes, by their paths in its folder."""
    with TemporaryDirectory() as folder:
        model.save(folder)
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def loaded(files: Mapping[str, Any]) -> Any:
    """Return the model of a folder with these files."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(content))
        return tabmtl.load(folder)


def names_of(files: Mapping[str, bytes], model: Any) -> list[str]:
    """Return the names of the files of a model, with the checksums of those that any fit writes alike.

    A leaderboard of an ensemble has seconds, and skops writes the addresses of a preprocessor's objects.
    """
    are_alike = not hasattr(model, "model_weights_") and getattr(model, "preprocessor", None) is None
    return [name if are_alike else re.sub(r"-[0-9a-f]{16}", "", name) for name in files]


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of names, types, shapes and values, without files of models: see `names_of`."""
    found = hashlib.sha256()
    for name in sorted(name for name in arrays if f"/{FILES}" not in name):
        array = arrays[name]
        found.update(f"{name}\n{array.dtype.str}\n{array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def difference(found: Arrays, expected: Mapping[str, np.ndarray]) -> str | None:
    """Describe how answers differ from stored ones, in a few of their parts; None where all bits are equal."""
    said = []
    for part in sorted(found.keys() | expected.keys()):
        if part not in found or part not in expected:
            said.append(f"{part} is {'new' if part in found else 'gone'}")
            continue
        own, other = found[part], expected[part]
        if (own.dtype, own.shape) != (other.dtype, other.shape):
            said.append(f"{part} is {own.dtype}{[*own.shape]}, was {other.dtype}{[*other.shape]}")
        elif own.tobytes() != other.tobytes():
            gap = f" by {np.nanmax(np.abs(own - other)):.3g}" if own.dtype.kind == "f" else ""
            said.append(f"{part} differs{gap}")
    more = f", and {len(said) - 3} more" if len(said) > 3 else ""
    return f"{len(said)} of {len(expected)} parts: {'; '.join(said[:3])}{more}" if said else None
