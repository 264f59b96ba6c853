"""Conformance for authors of models: the promises of every estimator, as checks that run outside this package.

>>> from tabmtl import SharedBottom
>>> from tabmtl.testing import multitask_checks
>>> checks = multitask_checks(SharedBottom(hidden=(8,), epochs=1))
>>> checks[0].__name__
'check_every_public_class_attribute_is_a_hyper_parameter'

`check_multitask_estimator` runs them all. With pytest, every check is a test of its own::

    @pytest.mark.parametrize("check", multitask_checks(MyNet(epochs=2)))
    def test_my_net(check):
        check()

Checks of frames of other libraries need pandas and pyarrow.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cached_property, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import TestCase

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.testing import assert_allclose, assert_array_equal
from polars.testing import assert_frame_equal
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score

import tabmtl
from tabmtl.estimators.docstrings import documented
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.schema import FewLabelsWarning, PerfectFeatureWarning, TabmtlWarning
from tabmtl.storage.persist import load
from tabmtl.targets import Task

#: Set where an estimator has the parameter; on the CPU, the bits of two runs can be compared.
_SETTINGS: dict[str, Any] = {
    "tasks": None,
    "task_column": None,
    "categorical_features": "from_dtype",
    "min_frequency": 2,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}
#: Enough to learn three slopes, for networks and for trees; experts of a few units would die on the way.
_LONGER = {"epochs": 15, "learning_rate": 0.02, "expert_hidden": (32, 16)}
_MORE_TREES = {"n_estimators": 100, "n_estimators_outlier": 50, "n_estimators_task": 50, "learning_rate": 0.1}
#: Rows, or batches of rows, that are asked one after the other.
_ALONE = 40
_STEPS = ("late", "very early")
_FUNNEL: dict[str, Any] = {
    "task_chain": _STEPS,
    "tasks": {name: Task(name=name, kind="binary", classes=("late", "on time")) for name in _STEPS},
}
_COLOURS = ("red", "green", "blue")
_SCHOOLS = ("east", "north", "west")

#: A change of the features, and the error that names it.
_BAD_FEATURES: tuple[tuple[Callable[[Any], Any], type[Exception], str], ...] = (
    (lambda X: X.with_columns(when=pl.lit(date(2024, 1, 1))), TypeError, r"'when'.*(cast|drop)"),
    (lambda X: X.with_columns(plain=pl.lit(np.inf)), ValueError, r"'plain'.*infinite"),
    (lambda X: X.with_columns(bag=pl.lit([1, 2])), TypeError, "'bag'"),
    (lambda X: X.to_pandas().assign(odd=["a", 1] * 60), TypeError, r"'odd'.*\['int', 'str'\]"),
    (lambda X: X[:0], ValueError, "0 sample"),
    (lambda X: X.select(), ValueError, "0 (sample|feature)"),
    (lambda X: X["plain"], ValueError, "2D"),
    (lambda X: X[:-1], ValueError, "119.*120"),
)
_BAD_LABELS: tuple[tuple[Callable[[pl.Series], pl.Series], type[Exception], str], ...] = (
    (lambda y: y.clear(len(y)), ValueError, r"'{name}'.*no observed label.*drop"),
    (lambda y: pl.Series(y.name, [date(2024, 1, 1)] * len(y)), TypeError, "'{name}'.*cast"),
    (lambda y: pl.Series(y.name, [np.inf, 1.5] * (len(y) // 2)), ValueError, "'{name}'.*infinite"),
)
#: Arguments that make a second fit fail, from the first check of the input to the last.
_FAILURES: dict[str, Callable[[pl.DataFrame, pl.DataFrame], dict[str, Any]]] = {
    "parameter": lambda X, y: {"params": {"random_state": -1}},
    "validation rows alone": lambda X, y: {"X_val": X},
    "features": lambda X, y: {"X": X.with_columns(plain=pl.lit(np.inf))},
    "labels": lambda X, y: {"y": y.clear(len(y))},
    "length": lambda X, y: {"y": y[1:]},
    "weights": lambda X, y: {"sample_weight": [-1.0] * len(X)},
    "groups": lambda X, y: {"groups": [0] * (len(X) - 1)},
    "dropped column": lambda X, y: {"params": {"drop": ["count"]}},
    "columns of validation rows": lambda X, y: {"X_val": X.drop("plain"), "y_val": y},
    "labels of validation rows": lambda X, y: {"X_val": X, "y_val": pl.DataFrame({"z": y[:, 0]})},
}
#: The same features in other containers and dtypes.
_CONTAINERS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "lazy": lambda X: X.lazy(),
    "pyarrow": lambda X: X.to_arrow(),
    "pandas": lambda X: X.to_pandas(),
    "pandas-arrow": lambda X: X.to_pandas(use_pyarrow_extension_array=True),
    "pandas-object": lambda X: X.to_pandas().astype({"text": object, "flag": object}),
    "pandas-nullable": lambda X: X.to_pandas().convert_dtypes(),
    "pandas-category": lambda X: X.to_pandas().astype({"text": "category"}),
    "polars-categorical": lambda X: X.cast({cs.string(): pl.Categorical}),
    "polars-enum": lambda X: X.cast({cs.string(): pl.Enum(["unused", *_COLOURS[::-1], *_SCHOOLS[::-1]])}),
    "polars-nan": lambda X: X.with_columns(pl.col("holes").fill_null(float("nan"))),
}
_KINDS: dict[str, Callable[[pl.Series], pl.Series]] = {
    "regression": lambda y: y,
    "binary": lambda y: (y > 50).alias("passed"),
    "multiclass": lambda y: pl.Series("mark", ["C", "B", "A"]).gather((y > 45).cast(int) + (y > 55).cast(int)),
}

_raises = TestCase().assertRaisesRegex


def check_multitask_estimator(estimator: MultiTaskEstimator) -> None:
    """Check that an estimator keeps the promises of `multitask_checks`.

    Parameters
    ----------
    estimator : MultiTaskEstimator
        As for `multitask_checks`.

    Raises
    ------
    AssertionError
        At the first promise that is not kept, with the name of the check.
    """
    for check in multitask_checks(estimator):
        check()


def multitask_checks(estimator: MultiTaskEstimator) -> list[Callable[[], None]]:
    """Checks that apply to an estimator, for ``pytest.mark.parametrize``.

    Parameters
    ----------
    estimator : MultiTaskEstimator
        Not fitted, with small options: the checks fit copies of it dozens of times. They set the columns, tasks and
        seed. For a funnel, give any ``task_chain``; the checks name their own steps.

    Returns
    -------
    checks : list of callables without arguments
        Each has a ``__name__`` that states the promise, and raises an AssertionError if it is broken.
    """
    every = _EveryEstimator(estimator)
    free, mixed = not every.is_funnel, not every.is_funnel and every.kind is None
    applies = {
        _EveryEstimator: True,
        _FreeEstimator: free,
        _Classifying: free and every.kind != "regression",
        _Regressing: free and every.kind != "classification",
        _Mixed: mixed,
        _Network: mixed and hasattr(estimator, "_network"),
        _Long: mixed,
    }
    return [
        _promised(getattr(group, name), type(estimator).__name__)
        for group in [group(estimator) for group, is_promised in applies.items() if is_promised]
        for name in vars(type(group))
        if name.startswith("check_")
    ]


def _promised(check: Callable[[], None], owner: str) -> Callable[[], None]:
    @wraps(check)
    def run() -> None:
        try:
            check()
        except ImportError:
            raise
        except Exception as error:
            promise = check.__name__.removeprefix("check_").replace("_", " ")
            reason = f"{type(error).__name__}: {error}" if str(error) else "see the assertion above"
            raise AssertionError(f"{owner} fails {check.__name__}; promised is: {promise}. {reason}") from error

    return run


def _hide(table: pl.DataFrame, hidden: np.ndarray) -> pl.DataFrame:
    """Replace the values of some cells by null."""
    return table.select(pl.when(~pl.Series(hidden[:, j])).then(pl.col(name)) for j, name in enumerate(table.columns))


def features(n: int = 120, seed: int = 0) -> pl.DataFrame:
    """Make columns of every type; two have missing values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    level = rng.integers(0, 3, size=n)
    missing = rng.random((n, 2)) < 0.1
    X = pl.DataFrame(
        {
            "plain": x[:, 0],
            "holes": x[:, 1],
            "heavy": np.exp(3 * x[:, 2]).astype(np.float32),
            "count": rng.integers(0, 50, size=n),
            "flag": rng.random(n) < 0.5,
            "text": np.array(_COLOURS)[level],
            "constant": np.ones(n),
        }
    )
    return X.with_columns(*_hide(X.select("holes", "text"), missing))


