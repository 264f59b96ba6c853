"""Random sequences of calls to a random estimator on a random table, and the laws that every call has to keep.

A seed is a sequence: `Walk(seed).run()` makes the same table, estimator and calls each time, and an error of a law
prints them. Tables are tiny, and so are the models.
"""

from __future__ import annotations

import copy
import datetime
import dis
import inspect
import pickle
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import sklearn
from cases import later
from conformance import ESTIMATORS, FUNNELS, MIXED, tiny
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import tabmtl
from tabmtl import IndependentTasks, SharedTrees
from tabmtl.base.schema import TabmtlWarning
from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.inspection.importances import permutation_importances
from tabmtl.testing.comparisons import finite, largest_gap, same
from tabmtl.testing.storage import reload

# tables

LETTERS = ("ant", "bee", "cow", "dog")
LABELS = ("high", "low", "mid")
SCHOOLS = ("east", "north", "west")
_WORDS = ("great", "holidays", "by", "the", "sea", "with", "children", "and", "dogs", "cheap", "rooms", "near", "town")

Values = list[Any] | np.ndarray


def _texts(rng: np.random.Generator, z: np.ndarray) -> Values:
    return [" ".join(rng.choice(_WORDS, size=rng.integers(5, 9))) for _ in z]


def _days(rng: np.random.Generator, z: np.ndarray) -> Values:
    return [datetime.date(2024, 1, 1) + datetime.timedelta(days=int(day)) for day in rng.integers(0, 500, len(z))]


def _lists(rng: np.random.Generator, z: np.ndarray) -> Values:
    return [rng.choice(LETTERS, size=rng.integers(0, 4)).tolist() for _ in z]


def _moments(rng: np.random.Generator, z: np.ndarray) -> Values:
    return [datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=int(m)) for m in rng.integers(0, 10**6, len(z))]


#: Kinds of columns: values by a generator and a signal, and their type.
COLUMNS: dict[str, tuple[Callable[[np.random.Generator, np.ndarray], Values], Any]] = {
    "number": (lambda rng, z: z + rng.normal(size=len(z)), pl.Float64),
    "heavy": (lambda rng, z: np.exp(2 * z), pl.Float32),
    "count": (lambda rng, z: rng.integers(0, 30, len(z)), pl.Int32),
    "flag": (lambda rng, z: z + rng.normal(size=len(z)) > 0, pl.Boolean),
    "category": (lambda rng, z: rng.choice(LETTERS, size=len(z)), pl.String),
    "enum": (lambda rng, z: rng.choice(LETTERS, size=len(z)), pl.Enum(LETTERS)),
    "words": (_texts, pl.String),
    "day": (_days, pl.Date),
    "moment": (_moments, pl.Datetime),
    "span": (lambda rng, z: [datetime.timedelta(hours=float(x)) for x in z], pl.Duration),
    "tags": (_lists, pl.List(pl.String)),
    "vector": (lambda rng, z: (z[:, None] + rng.normal(size=(len(z), 3))).tolist(), pl.Array(pl.Float32, 3)),
    "history": (_lists, pl.List(pl.String)),
    "constant": (lambda rng, z: np.ones(len(z)), pl.Float64),
}
#: Those that an array of numbers can hold.
_NUMBERS = ("number", "count", "constant")

#: Kinds of targets: labels by a generator and a signal, and their declaration, if there is one.
TARGETS: dict[str, tuple[Callable[[np.random.Generator, np.ndarray], Values], str | None]] = {
    "late": (lambda rng, z: np.where(z > 0, "late", "on time"), None),
    "open": (lambda rng, z: z > 0.2, None),
    "size": (lambda rng, z: np.array(LABELS)[np.digitize(z, [-0.4, 0.4])], None),
    "stars": (lambda rng, z: np.digitize(z, [-0.6, 0.0, 0.6]), None),
    "fraud": (lambda rng, z: np.where(z > 0.5, "yes", "no"), "focal:1"),
    "grade": (lambda rng, z: np.digitize(z, [-0.5, 0.5]), "ordinal"),
    "delay": (lambda rng, z: 100 + 20 * z, None),
    "price": (lambda rng, z: 100 + 20 * z, "huber"),
    "upper": (lambda rng, z: z, "quantile:0.9"),
    "range": (lambda rng, z: 10 * z, "quantiles:0.25:0.5:0.75"),
    "visits": (lambda rng, z: rng.poisson(np.exp(z)), "poisson"),
    "cost": (lambda rng, z: np.exp(z) + 0.1, "gamma"),
    "claim": (lambda rng, z: np.where(z > 0, np.exp(z), 0.0), "tweedie"),
}
_CLASSES = ("late", "open", "size", "stars", "fraud", "grade")

LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "polars": lambda frame: frame,
    "pandas": lambda frame: frame.to_pandas(),
    "pyarrow": lambda frame: frame.to_arrow(),
    "numpy": lambda frame: frame.to_numpy(),
}


