"""Free text in tables: what is found to be some, its numbers for trees, and how a user says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor

import tabmtl.inspection.importances
from tabmtl import IndependentTasks, MMoE, MultiTaskEnsemble, SharedTrees, distill
from tabmtl.base.schema import TabmtlWarning
from tabmtl.columns import Category, Text
from tabmtl.columns.text import Projection, count_hashed, find_texts
from tabmtl.encode import FeatureCoder

GOOD, BAD = "a very friendly house by the river", "the worst of all rooms we have seen"


def table(n: int = 400, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Remarks of which one word tells the label, beside a number that tells nothing."""
    rng = np.random.default_rng(seed)
    is_good = rng.random(n) < 0.5
    others = rng.choice(["window", "garden", "street", "kitchen", "balcony", "stairs", "cellar"], (n, 4))
    words = [[("lovely" if good else "dreadful"), *own] for good, own in zip(is_good, others, strict=True)]
    remarks = [
        None if rng.random() < 0.05 else f"{' '.join(rng.permutation(own))} {k % 97}" for k, own in enumerate(words)
    ]
    X = pl.DataFrame({"size": rng.normal(size=n), "remark": remarks})
    return X, pl.DataFrame({"liked": is_good, "stars": is_good + 0.1 * rng.normal(size=n)})


X, Y = table()
X_TEST, Y_TEST = table(seed=1)
TEXT = {"columns": {"remark": "text"}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([f"{GOOD} {k}" for k in range(60)], True),
        ([f"{GOOD} {k}" for k in range(40)], False),  # few rows
        ([GOOD, BAD] * 60, False),  # few distinct values
        ([f"{k:040}" for k in range(60)], False),  # one word
        ([f"a b {k}" for k in range(60)], False),  # short
        ([None] * 60, False),
    ],
)
def test_text_is_found_by_one_rule(values, expected, recwarn):
    frame = pl.DataFrame({"^x$": pl.Series(values, dtype=pl.String), "n": 1})
    assert find_texts(frame) == find_texts(frame.lazy()) == (("^x$",) if expected else ())
    assert len({str(warning.message) for warning in recwarn}) == expected
    if expected:
        assert "read as free text" in str(recwarn[0].message)
        assert "say columns={'^x$': 'text'} to confirm it, or columns={'^x$': 'category'} to" in str(recwarn[0].message)
        # categories stay categories, in pandas too
        assert find_texts(frame.with_columns(frame["^x$"].cast(pl.Categorical))) == ()
        coder = (
            SharedTrees(n_estimators=1, n_estimators_task=5)
            .fit(frame.to_pandas().astype({"^x$": "category"}), np.arange(60) / 2)
            .coder_
        )
        assert coder.features.declared["^x$"] == Category()


def test_text_is_looked_for_in_all_rows():
    frame = pl.DataFrame({"remark": ["no"] * 10_000 + [f"{GOOD} {k}" for k in range(20_000)], "y": range(30_000)})
    with pytest.warns(TabmtlWarning, match=r"the columns \['remark'\] are read as free text"):
        assert find_texts(frame) == find_texts(frame.lazy()) == ("remark",)


DATA = os.environ.get("TABMTL_DATA")


@pytest.mark.skipif(DATA is None, reason="TABMTL_DATA names no folder of tables")
def test_no_table_of_before_has_free_text(recwarn):
    files = sorted(Path(str(DATA)).glob("*/*.parquet"))
    assert files
    for file in files:
        assert find_texts(pl.scan_parquet(file)) == (), file
    assert not recwarn.list


