"""Pruned models: what is cut, what stays, and what they can do."""

import copy

import numpy as np
import polars as pl
import pytest
import torch
from cases import later
from exported import check_answers, exported
from small_network import TASKS, network_of, rows
from torch.func import functional_call

from tabmtl import PLE, AdaTT, MMoE, SharedBottom
from tabmtl.extras import multiply_adds, prune, widths
from tabmtl.extras.cuts import _mask_slopes, _readers
from tabmtl.nn.units import Bucket
from tabmtl.testing import features, long_table, mixed_targets

SMALL = {"epochs": 3, "random_state": 0, "numeric_embedding": "linear", "d_embedding": 4}
MIXTURE = SMALL | {"expert_hidden": (16, 12), "head_hidden": 12}
MODELS = [
    SharedBottom(hidden=(24, 12), head_hidden=12, **SMALL),
    MMoE(n_experts=4, **MIXTURE),
    PLE(n_shared_experts=1, **MIXTURE),
]
X, ASIDE, NEW = features(120), features(80, seed=2), features(40, seed=1)
Y, TOLD = mixed_targets(X), mixed_targets(ASIDE)


def named(model):
    return type(model).__name__


def scores_of(steps):
    return steps.select(pl.col("^score/.*$")).to_numpy()


@pytest.fixture(
    scope="module",
    params=[pytest.param(model, marks=() if isinstance(model, MMoE) else pytest.mark.all_faces) for model in MODELS],
    ids=named,
)
def model(request):
    return copy.deepcopy(request.param).fit(X, Y)


@pytest.fixture(scope="module")
def smaller(model):
    return prune(model, ASIDE, TOLD, keep=0.5, floor=9)


def test_cutting_ends_at_the_size(model, smaller):
    sizes = smaller.pruned_["multiply_adds"].to_list()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == multiply_adds(model)
    assert sizes[-1] == multiply_adds(smaller) <= 0.5 * multiply_adds(model) < sizes[-2]
    assert widths(smaller).keys() <= widths(model).keys()
    assert all(width <= widths(model)[name] for name, width in widths(smaller).items())
    layers = [width for name, width in widths(smaller).items() if "bucket" not in name]
    assert all(width % 4 == 0 for width in layers)
    assert smaller.pruned_["cut"].to_list()[0] is None


def test_the_model_stays_as_it_was(model, smaller):
    before = {name: array.copy() for name, array in model.weights_.items()}
    answers = model.predict(NEW)
    again = prune(model, ASIDE, TOLD, keep=0.5, floor=9)
    assert all(np.array_equal(array, before[name]) for name, array in model.weights_.items())
    assert model.predict(NEW).equals(answers)
    assert not smaller.predict(NEW).equals(answers)
    assert again.pruned_.equals(smaller.pruned_)
    assert all(np.array_equal(array, again.weights_[name]) for name, array in smaller.weights_.items())
    assert not hasattr(model, "pruned_")


def test_no_task_falls_below_the_floor(model):
    for floor in (0, 0.01):
        with pytest.warns(match=r"prune ended at 0\.\d+ of .*, above keep=0.05; "):
            pruned = prune(model, ASIDE, TOLD, keep=0.05, floor=floor)
        scores = scores_of(pruned.pruned_)
        assert (scores >= scores[0] - floor).all()
        told = [pruned.score_tasks(ASIDE, TOLD)[task.name] for task in model.tasks_]
        np.testing.assert_allclose(told, scores[-1], rtol=1e-5, atol=1e-6)
        assert multiply_adds(pruned) > 0.05 * multiply_adds(model)
    whole = prune(model, ASIDE, TOLD, keep=1.0)
    assert (len(whole.pruned_), widths(whole)) == (1, widths(model))
    assert whole.predict(NEW).equals(model.predict(NEW))


def test_scores_are_held_against_those_with_statistics_of_the_rows(model, smaller):
    settled = model.with_weights(model.weights_, X=ASIDE).score_tasks(ASIDE, TOLD)
    first = smaller.pruned_.select(pl.col("^score/.*$")).row(0)
    np.testing.assert_allclose(first, list(settled.values()), rtol=1e-5)


