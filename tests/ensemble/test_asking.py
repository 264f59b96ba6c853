"""Models of an ensemble share what reads their rows, and answer as they do alone."""

from copy import copy

import numpy as np
import polars as pl
import pytest
from conformance import CANDIDATES, features, mixed_targets, same, tiny
from numpy.testing import assert_allclose
from sklearn.base import clone

from tabmtl import RMTGB, MMoE, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.encode import FeatureCoder
from tabmtl.ensemble.asking import Asked
from tabmtl.estimators.mixing.judged import Choice

NETWORKS = {"bottom": tiny(SharedBottom), "experts": tiny(MMoE)}
OPTIONS = {"n_folds": 2, "columns": {"number": "ignore"}, "random_state": 0}


class Signs(SharedTrees):
    """A candidate of a user's own class, which makes columns of the frames that it is given."""

    def fit(self, X, y, **others):
        return super().fit(X.with_columns(sign=pl.col("plain").sign()), y, **others)

    def __answers__(self, X, tasks=None):
        return super().__answers__(X.with_columns(sign=pl.col("plain").sign()))


@pytest.fixture(scope="module")
def ensemble():
    X = features(120).with_columns(number=pl.int_range(pl.len()))
    own = Signs(n_estimators=5, n_estimators_task=5)
    others = {"own": own, "less": tiny(SharedTrees, columns={"plain": "ignore"}), "outliers": tiny(RMTGB)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabmtl.ensemble.estimator.choose_weights", equal)
        return MultiTaskEnsemble(models=CANDIDATES | NETWORKS | others, **OPTIONS).fit(X, mixed_targets(X))


def equal(judged, seed, cure):
    """Equal weights, so that the ensemble keeps all candidates."""
    weights = np.full(len(judged[0].answers), 1 / len(judged[0].answers))
    return [Choice(weights, each, each, each.mix(weights)) for each in judged]


def test_rows_are_read_once_for_all_models_that_read_them_alike(ensemble, monkeypatch):
    X, read = features(20, seed=1), []
    encode = FeatureCoder.encode
    monkeypatch.setattr(FeatureCoder, "encode", lambda self, frame: read.append(self) or encode(self, frame))
    ensemble.__answers__(X)
    # trees and the ensemble itself; trees without a column; networks; models that look at the frame by themselves
    assert len(read) == 3 + len(ensemble.estimators_["own"])


@pytest.mark.parametrize("n", [1, 16, 17, 300])
def test_every_model_answers_as_it_does_alone(ensemble, n):
    X = features(n, seed=1)
    asked = Asked(ensemble.coder_, ensemble.estimators_, None)
    for name, found in asked.answers(X, ensemble.coder_.read(X)):
        for model, answers in zip(ensemble.estimators_[name], found, strict=True):
            for one, other in zip(answers, model.__answers__(X), strict=True):
                assert_allclose(one, other, rtol=0, atol=1e-5 if name in NETWORKS else 0, err_msg=name)


def test_models_of_unlike_coders_are_asked_in_groups(ensemble):
    """Those of older files have a coder of their own each."""
    X, y = features(60), mixed_targets(features(60))
    parts = [
        clone(model).fit(X[rows], y[rows]) for model in (CANDIDATES["together"],) for rows in (slice(50), slice(60))
    ]
    parts.append(copy(parts[0]))
    ((_, found),) = Asked(ensemble.coder_, {"old": parts}, None).answers(X, ensemble.coder_.read(X))
    assert all(same(own, part.__answers__(X)) for own, part in zip(found, parts, strict=True))
