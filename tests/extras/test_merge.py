"""Merged networks: whose weights they have, and what cannot be merged."""

import copy

import numpy as np
import polars as pl
import pytest
import torch
from conformance import answers, features, same, tiny
from departments import fine_tuned
from models_at_hand import fitted

import tabmtl
from tabmtl import ESMM, PLE, STEM, MMoE, SharedBottom, SharedTrees
from tabmtl.extras import merge
from tabmtl.extras.vectors import TaskVectors, owners_of

METHODS = ("average", "task_arithmetic")


@pytest.fixture(scope="module", params=[SharedBottom, MMoE, PLE, STEM], ids=lambda cls: cls.__name__)
def departments(request):
    """A base, three models that have trained a task each, and their rows."""
    base, X, _ = fitted(request.param)
    return base, [fine_tuned(base, X, t) for t in range(3)], X


def test_the_mean_of_equal_models_is_the_model(departments):
    base, (model, *_), X = departments
    assert same(answers(merge(base, [model, model]), X), answers(model, X))


def test_what_one_task_reads_comes_from_the_model_that_trained_it(departments):
    base, models, _ = departments
    merged, owners = merge(base, models), owners_of(base.fitted_network()[0], 3)
    heads = [name for name in owners if name.startswith("heads.")]
    assert all((owners[name] >= 0).all() for name in heads)
    for name, owner in owners.items():
        for t, model in enumerate(models):
            assert (merged.weights_[name][owner == t] == model.weights_[name][owner == t]).all()
        mean = np.mean([model.weights_[name][owner < 0] for model in models], axis=0)
        assert merged.weights_[name][owner < 0] == pytest.approx(mean, rel=1e-5, abs=1e-6)
    beyond_heads = any((owner >= 0).any() for name, owner in owners.items() if name not in heads)
    assert beyond_heads == (type(base) is not SharedBottom)


def test_every_method_is_deterministic_and_its_network_is_one_like_others(departments, reloaded):
    base, models, X = departments
    before = [{name: weight.copy() for name, weight in own.weights_.items()} for own in (base, *models)]
    for method in METHODS:
        merged, again = (merge(base, models, method=method, X=X) for _ in range(2))
        assert same(answers(merged, X), answers(again, X)), method
        assert same(answers(reloaded(merged), X), answers(merged, X)), method
    for own, weights in zip((base, *models), before, strict=True):
        assert all((own.weights_[name] == weight).all() for name, weight in weights.items())
    assert merged.history_.equals(base.history_)


def test_models_of_files_merge_with_their_base(departments, tmp_path, reloaded):
    base, (model, *_), X = departments
    model.save(tmp_path / "model")
    kept, known = tabmtl.load(tmp_path / "model"), reloaded(base)
    expected = answers(merge(base, [model]), X)
    assert all(same(answers(merge(of, [own]), X), expected) for of, own in ((base, kept), (known, model)))


def test_drift_is_told_of_columns_from_the_base_and_of_no_answers(departments):
    base, models, X = departments
    found = merge(base, models).drift(pl.concat([X, X]))
    columns = found.filter(kind="column")
    assert (columns["is_drift"] == base.drift(pl.concat([X, X])).filter(kind="column")["is_drift"]).all()
    assert found.filter(kind="prediction").select("is_drift", "against").rows() == [(None, None)] * 3
    compared = merge(base, models).drift(X, reference=X)
    assert not compared["is_drift"].any() and compared["is_drift"].null_count() == 0


