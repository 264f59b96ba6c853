"""Models that are trained at several widths: smaller ones by a budget, their files and exports, and refusals."""

import copy
import pickle

import numpy as np
import polars as pl
import pytest
import torch
from cases import later
from exported import check_answers, exported

import tabmtl
from tabmtl import PLE, MMoE, MMoERegressor, SharedBottom, SharedBottomClassifier
from tabmtl.estimators.together import fit_together
from tabmtl.nn.uneven import UnevenTowers
from tabmtl.slimming.shares import Shares, kept_by
from tabmtl.slimming.smaller import SmallerNetworks
from tabmtl.testing import features, long_table, mixed_targets

SHARES = (0.25, 0.5, 1.0)
SMALL = {"epochs": 2, "random_state": 0, "slim": SHARES, "numeric_embedding": "linear", "d_embedding": 4}
MIXTURE = SMALL | {"expert_hidden": (32, 16), "head_hidden": 16}
MODELS = [
    SharedBottom(hidden=(32, 16), head_hidden=16, **SMALL),
    MMoE(n_experts=3, **MIXTURE),
    PLE(n_levels=2, n_shared_experts=1, n_task_experts=1, **MIXTURE),
]
X, NEW = features(160), features(40, seed=1)
Y = mixed_targets(X)


def named(model):
    return type(model).__name__


@pytest.fixture(
    scope="module",
    params=[pytest.param(model, marks=() if isinstance(model, MMoE) else pytest.mark.all_faces) for model in MODELS],
    ids=named,
)
def model(request):
    return copy.deepcopy(request.param).fit(X, Y)


def equal(one, other):
    return one.equals(other) if isinstance(one, pl.DataFrame) else np.array_equal(one, other)


def test_losses_of_all_widths_are_told(model):
    losses, n = model.slim_losses_, len(model.tasks_)
    assert losses.columns == ["shared", "task_width", "task", "loss", "multiply_adds"]
    assert len(losses) == len(SHARES) ** 2 * n
    assert losses["loss"].is_finite().all()
    sizes = losses.unique(["shared", "task_width"]).sort("shared", "task_width")["multiply_adds"].to_list()
    assert sizes[-1] == model.multiply_adds_ == max(sizes)
    whole = model.history_.filter(pl.col("epoch") == model.best_iteration_ - 1)
    own = losses.tail(n)
    for name, loss in own.select("task", "loss").iter_rows():
        assert loss == pytest.approx(whole[f"val/{name}/loss"].item(), rel=1e-5)


def test_a_smaller_model_has_the_losses_that_chose_it(model):
    smaller = model.with_budget(0.6)
    assert smaller.multiply_adds_ <= 0.6 * model.multiply_adds_
    assert sum(array.size for array in smaller.weights_.values()) < sum(a.size for a in model.weights_.values())
    assert smaller.predict(NEW).columns == Y.columns
    assert {type(smaller), smaller.slim} == {type(model), SHARES}
    before = model.predict(NEW)
    assert not smaller.predict(NEW).equals(before)
    assert model.with_budget(0.6).predict(NEW).equals(smaller.predict(NEW))
    assert model.predict(NEW).equals(before)


def test_each_budget_is_a_choice_of_the_frame(model):
    least = model.slim_losses_["multiply_adds"].min() / model.multiply_adds_
    for budget in (least + 1e-6, 0.5, 1.0):
        smaller = model.with_budget(budget)
        assert smaller.multiply_adds_ <= budget * model.multiply_adds_
    with pytest.raises(ValueError, match="is below the smallest network"):
        model.with_budget(least / 2)


def test_a_budget_of_predict_answers_by_the_smaller_model(model):
    smaller = model.with_budget(0.6)
    assert model.predict(NEW, budget=0.6).equals(smaller.predict(NEW))
    assert model.predict(NEW, tasks=["late"], budget=0.6).equals(smaller.predict(NEW).select("late"))
    assert equal(model.predict_proba(NEW, tasks="late", budget=0.6), smaller.predict_proba(NEW, tasks="late"))
    with pytest.raises(ValueError, match="budget must be above 0 and at most 1, got 2"):
        model.predict(NEW, budget=2)