REFUSED = {
    "unknown": (
        {"remark": "text", "remarks": "text"},
        ValueError,
        r"declares columns .*'remarks'.* near is 'remark'",
    ),
    "number": (
        {"remark": "text", "size": "text"},
        TypeError,
        "'size' has type Float64 and is declared 'text'",
    ),
    "a word": ("remark", TypeError, "columns must map names of columns to kinds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_text_is_refused(case):
    columns, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        SharedTrees(columns=columns).fit(X, Y)


@pytest.mark.all_faces
def test_text_is_found_or_named_or_denied():
    with pytest.warns(TabmtlWarning, match="read as free text"):
        found = SharedTrees(n_estimators=2, n_estimators_task=5).fit(X, Y).coder_.features
    named = SharedTrees(n_estimators=2, n_estimators_task=5, **TEXT).fit(X, Y).coder_.features
    assert found.declared["remark"] == named.declared["remark"] == Text()
    assert found.columns == named.columns
    denied = SharedTrees(n_estimators=2, n_estimators_task=5, columns={"remark": "category"}).fit(X, Y).coder_.features
    assert denied.declared["remark"] == Category()


def test_numbers_of_text_are_those_of_the_row_alone_and_missing_is_not_empty():
    coder = FeatureCoder.fit(X, columns={"remark": Text()}, transform="none", flat=True)
    assert coder.columns.numeric[1:3] == ("remark: words", "remark: 0")
    rows = pl.concat([X[:40], X[:2].with_columns(remark=pl.Series([None, ""], dtype=pl.String))])
    numbers = coder.encode(rows).numbers
    each = [coder.encode(rows[k : k + 1]).numbers[0] for k in range(len(rows))]
    np.testing.assert_array_equal(numbers, each)
    assert np.isnan(numbers[-2, 1:]).all()
    assert not numbers[-1, 1:].any()
    unseen = coder.encode(rows[:1].with_columns(remark=pl.lit("Zyx wvu"))).numbers
    assert unseen[0, 1:].tolist() == [2.0] + [0.0] * 32
    assert set(coder.origins) == {"size", "remark"}


def test_a_projection_is_latent_semantic_analysis():
    texts = X["remark"].drop_nulls().unique().sort()
    projection = Projection.learn(pl.DataFrame({"level": texts, "count": [1] * len(texts)}))
    weighed = projection.weigh(count_hashed(texts.to_list())).toarray()
    singular = np.linalg.svd(weighed, compute_uv=False)[:8]
    found = np.linalg.norm(projection.apply(texts.to_list()), axis=0)[:8]
    np.testing.assert_allclose(found, singular, rtol=1e-3)


FEW = {"n_estimators": 30, "verbosity": -1, "n_jobs": 1}
MODELS = {
    "SharedTrees": SharedTrees(n_estimators=40, random_state=0, **TEXT),
    "IndependentTasks": IndependentTasks(classifier=LGBMClassifier(**FEW), regressor=LGBMRegressor(**FEW), **TEXT),
    "MMoE": MMoE(n_experts=2, expert_hidden=(16,), epochs=20, learning_rate=0.01, random_state=0, **TEXT),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_learn_of_text(name, reloaded):
    model = MODELS[name].fit(X, Y)
    assert model.score_tasks(X_TEST, Y_TEST)["liked"] > 0.85
    expected = model.predict_proba(X_TEST)["liked"]
    loaded = reloaded(model)
    np.testing.assert_array_equal(loaded.predict_proba(X_TEST.to_pandas())["liked"], expected)
    np.testing.assert_allclose(loaded.predict_proba(X_TEST[:1].to_arrow())["liked"], expected[:1], rtol=1e-6)
    importance = tabmtl.permutation_importances(model, X_TEST, Y_TEST).filter(task="liked")
    assert importance["feature"].to_list() == ["size", "remark"]
    assert importance["importance"][1] > 0.2


@pytest.mark.all_faces
def test_ensembles_and_students_read_text_as_their_own_models_do():
    models = {"alone": MODELS["IndependentTasks"], "together": SharedTrees(n_estimators=10, n_estimators_task=5)}
    ensemble = MultiTaskEnsemble(models=models, n_folds=3, random_state=0, **TEXT).fit(X, Y)
    assert ensemble.score_tasks(X_TEST, Y_TEST)["liked"] > 0.85
    student = distill(ensemble, X, network=MMoE(n_experts=2, expert_hidden=(8,), epochs=2), random_state=0)
    assert student.coder_.features.declared["remark"] == Text()


def test_pandas_text_is_text():
    frame = pd.DataFrame({"remark": X["remark"].to_list(), "size": X["size"].to_list()})
    coder = SharedTrees(n_estimators=1, n_estimators_task=5, **TEXT).fit(frame, Y).coder_
    assert coder.features.declared["remark"] == Text()