def test_task_arithmetic_by_a_third_is_the_mean_of_three(departments):
    base, models, X = departments
    found = [merge(base, models, method="task_arithmetic", scale=scale) for scale in (1 / 3, [1 / 3] * 3)]
    for merged in found:
        for one, other in zip(merged.__answers__(X), merge(base, models).__answers__(X), strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_models_of_the_same_task_share_its_head(departments):
    base, models, X = departments
    merged = merge(base, [models[0], fine_tuned(base, X, 0, rate=0.1)])
    weights = [own.weights_["heads.hidden.bias"] for own in (base, models[0], fine_tuned(base, X, 0, rate=0.1), merged)]
    assert weights[3][0] == pytest.approx((weights[1][0] + weights[2][0]) / 2)
    assert (weights[3][1:] == weights[0][1:]).all()


def test_rows_settle_the_statistics_of_batch_normalisation():
    base, X, _ = fitted(MMoE)
    models = [fine_tuned(base, X, t) for t in range(3)]
    name = next(name for name in base.weights_ if name.endswith("running_mean"))
    alone, settled = merge(base, models), merge(base, models, X=X)
    mean = np.mean([model.weights_[name] for model in models], axis=0)
    assert alone.weights_[name] == pytest.approx(mean)
    assert np.abs(settled.weights_[name] - mean).max() > 1e-4
    again = settled.with_weights(settled.weights_, X)
    assert again.weights_[name] == pytest.approx(settled.weights_[name])


def test_long_tables_and_funnels_merge():
    base, X, _ = fitted(SharedBottom, "long")
    weights = {name: weight * np.float32(1.1) for name, weight in base.weights_.items()}
    merged = merge(base, [base.with_weights(weights)])
    assert merged.weights_["trunk.0.weight"] == pytest.approx(1.1 * base.weights_["trunk.0.weight"])
    funnel, X, _ = fitted(ESMM)
    assert len(merge(funnel, [fine_tuned(funnel, X, 0), fine_tuned(funnel, X, 1)]).__answers__(X)) == len(funnel.tasks_)


def test_decisions_of_the_base_are_dropped():
    base, X, y = fitted(SharedBottom)
    rows = features(200, seed=7)
    base.tune_thresholds(rows, y[:1].vstack(y)[: len(rows)] if len(rows) <= len(y) else _repeated(y, len(rows)))
    merged = merge(base, [fine_tuned(base, X, 0)])
    assert not hasattr(merged, "thresholds_") and hasattr(base, "thresholds_")


def _repeated(y, n):
    return pl.concat([y] * (n // len(y) + 1))[:n]


# what cannot be merged


@pytest.fixture(scope="module")
def one():
    """A base and a model of two tasks."""
    base, X, y = fitted(SharedBottom)
    return base, fine_tuned(base, X, 0), X, y


def refit(X, y, **params):
    return tiny(SharedBottom, **params).fit(X, y)


REFUSED = {
    "nothing": (lambda b, m, X, y: merge(b, []), "list of networks that were fine-tuned"),
    "trees": (lambda b, m, X, y: merge(b, [tiny(SharedTrees)]), r"models\[0\] must be a network"),
    "class": (lambda b, m, X, y: merge(b, [m, tiny(MMoE).fit(X, y)]), r"models\[1\] is a MMoE, and the base a Shared"),
    "columns": (
        lambda b, m, X, y: merge(b, [refit(X.rename({"plain": "new"}), y)]),
        r"models\[0\] has other columns .* lacks \['plain'\] and it alone has \['new'\]",
    ),
    "levels": (
        lambda b, m, X, y: merge(b, [refit(X.with_columns(pl.col("text").replace("red", "new")), y)]),
        r"levels of column 'text' in models\[0\] .* apart: it lacks \['red'\] and it alone has \['new'\]",
    ),
    "new levels": (
        lambda b, m, X, y: merge(b, [refit(X.with_columns(text=pl.lit("red")), y)]),
        r"apart: it lacks \['blue', 'green'\]; let",
    ),
    "unfitted": (lambda b, m, X, y: merge(b, [m, SharedBottom()]), r"models\[1\] is a SharedBottom that is not fitted"),
    "no scale": (
        lambda b, m, X, y: merge(b, [m], method="task_arithmetic", scale="x"),
        "scale must be a finite number, or one for each of the 1 models, got 'x'",
    ),
    "scales": (lambda b, m, X, y: merge(b, [refit(X[:80], y[:80])]), "otherwise than the base"),
    "tasks": (lambda b, m, X, y: merge(b, [refit(X, y.drop("size"))]), r"has the tasks \['late', 'delay'\]"),
    "classes": (
        lambda b, m, X, y: merge(b, [refit(X, y.with_columns(pl.col("size").replace("large", "huge")))]),
        "'size' of .*with the classes",
    ),
    "units": (lambda b, m, X, y: merge(b, [refit(X, y.with_columns(pl.col("delay") * 2))]), "other units"),
    "parameters": (lambda b, m, X, y: merge(b, [refit(X, y, hidden=(8,))]), r"has hidden=\(8,\), and the base"),
    "seed": (lambda b, m, X, y: merge(b, [m, refit(X, y, random_state=9)]), r"models\[1\] is as far from the base"),
    "far": (
        lambda b, m, X, y: merge(b, [m, b.with_weights(_times(b, 2.5))]),
        r"models\[1\] .* matrices have moved by more",
    ),
    "equal": (lambda b, m, X, y: merge(b, [b]), "no model has learned anything"),
    "method": (lambda b, m, X, y: merge(b, [m], method="mean"), "method must be"),
    "scale": (
        lambda b, m, X, y: merge(b, [m], method="task_arithmetic", scale=[1.0, 2.0]),
        "one for each of the 1 models",
    ),
    "average": (lambda b, m, X, y: merge(b, [m], scale=1.0), "has no scale"),
    "beyond float32": (
        lambda b, m, X, y: merge(b, [m], method="task_arithmetic", scale=1e300),
        r"scale=1e\+300 gives weights or answers that are not finite; give a smaller one, such as 0.4",
    ),
    "answers beyond float32": (
        lambda b, m, X, y: merge(b, [m], method="task_arithmetic", scale=[1e30]),
        r"scale=\[1e\+30\] gives weights or answers that are not finite",
    ),
    "statistics beyond float32": (
        lambda b, m, X, y: merge(b, [m], method="task_arithmetic", scale=1e30, X=X),
        r"scale=1e\+30 gives weights or answers that are not finite",
    ),
}


def _times(model, factor):
    return {name: weight * np.float32(factor) for name, weight in model.weights_.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(one, name):
    call, words = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=words):
        call(*one)


def test_biases_do_not_tell_how_far_a_model_is(departments):
    base = departments[0]
    parameters = dict(base.fitted_network()[0].named_parameters())
    n = sum(weight.ndim > 1 for name, weight in parameters.items() if name.endswith("weight"))
    with pytest.raises(ValueError, match=rf"of its {n} weight matrices"):
        merge(base, [base.with_weights(_times(base, 2.5))])


def test_a_network_that_says_nothing_of_tasks_is_merged_whole():
    network = torch.nn.Linear(2, 1)
    assert {name: owner.tolist() for name, owner in owners_of(network, 2).items()} == {
        "weight": [[-1, -1]],
        "bias": [-1],
    }


def test_a_history_without_labels_tells_who_trained(one):
    base, model, *_ = one
    unlabelled = copy.copy(model)
    unlabelled.history_ = model.history_.with_columns(pl.lit(None, pl.Float64).alias("train/late/loss"))
    assert [TaskVectors.of(base, [own]).trainers for own in (model, unlabelled)] == [((0,), (), ()), ((), (), ())]


@pytest.mark.parametrize("goes_on", ["fit", "partial_fit"])
def test_labels_tell_who_trained_where_all_heads_decay(goes_on):
    base, X, y = fitted(SharedBottom, weight_decay=0.5)
    own = y.with_columns(pl.lit(None, kind).alias(name) for name, kind in y.schema.items() if name != "late")
    model = getattr(copy.copy(base).set_params(warm_start=True), goes_on)(X, own)
    assert (model.weights_["heads.hidden.weight"] != base.weights_["heads.hidden.weight"]).any(axis=(1, 2)).all()
    assert TaskVectors.of(base, [model]).trainers == ((0,), (), ())
    merged = merge(base, [model]).weights_["heads.hidden.weight"]
    assert (merged[1:] == base.weights_["heads.hidden.weight"][1:]).all()
