"""Stored answers: whether a change of the code leaves every answer as it was, bit for bit.

Every estimator, ensemble and recommender is fitted in a small form for fixed seeds, on wide and long tables, funnels
and `Shards`, with weights, validation rows and members; :mod:`benchmarks.stored_verbs` has what they do after the fit.
``--store`` writes their answers, ``--check`` compares them:

    python -m benchmarks.stored_answers --store answers.npz   # before a change
    python -m benchmarks.stored_answers --check answers.npz   # after it, on the same machine

It names every answer that has changed, with the largest difference, and its exit code is then 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

import tabmtl
from benchmarks import stored_verbs
from benchmarks.harness import parser
from benchmarks.stored_verbs import Arrays, numbered
from tabmtl import Shards, sessions
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.synth import make_sessions
from tabmtl.testing import answers, features, long_table, mixed_targets
from tabmtl.testing.long import LABELS
from tabmtl.testing.small import small
from tabmtl.testing.subject import FUNNEL, STEPS

FUNNELS = ("APEM", "ESMM", "AITM")
NOT_LONG = ("ESMM", "AITM")
NOT_STORED = ("MultiTaskEnsemble",)
#: Further forms of estimators: their parameters.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "MMoE, members": ("MMoE", {"n_members": 3}),
    "MultiTabNet, members": ("MultiTabNet", {"n_members": 2}),
    "MMoE, pcgrad": ("MMoE", {"balance": "pcgrad"}),
    "MMoE, uncertainty": ("MMoE", {"balance": "uncertainty"}),
    "SharedBottom, piecewise": ("SharedBottom", {"numeric_embedding": "piecewise"}),
    "IndependentTasks, tuned": ("IndependentTasks", {"tune": "all", "families": ("lightgbm",)}),
    "RMTGB, subsample": ("RMTGB", {"subsample": 0.7, "early_stopping": True}),
}


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


def targets(name: str, X: pl.DataFrame) -> pl.DataFrame:
    """Make targets of every kind, and a second step of a funnel; "on time", the second class, is the step taken."""
    y = mixed_targets(X)
    late = pl.when(pl.col("late") == "late").then(None).otherwise(pl.lit("late")).alias(STEPS[1])
    return y.with_columns(late) if name in FUNNELS else y


def wide(name: str, **params: Any) -> Arrays:
    """Fit a wide table with weights, and answer other rows; scores and intervals too."""
    X, other = features(400), features(200, seed=1)
    weight = np.random.default_rng(0).random(400) + 0.5
    model = made(name, **params).fit(X, targets(name, X), sample_weight=weight)
    scores = model.score_intervals(other, targets(name, other))
    return numbered([*answers(model, other), scores.select(pl.selectors.numeric()).to_numpy()])


def validated(name: str, **params: Any) -> Arrays:
    """Fit a wide table without weights, and stop on rows of validation."""
    X, valid, other = features(300), features(150, seed=2), features(200, seed=1)
    model = made(name, **params).fit(X, mixed_targets(X), X_val=valid, y_val=mixed_targets(valid))
    return numbered(answers(model, other))


def long(name: str, kind: str) -> Arrays:
    """Fit a long table of one kind."""
    X, y = long_table(300)
    model = made(name, task_column="school", task_chain=None, tasks=None).fit(X, LABELS[kind](y))
    return numbered(answers(model, long_table(150, seed=1)[0]))


def stored(name: str, **params: Any) -> Arrays:
    """Fit a wide table of files."""
    X = features(400)
    y = targets(name, X)
    with TemporaryDirectory() as folder:
        table = pl.concat([X, y], how="horizontal")
        for i, rows in enumerate(table.iter_slices(150)):
            rows.write_parquet(Path(folder, f"{i}.parquet"))
        model = made(name, **params).fit(Shards(f"{folder}/*.parquet"), y.columns)
    return numbered(answers(model, features(200, seed=1)))


def recommended(name: str, **params: Any) -> Arrays:
    """Fit a log of clicks, and recommend; scores of next clicks and categories too."""
    log = make_sessions(400, 60, n_categories=5, n_subcategories=2, random_state=0)
    train, test = log.split()
    options = {"categories": ("category", "subcategory"), "text_features": ("name",)} | params
    model = made(name, **options).fit(train, items=log.items)
    found = model.recommend(test, k=10).sort("session_id", "rank")
    return {
        column: found[column].to_numpy().astype(str if found[column].dtype == pl.String else float)
        for column in found.columns
    }


def blended() -> Arrays:
    """Fit a blend of two recommenders."""
    parts = [made("M2TRec", random_state=None), sessions.STAN()]
    return recommended("Blend", models=parts, validation_fraction=0.1)


def distilled() -> Arrays:
    """Distil an ensemble to a network."""
    X = features(300)
    ensemble = made("MultiTaskEnsemble").fit(X, mixed_targets(X))
    student = tabmtl.distill(ensemble, X, network=made("SharedBottom"), random_state=0)
    return numbered(answers(student, features(200, seed=1)))


def cases() -> Iterator[tuple[str, Callable[[], Arrays]]]:
    """Yield all cases by name."""
    for name in estimators():
        yield f"{name}, wide", partial(wide, name)
        if name not in FUNNELS:
            yield f"{name}, validated", partial(validated, name)
        if name not in NOT_LONG:
            for kind in LABELS:
                yield f"{name}, long {kind}", partial(long, name, kind)
        if name not in NOT_STORED:
            yield f"{name}, stored", partial(stored, name)
    for form, (name, params) in FORMS.items():
        yield form, partial(wide, name, **params)
    for name in dir(sessions):
        if hasattr(getattr(sessions, name), "recommend") and name != "Blend":
            yield name, partial(recommended, name)
    yield "M2TRec of the paper", partial(recommended, "M2TRec", id_mode="none", item_tower="concat", pooling="mean")
    yield "Blend", blended
    yield "distill", distilled
    yield from stored_verbs.cases(made)


def compare(name: str, found: Arrays, expected: Any) -> str | None:
    """Describe how answers differ from the stored ones; None where they are equal."""
    for part, value in found.items():
        key = f"{name}/{part}"
        if key not in expected:
            return "is not stored"
        other = expected[key]
        if not np.array_equal(value, other, equal_nan=value.dtype.kind == "f"):
            is_number = value.shape == other.shape and value.dtype.kind == "f"
            return f"differs by {np.nanmax(np.abs(value - other)):.3g}" if is_number else f"differs in part {part}"
    return None


def main(argv: Sequence[str] | None = None) -> None:
    """Store or compare the answers of all cases; the arguments are those of the command line."""
    made = parser("stored_answers", __doc__)
    made.add_argument("--store", type=Path, help="file to write")
    made.add_argument("--check", type=Path, help="file to compare with")
    made.add_argument("--only", default="", help="part of the names of cases")
    options = made.parse_args(argv)
    expected = np.load(options.check, allow_pickle=False) if options.check else {}
    found: Arrays = {}
    changed = 0
    for name, case in cases():
        if options.only not in name:
            continue
        own = case()
        found |= {f"{name}/{part}": value for part, value in own.items()}
        said = compare(name, own, expected) if options.check else None
        changed += said is not None
        print(f"{name}: {said or 'ok'}", flush=True)
    if options.store:
        np.savez_compressed(options.store, **found)  # type: ignore[arg-type]
    print(f"{changed} changed")
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
