"""Histories in files are read as those of frames."""

import pytest

from tabmtl import SharedBottom, SharedTrees
from tabmtl.columns import Sequence
from tabmtl.scale import Shards
from tabmtl.synth import make_histories

SEQUENCES = {"history": Sequence(of="item", longest=300), "history_hours": Sequence(of="history")}


@pytest.mark.parametrize(
    "model", [SharedTrees(), pytest.param(SharedBottom(hidden=(32,), epochs=1), marks=pytest.mark.all_faces)]
)
def test_shards_are_read_as_frames(model, tmp_path):
    log = make_histories(900, n_items=20, n_groups=20, mean_length=6.0, random_state=0)
    whole = log.X.hstack(log.y)
    whole[:300].write_parquet(tmp_path / "a.parquet")
    whole[300:].write_parquet(tmp_path / "b.parquet")
    model.set_params(columns=SEQUENCES, tasks={"rating": "regression"}, n_jobs=1)
    model.fit(Shards(str(tmp_path / "*.parquet")), list(log.y.columns))
    assert SEQUENCES.items() <= model.coder_.features.declared.items()
    assert model.predict(log.X[:100]).height == 100