def test_a_smaller_model_reports_no_drift_on_the_rows_of_fit(model):
    smaller = model.with_budget(0.4)
    for drift in (smaller.drift(X), smaller.drift(X, reference=X)):
        assert not drift["is_drift"].any()
    # the profile has the answers of the whole network
    told = pl.col("psi").filter(kind="prediction").count()
    assert model.drift(X).select(told).item() == len(model.tasks_)
    assert smaller.drift(X).select(told).item() == 0
    assert smaller.partial_fit(X, Y).drift(X).select(told).item() == len(model.tasks_)


def test_cuts_and_answers_leave_the_random_generator(model):
    smaller = uneven(model)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.with_budget(0.6).predict(NEW)
    uneven(model).predict(NEW)
    smaller.predict(NEW, tasks=["late"])
    pickle.loads(pickle.dumps(smaller)).predict(NEW)
    assert torch.equal(torch.get_rng_state(), before)


def test_passes_over_few_rows_draw_other_widths_each(monkeypatch):
    drawn, draw = [], SmallerNetworks._draw
    monkeypatch.setattr(SmallerNetworks, "_draw", lambda loop: drawn.append(draw(loop)) or drawn[-1])
    model = SharedBottom(hidden=(16,), head_hidden=8, **SMALL | {"random_state": 4})
    for _ in range(8):
        model.partial_fit(X[:20], Y[:20])
    assert len(drawn) == len(model.history_) == 8
    assert len({*drawn}) > 4
    first = drawn[0]
    model.fit(X[:20], Y[:20])
    assert drawn[8] == first  # a fit begins anew


def test_a_budget_of_predict_follows_the_parameters_of_computing(model):
    own = copy.deepcopy(model)
    own.predict(NEW, budget=0.6)
    own.set_params(precision="bf16", n_jobs=2)
    expected = own.with_budget(0.6).predict(NEW)
    assert own.predict(NEW, budget=0.6).equals(expected)
    smaller = own._within(0.6)
    assert (smaller.precision, smaller.n_jobs) == ("bf16", 2)
    own.set_params(precision="float32")
    assert own.predict(NEW, budget=0.6).equals(model.predict(NEW, budget=0.6))


def test_statistics_of_the_whole_network_stay_its_own():
    params = {"expert_hidden": (16, 4), "head_hidden": 8, "early_stopping": False, "slim": (0.25, 1.0)}
    numbers = np.random.default_rng(0).normal(size=(160, 4))
    model = MMoE(n_experts=2, **params, epochs=2, random_state=0).fit(numbers, numbers[:, :2])
    settled = model.with_weights(model.weights_, numbers).weights_
    names = [name for name in settled if name.endswith(("norms.1.running_mean", "norms.1.running_var"))]
    assert len(names) == 2  # of layers of 4 units, which no cut makes smaller
    for name in names:
        np.testing.assert_allclose(model.weights_[name], settled[name], rtol=1e-4, atol=1e-4)
        assert not np.allclose(model._slimmed.parts[0].statistics[name], settled[name], rtol=1e-2, atol=1e-2)


def test_files_keep_both(model, reloaded):
    smaller = model.with_budget(0.6)
    for own in (smaller, model):
        loaded = reloaded(own)
        assert loaded.predict(NEW).equals(own.predict(NEW))
        assert loaded.widths_ == own.widths_
        assert pickle.loads(pickle.dumps(own)).predict(NEW).equals(own.predict(NEW))
    assert loaded.slim_losses_.equals(model.slim_losses_)
    assert loaded.predict(NEW, budget=0.6).equals(smaller.predict(NEW))


def uneven(model):
    """A smaller model whose heads have unequal widths."""
    network = model.fitted_network()[0]
    groups = network.units()
    shares = (0.25, 1.0, 0.5, *[1.0] * (len(model.tasks_) - 3))
    return model._without_units(groups, kept_by(groups, Shares(0.5, shares)))