def mixed_targets(X: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Make a binary, a multiclass and a regression target of text and numbers, with 20 % of the labels missing."""
    rng = np.random.default_rng(seed)
    signal = X["plain"].to_numpy() + 0.3 * rng.normal(size=len(X))
    late = np.where(signal > 0, "late", "on time")
    size = np.array(["large", "medium", "small"])[np.digitize(signal, [-0.4, 0.6])]
    y = pl.DataFrame({"late": late, "size": size, "delay": 100 + 20 * signal})
    return _hide(y, rng.random(y.shape) < 0.2)


def long_table(n: int = 150, seed: int = 0) -> tuple[pl.DataFrame, pl.Series]:
    """Make a table of three schools: each row has one regression label, of its own school; some labels are missing."""
    rng = np.random.default_rng(seed)
    X = features(n, seed).with_columns(school=np.array(_SCHOOLS)[rng.integers(0, 3, n)])
    slope = X["school"].replace_strict({"east": 1.0, "north": -1.0, "west": 3.0})
    grade = 50 + 10 * slope * X["plain"] + rng.normal(size=n)
    return X, grade.scatter(np.flatnonzero(rng.random(n) < 0.1), None).alias("grade")


def answers(estimator: Any, X: Any) -> list[np.ndarray]:
    """Return predictions, probabilities and vectors of some rows, as arrays with one row each."""
    predicted = estimator.predict(X)
    columns = predicted if isinstance(predicted, pl.DataFrame) else [predicted]
    found = [np.asarray(column) for column in columns]
    if hasattr(estimator, "predict_proba"):
        probabilities = estimator.predict_proba(X)
        if isinstance(probabilities, dict):
            probabilities = list(probabilities.values())
        found += probabilities if isinstance(probabilities, list) else [probabilities]
    if hasattr(estimator, "transform"):
        found.append(estimator.transform(X))
    return found


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    """Tell whether two answers are equal bit for bit."""
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def largest_gap(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Return the largest difference between numbers of two answers, relative to the largest number of its column."""
    numbers = [(a, b) for a, b in zip(first, second, strict=True) if a.dtype.kind == "f"]
    gaps = [np.abs(a - b) / (np.abs(a).max(axis=0) + 1e-12) for a, b in numbers]
    return max((float(gap.max()) for gap in gaps), default=0.0)


def finite(found: Sequence[np.ndarray]) -> bool:
    """Tell whether an answer has no missing and no infinite value."""
    return all(np.isfinite(a).all() if a.dtype.kind == "f" else None not in a.tolist() for a in found)


def _answers_by_parts(estimator: Any, X: pl.DataFrame, n_rows: int) -> list[np.ndarray]:
    """Answer a few rows at a time, and join the answers."""
    parts = [answers(estimator, part) for part in X.iter_slices(n_rows)]
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _reload(estimator: Any, folder: Path) -> Any:
    """Save and load a model; classes of the package are found by their name."""
    estimator.save(folder)
    cls = type(estimator)
    return load(folder, cls=None if getattr(tabmtl, cls.__name__, None) is cls else cls)


def _files_of(folder: Path) -> dict[Path, bytes]:
    """Return the files of a model and of its parts."""
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _parameters_of(estimator: BaseEstimator) -> dict[str, Any]:
    """Return hyper-parameters; of estimators among them, which equal no copy of theirs, class and parameters."""
    return {name: _comparable(value) for name, value in estimator.get_params().items()}


def _comparable(value: Any) -> Any:
    if isinstance(value, BaseEstimator):
        return type(value), _parameters_of(value)
    return {name: _comparable(item) for name, item in value.items()} if isinstance(value, Mapping) else value


class _EveryEstimator:
    """Promises of every estimator, and tables that it can fit."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.kind = model._target_kind
        self.is_funnel = getattr(model, "task_chain", None) is not None

    def fresh(self, **params: Any) -> Any:
        """Return an unfitted copy with the settings of the checks; it ignores those that it does not have."""
        known = self.model.get_params(deep=False)
        wanted = _SETTINGS | (_FUNNEL if self.is_funnel else {}) | params
        return clone(self.model).set_params(**{name: value for name, value in wanted.items() if name in known})

    def targets(self, X: pl.DataFrame) -> pl.DataFrame:
        """Make at least two targets, of the kinds that the face of the estimator takes."""
        y = mixed_targets(X)
        if self.kind == "classification":
            return y.drop("delay")
        if self.kind == "regression":
            return y.select("delay", (pl.col("delay") ** 2).alias("square"))
        if self.is_funnel:
            # "on time", the second class, is the step taken; without it, the second label is missing
            late = pl.when(pl.col("late") == "late").then(None).when(X["plain"] > -0.5).then(pl.lit("late"))
            return y.with_columns(late.otherwise("late").alias("very early"))
        return y

    def fitted(self) -> tuple[Any, pl.DataFrame, pl.DataFrame]:
        """Return a copy of a model that is fitted once for all checks, and the features and targets of its fit."""
        X, y = self.table()
        return copy.deepcopy(self._fitted), X, y

    @cached_property
    def _fitted(self) -> Any:
        return self.fresh().fit(*self.table())

    def table(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Make features and targets that the estimator takes."""
        X = features()
        return X, self.targets(X)

    def said(self, X: Any, y: Any, weight: Any = None, **params: Any) -> list[np.ndarray]:
        """Return the answers of a copy for the rows that it was fitted on."""
        return answers(self.fresh(**params).fit(X, y, sample_weight=weight), X)

    def refuse(
        self, X: Any, y: Any, message: str, error: type[Exception] = ValueError, *, weight: Any = None, **params: Any
    ) -> None:
        """Check that the fit of a copy raises an error with a message."""
        with _raises(error, message):
            self.fresh(**params).fit(X, y, sample_weight=weight)

    def check_every_public_class_attribute_is_a_hyper_parameter(self) -> None:
        cls = type(self.model)
        annotated = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
        public = {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}
        values = {name for name, value in public.items() if not (callable(value) or hasattr(value, "__get__"))}
        assert values <= annotated, f"annotate {sorted(values - annotated)}, as a field or a ClassVar"
        assert set(cls._get_param_names()) == {field.name for field in dataclasses.fields(cls)}

    def check_every_hyper_parameter_is_keyword_only_and_documented(self) -> None:
        known = documented(type(self.model).__doc__ or "")
        for field in dataclasses.fields(type(self.model)):
            assert field.kw_only, f"{field.name} is not keyword-only: write @dataclass(kw_only=True, ...)"
            assert field.name in known, f"{field.name} has no entry under Parameters of the class"
            assert "\n    " in known[field.name], f"{field.name} has no description below its name"

    def check_parameters_are_kept_and_cloned(self) -> None:
        estimator = self.fresh()
        given, params = estimator.get_params(), _parameters_of(estimator)
        assert _parameters_of(clone(estimator)) == params
        assert _parameters_of(type(self.model)().set_params(**given)) == params
        estimator, X, _ = self.fitted()
        assert {name: value for name, value in _parameters_of(estimator).items() if name in params} == params
        with _raises(NotFittedError, ""):
            clone(estimator).predict(X)

    def check_the_same_seed_gives_the_same_bits_and_leaves_the_global_generators_alone(self) -> None:
        import torch

        def states() -> Any:
            legacy: Any = np.random.get_state()
            return random.getstate(), legacy[1].tolist(), legacy[2:], torch.get_rng_state().tolist()

        X, y = self.table()
        before = states()
        first = self.fresh().fit(X, y)
        said = answers(first, X)
        assert states() == before, "a global generator has moved"
        random.seed(1)
        np.random.seed(1)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            assert same(said, self.said(X, y))
            assert same(said, answers(clone(first).fit(X, y), X))
        seeded = [self.said(X, y, random_state=np.random.RandomState(7)) for _ in range(2)]
        assert same(*seeded), "two fits with one RandomState differ"

    def check_fit_again_equals_a_first_fit(self) -> None:
        estimator, X, y = self.fitted()
        once = answers(estimator, X)
        estimator.fit(X.select("plain", "text"), y.select(_STEPS if self.is_funnel else y.columns[0]))
        assert same(once, answers(estimator.fit(X, y), X))

    def check_copies_and_files_give_the_same_bits(self) -> None:
        estimator, X, y = self.fitted()
        said = answers(estimator, X)
        with TemporaryDirectory() as folder:
            copies = {
                "load": _reload(estimator, Path(folder)),
                "pickle": pickle.loads(pickle.dumps(estimator)),
                "deepcopy": copy.deepcopy(estimator),
            }
        for how, other in copies.items():
            assert type(other) is type(self.model), how
            assert _parameters_of(other) == _parameters_of(estimator), how
            assert same(said, answers(other, X)), how
            assert other.tasks_ == estimator.tasks_, how
            assert other.score_tasks(X, y) == estimator.score_tasks(X, y), how
            assert sorted(vars(other)) == sorted(vars(estimator)), how
        assert same(said, answers(estimator, X))

    def check_a_second_generation_file_holds_the_same_bytes(self) -> None:
        with TemporaryDirectory() as folder:
            first, second = Path(folder, "first"), Path(folder, "second")
            _reload(self.fitted()[0], first).save(second)
            found = [_files_of(path) for path in (first, second)]
        assert found[0] == found[1]

    def check_an_unfitted_estimator_says_so(self) -> None:
        estimator = self.fresh()
        X, y = self.table()
        with TemporaryDirectory() as folder:
            for method, arguments in (("predict", (X,)), ("score", (X, y)), ("save", (folder,))):
                with _raises(NotFittedError, type(self.model).__name__):
                    getattr(estimator, method)(*arguments)

    def check_scores_are_those_of_the_tasks(self) -> None:
        estimator, X, y = self.fitted()
        scores = estimator.score_tasks(X, y)
        assert list(scores) == y.columns
        score = estimator.score(X, y)
        assert score <= 1
        if self.kind is None:
            assert_allclose(score, np.mean(list(scores.values())), rtol=1e-6)

    def check_bad_features_are_named(self) -> None:
        X = features()
        for change, error, message in _BAD_FEATURES:
            self.refuse(change(X), self.targets(X), message, error)

    def check_bad_labels_are_named(self) -> None:
        X, y = self.table()
        name = y.columns[1]
        for change, error, message in _BAD_LABELS:
            self.refuse(X, y.with_columns(change(y[name])), message.format(name=name), error)

    def check_a_face_refuses_labels_of_the_other_kind(self) -> None:
        if self.kind is not None:
            message = r"'delay'.*continuous" if self.kind == "classification" else r"'late'.*text"
            self.refuse(features(), mixed_targets(features()), message)

    def check_bad_weights_are_refused(self) -> None:
        X, y = self.table()
        n, t = y.shape
        bad = [-np.ones(n), np.full(n, np.nan), np.full((n, t), np.inf), np.zeros(n)]
        misshapen = [np.ones(n - 1), np.ones((n, t + 1)), pl.DataFrame({"somebody": np.ones(n)})]
        for weight in bad + misshapen:
            self.refuse(X, y, "weight", weight=weight)

    def check_features_that_changed_since_fit_are_named(self) -> None:
        estimator, X, y = self.fitted()
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            for error, message, other in (
                (TypeError, r"'plain'.*numeric.*fit", X.with_columns(plain=pl.col("plain").cast(pl.String))),
                (ValueError, r"'plain'.*infinite", X.with_columns(plain=pl.lit(-np.inf))),
                (TypeError, "'text'", X.with_columns(text=pl.lit(date(2024, 1, 1)))),
                (ValueError, "feature names", X.drop("plain")),
                (ValueError, "feature names", X.rename({"plain": "simple"})),
                (ValueError, r"X has 2 features, but \w+ is expecting 7", X.select("plain", "holes").to_numpy()),
                (ValueError, "0 sample", X[:0]),
            ):
                with _raises(error, message):
                    estimator.predict(other)
        with _raises(ValueError, y.columns[0]):
            estimator.score(X, y.drop(y.columns[0]))
        with _raises(ValueError, "119"):
            estimator.score(X, y[:-1])

    def check_columns_in_another_order_are_taken_by_name(self) -> None:
        estimator, X, y = self.fitted()
        other = X.select(reversed(X.columns))
        for frame in (other, other.to_pandas()):
            assert same(answers(estimator, frame), answers(estimator, X))
        assert estimator.score_tasks(other, y) == estimator.score_tasks(X, y)

    def check_a_failed_fit_leaves_the_estimator_as_it_was(self) -> None:
        estimator, X, y = self.fitted()
        said, before = answers(estimator, X), dict(vars(estimator))
        for why, arguments_for in _FAILURES.items():
            # columns that the first fit did not have
            other = X.rename({"count": "number"})
            arguments = {"X": other, "y": y} | arguments_for(other, y)
            params = arguments.pop("params", {})
            with _raises((ValueError, TypeError), ""):
                estimator.set_params(**params).fit(**arguments)
            estimator.set_params(**{name: before[name] for name in params})
            assert vars(estimator) == before, why
            assert same(said, answers(estimator, X)), why

    def check_a_row_is_answered_alike_in_any_batch(self) -> None:
        estimator, X, _ = self.fitted()
        everywhere = answers(estimator, X)
        for size in (1, 2, 7, 8, 31):
            asked = X[: _ALONE * size]
            whole, joined = [a[: len(asked)] for a in everywhere], _answers_by_parts(estimator, asked, size)
            alike = all(np.array_equal(a, b) for a, b in zip(whole, joined, strict=True) if a.dtype.kind != "f")
            assert alike, f"in batches of {size} rows, labels differ from those of all rows together"
            gap = largest_gap(whole, joined)
            assert gap <= 1e-6, f"in batches of {size} rows, answers differ by {gap:.1e}; allowed is 1e-6"

    def check_a_row_is_answered_alike_in_any_order_and_beside_any_row(self) -> None:
        estimator, X, _ = self.fitted()
        order = np.random.default_rng(0).permutation(len(X))
        whole = answers(estimator, X)
        assert largest_gap([a[order] for a in whole], answers(estimator, X[order])) <= 1e-6
        strange = X.with_columns(plain=pl.lit(1e9), holes=pl.lit(None, dtype=pl.Float64), text=pl.lit("violet"))
        beside = answers(estimator, pl.concat([strange, X]))
        assert largest_gap(whole, [a[len(X) :] for a in beside]) <= 1e-6
        many = answers(estimator, pl.concat([X] * 20))
        assert largest_gap([np.concatenate([a] * 20) for a in whole], many) <= 1e-6

    def check_missing_values_are_answered_anywhere(self) -> None:
        estimator, X, y = self.fitted()
        for name, dtype in X.schema.items():
            typed = answers(estimator, X.with_columns(pl.lit(None, dtype).alias(name)))
            assert finite(typed)
            assert same(typed, answers(estimator, X.with_columns(pl.lit(None).alias(name))))
        assert finite(answers(estimator, X.clear(3)))
        assert finite(self.said(X.with_columns(plain=pl.lit(None)), y))

    def check_unseen_levels_are_answered_alike(self) -> None:
        estimator, X, _ = self.fitted()
        violet, brown = (answers(estimator, X.with_columns(text=pl.lit(level))) for level in ("violet", "brown"))
        assert finite(violet)
        assert same(violet, brown)

    def check_constant_columns_and_outliers_are_taken(self) -> None:
        X = features().with_columns(level=pl.lit("only"), yes=pl.lit(True), zero=pl.lit(0))
        huge = X["plain"].scatter([3, 4], [1e300, -1e300])
        y = self.targets(X)
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            estimator = self.fresh().fit(X.with_columns(plain=huge), y)
            assert finite(self.said(X.select("level"), y))
        assert finite(answers(estimator, X))
        assert finite(answers(estimator, X.with_columns(plain=pl.lit(-1e300))))

    def check_one_row_is_answered(self) -> None:
        estimator, X, _ = self.fitted()
        assert {len(a) for a in answers(estimator, X[:1])} == {1}

    def check_a_task_with_labels_on_one_percent_of_rows_is_learned(self) -> None:
        X = features(1_000)
        y = self.targets(X)
        rare = y.columns[0]
        labelled = y.with_row_index("row").drop_nulls(rare)
        kept = labelled.group_by(rare, maintain_order=True).head(5)["row"].head(10)  # five of each class
        y = y.with_columns(pl.when(pl.int_range(pl.len()).is_in(kept.implode())).then(pl.col(rare)))
        with warnings.catch_warnings(action="ignore", category=FewLabelsWarning):
            estimator = self.fresh().fit(X, y)
        assert finite(answers(estimator, X))
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            assert set(estimator.score_tasks(X, y)) == set(y.columns)

    def check_features_mean_the_same_in_every_container(self) -> None:
        estimator, X, y = self.fitted()
        said, scores = answers(estimator, X), estimator.score_tasks(X, y)
        for container, convert in _CONTAINERS.items():
            other = convert(X)
            assert same(said, answers(estimator, other)), container
            assert same(said, self.said(other, y)), container
            assert estimator.score_tasks(other, y) == scores, container

    def check_arrays_mean_the_same_as_frames(self) -> None:
        X = features().select("plain", "holes", "count", "constant")
        y = self.targets(features())
        array = X.to_numpy()
        from_array = self.fresh().fit(array, y)
        assert not hasattr(from_array, "feature_names_in_")
        said = answers(from_array, array)
        assert same(said, answers(from_array, array.tolist()))
        assert same(said, answers(from_array, np.asfortranarray(array)))
        assert same(said, self.said(X, y))
        mixed = features().select("plain", "text")
        assert same(self.said(mixed.to_pandas().to_numpy(dtype=object), y), self.said(mixed, y))

    def check_frames_without_names_are_silent(self) -> None:
        X, y = features().select("plain", "count").to_pandas(), self.targets(features())
        X.columns = [0, 1]
        with warnings.catch_warnings(action="error", category=UserWarning):
            warnings.simplefilter("ignore", PerfectFeatureWarning)  # the targets are made of the features
            self.fresh().fit(X, y).predict(X)

    def check_columns_named_as_categories_are_categories(self) -> None:
        X, y = features().select("plain", "count"), self.targets(features())
        said = self.said(X, y, categorical_features=["count"])
        for named in ([1], np.array(["count"]), np.array([1])):
            assert same(said, self.said(X, y, categorical_features=named))
        assert same(said, self.said(X.cast({"count": pl.String}), y))
        self.refuse(X, y, "colour", categorical_features=["colour"])

    def check_targets_come_back_in_their_container(self) -> None:
        estimator, X, y = self.fitted()
        predicted = estimator.predict(X)
        assert isinstance(predicted, pl.DataFrame)
        assert predicted.schema == y.schema
        assert sum(predicted.null_count().row(0)) == 0

        pandas_X = X.to_pandas().set_axis(np.arange(len(X)) + 1000).rename_axis("row")
        pandas_y = y.to_pandas().set_index(pandas_X.index)
        in_pandas = self.fresh().fit(pandas_X, pandas_y).predict(pandas_X)
        assert type(in_pandas) is type(pandas_y)
        assert in_pandas.index.identical(pandas_X.index)
        assert in_pandas.dtypes.tolist() == pandas_y.dtypes.tolist()
        assert_frame_equal(pl.from_pandas(in_pandas), predicted)

        arrow_y = y.to_arrow()
        in_arrow = self.fresh().fit(X, arrow_y).predict(X)
        assert type(in_arrow) is type(arrow_y)
        assert_frame_equal(pl.DataFrame(in_arrow), predicted)

    def check_weights_come_in_three_forms(self) -> None:
        X, y = self.table()
        weight = np.random.default_rng(1).integers(1, 4, size=len(X)).astype(float)
        said = self.said(X, y, weight)
        per_task = np.column_stack([weight] * y.shape[1])
        frame = pl.DataFrame(per_task, schema=y.columns).select(reversed(y.columns))
        series = pl.Series(weight)
        for form in (weight.tolist(), series, series.to_pandas(), per_task, frame, frame.to_pandas()):
            assert same(said, self.said(X, y, form))
        assert not same(said, self.said(X, y))

    def check_weights_are_normalised_for_every_task(self) -> None:
        X, y = self.table()
        weight = np.random.default_rng(1).integers(1, 4, size=y.shape).astype(float)
        scaled = weight * 2.0 ** np.arange(y.shape[1])
        assert same(self.said(X, y, weight), self.said(X, y, scaled))

    def check_weights_count_in_scores(self) -> None:
        estimator, X, y = self.fitted()
        half = np.arange(len(X)) % 2
        X_half, y_half = X.gather_every(2, 1), y.gather_every(2, 1)
        weighted, expected = estimator.score_tasks(X, y, half), estimator.score_tasks(X_half, y_half)
        assert_frame_equal(pl.DataFrame(weighted), pl.DataFrame(expected), rel_tol=1e-6)
        score = estimator.score(X, y, sample_weight=half)
        assert_allclose(score, estimator.score(X_half, y_half), rtol=1e-6)

    def check_groups_are_an_array_or_a_column(self) -> None:
        X, y = self.table()
        owners = X.with_columns(owner=pl.int_range(len(X)) // 3)
        estimator = self.fresh(drop=["owner"]).fit(owners, y, groups="owner")
        said = answers(estimator, X)
        assert same(said, answers(estimator, owners))
        assert same(said, answers(self.fresh().fit(X, y, groups=owners["owner"].to_numpy()), X))

    def check_bad_groups_are_named(self) -> None:
        X, y = self.table()
        for groups, message in (("owner", "'owner'.*lacks"), ([0], "groups.*120"), ([None] * 120, "groups.*missing")):
            with _raises(ValueError, message):
                self.fresh().fit(X, y, groups=groups)


class _FreeEstimator(_EveryEstimator):
    """Promises of estimators that are no funnel: they take any targets of the kinds of their face."""

    def check_few_rows_are_enough_to_fit(self) -> None:
        labels = {"late": ["a", "b", None, "a"], "size": ["s", "m", "l", None], "delay": [1.5, None, -2.0, 0.7]}
        kept = {"classification": cs.string(), "regression": cs.float()}
        y = pl.DataFrame(labels).select(kept.get(self.kind, pl.all()))
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            assert finite(self.said(features()[:4], y))

    def check_flat_targets_come_back_flat(self) -> None:
        X = features()
        y = self.targets(X)[:, 0]
        series = self.fresh().fit(X, y).predict(X)
        assert isinstance(series, pl.Series)
        assert (series.name, series.dtype, len(series)) == (y.name, y.dtype, len(X))
        assert_frame_equal(self.fresh().fit(X, y.to_frame()).predict(X), series.to_frame())
        in_pandas = self.fresh().fit(X.to_pandas(), y.to_pandas()).predict(X.to_pandas())
        assert (type(in_pandas), in_pandas.name) == (type(y.to_pandas()), y.name)
        full = y.fill_null(strategy="backward").fill_null(strategy="forward")
        array = self.fresh().fit(X, full.to_numpy()).predict(X)
        assert isinstance(array, np.ndarray)
        assert array.shape == (len(X),)

    def check_probabilities_take_the_form_of_the_face(self) -> None:
        estimator, X, y = self.fitted()
        if self.kind == "regression":
            assert not hasattr(estimator, "predict_proba")
            return
        probabilities = estimator.predict_proba(X)
        if self.kind == "classification":
            assert isinstance(probabilities, list)
            probabilities = dict(zip(y.columns, probabilities, strict=True))
            for classes, task in zip(estimator.classes_, estimator.tasks_, strict=True):
                assert classes.tolist() == list(task.classes)
        assert {name: p.shape for name, p in probabilities.items()} == {"late": (len(X), 2), "size": (len(X), 3)}
        flat = self.fresh().fit(X, y["size"])
        assert isinstance(flat.predict_proba(X), np.ndarray)
        if self.kind is None:
            assert not hasattr(flat, "classes_")
        else:
            assert flat.classes_.tolist() == sorted(flat.classes_)

    def check_weight_zero_equals_an_absent_label(self) -> None:
        X, y = self.table()
        hidden = np.random.default_rng(1).random(y.shape) >= 0.7
        absent = _hide(y, hidden)
        said = self.said(X, absent, np.ones(y.shape))
        assert same(said, self.said(X, y, (~hidden).astype(float)))
        junk = absent.with_columns(cs.string().fill_null("odd"), cs.float().fill_null(1e9))
        labelled = absent.select(pl.all().is_not_null().cast(float))
        assert same(said, self.said(X, junk, labelled))


class _Classifying(_EveryEstimator):
    """Promises of estimators that take classes."""

    def check_one_single_class_is_named(self) -> None:
        X = features()
        self.refuse(X, pl.DataFrame({"late": ["yes"] * len(X)}), r"'late'.*class.*at least two")


class _Regressing(_EveryEstimator):
    """Promises of estimators that take numbers."""

    def check_one_label_is_enough_for_a_regression(self) -> None:
        X = features()[:5]
        y = pl.DataFrame({"delay": [None, 3.0, None, None, None], "size": [1.0, 2.5, 3.0, 4.0, 5.5]})
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            predicted = self.fresh().fit(X, y).predict(X)
            assert finite([predicted["delay"].to_numpy()])
            assert finite([self.fresh().fit(X[:1], [3.5]).predict(X)])


class _Mixed(_EveryEstimator):
    """Promises of estimators that mix kinds of targets."""

    def check_declarations_that_do_not_fit_are_named(self) -> None:
        X, y = self.table()
        for tasks, message in (
            ({"speed": "regression"}, "speed"),
            ({"late": Task(name="late", kind="binary", classes=("a", "b"))}, r"'late'.*classes"),
            ({"size": "binary"}, r"'size'.*binary.*3 classes"),
            ({"size": "regression"}, r"'size'.*regression"),
            ({"late": Task(name="late", kind="binary", metric="r2")}, r"'late'.*'r2'.*roc_auc"),
            ({"late": "binry"}, r"'late'.*binry"),
        ):
            self.refuse(X, y, message, tasks=tasks)

    def check_labels_that_fit_did_not_see_are_named(self) -> None:
        estimator, X, y = self.fitted()
        for changed, message in (
            ({"late": "never"}, r"'late'.*'never'.*'on time'"),
            ({"late": 1.5}, "'late'"),
            ({"delay": "long"}, "'delay'"),
        ):
            with _raises(ValueError, message):
                estimator.score(X, y.with_columns(**{name: pl.lit(label) for name, label in changed.items()}))

    def check_ten_thousand_levels_are_learned(self) -> None:
        rng = np.random.default_rng(0)
        level = rng.permutation(np.repeat(np.arange(10_000), 2))
        X = pl.DataFrame({"user": pl.Series(level).cast(pl.String), "plain": rng.normal(size=len(level))})
        estimator = self.fresh(epochs=1, batch_size=2_048).fit(X, mixed_targets(X))
        assert max(estimator._coder.features.columns.cardinalities) == 10_002
        assert finite(answers(estimator, X[:50]))

    def check_labels_keep_their_type(self) -> None:
        X, y = self.table()
        typed = y.select(
            is_late=pl.col("late") == "late",
            enum=pl.col("size").cast(pl.Enum(["small", "medium", "large"])),
            category=pl.col("size").cast(pl.Categorical),
            level=pl.col("size").replace_strict({"small": 7, "medium": 1, "large": 3}, return_dtype=pl.Int16),
            short=pl.col("delay").cast(pl.Float32),
            whole=pl.col("delay").round().cast(pl.Int32),
        )
        estimator = self.fresh(tasks={"level": "multiclass", "whole": "regression"}).fit(X, typed)
        predicted, probabilities = estimator.predict(X), estimator.predict_proba(X)
        assert predicted.schema == typed.schema | {"whole": pl.Float64()}
        assert list(probabilities) == ["is_late", "enum", "category", "level"]
        assert estimator.tasks_[3].classes == (1, 3, 7)
        for task, (name, p) in zip(estimator.tasks_, probabilities.items(), strict=False):
            assert set(predicted[name].cast(pl.String)) <= set(typed[name].drop_nulls().cast(pl.String))
            assert p.shape == (len(X), len(task.classes))
            assert_allclose(p.sum(axis=1), 1, rtol=1e-7)
            assert [task.classes[k] for k in p.argmax(axis=1)] == predicted[name].to_list()

    def check_an_array_of_objects_holds_mixed_targets(self) -> None:
        from_frame, X, y = self.fitted()
        from_array = self.fresh().fit(X, y.to_pandas().to_numpy(dtype=object))
        assert [task.kind.name for task in from_array.tasks_] == ["binary", "multiclass", "regression"]
        predicted = from_array.predict(X)
        assert predicted.dtype == object
        assert [tuple(row) for row in predicted] == from_frame.predict(X).rows()

    def check_whole_numbers_are_guessed_with_a_warning(self) -> None:
        X = features()
        y = mixed_targets(X).with_columns(stars=X["count"] % 5)
        with TestCase().assertWarnsRegex(TabmtlWarning, r"'stars' .* tasks=\{'stars': 'multiclass'\}"):
            self.fresh().fit(X, y)
        declared = self.fresh(tasks={"stars": "regression"}).fit(X, y)
        assert declared.tasks_[3] == Task(name="stars", kind="regression", metric="r2")
        assert declared.predict(X)["stars"].dtype == pl.Float64

    def check_tasks_are_declared_by_name_or_in_order(self) -> None:
        X, y = self.table()
        late = Task(name="late", kind="binary", classes=("on time", "late"), metric="accuracy", weight=2.0)
        by_name = self.fresh(tasks={"late": late, "delay": "regression"}).fit(X, y)
        assert by_name.tasks_[0] == late
        plain = self.fresh(tasks={"late": Task(name="late", kind="binary", weight=2.0)}).fit(X, y)
        assert plain.tasks_[0].classes == ("late", "on time")
        assert by_name.predict_proba(X)["late"].shape == plain.predict_proba(X)["late"].shape
        in_order = self.fresh(tasks=[late, Task(name="size", kind="multiclass"), Task(name="delay", kind="regression")])
        array = y.to_pandas().to_numpy(dtype=object)
        assert [task.name for task in in_order.fit(X, array).tasks_] == ["late", "size", "delay"]
        assert same(list(in_order.predict_proba(X).values()), list(by_name.predict_proba(X).values()))
        assert list(in_order.score_tasks(X, array)) == ["late", "size", "delay"]

    def check_a_declared_class_may_be_without_labels(self) -> None:
        X, y = self.table()
        tasks = {"late": Task(name="late", kind="multiclass", classes=("late", "lost", "on time"))}
        p = self.fresh(tasks=tasks).fit(X, y).predict_proba(X)["late"]
        assert p.shape == (len(X), 3)
        assert_allclose(p.sum(axis=1), 1)


class _Network(_EveryEstimator):
    """Promises of networks."""

    def check_another_seed_gives_another_network(self) -> None:
        first, X, y = self.fitted()
        assert not same(answers(first, X), self.said(X, y, random_state=1))


class _Long(_EveryEstimator):
    """Promises for tables with one task a row."""

    def fresh(self, **params: Any) -> Any:
        """Return an unfitted copy for `long_table`."""
        return super().fresh(**{"task_column": "school"} | params)

    def table(self) -> tuple[pl.DataFrame, Any]:
        """Make a long table."""
        return long_table()

    def check_a_failed_fit_of_a_long_table_leaves_the_estimator_as_it_was(self) -> None:
        estimator, X, y = self.fitted()
        said = answers(estimator, X)
        with _raises(ValueError, "school"):
            estimator.fit(X.drop("school"), y)
        assert same(said, answers(estimator, X))

    def check_every_row_is_answered_for_its_own_task(self) -> None:
        X, numbers = long_table()
        order = np.random.default_rng(0).permutation(len(X))
        for kind, labels_of in _KINDS.items():
            y = labels_of(numbers)
            estimator = self.fresh().fit(X, y)
            assert [(task.name, task.kind.name) for task in estimator.tasks_] == [(name, kind) for name in _SCHOOLS]
            predicted = estimator.predict(X)
            assert (predicted.name, predicted.dtype, len(predicted)) == (y.name, y.dtype, len(X))
            whole = answers(estimator, X)
            alone = _answers_by_parts(estimator, X[:_ALONE], 1)
            assert largest_gap([a[:_ALONE] for a in whole], alone) <= 1e-6, kind
            assert largest_gap([a[order] for a in whole], answers(estimator, X[order])) <= 1e-6, kind
            assert same(whole, self.said(X, y)), kind
            with TemporaryDirectory() as folder:
                assert same(whole, answers(_reload(estimator, Path(folder)), X)), kind

    def check_tasks_are_told_apart_and_scored_on_their_own_rows(self) -> None:
        X, y = long_table(600)
        X = X.select("plain", "school")  # all that the labels depend on
        estimator = self.fresh(**_LONGER if hasattr(self.model, "epochs") else _MORE_TREES).fit(X, y)
        scores = estimator.score_tasks(X, y)
        predicted = estimator.predict(X)
        for school, score in scores.items():
            own = (X["school"] == school) & y.is_not_null()
            assert_allclose(score, r2_score(y.filter(own), predicted.filter(own)), rtol=1e-6)
            assert score > 0.5, "one slope for all schools reaches less: they differ in sign"
        assert_allclose(estimator.score(X, y), np.mean(list(scores.values())), rtol=1e-6)
        elsewhere = estimator.predict(X.with_columns(school=pl.lit("north")))
        assert (elsewhere != predicted).sum() > len(X) / 2

    def check_the_task_column_may_have_any_form(self) -> None:
        self.check_features_mean_the_same_in_every_container()

    def check_tasks_may_be_numbered(self) -> None:
        X, y = long_table()
        X = X.with_columns(school=pl.col("school").replace_strict({"east": 10, "north": 2, "west": 7}))
        estimator = self.fresh().fit(X, y)
        assert sorted(task.name for task in estimator.tasks_) == ["10", "2", "7"]
        assert len(estimator.predict(X)) == len(X)

    def check_weight_zero_equals_an_absent_label_in_a_long_table(self) -> None:
        X, y = long_table()
        hidden = np.random.default_rng(1).random(len(X)) >= 0.7
        absent = y.set(pl.Series(hidden), None)
        assert same(self.said(X, absent, np.ones(len(X))), self.said(X, y, (~hidden).astype(float)))

    def check_validation_rows_name_their_task(self) -> None:
        X, y = long_table()
        X_val, y_val = long_table(seed=1)
        estimator = self.fresh().fit(X, y, X_val=X_val, y_val=y_val)
        assert list(estimator.score_tasks(X_val, y_val)) == list(_SCHOOLS)

    def check_what_a_long_table_lacks_is_named(self) -> None:
        X, y = long_table()
        self.refuse(X, y, "'class' is not a column of X", task_column="class")
        self.refuse(X.with_columns(school=pl.lit(None, dtype=pl.String)), y, r"school.*missing")
        self.refuse(X, pl.DataFrame({"a": y, "b": y}), "one target")
        estimator = self.fresh(unknown_task="error").fit(X, y)
        with _raises(ValueError, r"school.*'south'"):
            estimator.predict(X.with_columns(school=pl.lit("south")))
        with _raises(ValueError, "school"):
            estimator.predict(X.drop("school"))

    def check_a_task_of_a_long_table_without_labels_is_named(self) -> None:
        X, y = long_table()
        self.refuse(X, y.set(X["school"] == "west", None), r"task 'west' .* no observed label")

    def check_probabilities_of_a_long_frame_are_under_its_column(self) -> None:
        X, grades = long_table()
        y = _KINDS["binary"](grades)
        flat = self.fresh().fit(X, y).predict_proba(X)
        framed = self.fresh().fit(X, y.to_frame()).predict_proba(X)
        assert list(framed) == ["passed"]
        assert_array_equal(framed["passed"], flat)