class World:
    """A kind of tables: columns, targets, layout and library, all drawn from a generator."""

    def __init__(self, rng: np.random.Generator, cls: type) -> None:
        self.is_funnel = cls in FUNNELS
        self.is_long = cls in MIXED and bool(rng.random() < 0.25)
        self.columns = [str(name) for name in rng.permutation([*COLUMNS])[: rng.integers(2, 6)]]
        if "constant" in self.columns[:1]:
            self.columns.append("number")
        self.columns = [*dict.fromkeys(self.columns)]
        self.library = str(rng.choice(["polars", "polars", "pandas", "pyarrow", "numpy"]))
        if self.library == "numpy":
            self.columns = [*_NUMBERS]
            self.library = "polars" if self.is_long or self.is_funnel else "numpy"
        kinds = [name for name in TARGETS if cls._target_kind in (None, _sort_of(name))]
        self.targets = [str(name) for name in rng.permutation(kinds)[: 1 if self.is_long else rng.integers(1, 4)]]
        self.is_flat = self.is_long or (len(self.targets) == 1 and bool(rng.random() < 0.5))
        self.names = self.targets
        if self.is_funnel:
            self.is_flat, self.names = False, ["seen", "clicked", "bought"][: rng.integers(2, 4)]
        # whether labels come with a name
        self.is_named = self.library != "numpy" and not (self.library == "pyarrow" and self.is_flat)
        if not self.is_named and not self.is_funnel:
            self.names = ["y"] if self.is_flat else [f"y{j}" for j in range(len(self.targets))]
        if self.is_long:
            self.names = [*SCHOOLS]
        self.holes = bool(rng.random() < 0.6)

    def __str__(self) -> str:
        layout = "a funnel" if self.is_funnel else "long" if self.is_long else "flat" if self.is_flat else "wide"
        return f"{self.library}, {layout}, columns {self.columns}, targets {self.names} ({self.targets})"

    def params(self) -> dict[str, Any]:
        """Parameters that the table asks for."""
        found: dict[str, Any] = {}
        declared = {name: TARGETS[name][1] for name in self.targets if TARGETS[name][1]}
        if self.is_funnel:
            found["task_chain"] = self.names
            declared = {}
        if self.is_long:
            found["task_column"] = "school"
        if not (self.is_named or self.is_funnel or self.is_long):
            pairs = zip(self.names, self.targets, strict=True)
            declared = {name: TARGETS[kind][1] for name, kind in pairs if TARGETS[kind][1]}
        if "history" in self.columns:
            found["columns"] = {"history": "sequence:category" if "category" in self.columns else "sequence"}
        return found | {"tasks": declared or None}

    def draw(self, n: int, seed: int, schools: Sequence[str] = SCHOOLS) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Draw rows and their labels, in polars."""
        rng = np.random.default_rng((seed, n))
        z = rng.normal(size=n)
        X = pl.DataFrame({name: pl.Series(COLUMNS[name][0](rng, z), dtype=COLUMNS[name][1]) for name in self.columns})
        if self.holes and self.library != "numpy":
            masks = {name: pl.Series(rng.random(n) < 0.1) for name in self.columns if name != "constant"}
            X = X.with_columns(pl.when(~mask).then(pl.col(name)).alias(name) for name, mask in masks.items())
        if self.is_long:
            X = X.with_columns(school=pl.Series(rng.choice([*schools], size=n)))
        signal = z + 0.3 * rng.normal(size=n)
        if self.is_funnel:
            return X, pl.DataFrame({name: signal > 0.4 * j - 0.5 for j, name in enumerate(self.names)})
        y = pl.DataFrame([self.label(name, rng, signal) for name in self.targets])
        return X, y if self.is_named or self.is_long else y.rename(dict(zip(y.columns, self.names, strict=True)))

    def label(self, kind: str, rng: np.random.Generator, signal: np.ndarray) -> pl.Series:
        """Draw labels of a kind, some of them missing."""
        labels = pl.Series(kind, TARGETS[kind][0](rng, signal))
        if self.library == "numpy":
            return labels
        return labels.zip_with(
            pl.Series(rng.random(len(signal)) < 0.85), pl.Series([None] * len(signal), dtype=labels.dtype)
        )

    def give(self, frame: Any) -> Any:
        """Return a polars frame or series in the library of the world; anything else as it is."""
        return LIBRARIES[self.library](frame) if isinstance(frame, pl.DataFrame | pl.Series) else frame


def _sort_of(target: str) -> str:
    return "classification" if target in _CLASSES else "regression"


# bad input

Spoil = Callable[[np.random.Generator, Any], Any]


def _of_one(change: Callable[[pl.Series], Any]) -> Spoil:
    """Change one column of a frame, or a series."""

    def spoil(rng: np.random.Generator, frame: Any) -> Any:
        if isinstance(frame, pl.Series):
            return change(frame)
        name = str(rng.choice(frame.columns))
        return frame.with_columns(pl.Series(change(frame[name])).alias(name))

    return spoil


def _frames_only(change: Callable[[np.random.Generator, pl.DataFrame], Any]) -> Spoil:
    return lambda rng, frame: change(rng, frame) if isinstance(frame, pl.DataFrame) else frame[:-1]


_ANY: dict[str, Spoil] = {
    "one column text": _of_one(lambda s: pl.Series(["odd", "very odd"] * len(s))[: len(s)]),
    "one column infinite": _of_one(lambda s: pl.Series([np.inf] * len(s))),
    "one column of dates": _of_one(lambda s: pl.Series([datetime.date(2024, 1, 1)] * len(s))),
    "one column of structs": _of_one(lambda s: pl.Series([{"a": 1}] * len(s))),
    "one column null": _of_one(lambda s: pl.Series([None] * len(s), dtype=s.dtype)),
    "one column of the type Null": _of_one(lambda s: pl.Series([None] * len(s))),
    "one column of one number": _of_one(lambda s: pl.Series([1.5] * len(s))),
    "one column of bytes": _of_one(lambda s: pl.Series([b"a"] * len(s))),
    "one column of times": _of_one(lambda s: pl.Series([datetime.time(1)] * len(s))),
    "a row less": lambda rng, frame: frame[:-1],
    "no rows": lambda rng, frame: frame[:0],
    "a column less": _frames_only(lambda rng, frame: frame.drop(str(rng.choice(frame.columns)))),
    "a column more": _frames_only(lambda rng, frame: frame.with_columns(more=pl.lit(1.0))),
    "a column renamed": _frames_only(lambda rng, frame: frame.rename({frame.columns[0]: "renamed"})),
    "no columns": _frames_only(lambda rng, frame: frame.select()),
    "None": lambda rng, frame: None,
    "a text": lambda rng, frame: "text",
    "a number": lambda rng, frame: 1.0,
    "a dict": lambda rng, frame: {"a": [1.0] * len(frame)},
    "an object array": lambda rng, frame: np.array([object()] * len(frame)),
    "an array of 3 dimensions": lambda rng, frame: np.ones((len(frame), 2, 2)),
}
BAD_FEATURES = _ANY | {
    "one column of huge numbers": _of_one(lambda s: pl.Series([1e300, -1e300] * len(s))[: len(s)]),
    "one column of lists": _of_one(lambda s: pl.Series([[0.5], [1.5, 2.0]] * len(s))[: len(s)]),
    "a series": lambda rng, frame: frame.to_series() if isinstance(frame, pl.DataFrame) else frame,
    "mixed objects": lambda rng, frame: frame.to_pandas().assign(**{frame.columns[0]: ["a", *[1] * (len(frame) - 1)]}),
    "equal names": lambda rng, frame: frame.to_pandas().set_axis(["same"] * frame.shape[1], axis=1),
}
BAD_LABELS = _ANY | {
    "one class": _of_one(lambda s: pl.Series([s.drop_nulls()[0]] * len(s)) if s.drop_nulls().len() else s),
    "negative numbers": _of_one(lambda s: pl.Series([-1.0, -2.5] * len(s))[: len(s)]),
    "whole numbers": _of_one(lambda s: pl.Series([7, 8] * len(s))[: len(s)]),
}
BAD_WEIGHTS: dict[str, Callable[[int], Any]] = {
    "negative": lambda n: [-1.0] * n,
    "NaN": lambda n: [np.nan] * n,
    "infinite": lambda n: [np.inf] * n,
    "zero": lambda n: [0.0] * n,
    "too short": lambda n: [1.0] * (n - 1),
    "texts": lambda n: ["a"] * n,
    "of nobody": lambda n: pl.DataFrame({"nobody": [1.0] * n}),
    "of 3 dimensions": lambda n: np.ones((n, 1, 1)),
    "missing": lambda n: [None] * n,
}
#: Given to any argument and to any parameter.
WRONG: tuple[Any, ...] = (
    -1,
    0,
    2,
    0.5,
    float("nan"),
    float("inf"),
    "no such",
    "",
    (),
    [],
    {},
    {"nobody": "regression"},
    ["nobody"],
    [1, 2],
    None,
    True,
    b"bytes",
    object(),
    np.ones(3),
    datetime.date(2024, 1, 1),
    {"nobody": 1.0},
    ("nobody", "nobody"),
    print,
)
#: Parameters that start processes, write files, or talk.
LEFT_OUT = ("n_processes", "n_jobs", "verbose", "precision", "models", "classifier", "regressor")


# estimators


@cache
def _choices(cls: type) -> dict[str, tuple[Any, ...]]:
    """Parameters of an estimator that are a choice, or a truth value."""
    hints = typing.get_type_hints(cls)
    found: dict[str, tuple[Any, ...]] = {}
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name in LEFT_OUT:
            continue
        if hints[field.name] is bool:
            found[field.name] = (True, False)
        elif typing.get_origin(hints[field.name]) is typing.Literal:
            found[field.name] = tuple(each for each in typing.get_args(hints[field.name]) if each != "raw")
    found |= {"n_members": (1, 2), "restarts": (0, 1), "unknown_task": ("shared", "error")}
    found |= {"partial_rounds": (0, 3), "n_estimators_task": (0, 5)}
    found |= {"families": (("lightgbm",), ("lightgbm", "additive"), "all")} if cls is IndependentTasks else {}
    # a row is answered by itself
    found["row_layer"] = tuple(each for each in found.get("row_layer", ()) if each != "batch_attention")
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    return {name: values for name, values in found.items() if name in known and values}


_FEW = {"n_estimators": 3, "num_leaves": 4, "verbosity": -1, "n_jobs": 1}
_TREES = {
    "n_estimators": 5,
    "n_estimators_shared": 3,
    "n_estimators_outlier": 3,
    "n_estimators_task": 3,
    "num_leaves": 4,
    "min_child_samples": 5,
    "partial_rounds": 2,
}


def _own_models() -> dict[str, Any]:
    return {"classifier": LGBMClassifier(**_FEW), "regressor": LGBMRegressor(**_FEW)}


def draw_estimator(rng: np.random.Generator, cls: type, world: World) -> tuple[Any, dict[str, Any]]:
    """Draw a tiny estimator of a class for a world; also its parameters that are no defaults of ours."""
    params: dict[str, Any] = dict(_TREES)
    if issubclass(cls, IndependentTasks) and rng.random() < 0.5:
        params |= _own_models()
    if issubclass(cls, MultiTaskEnsemble):
        together = SharedTrees(n_estimators=3, n_estimators_task=0, num_leaves=4, min_child_samples=5)
        params["models"] = {"alone": IndependentTasks(**_own_models()), "together": together}
    choices = _choices(cls)
    odd = rng.permutation([*choices])[: rng.integers(0, 3)] if choices else []
    drawn = {str(name): choices[name][rng.integers(len(choices[name]))] for name in odd}
    params |= world.params() | drawn
    return tiny(cls, **params), drawn


# laws


class BrokenLaw(AssertionError):
    """A call that broke a law; the message says the seed and the calls until then."""


_OURS, _SKLEARN = Path(tabmtl.__file__).parent, Path(sklearn.__file__).parent
NAMED = (ValueError, TypeError, AttributeError, NotFittedError, FileExistsError, FileNotFoundError, NotADirectoryError)
#: Functions of scikit-learn that raise for us, in words that name the estimator or the columns.
_FOR_US = ("check_is_fitted", "_check_feature_names", "_check_n_features", "_check", "__get__")
_RAISE = dis.opmap["RAISE_VARARGS"]


def why_raw(error: BaseException, words: set[str], named: tuple[type, ...] = NAMED) -> str | None:
    """Return why an error is not one of ours that names something of the call; None if it is.

    It is ours if its innermost frame is at a `raise` of this package: not at an index, call or operation that failed.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    assert last is not None
    code = last.tb_frame.f_code
    file = Path(code.co_filename)
    place = f"{file.name}:{last.tb_lineno} in {code.co_name}"
    if type(error) not in named and not type(error).__module__.startswith("tabmtl."):
        return f"{type(error).__name__} at {place}"
    if file.is_relative_to(_SKLEARN):
        return None if code.co_name in _FOR_US else f"raised in scikit-learn, {place}"
    if not file.is_relative_to(_OURS):
        return f"raised outside of the package, {place}"
    if code.co_code[last.tb_lasti] != _RAISE:
        return f"no raise, but an operation that failed, {place}"
    said = str(error)
    return None if any(word in said for word in words) else f"names nothing of the call, {place}"


