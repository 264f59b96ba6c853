"""An encoder of a user for free text is its vectors as a column, reads each distinct text once, and is in no file."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from cases import later
from lightgbm import LGBMClassifier, LGBMRegressor
from scipy.sparse import csr_array
from sklearn.base import clone

from tabmtl import (
    IndependentTasks,
    MMoE,
    MultiTaskEnsemble,
    SharedTrees,
    distill,
)
from tabmtl.columns import Text
from tabmtl.inspection.importances import permutation_importances

WORDS = ["lovely", "dreadful", "window", "garden", "kitchen"]


class Encoder:
    """Counts words, as sentence-transformers would be called."""

    seen: ClassVar[list[str]] = []

    def encode(self, texts):
        assert isinstance(texts, list)
        self.seen.extend(texts)
        return [[text.count(word) for word in WORDS] + [len(text) / 10] for text in texts]


def table(n: int = 200, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    remarks = [None if k % 19 == 0 else " ".join(rng.choice(WORDS, 4)) for k in range(n)]
    stars = [0.0 if text is None else text.count("lovely") - text.count("dreadful") for text in remarks]
    X = pl.DataFrame({"remark": remarks, "size": rng.normal(size=n), "id": range(n)})
    return X, pl.DataFrame({"liked": [star > 0 for star in stars], "stars": stars + 0.1 * rng.normal(size=n)})


X, Y = table()


def encoded(encoder: object) -> dict[str, object]:
    return {"remark": Text(encoder=encoder), "id": "ignore"}


TEXT = {"columns": encoded(Encoder()), "random_state": 0}
FEW = {"n_estimators": 10, "verbosity": -1, "n_jobs": 1}
ALONE = IndependentTasks(classifier=LGBMClassifier(**FEW), regressor=LGBMRegressor(**FEW))
MODELS = {
    "SharedTrees": SharedTrees(n_estimators=10, n_estimators_task=5),
    "MMoE": MMoE(n_experts=2, expert_hidden=(8,), epochs=3, batch_size=32),
    "MultiTaskEnsemble": MultiTaskEnsemble(
        models={"alone": ALONE, "together": SharedTrees(n_estimators=5, n_estimators_task=5)}, n_folds=2
    ),
}


def by_hand(rows: pl.DataFrame) -> pl.DataFrame:
    vectors = [None if text is None else Encoder().encode([text])[0] for text in rows["remark"]]
    return rows.with_columns(remark=pl.Series(vectors, dtype=pl.Array(pl.Float32, 6)))


@pytest.mark.parametrize("name", later(MODELS, "MultiTaskEnsemble"))
def test_an_encoder_is_its_vectors_as_a_column(name, reloaded):
    model = clone(MODELS[name]).set_params(**TEXT)
    Encoder.seen.clear()
    model.fit(X[:150], Y[:150], X_val=X[150:], y_val=Y[150:])
    assert sorted(Encoder.seen) == X["remark"].drop_nulls().unique().sort().to_list()  # each distinct text once
    plain = clone(MODELS[name]).set_params(columns={"id": "ignore"}, random_state=0)
    plain.fit(by_hand(X[:150]), Y[:150], X_val=by_hand(X[150:]), y_val=Y[150:])
    expected = plain.predict(by_hand(X))
    assert model.predict(X).equals(expected)
    loaded = reloaded(model)
    with pytest.raises(ValueError, match=r"text in \['remark'\], by an encoder.*'remark': Text\(encoder=\.\.\.\)"):
        loaded.predict(X)
    loaded.set_params(columns={**loaded.columns, "remark": Text(encoder=Encoder().encode)})
    assert loaded.predict(X.select("size", "remark").to_arrow()).equals(expected)
    assert pl.concat([loaded.predict(X[k : k + 1].to_pandas()) for k in range(3)])["liked"].equals(
        expected["liked"][:3]
    )
    assert pickle.loads(pickle.dumps(model)).predict(X).equals(expected)


def test_importances_name_the_column_and_encode_its_texts_once():
    model = SharedTrees(n_estimators=10, n_estimators_task=5, **TEXT).fit(X, Y)
    Encoder.seen.clear()
    found = permutation_importances(model, X.drop("id"), Y, n_repeats=3, random_state=0).filter(task="liked")
    assert dict(zip(found["feature"], found["importance"] > 0.1, strict=True)) == {"remark": True, "size": False}
    assert len(Encoder.seen) == X["remark"].n_unique() - 1


@pytest.fixture(scope="module")
def fitted():
    return SharedTrees(n_estimators=2, n_estimators_task=5, **TEXT).fit(X, Y)


def test_other_doors_pass_the_encoder_on(fitted):
    student = distill(fitted, X, network=MMoE(n_experts=2, expert_hidden=(8,), epochs=2), random_state=0)
    assert student.predict(X).columns == Y.columns
    array = np.column_stack([X["size"].to_numpy().astype(object), X["remark"].to_list()])
    flat = SharedTrees(
        n_estimators=2,
        n_estimators_task=5,
        columns={"x1": Text(encoder=lambda texts: csr_array(np.eye(len(texts), 3)))},
    )
    assert flat.fit(array, Y["stars"].to_numpy()).predict(array).shape == (200,)
    assert flat.coder_.values_of_fit() == {"x0": "numbers", "x1": "free text"}


GAVE = {
    "one text too few": (lambda texts: np.ones((len(texts) - 1, 2)), r"a vector for each of n texts.*'remark'"),
    "flat": (lambda texts: np.ones(len(texts)), r"gave the shape \(\d+,\) for \d+ texts of the column 'remark'"),
    "a hole": (
        lambda texts: [[np.nan if t == texts[1] else 1.0] * 6 for t in texts],
        r"not finite, for the text '.+'remark'",
    ),
    "words": (lambda texts: texts, r"must give an array \(n, d\) of numbers, and gave list for .*'remark'"),
    "too short": (lambda texts: np.ones((len(texts), 2)), r"the length of fit, 6, and gave 2 numbers .*'remark'"),
}


@pytest.mark.parametrize("case", GAVE)
def test_what_is_no_array_of_vectors_is_refused(case, fitted):
    encoder, message = GAVE[case]
    with pytest.raises((TypeError, ValueError), match=message):
        copy.copy(fitted).set_params(columns=encoded(encoder)).predict(X)


class Strict:
    def encode(self, texts):
        raise RuntimeError("no such device")


CALLS = {
    "a number": ({"size": Text(encoder=Encoder())}, TypeError, "'size' has type Float64 and is declared 'text'"),
    "an error": ({"remark": Text(encoder=Strict())}, RuntimeError, "no such device"),
    "two": (
        {"remark": Text(encoder=Encoder()), "size": Text(encoder=Strict())},
        ValueError,
        r"\['remark', 'size'\] have two encoders",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls_are_refused(case):
    columns, error, message = CALLS[case]
    with pytest.raises(error, match=message) as caught:
        SharedTrees(n_estimators=1, n_estimators_task=5, columns={"id": "ignore"} | columns).fit(X, Y)
    if case == "an error":
        assert "texts of the column 'remark'" in caught.value.__notes__[0]


def test_an_ensemble_takes_no_candidate_with_an_encoder():
    model = SharedTrees(n_estimators=2, n_estimators_task=5, **TEXT)
    with pytest.raises(ValueError, match=r"models\['a'\] has an encoder of text.*MultiTaskEnsemble\(columns="):
        MultiTaskEnsemble(models={"a": model}).fit(X, Y)


def test_other_values_than_text_are_refused_and_missing_ones_are_none(fitted):
    missing = X.with_columns(remark=pl.lit(None))
    assert fitted.predict(missing).equals(fitted.predict(missing.with_columns(remark=pl.lit(float("nan")))))
    with pytest.raises(TypeError, match="'remark' held text in fit and is now Int64; cast it"):
        fitted.predict(X.with_columns(remark=pl.col("id")))
    with pytest.raises(ValueError, match=r"\['remark'\] hold no text to encode"):
        clone(fitted).fit(missing.cast({"remark": pl.String}), Y)
