"""Trainings on files and in several processes that are cut off and go on."""

from functools import partial

import cutting
import numpy as np
import pytest
from conformance import tiny
from cutting import TARGETS, CutOff, assert_equal, cut_and_resumed, train
from wired import read_small_parts, run_ranks

from tabmtl import MMoE, SharedBottom
from tabmtl.nn import embeddings
from tabmtl.scale import Shards, cache


@pytest.fixture(scope="module")
def table():
    return cutting.table()


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        (SharedBottom, {"patience": 1, "restarts": 2}),
        (SharedBottom, {"early_stopping": False}),
        (MMoE, {}),
    ],
)
def test_a_training_on_files_goes_on_as_if_nothing_had_been(cls, params, table, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "DENSE_ROWS", 1)
    monkeypatch.setattr(cache, "CHUNK_ROWS", 16)

    def fit(on_epoch):
        return tiny(cls, epochs=4, on_epoch=on_epoch, **params).fit(Shards(table.lazy()), TARGETS)

    whole, resumed = fit(None), cut_and_resumed(tmp_path, fit)
    assert_equal(whole, resumed)
    X = table.drop(TARGETS)
    assert whole.predict(X).equals(resumed.predict(X))


@pytest.mark.all_faces
def test_two_ranks_go_on_together_and_one_goes_on_alone(table, tmp_path, monkeypatch):
    read_small_parts(monkeypatch)

    def fit(on_epoch, **params):
        model = tiny(SharedBottom, epochs=3, on_epoch=on_epoch, **params)
        return model.fit(Shards(table.lazy()), TARGETS)

    noiseless = partial(fit, dropout=0.0)
    whole, _ = run_ranks(2, lambda: train(tmp_path, fit))
    with pytest.raises(CutOff):
        run_ranks(2, lambda: train(tmp_path, fit, 1))
    for resumed in run_ranks(2, lambda: train(tmp_path, fit)):
        assert_equal(whole, resumed)
    with pytest.raises(CutOff):
        run_ranks(2, lambda: train(tmp_path, noiseless, 2))
    alone, resumed = noiseless(None), train(tmp_path, noiseless)
    X = table.drop(TARGETS)
    assert not alone.history_.equals(resumed.history_)  # rounding tells who took the first steps
    np.testing.assert_allclose(resumed.predict(X)["delay"], alone.predict(X)["delay"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(resumed.history_.to_numpy(), alone.history_.to_numpy(), rtol=1e-3, atol=1e-3)