def arrays_of(found: Any) -> list[np.ndarray]:
    """Return an answer of any container as arrays with one row each."""
    if isinstance(found, np.ndarray):
        return [found]
    if isinstance(found, dict):
        return [array for value in found.values() for array in arrays_of(value)]
    if isinstance(found, list):
        return [array for value in found for array in arrays_of(value)]
    if not hasattr(found, "columns"):
        return [np.asarray(found.to_pylist() if hasattr(found, "to_pylist") else found)]
    if hasattr(found, "to_pylist"):  # a table of pyarrow
        return [np.asarray(column.to_pylist()) for column in found.columns]
    return [np.asarray(found[name]) for name in found.columns]


_ANSWERS = ("predict", "predict_proba", "predict_quantiles", "transform", "predict_interval")


def answers(model: Any, X: Any) -> dict[str, list[np.ndarray]]:
    """Return all that a fitted model answers for some rows, by verb."""
    found = {verb: arrays_of(getattr(model, verb)(X)) for verb in _ANSWERS[:-1] if hasattr(model, verb)}
    if model.coder_.labels.decisions is not None and model.coder_.labels.decisions.conformal is not None:
        with suppress(ValueError):  # too few labels, which the verb itself is judged by
            found["predict_interval"] = arrays_of(model.predict_interval(X, level=0.5))
    return found