@pytest.mark.all_faces
def test_a_pruned_model_is_saved_exported_and_asked_alone(smaller, tmp_path, reloaded):
    loaded, answers = reloaded(smaller), smaller.predict(NEW)
    assert loaded.predict(NEW).equals(answers)
    assert widths(loaded) == widths(smaller)
    if isinstance(smaller, PLE):  # whose buckets of experts are of unequal size; that of others takes as long
        check_answers(smaller, exported(smaller, tmp_path / "pruned.onnx"), NEW)
    names = Y.columns[1:3]
    for own, found in zip(smaller.__answers__(NEW, tasks=names), smaller.__answers__(NEW)[1:3], strict=True):
        np.testing.assert_allclose(own, found, rtol=0, atol=1e-5)
    assert pl.concat([smaller.predict(NEW[i : i + 1]) for i in range(5)]).equals(answers[:5])


def test_a_pruned_model_goes_on_and_is_pruned_again(model, smaller):
    more = copy.deepcopy(smaller)
    more.partial_fit(X, Y)
    assert widths(more) == widths(smaller)
    assert len(more.history_) == len(model.history_) + 1
    least = prune(more, ASIDE, TOLD, keep=0.8, floor=9)
    assert multiply_adds(least) <= 0.8 * multiply_adds(more)
    least.add_task(NEW, NEW.select(new="plain"))
    assert least.predict(NEW).columns == [*Y.columns, "new"]
    with pytest.raises(ValueError, match=r"prune it first: prune\(model, X, y\).add_task"):
        prune(least, ASIDE, TOLD)
    again = more.fit(X, Y)
    assert widths(again) == widths(model)
    assert again.predict(NEW).equals(model.predict(NEW))


def test_units_that_nothing_needs_go_first():
    model = SharedBottom(hidden=(32, 16), head_hidden=0, **SMALL).fit(X, Y)
    weights = copy.deepcopy(model.weights_)
    weights["trunk.3.weight"][:, 8:24] = 0
    idle = model.with_weights(weights)
    pruned = prune(idle, ASIDE, TOLD, keep=0.55, floor=0)
    kept = pruned.weights_["trunk.0.weight"]
    assert widths(pruned)["trunk.0"] == 16
    assert np.array_equal(kept, np.delete(weights["trunk.0.weight"], np.arange(8, 24), axis=0))
    for own, found in zip(idle.__answers__(NEW), pruned.__answers__(NEW), strict=True):
        np.testing.assert_allclose(found, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_slopes_are_those_of_masks(model):
    network = network_of(model, TASKS)
    groups = network.units()
    parameters = {name: network.get_parameter(name) for group in groups for name in _readers(group)}
    loss = sum(own.square().sum() for own in network(rows()))
    slopes = dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))
    for group in groups:
        mask = torch.ones(group.n_parts, group.n_units, dtype=torch.float64, requires_grad=True)
        masked = {}
        for slot in () if isinstance(group, Bucket) else group.reads:
            factor = torch.ones_like(slot.view(parameters[slot.name]))
            shape = [1] * factor.ndim
            shape[slot.axis] = group.n_units
            shape[0] = group.n_parts if group.n_parts > 1 else shape[0]
            at = range(len(factor)) if slot.at is None else slot.at
            own = torch.stack([(factor * mask.view(shape))[i] if i in at else factor[i] for i in range(len(factor))])
            masked[slot.name] = parameters[slot.name] * own.view_as(parameters[slot.name])
        found = _mask_slopes(network, group, parameters, slopes)
        assert found.shape == mask.shape
        if masked:
            loss = sum(own.square().sum() for own in functional_call(network, masked, (rows(),)))
            torch.testing.assert_close(found, torch.autograd.grad(loss, mask)[0])


@pytest.mark.parametrize("model", later(MODELS, *MODELS[1:]), ids=named)
def test_tasks_of_a_long_table_keep_one_form(model, reloaded):
    long = model.__class__(**{**model.get_params(), "task_column": "school"})
    own, grade = long_table(180)
    long.fit(own[:120], grade[:120])
    pruned = prune(long, own[120:], grade[120:], keep=0.5, floor=9)
    assert len({width for name, width in widths(pruned).items() if name.startswith("heads")}) == 1
    assert multiply_adds(pruned) <= 0.5 * multiply_adds(long)
    assert np.array_equal(reloaded(pruned).predict(own[:30]), pruned.predict(own[:30]))
    pruned.partial_fit(own, grade)


@pytest.mark.parametrize("params", [{"n_members": 2}, {"expert_norm": "layer"}], ids=str)
def test_other_networks(params):
    fitted = MMoE(n_experts=4, **MIXTURE | params).fit(X[:90], Y[:90])
    pruned = prune(fitted, ASIDE, TOLD, keep=0.7, floor=9)
    assert multiply_adds(pruned) <= 0.7 * multiply_adds(fitted)
    assert pruned.predict(NEW).columns == Y.columns
    assert pruned.expert_utilisation_["weight"].is_between(0, 1).all()
    assert len(pruned.experts_) == widths(pruned).get("experts.bucket.0", 1)


