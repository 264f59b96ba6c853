"""Histories in files."""

import pytest

import tabmtl
from tabmtl import SharedBottom, SharedTrees
from tabmtl.synth import make_histories

#: In this world an item is its own group, so that the test needs few rows.
WORLD = {"n_items": 20, "n_groups": 20, "mean_length": 6.0, "half_life": 200.0, "strength": 4.0}
SEQUENCES = {"history": "item", "history_hours": "history"}
LISTS = {"sequence_features": SEQUENCES, "max_sequence_length": 300}
OPTIONS = LISTS | {"tasks": {"rating": "regression"}, "random_state": 0, "n_jobs": 1}
NETWORK, TREES = SharedBottom(hidden=(32,), epochs=6, learning_rate=5e-3, **OPTIONS), SharedTrees(**OPTIONS)


@pytest.fixture(scope="module")
def data():
    train = make_histories(4000, **WORLD, random_state=0)
    return train, train.draw(4000, random_state=1)


def test_shards_are_read_as_frames(data, tmp_path):
    train, test = data
    whole = train.X.hstack(train.y)
    whole[:300].write_parquet(tmp_path / "a.parquet")
    whole[300:900].write_parquet(tmp_path / "b.parquet")
    shards = tabmtl.scale.Shards(str(tmp_path / "*.parquet"))
    for model in (TREES, NETWORK.__class__(**NETWORK.get_params() | {"epochs": 1})):
        model = model.__class__(**model.get_params()).fit(shards, list(train.y.columns))
        assert model.coder_.features.declared["sequences"] == SEQUENCES
        assert model.predict(test.X[:100]).height == 100