def differing(first: Mapping[str, list[np.ndarray]], second: Mapping[str, list[np.ndarray]]) -> list[str]:
    """Return the verbs whose answers differ in a bit."""
    return [verb for verb in {**first, **second} if not same(*(_plain(each.get(verb, [])) for each in (first, second)))]


def _plain(found: list[np.ndarray]) -> list[np.ndarray]:
    """Return arrays of lists, as sets of classes are, as text."""
    return [np.array(list(map(str, array))) if array.dtype == object else array for array in found]


# walks

_INDEPENDENT = [cls for cls in ESTIMATORS if issubclass(cls, IndependentTasks)]
_ENSEMBLES = [cls for cls in ESTIMATORS if issubclass(cls, MultiTaskEnsemble)]
_NETWORKS = [cls for cls in ESTIMATORS if issubclass(cls, NetworkEstimator)]
_JOINT_TREES = [cls for cls in ESTIMATORS if cls not in (*_INDEPENDENT, *_ENSEMBLES, *_NETWORKS)]
#: Sorts of estimators, by how many walks of a hundred they get: those that fit several models are slow.
SORTS: tuple[tuple[int, list[type]], ...] = ((62, _NETWORKS), (26, _JOINT_TREES), (7, _INDEPENDENT), (5, _ENSEMBLES))

