"""Histories whose use is known: models that read them win what they are worth, and attention finds what matches."""

import polars as pl
import pytest
from sklearn.base import clone

from tabmtl import IndependentTasks, MMoE, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.columns import Sequence
from tabmtl.columns.declared import declare
from tabmtl.columns.roles import leave_out
from tabmtl.inspection.importances import permutation_importances
from tabmtl.synth import make_histories

#: In this world an item is its own group, so that the test needs few rows.
WORLD = {"n_items": 20, "n_groups": 20, "mean_length": 6.0, "half_life": 200.0, "strength": 4.0}
SEQUENCES = {"history": Sequence(of="item", longest=300), "history_hours": "sequence:history"}
LISTS = {"columns": SEQUENCES}
OPTIONS = LISTS | {"tasks": {"rating": "regression"}, "random_state": 0, "n_jobs": 1}
NETWORK, TREES = SharedBottom(hidden=(32,), epochs=6, learning_rate=5e-3, **OPTIONS), SharedTrees(**OPTIONS)


@pytest.fixture(scope="module")
def data():
    train = make_histories(4000, **WORLD, random_state=0)
    return train, train.draw(4000, random_state=1)


@pytest.fixture(scope="module")
def fitted(data):
    train, _ = data
    return {model: model.fit(train.X, train.y, groups=train.users) for model in (NETWORK, TREES)}


@pytest.mark.parametrize("model", [NETWORK, TREES], ids=["network", "trees"])
def test_a_history_is_worth_what_the_generator_knows(data, fitted, model):
    _, test = data
    best, without = test.ceiling(), test.ceiling(history=False)
    scores = fitted[model].score_tasks(test.X, test.y)
    assert best["click"] - without["click"] > 0.1
    # nothing without the history can be ahead of `without`, and a guess has 0.5
    assert scores["click"] > without["click"] + 0.6 * (best["click"] - without["click"])
    assert abs(scores["rating"] - best["rating"]) < 0.05


def test_attention_finds_what_matches(data, fitted):
    _, test = data
    weights = fitted[NETWORK].history_weights(test.X)["history"]
    assert len(fitted[NETWORK].history_weights(test.X[:0])) == 0
    lists = pl.DataFrame([weights, test.matches.alias("matches")])
    assert weights.is_null().equals(test.matches.is_null())
    assert weights.list.len().equals(lists["matches"].list.len(), null_equal=True)
    entries = lists.explode("history", "matches").drop_nulls()
    means = dict(entries.group_by("matches").agg(pl.col("history").mean()).iter_rows())
    assert means[True] > 5 * means[False]
    assert weights.list.sum().max() <= 1


def test_lists_beside_each_other_move_together(data, fitted):
    _, test = data
    X, y = test.X[:1000], test.y[:1000]
    for model in fitted.values():
        found = permutation_importances(model, X, y, n_repeats=1, random_state=0).filter(pl.col("task") == "click")
        falls = dict(found.select("feature", "importance").iter_rows())
        assert [*falls] == ["item", "position", "history + history_hours"]
        assert falls["history + history_hours"] > 0.05
        alone = permutation_importances(model, X, y, features=["history_hours"], n_repeats=1, random_state=0)
        assert alone.filter(pl.col("task") == "click")["importance"].item() == falls["history + history_hours"]


@pytest.mark.all_faces
def test_an_ensemble_hands_sequences_to_its_candidates(data):
    train, test = data
    network = SharedBottom(hidden=(8,), epochs=2, n_jobs=1)
    candidates = {"network": network, "trees": SharedTrees(n_estimators=5, n_estimators_task=5, n_jobs=1)}
    model = MultiTaskEnsemble(models=candidates, **LISTS, n_folds=2, random_state=0)
    model = model.fit(train.X[:600], train.y[:600])
    assert model.predict(test.X[:5]).height == 5
    assert model.leaderboard_["score"].is_not_null().all()


def test_a_candidate_of_an_ensemble_may_leave_out_items_or_sequences(data):
    train, test = data
    one = IndependentTasks(families=("lightgbm",))
    dropped = {"all": [], "no item": ["item"], "no history": ["history"], "no side": ["history_hours"]}
    candidates = {name: clone(one).set_params(columns=dict.fromkeys(own, "ignore")) for name, own in dropped.items()}
    model = MultiTaskEnsemble(models=candidates, **LISTS, n_folds=2, random_state=0, n_jobs=1)
    model = model.fit(train.X[:300], train.y[:300, ["click"]])
    assert model.leaderboard_["left_out"].is_null().all()
    assert model.predict(test.X[:5]).height == 5


LEFT_OUT = [
    (["item"], {"seen": "sequence", "bought": "sequence", "hours": "sequence:seen"}, ["item"]),
    (["seen"], {"bought": "sequence:item"}, ["hours", "seen"]),
    (["seen", "bought"], {}, ["bought", "hours", "seen"]),
    (["hours", "else"], {"seen": "sequence:item", "bought": "sequence:item"}, ["else", "hours"]),
]


@pytest.mark.parametrize(("dropped", "declared", "gone"), LEFT_OUT)
def test_sequences_without_some_columns(dropped, declared, gone):
    columns = declare({"seen": "sequence:item", "bought": "sequence:item", "hours": "sequence:seen"})
    assert leave_out(columns, dropped) == declare({**declared, **dict.fromkeys(gone, "ignore")})


def test_weights_need_a_sequence(data):
    train, _ = data
    model = MMoE(epochs=1, columns={"history": "ignore", "history_hours": "ignore"}, n_jobs=1).fit(
        train.X[:100], train.y[:100, ["click"]]
    )
    with pytest.raises(ValueError, match="no column of X is a sequence"):
        model.history_weights(train.X)
