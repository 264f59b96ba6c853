"""Stored answers: whether a change of the code leaves every answer as it was, bit for bit.

Every estimator, ensemble and recommender is fitted in a small form for fixed seeds, on wide and long tables, funnels
and `Shards`, with weights, validation rows and members. What they do after the fit is in
:mod:`benchmarks.stored_verbs`, :mod:`benchmarks.stored_networks` and :mod:`benchmarks.stored_sessions`;
:mod:`benchmarks.stored_folders` keeps folders of models, which a check loads. ``--store`` writes their answers,
``--check`` compares them:

    python -m benchmarks.stored_answers --store answers.npz   # before a change
    python -m benchmarks.stored_answers --check answers.npz   # after it, on the same machine

It names every answer that has changed, with the largest difference, and its exit code is then 1. It prints the SHA-256
of what the file holds, which does not depend on times and paths. ``--only`` takes parts of the names of cases, such as
``"long:" "funnel:" "sessions: M2TRec"``.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

import tabmtl
from benchmarks import stored_folders, stored_networks, stored_sessions, stored_verbs
from benchmarks.harness import parser
from benchmarks.stored_folders import Folder
from benchmarks.stored_forms import (
    FUNNELS,
    Arrays,
    Case,
    difference,
    digest,
    estimators,
    made,
    numbered,
    recommenders,
    targets,
)
from tabmtl import sessions
from tabmtl.base.schema import TabmtlWarning
from tabmtl.scale import Shards
from tabmtl.synth import make_sessions
from tabmtl.testing import answers, features, long_table, mixed_targets
from tabmtl.testing.long import LABELS

NOT_LONG = ("ESMM", "AITM")
NOT_STORED = ("MultiTaskEnsemble",)
#: Further forms of estimators: their parameters.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "MMoE, members": ("MMoE", {"n_members": 3}),
    "MultiTabNet, members": ("MultiTabNet", {"n_members": 2}),
    "SharedBottom, piecewise": ("SharedBottom", {"numeric_embedding": "piecewise"}),
    "IndependentTasks, tuned": ("IndependentTasks", {"tune": "all", "families": ("lightgbm",)}),
    "RMTGB, subsample": ("RMTGB", {"subsample": 0.7, "early_stopping": True}),
}


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
    options = {"categories": ("category", "subcategory"), "columns": {"name": "text"}} | params
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


def cases() -> Iterator[tuple[str, Case]]:
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
    for name in recommenders():
        if name != "Blend":
            yield name, partial(recommended, name)
    yield "M2TRec of the paper", partial(recommended, "M2TRec", id_mode="none", item_tower="concat", pooling="mean")
    yield "Blend", blended
    yield "distill", distilled
    for others in (stored_verbs, stored_networks, stored_sessions, stored_folders):
        yield from others.cases()


def changed(case: Case, expected: Arrays) -> str | None:
    """Describe how a case differs from what is stored; None where it does not. Folders are loaded, and not made."""
    if not expected:
        return "is not stored"
    try:
        found = case.again(expected) if isinstance(case, Folder) else case()
    except tabmtl.ModelFileError as error:
        return f"the stored folder is refused: {error}"
    except Exception as error:
        return f"raises {type(error).__name__}: {str(error)[:300]}"
    return difference(found, expected)


def store(asked: Mapping[str, Case], file: Path) -> None:
    """Write the arrays of all cases to a file, and print their SHA-256."""
    found: Arrays = {}
    for name, case in asked.items():
        began = time.process_time()
        found |= {f"{name}/{part}": value for part, value in case().items()}
        print(f"{name}: {time.process_time() - began:.1f} s", flush=True)
    np.savez_compressed(file, **found)  # type: ignore[arg-type]
    print(f"{len(asked)} cases, {len(found)} arrays, SHA-256 {digest(found)}")


def check(asked: Mapping[str, Case], file: Path, parts: Sequence[str]) -> int:
    """Compare all cases with a file, and return how many have changed; those that are stored must be there still."""
    with np.load(file, allow_pickle=False) as arrays:
        kept = {key: arrays[key] for key in arrays.files}
    print(f"{file}: {len(kept)} arrays, SHA-256 {digest(kept)}", flush=True)
    stored: dict[str, Arrays] = defaultdict(dict)
    for key, array in kept.items():
        name, _, part = key.partition("/")
        stored[name][part] = array
    said = {name: "is gone" for name in stored if name not in asked and is_asked(name, parts)}
    print("".join(f"{name}: is gone\n" for name in said), end="")
    for name, case in asked.items():
        own = changed(case, stored[name])
        said |= {name: own} if own else {}
        print(f"{name}: {own or 'ok'}", flush=True)
    return len(said)


def is_asked(name: str, parts: Sequence[str]) -> bool:
    """Tell whether the name of a case has one of some parts."""
    return any(part in name for part in parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Store or compare the answers of all cases; the arguments are those of the command line."""
    made = parser("stored_answers", __doc__)
    does = made.add_mutually_exclusive_group(required=True)
    does.add_argument("--store", type=Path, help="file to write")
    does.add_argument("--check", type=Path, help="file to compare with")
    made.add_argument("--only", nargs="+", default=[""], help="parts of the names of cases")
    options = made.parse_args(argv)
    asked = {name: case for name, case in cases() if is_asked(name, options.only)}
    n_changed = 0
    with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
        if options.store:
            store(asked, options.store)
        else:
            n_changed = check(asked, options.check, options.only)
            print(f"{n_changed} changed")
    print(f"{time.process_time():.0f} CPU seconds")
    sys.exit(bool(n_changed))


if __name__ == "__main__":
    main()