#: Calls of a walk after its fit: how often each verb comes.
VERBS: dict[str, int] = {
    "predict": 3,
    "predict_proba": 2,
    "predict_quantiles": 1,
    "predict_interval": 2,
    "transform": 1,
    "score_tasks": 2,
    "score": 1,
    "score_intervals": 1,
    "drift": 1,
    "save": 3,
    "fit": 3,
    "partial_fit": 5,
    "add_task": 4,
    "remove_task": 3,
    "calibrate": 2,
    "tune_thresholds": 2,
    "conformalize": 2,
    "copy": 2,
    "set_params": 2,
    "attributes": 1,
    "permutation_importances": 1,
    "encode": 1,
    "history_weights": 1,
    "export_task": 1,
}
#: Those that change what a model answers; the others must not.
_CHANGE = (
    "add_items",
    "fit",
    "partial_fit",
    "add_task",
    "remove_task",
    "calibrate",
    "tune_thresholds",
    "conformalize",
    "copy",
)
_TAKE_LABELS = ("fit", "partial_fit", "calibrate", "tune_thresholds", "conformalize")
_TAKE_LABELS += ("score_tasks", "score", "score_intervals", "add_task")
_ATTRIBUTES = ("feature_importances_", "history_")
_ATTRIBUTES += ("block_importances_", "outlier_score_", "rounds_", "thresholds_", "leaderboard_", "model_weights_")