@pytest.mark.all_faces
def test_heads_of_unequal_widths_are_saved_exported_and_asked_alone(model, tmp_path):
    smaller = uneven(model)
    assert isinstance(smaller.fitted_network()[0].heads, UnevenTowers)
    smaller.save(tmp_path / "uneven")
    answers = smaller.predict(NEW)
    assert tabmtl.load(tmp_path / "uneven").predict(NEW).equals(answers)
    names = Y.columns[1:3]
    for own, found in zip(smaller.answer(NEW, tasks=names), smaller.answer(NEW)[1:3], strict=True):
        np.testing.assert_allclose(own, found, rtol=0, atol=1e-5)
    if isinstance(model, PLE):  # whose graph has all that those of the others have
        check_answers(smaller, exported(smaller, tmp_path / "uneven.onnx"), NEW)
    row_by_row = pl.concat([smaller.predict(NEW[i : i + 1]) for i in range(5)])
    assert row_by_row.equals(answers[:5])


@pytest.mark.parametrize("cut", [uneven, lambda model: model.with_budget(0.6)], ids=["uneven", "even"])
def test_a_smaller_model_goes_on_and_takes_new_tasks(model, cut):
    smaller = cut(model)
    widths, answers = smaller.widths_, smaller.predict(NEW)
    more = copy.deepcopy(smaller)
    target = NEW.select(new="plain")
    more.add_task(NEW, target)
    assert more.predict(NEW).columns == [*Y.columns, "new"]
    assert more.predict(NEW).select(Y.columns).equals(answers)
    assert more.widths_ == widths
    more.partial_fit(NEW, mixed_targets(NEW).with_columns(target["new"]))
    smaller.partial_fit(X, Y)
    assert smaller.widths_ == widths
    assert len(smaller.history_) == len(model.history_) + 1
    assert not smaller.predict(NEW).equals(answers)
    again = smaller.fit(X, Y)
    assert again.widths_ == model.widths_
    assert again.predict(NEW).equals(model.predict(NEW))


def test_the_whole_model_goes_on_at_all_widths(model):
    more = copy.deepcopy(model).partial_fit(X, Y)
    assert not more.slim_losses_.equals(model.slim_losses_)
    assert more.with_budget(0.6).predict(NEW).columns == Y.columns
    more.add_task(NEW, NEW.select(new="plain"))
    with pytest.raises(ValueError, match=r"cut it first: model.with_budget\(0.5\).add_task"):
        more.with_budget(0.5)
    assert more.remove_task("new").predict(NEW).columns == Y.columns


def test_a_smaller_model_names_what_it_lacks(model):
    smaller = model.with_budget(0.6)
    with pytest.raises(ValueError, match="this model is a smaller one; ask the one that it was cut from"):
        smaller.predict(NEW, budget=0.5)
    with pytest.raises(AttributeError, match="slim_losses_ is of a fit with slim, and this model is a smaller one"):
        _ = smaller.slim_losses_
    with pytest.raises(AttributeError, match="feature_importances_ needs"):
        _ = smaller.feature_importances_
    turned = model.with_weights(model.weights_)
    with pytest.raises(ValueError, match="the weights of this model are not those of its fit"):
        turned.with_budget(0.5)
    plain = SharedBottom(hidden=(8,), epochs=1, random_state=0).fit(X, Y)
    with pytest.raises(
        ValueError, match=r"such as slim=\(0.25, 0.5, 1.0\), and this model was last trained with slim=None"
    ):
        plain.predict(NEW, budget=0.5)
    assert plain.widths_["trunk.0"] == 8
    assert not hasattr(plain, "slim_losses_")


def test_a_smaller_mixture_tells_of_its_own_experts(model):
    if isinstance(model, SharedBottom):
        pytest.skip("it has no experts")
    smaller = model.with_budget(0.4)
    assert smaller.multiply_adds_ < model.multiply_adds_
    assert smaller.experts_.drop("zero_rate", "std", "top_weight", "dead").equals(
        model.experts_.drop("zero_rate", "std", "top_weight", "dead")
    )
    assert not smaller.experts_.equals(model.experts_)
    assert smaller.expert_utilisation_["weight"].is_between(0, 1).all()


