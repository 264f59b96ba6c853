"""Networks that are fitted and asked as one are estimators like those that were fitted alone."""

import numpy as np
import polars as pl
import pytest
from conformance import features, same, targets_for
from sklearn.base import clone

import tabmtl
from tabmtl import PLE, MMoE, SharedBottom, SharedTrees
from tabmtl.base.schema import TimeLimitWarning
from tabmtl.base.storage.stored import fingerprint
from tabmtl.estimators.encoded import together
from tabmtl.estimators.together import fit_together

X = features(240)
Y = targets_for(SharedBottom, X)
SMALL = {"epochs": 3, "d_embedding": 4}
MODELS = [
    MMoE(n_experts=4, expert_hidden=(8, 8), **SMALL),
    SharedBottom(hidden=(8,), n_members=2, **SMALL),
    SharedBottom(hidden=(8,), **SMALL),
]


def parts(n=3):
    return [np.flatnonzero(np.arange(len(X)) % n != k) for k in range(n)]


def fit(model, n=3, y=Y, **arguments):
    """Copies of an estimator, each fitted without the rows of a fold."""
    copies = [clone(model) for _ in range(n)]
    coder = copies[0].__learner__().coder(X, Y)
    arguments |= {"X": X, "y": y}
    tables = [{"batch": coder.read(X[own]), **{k: v[own] for k, v in arguments.items()}} for own in parts(n)]
    for seed, each in enumerate(copies):
        each.set_params(random_state=seed)
    return copies, fit_together(copies, coder, tables)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_each_is_a_fitted_estimator_of_its_own(model, reloaded):
    fitted, _ = fit(model)
    again, _ = fit(model)
    answers = [each.__answers__(X) for each in fitted]
    assert all(same(one, each.__answers__(X)) for one, each in zip(answers, again, strict=True))
    assert not same(answers[0], answers[1])
    assert same(reloaded(fitted[1]).__answers__(X), answers[1])
    assert fitted[0].history_["train/score"].null_count() == len(fitted[0].history_)


def test_labels_of_the_rows_left_out_do_not_matter():
    kept, hidden = parts()[0], np.setdiff1d(np.arange(len(X)), parts()[0])
    fitted, _ = fit(MODELS[2])
    changed = pl.concat([Y[kept], Y[hidden][np.random.default_rng(0).permutation(len(hidden))]])[
        np.argsort(np.concatenate([kept, hidden]))
    ]
    others, _ = fit(MODELS[2], y=changed)
    assert fingerprint(fitted[0].coder_) == fingerprint(others[0].coder_)
    assert same(fitted[0].__answers__(X), others[0].__answers__(X))
    assert not same(fitted[1].__answers__(X), others[1].__answers__(X))


@pytest.mark.parametrize(
    "model",
    [
        SharedBottom(balance=[1.0, 2.0]),
        SharedBottom(on_epoch=lambda record: False),
        PLE(),
        SharedTrees(),
    ],
    ids=["balance", "on_epoch", "PLE", "SharedTrees"],
)
def test_others_are_left_unfitted(model):
    copies, is_fitted = fit(model)
    assert not is_fitted
    assert not any(hasattr(each, "coder_") for each in copies)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_asked_as_one_they_answer_as_each_does_and_a_row_bit_for_bit_as_in_a_batch(model, tmp_path):
    fitted, _ = fit(model)
    for k, each in enumerate(fitted):
        each.save(tmp_path / str(k))
    loaded = [tabmtl.load(tmp_path / str(k)) for k in range(3)]
    batch = fitted[0].coder_.read(X)
    whole = together(fitted).answers(X, batch)
    for found, each in zip(whole, fitted, strict=True):
        for one, alone in zip(found, each.__answers__(X), strict=True):
            np.testing.assert_allclose(one, alone, rtol=1e-5, atol=1e-6)
    asked = together(loaded)
    for rows in (slice(240), slice(1), slice(7, 9), slice(239, 240)):
        some = asked.answers(X[rows], batch.rows(np.arange(240)[rows]))
        for found, own in zip(whole, some, strict=True):
            assert same([answer[rows] for answer in found], own)


def test_weights_groups_and_a_time_limit_reach_every_network():
    weight, groups = np.random.default_rng(0).uniform(0.5, 2, len(X)), np.arange(len(X)) // 4
    fitted, _ = fit(MODELS[2], sample_weight=weight, groups=groups)
    plain, _ = fit(MODELS[2])
    assert not same(fitted[0].__answers__(X), plain[0].__answers__(X))
    with pytest.warns(TimeLimitWarning, match="epoch 1 of"):
        limited, _ = fit(SharedBottom(hidden=(8,), time_limit=1e-9))
    assert [len(each.history_) for each in limited] == [1, 1, 1]