class Walk:
    """One sequence of calls to an estimator of tables, drawn by a seed.

    Parameters
    ----------
    seed : int
    n_calls : int, default=7
        Calls after the first fit.
    """

    verbs: ClassVar[Mapping[str, int]] = VERBS
    named: ClassVar[tuple[type, ...]] = NAMED

    def __init__(self, seed: int, n_calls: int = 7) -> None:
        self.seed, self.n_calls = seed, n_calls
        self.rng = rng = np.random.default_rng(seed)
        shares = np.array([share for share, _ in SORTS], dtype=float)
        sort = SORTS[rng.choice(len(SORTS), p=shares / shares.sum())][1]
        cls = sort[rng.integers(len(sort))]
        self.world = World(rng, cls)
        self.model, self.odd = draw_estimator(rng, cls, self.world)
        self.calls = [f"{cls.__name__}({self.odd}) of {self.world}"]
        #: Names of the tasks that were added, and the kinds of their labels.
        self.added: dict[str, str] = {}
        self.said: dict[str, list[np.ndarray]] = {}
        #: Calls by verb and end: "answered", or the type of the error.
        self.ends: list[tuple[str, str]] = []

    def run(self) -> Walk:
        """Make all calls.

        Raises
        ------
        BrokenLaw
            At the first call that breaks a law.
        """
        try:
            if self.rng.random() < 0.1:
                self._call(str(self.rng.choice([*self.verbs])), is_bad=False)
            verb = "partial_fit" if self.rng.random() < 0.15 and hasattr(self.model, "partial_fit") else "fit"
            self._call(verb, is_bad=False, must=not self.odd)
            for _ in range(self.n_calls):
                weights = np.array([*self.verbs.values()], dtype=float)
                verb = str(self.rng.choice([*self.verbs], p=weights / weights.sum()))
                self._call(verb, is_bad=bool(self.rng.random() < 0.4))
            self._check_rows_alone()
        except BrokenLaw:
            raise
        except Exception as error:
            raise BrokenLaw(self._tell(f"{type(error).__name__}: {error}")) from error
        return self

    def _tell(self, why: str) -> str:
        return "\n".join([f"seed {self.seed}: {why}", *(f"  {call}" for call in self.calls)])

    @property
    def is_fitted(self) -> bool:
        return hasattr(self.model, "tasks_") or hasattr(self.model, "item_ids_")

    def _answers(self, model: Any) -> dict[str, list[np.ndarray]]:
        return answers(model, self.probe)

    # one call

    def _call(self, verb: str, *, is_bad: bool, must: bool = False) -> None:
        if not hasattr(type(self.model), verb) and verb not in _OWN_VERBS:
            return
        words = self._words(verb)
        with warnings.catch_warnings(record=True, action="always") as given:
            run, text = getattr(self, f"_draw_{verb}", self._draw_plain)(verb, is_bad)
            self.calls.append(text)
            try:
                run()
            except Exception as error:
                said = " ".join(str(error).split())
                self.calls[-1] += f"  # {type(error).__name__}: {said[:300]}"
                raw = why_raw(error, words, self.named)
                if raw is not None:
                    raise BrokenLaw(self._tell(f"a raw error: {raw}")) from error
                if must:
                    raise BrokenLaw(self._tell("a first fit of good rows is refused")) from error
                self.ends.append((verb, type(error).__name__))
                self._check_same("a call that failed has changed")
            else:
                self.ends.append((verb, "answered"))
                if (is_bad and verb in ("fit", "partial_fit")) or verb == "set_params":
                    self.model = clone(self.model)  # which has learned another table
                elif verb in _CHANGE:
                    self.said = self._answers(self.model) if self.is_fitted else {}
                    self._check_finite()
                else:
                    self._check_same(f"{verb} has changed")
        foreign = [each for each in given if not (issubclass(each.category, TabmtlWarning) or _is_of_names(each))]
        if foreign:
            where = f"{foreign[0].category.__name__} at {foreign[0].filename}:{foreign[0].lineno}"
            raise BrokenLaw(self._tell(f"a warning of another library: {where}: {foreign[0].message}"))
        if not self.is_fitted and self.ends and self.ends[-1] != (verb, "NotFittedError") and verb != "fit":
            self._call("fit", is_bad=False)

    @property
    def probe(self) -> Any:
        """Rows that are asked after every call."""
        return self.world.give(self.world.draw(11, 7, self.schools)[0])

    @property
    def schools(self) -> Sequence[str]:
        """Tasks of a long table that the model has."""
        return [task.name for task in self.model.tasks_] if self.is_fitted and self.world.is_long else SCHOOLS

    def _words(self, verb: str) -> set[str]:
        """Return names of the call, one of which its error has to say."""
        found = {*self.world.columns, *self.world.names, *self.world.targets, *self.added, type(self.model).__name__}
        found |= {*self.model.get_params(deep=False), "school", "y0", "y1", "x0", "X", " y ", "y:", "renamed"}
        found |= {"more", "shape=", f"new {len(self.calls)}"}
        found |= {task.name for task in getattr(self.model, "tasks_", ())}
        method = getattr(type(self.model), verb, None)
        return found | ({*inspect.signature(method).parameters} - {"self"} if callable(method) else set()) | {verb}

    def _check_same(self, why: str) -> None:
        if self.is_fitted:
            verbs = differing(self.said, self._answers(self.model))
            if verbs:
                raise BrokenLaw(self._tell(f"{why} the answers of {verbs}"))

    def _check_finite(self) -> None:
        n = len(self.probe)
        for verb, found in self.said.items():
            if verb in _ANSWERS and any(len(array) != n for array in found):
                raise BrokenLaw(self._tell(f"{verb} answers {[len(array) for array in found]} rows of {n}"))
            if not (verb == "predict_interval" or finite(found)):
                raise BrokenLaw(self._tell(f"{verb} answers missing or infinite values"))

    def _check_rows_alone(self) -> None:
        """Check that a row alone, and of some tasks, is answered as among the others."""
        if not self.is_fitted:
            return
        whole = arrays_of(self.model.__answers__(self.probe))
        alone = arrays_of(self.model.__answers__(self.world.give(self.world.draw(11, 7, self.schools)[0][3:4])))
        gap = largest_gap([array[3:4] for array in whole], alone)
        scale = [np.abs(array).max() + 1e-12 for array in whole]
        off = max(np.abs(a[3:4] - b).max() / s for a, b, s in zip(whole, alone, scale, strict=True))
        if off > 1e-5:
            raise BrokenLaw(self._tell(f"a row alone is answered otherwise, by {off:.1e} ({gap:.1e})"))
        if not self.world.is_long:
            names = [task.name for task in self.model.tasks_]
            asked = [str(name) for name in self.rng.permutation(names)[: self.rng.integers(1, len(names) + 1)]]
            some = arrays_of(self.model.__answers__(self.probe, tasks=asked))
            for name, array in zip(asked, some, strict=True):
                place = names.index(name)
                off = np.abs(array - whole[place]).max() / scale[place]
                if off > 1e-5:
                    raise BrokenLaw(self._tell(f"task {name!r} alone is answered otherwise, by {off:.1e}"))

    # draws: a function without arguments, and the text of a call

    def _rows(self, least: int = 24, most: int = 60, *, fit: bool = False) -> tuple[pl.DataFrame, Any, str]:
        """Draw rows, and labels of the tasks that the model has, or of those of a new fit."""
        n, seed = int(self.rng.integers(least, most)), int(self.rng.integers(10_000))
        fit = fit or not self.is_fitted
        X, y = self.world.draw(n, seed, SCHOOLS if fit else self.schools)
        if not fit and not self.world.is_long:
            signal = np.random.default_rng((seed, n)).normal(size=n)
            rng = np.random.default_rng(seed)
            more = [self.world.label(kind, rng, signal).alias(name) for name, kind in self.added.items()]
            y = y.with_columns(more).select(task.name for task in self.model.tasks_)
        is_flat = self.world.is_flat if fit else self.model.coder_.labels.origin.ndim == 1
        return X, y.to_series() if is_flat else y, f"n={n}, seed={seed}"

    def _spoilt(self, verb: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Return arguments, one of which is bad, and a word for it."""
        method = getattr(type(self.model), verb)
        others = [name for name in inspect.signature(method).parameters if name not in ("self", "X", "y")]
        kind = str(self.rng.choice(["X", "y", "sample_weight", "other"], p=[0.35, 0.3, 0.1, 0.25]))
        if kind == "sample_weight" and kind in others:
            name = str(self.rng.choice([*BAD_WEIGHTS]))
            return arguments | {kind: BAD_WEIGHTS[name](len(arguments["X"]))}, f"weights {name}"
        if kind in ("y", "X") and kind in arguments:
            table = BAD_FEATURES if kind == "X" else BAD_LABELS
            name = str(self.rng.choice([*table]))
            return arguments | {kind: table[name](self.rng, arguments[kind])}, f"{kind}: {name}"
        if others:
            name = str(self.rng.choice(others))
            value = WRONG[self.rng.integers(len(WRONG))]
            return arguments | {name: value}, "badly"
        name = str(self.rng.choice([*BAD_FEATURES]))
        return arguments | {"X": BAD_FEATURES[name](self.rng, arguments["X"])}, f"X: {name}"

    def _draw_plain(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        X, y, text = self._rows()
        return self._finish(verb, {"X": X} | ({"y": y} if verb in _TAKE_LABELS else {}), text, is_bad)

    def _finish(self, verb: str, arguments: dict[str, Any], text: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        if is_bad:
            arguments, word = self._spoilt(verb, arguments)
            text += f", {word}"
        shown = {name: value for name, value in arguments.items() if name not in ("X", "y")}
        more = ", ".join(f"{name}={shortened(value)}" for name, value in shown.items())
        given = {name: self.world.give(value) for name, value in arguments.items()}

        def run() -> None:
            found = getattr(self.model, verb)(**given)
            if verb in ("predict", "transform", "predict_quantiles", "predict_interval") and not is_bad:
                n = len(arguments["X"])
                lengths = {len(array) for array in arrays_of(found)}
                if lengths != {n}:
                    raise BrokenLaw(self._tell(f"{verb} answers {lengths} rows of {n}"))

        return run, f"{verb}({text}{', ' if more else ''}{more})"

    def _some_tasks(self) -> Any:
        names = [task.name for task in getattr(self.model, "tasks_", ())] or ["y"]
        return names[0] if self.rng.random() < 0.3 else [str(name) for name in self.rng.permutation(names)[:2]]

    def _draw_predict(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        X, _, text = self._rows()
        tasks = {"tasks": self._some_tasks()} if self.rng.random() < 0.4 and not self.world.is_long else {}
        return self._finish(verb, {"X": X} | tasks, text, is_bad)

    _draw_predict_proba = _draw_predict_quantiles = _draw_predict

    def _draw_predict_interval(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        X, _, text = self._rows()
        more: dict[str, Any] = {"level": float(self.rng.choice([0.5, 0.8]))}
        more |= {"joint": True} if self.rng.random() < 0.3 else {}
        return self._finish(verb, {"X": X} | more, text, is_bad)

    def _draw_fit(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        X, y, text = self._rows(60, 100, fit=True)
        arguments = {"X": X, "y": y}
        draw = self.rng.random()
        if draw < 0.15:
            arguments["sample_weight"] = self.rng.integers(0, 3, len(X)).astype(float)
        elif draw < 0.3:
            arguments["X_val"], arguments["y_val"], _ = self._rows(40, 50, fit=True)
        elif draw < 0.4:
            arguments["groups"] = self.rng.integers(0, 15, len(X))
        elif draw < 0.5:
            arguments["time"] = self.rng.integers(0, 1000, len(X))
        run, said = self._finish(verb, arguments, text, is_bad)

        def fit() -> None:
            run()
            self.added = {}

        return fit, said

    def _draw_partial_fit(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        X, y, text = self._rows()
        arguments = {"X": X, "y": y}
        if self.rng.random() < 0.2:
            arguments["sample_weight"] = self.rng.integers(1, 3, len(X)).astype(float)
        if self.rng.random() < 0.2 and "category" in X.columns:
            arguments["X"], text = X.with_columns(category=pl.lit("emu")), text + ", a new level"
        return self._finish(verb, arguments, text, is_bad)

    def _draw_add_task(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        X, y, text = self._rows()
        kinds = [own for own in TARGETS if type(self.model)._target_kind in (None, _sort_of(own))]
        kind, name = str(self.rng.choice(kinds)), f"new {len(self.calls)}"
        text += f", {name!r} of {kind}"
        arguments: dict[str, Any] = {"X": X, "y": y}
        if self.world.is_long:
            arguments["X"] = X.with_columns(school=pl.lit(name))
        else:
            new = self.world.label(kind, self.rng, self.rng.normal(size=len(X))).alias(name)
            arguments["y"] = new if self.rng.random() < 0.3 else new.to_frame()
            declared = TARGETS[kind][1]
            arguments |= {"tasks": {name: declared}} if declared else {}
        if self.rng.random() < 0.2:
            arguments["freeze"] = None
        run, said = self._finish(verb, arguments, text, is_bad)
        n = len(getattr(self.model, "tasks_", ()))
        stays = (
            arguments.get("freeze", "shared") == "shared" and self.is_fitted and not self.world.is_long and not is_bad
        )

        def add() -> None:
            before = arrays_of(self.model.__answers__(self.probe)) if stays else []
            names = [task.name for task in getattr(self.model, "tasks_", ())]
            run()
            self.added |= {task.name: kind for task in self.model.tasks_ if task.name not in names}
            if stays and not same(before, arrays_of(self.model.__answers__(self.probe))[:n]):
                raise BrokenLaw(self._tell("add_task has changed the answers of other tasks"))

        return add, said

    def _draw_remove_task(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        names = [task.name for task in getattr(self.model, "tasks_", ())]
        name: Any = WRONG[self.rng.integers(len(WRONG))] if is_bad else str(self.rng.choice(names or ["y"]))

        def remove() -> None:
            is_known = isinstance(name, str) and name in names and not self.world.is_long
            before = arrays_of(self.model.__answers__(self.probe)) if is_known else []
            self.model.remove_task(name)
            self.added.pop(name, None)
            if before:
                del before[names.index(name)]
                gaps = [
                    np.abs(a - b).max()
                    for a, b in zip(before, arrays_of(self.model.__answers__(self.probe)), strict=True)
                ]
                scale = [np.abs(a).max() + 1e-12 for a in before]
                if max((gap / own for gap, own in zip(gaps, scale, strict=True)), default=0.0) > 1e-5:
                    raise BrokenLaw(self._tell("remove_task has changed the answers of other tasks"))

        return remove, f"remove_task({name!r})"

    def _draw_calibrate(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        run_args = {"method": str(self.rng.choice(["sigmoid", "temperature", "isotonic"]))}
        X, y, text = self._rows(60, 100)
        return self._finish(verb, {"X": X, "y": y} | run_args, text, is_bad)

    def _draw_tune_thresholds(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        X, y, text = self._rows(60, 100)
        return self._finish(verb, {"X": X, "y": y}, text, is_bad)

    _draw_conformalize = _draw_tune_thresholds

    def _draw_save(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        return self._save_and_load, "save(folder) and load"

    def _save_and_load(self) -> None:
        with TemporaryDirectory() as folder:
            loaded = reload(self.model, Path(folder, "model"))
        self._check_copy(loaded, "a file")
        if self.rng.random() < 0.5:
            self.model = loaded

    def _draw_copy(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        how = str(self.rng.choice(["pickle", "deepcopy", "clone"]))

        def run() -> None:
            if how == "clone":
                clone(self.model)
                return
            made = pickle.loads(pickle.dumps(self.model)) if how == "pickle" else copy.deepcopy(self.model)
            if self.is_fitted:
                self._check_copy(made, how)
            self.model = made

        return run, how

    def _check_copy(self, other: Any, how: str) -> None:
        verbs = differing(self._answers(self.model), self._answers(other))
        verbs += self._differing_scores(other)
        if verbs:
            raise BrokenLaw(self._tell(f"{how} changes the answers of {verbs}"))

    def _differing_scores(self, other: Any) -> list[str]:
        verbs = []
        X, y, _ = self._rows()
        X, y = self.world.give(X), self.world.give(y)
        for verb, arguments in (("drift", (X,)), ("score_tasks", (X, y))):
            found = []
            for model in (self.model, other):
                try:
                    found.append(repr(getattr(model, verb)(*arguments)))
                except (ValueError, TypeError) as error:
                    found.append(str(error))
            verbs += [verb] if found[0] != found[1] else []
        return verbs

    def _draw_set_params(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        names = [field.name for field in fields(type(self.model)) if field.name not in LEFT_OUT]
        name, value = str(self.rng.choice(names)), WRONG[self.rng.integers(len(WRONG))]
        X, y, text = self._rows(60, 100, fit=True)
        before = self.model.get_params(deep=False)[name]

        def run() -> None:
            try:
                self.model.set_params(**{name: value})
                self.model.fit(self.world.give(X), self.world.give(y))
            finally:
                self.model.set_params(**{name: before})

        return run, f"set_params({name}={value!r}).fit({text}), then set back after the fit"

    def _draw_attributes(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        name = str(self.rng.choice([own for own in _ATTRIBUTES if hasattr(type(self.model), own)] or ["tasks"]))

        def run() -> None:
            repr(self.model)
            self.model._repr_html_()
            getattr(self.model, name)

        return run, f".{name}"

    def _draw_permutation_importances(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        X, y, text = self._rows()
        X, y = self.world.give(X), self.world.give(y)
        return (
            lambda: permutation_importances(self.model, X, y, n_repeats=2, random_state=0),
            f"permutation_importances(model, {text})",
        )

    def _draw_export_task(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        names = [task.name for task in getattr(self.model, "tasks_", ())]
        name: Any = WRONG[self.rng.integers(len(WRONG))] if is_bad else str(self.rng.choice(names or ["y"]))
        return lambda: self.model.export_task(name), f"export_task({name!r})"


def shortened(value: Any) -> str:
    """Return a value as a short text: the first line."""
    text = np.array2string(value, threshold=5) if isinstance(value, np.ndarray) else repr(value)
    return text.partition("\n")[0][:60]


def _is_of_names(given: warnings.WarningMessage) -> bool:
    """Return whether a warning is scikit-learn's of rows without names, or with names that fit had not."""
    return "feature names, but" in str(given.message)


_OWN_VERBS = ("copy", "attributes", "permutation_importances")


#: Walks of one test; `make test` makes those of the first.
_OF_TEST = 5


def starts(n: int) -> Any:
    """Return the first seeds of tests that make n walks together."""
    found = range(0, n, _OF_TEST)
    return pytest.mark.parametrize("start", later(found, *found[1:]))


def check_walks(cls: type[Walk], start: int) -> None:
    """Run the walks of a test; some calls are answered, and some refused."""
    walks = [cls(seed).run() for seed in range(start, start + _OF_TEST)]
    ends = Counter(end for walk in walks for _, end in walk.ends)
    assert 0 < ends["answered"] < ends.total(), "calls are all refused, or none is"