def test_decisions_are_left_out_with_a_warning():
    model = SharedBottom(hidden=(16,), head_hidden=8, **SMALL).fit(X, Y)
    other = features(120, seed=2)
    model.tune_thresholds(other, mixed_targets(other), tasks="late")
    with pytest.warns(tabmtl.schema.TabmtlWarning, match="call them on the smaller model"):
        smaller = model.with_budget(0.9)
    assert smaller.coder_.labels.decisions is None
    assert model.coder_.labels.decisions is not None
    smaller.tune_thresholds(other, mixed_targets(other), tasks="late")


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_a_long_table_has_one_width_of_heads(model, reloaded):
    long = model.__class__(**{**model.get_params(), "task_column": "school"})
    own, grade = long_table(90)
    long.fit(own, grade)
    smaller = long.with_budget(0.6)
    heads = {width for name, width in smaller.widths_.items() if name.startswith("heads")}
    assert len(heads) == 1
    assert smaller.multiply_adds_ <= 0.6 * long.multiply_adds_
    assert equal(long.predict(own[:30], budget=0.6), smaller.predict(own[:30]))
    assert equal(reloaded(smaller).predict(own[:30]), smaller.predict(own[:30]))


def test_the_faces_and_flat_targets():
    numbers = Y.select(pl.col(pl.Float64))
    regressor = MMoERegressor(n_experts=2, **MIXTURE).fit(X, numbers[:, 0])
    assert regressor.predict(NEW, budget=0.7).shape == (len(NEW),)
    classifier = SharedBottomClassifier(hidden=(16,), head_hidden=8, **SMALL).fit(X, Y["late"])
    assert set(classifier.predict(NEW, budget=0.9)) <= set(classifier.classes_)
    assert classifier.predict_proba(NEW, budget=0.9).shape == (len(NEW), 2)
    assert classifier.with_budget(0.9).score(NEW, mixed_targets(NEW)["late"]) >= 0
    assert not hasattr(regressor, "predict_proba")


@pytest.mark.parametrize(
    "params",
    later([{"n_members": 2}, {"balance": "pcgrad"}, {"balance": "uncertainty"}, {"balance": "gradnorm"}, {"flat": True},
           {"early_stopping": False}, {"precision": "bf16"}], *[{"balance": "gradnorm"}, {"flat": True}]),
    ids=str,
)  # fmt: skip
def test_other_ways_to_train(params):
    for model in (SharedBottom(hidden=(16, 8), head_hidden=8, **SMALL), MMoE(n_experts=2, **MIXTURE)):
        fitted = model.set_params(**params).fit(X[:90], Y[:90])
        assert fitted.slim_losses_["loss"].is_finite().all()
        assert fitted.predict(NEW, budget=0.8).columns == Y.columns


def test_what_does_not_go_with_slim_is_refused():
    with pytest.raises(ValueError, match="slim cuts the units of one network, and keep='task'"):
        SharedBottom(slim=SHARES, keep="task").fit(X, Y)
    with pytest.raises(ValueError, match="slim cuts the units of one network, and expert_norm='layer'"):
        PLE(slim=SHARES, expert_norm="layer").fit(X, Y)
    with pytest.raises(ValueError, match="slim cuts hidden layers, and this network has none"):
        SharedBottom(slim=SHARES, hidden=(), head_hidden=0).fit(X, Y)


def test_networks_of_several_widths_are_not_joined():
    networks = [SharedBottom(hidden=(8,), random_state=seed, slim=SHARES) for seed in range(2)]
    coder = networks[0].learner().coder(X, Y)
    tables = [{"X": X[k::2], "batch": coder.read(X[k::2]), "y": Y[k::2]} for k in range(2)]
    assert not fit_together(networks, coder, tables)
