"""Tags and vectors through a whole fit of networks: what they are worth, files, shards, importances and folds."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tabmtl import IndependentTasks, MultiTaskEnsemble, SharedBottom, distill, permutation_importances


def table(n: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows whose first target is told by a tag, and the second by a vector."""
    rng = np.random.default_rng(seed)
    lengths, words = rng.integers(0, 6, n), np.array(list("abcdefgh"))
    tags = [[*rng.choice(words, length, replace=False)] for length in lengths]
    vectors = rng.normal(size=(n, 3))
    X = pl.DataFrame(
        {
            "size": rng.normal(size=n),
            "tags": [None if hidden else own for own, hidden in zip(tags, rng.random(n) < 0.1, strict=True)],
            "town": rng.choice(["Ulm", "Bonn"], n),
            "picture": [None if hidden else [*own] for own, hidden in zip(vectors, rng.random(n) < 0.1, strict=True)],
        },
        schema_overrides={"tags": pl.List(pl.String), "picture": pl.List(pl.Float64)},
    )
    y = pl.DataFrame({"has a": ["a" in own for own in tags], "first": vectors[:, 0] + 0.1 * rng.normal(size=n)})
    return X, y


X, Y = table(1200)
X_TEST, Y_TEST = table(400, seed=1)


@pytest.fixture(scope="module")
def fitted() -> SharedBottom:
    return SharedBottom(epochs=15, hidden=(32,), learning_rate=0.01, random_state=0).fit(X, Y)


def test_networks_learn_of_tags_and_vectors(fitted):
    scores = fitted.score_tasks(X_TEST, Y_TEST)
    found = dict(zip(scores["task"], scores["score"], strict=True)) if isinstance(scores, pl.DataFrame) else scores
    assert min(found.values()) > 0.7, found
    falls = permutation_importances(fitted, X_TEST, Y_TEST, n_repeats=1, random_state=0)
    other, tags, another, picture = falls.group_by("feature", maintain_order=True).agg(pl.col("importance").mean())[
        "importance"
    ]
    assert min(tags, picture) > 10 * max(abs(other), abs(another), 0.005)


def test_what_is_missing_is_not_what_is_empty_or_unseen(fitted):
    rows = pl.concat([X_TEST[:1]] * 4).with_columns(
        tags=pl.Series([None, [], ["new"], ["a"]], dtype=pl.List(pl.String)),
    )
    assert len(set(fitted.predict_proba(rows)["has a"][:, 1].tolist())) == 4


@pytest.mark.all_faces
def test_networks_that_read_lists_learn_from_models_and_of_long_tables():
    teacher = IndependentTasks(families=("lightgbm",), random_state=0).fit(X, Y)
    options = {"hidden": (16,), "epochs": 10, "learning_rate": 0.01, "random_state": 0}
    student = distill(teacher, X, network=SharedBottom(**options))
    assert np.corrcoef(student.predict(X_TEST)["first"], Y_TEST["first"])[0, 1] > 0.7
    long = pl.concat([X.with_columns(task=pl.lit(name)) for name in ("same", "turned")])
    y = pl.concat([Y["first"], -Y["first"]])
    model = SharedBottom(task_column="task", **options).fit(long, y)
    answers = [model.predict(X_TEST.with_columns(task=pl.lit(name))) for name in ("same", "turned")]
    assert np.corrcoef(*answers)[0, 1] < -0.5


@pytest.mark.all_faces
def test_ensembles_weigh_networks_that_read_lists():
    models = {"alone": IndependentTasks(families=("lightgbm",)), "net": SharedBottom(hidden=(16,), epochs=4)}
    ensemble = MultiTaskEnsemble(models=models, n_folds=3, random_state=0).fit(X, Y)
    whole = ensemble.predict_proba(X_TEST)["has a"]
    alone = [ensemble.predict_proba(X_TEST[row : row + 1])["has a"][0] for row in range(5)]
    np.testing.assert_allclose(alone, whole[:5], rtol=1e-5)