def test_a_size_that_no_cut_reaches_is_told(model):
    with pytest.warns(match=r"prune ended at 0\.\d+ of .*, above keep=0.001; layers and experts are as few as can be"):
        pruned = prune(model, ASIDE, TOLD, keep=0.001, floor=99)
    assert {width for name, width in widths(pruned).items() if "bucket" not in name} == {4}


def test_the_task_that_ends_the_cuts_is_told():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 6))
    y = np.column_stack([X @ np.ones(6), np.zeros(500)]) + 0.1 * rng.normal(size=(500, 2))
    fitted = SharedBottom(hidden=(24,), head_hidden=0, epochs=20, random_state=0).fit(X[:300], y[:300])
    with pytest.warns(match="; further cuts cost 'y0', .*more than floor=0.001 on these rows: raise floor, or"):
        prune(fitted, X[300:], y[300:], keep=0.05, floor=0.001)


def test_several_sizes_are_those_of_a_run_each_and_a_preference_counts(model):
    several = prune(model, ASIDE, TOLD, keep=[0.8, 0.5], floor=1.0)
    alone = [prune(model, ASIDE, TOLD, keep=keep, floor=1.0) for keep in (0.8, 0.5)]
    assert [multiply_adds(smaller) for smaller in several] == [multiply_adds(smaller) for smaller in alone]
    assert several[0].predict(NEW).equals(alone[0].predict(NEW))
    assert several[0].pruned_.equals(several[1].pruned_[: len(several[0].pruned_)])
    told = prune(model, ASIDE, TOLD, keep=[0.3], floor=1.0)[0].pruned_
    other = prune(model, ASIDE, TOLD, keep=[0.3], floor=1.0, preference={"late": 1000.0})[0].pruned_
    assert not other.equals(told)
    alike = dict.fromkeys(TOLD.columns, 2.0)
    assert prune(model, ASIDE, TOLD, keep=[0.3], floor=1.0, preference=alike)[0].pruned_.equals(told)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": [0.2, 0.5]}, "keep must be a share, or a list of falling ones"),
        ({"keep": []}, "keep must be a share, or a list of falling ones"),
        ({"preference": {"lat": 2.0}}, "preference names tasks.*lat"),
        ({"preference": {"late": 0.0}}, r"preference\['late'\] must be a finite number above 0"),
    ],
)
def test_bad_sizes_and_preferences_are_refused(model, options, words):
    with pytest.raises(ValueError, match=words):
        prune(model, ASIDE, TOLD, **options)


@pytest.mark.parametrize("keep", [0, -0.5, 1.5, float("nan"), "half", None, True])
def test_a_bad_size_is_refused(model, keep):
    with pytest.raises(ValueError, match=r"keep must be (a number )?above 0 and at most 1, got"):
        prune(model, ASIDE, TOLD, keep=keep)


@pytest.mark.parametrize("floor", [-0.1, float("nan"), "none", None])
def test_a_bad_floor_is_refused(model, floor):
    with pytest.raises(ValueError, match=r"floor must be (a number of )?at least 0, got"):
        prune(model, ASIDE, TOLD, floor=floor)


def test_rows_that_do_not_fit_are_refused(model):
    answers = model.predict(NEW)
    with pytest.raises(ValueError, match="plain"):
        prune(model, ASIDE.drop("plain"), TOLD)
    with pytest.raises(ValueError, match="rows"):
        prune(model, ASIDE, TOLD[:50])
    unlabelled = TOLD.with_columns(late=pl.lit(None, TOLD["late"].dtype))
    with pytest.raises(ValueError, match="prune watches the score of every task, and that of 'late' is undefined"):
        prune(model, ASIDE, unlabelled)
    assert model.predict(NEW).equals(answers)


def test_rows_of_fit_are_refused(model):
    with pytest.raises(ValueError, match="prune needs rows that fit has not seen"):
        prune(model, X, Y)


def test_other_models_name_those_that_are_pruned():
    adatt = AdaTT(epochs=1, random_state=0, device="cpu").fit(X, Y)
    for ask in (lambda: prune(adatt, X, Y), lambda: widths(adatt), lambda: multiply_adds(adatt)):
        with pytest.raises(TypeError, match=r"AdaTT does not tell which units .*; SharedBottom, MMoE and PLE do"):
            ask()
