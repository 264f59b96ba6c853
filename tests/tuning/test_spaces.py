"""Search spaces: what every estimator states, and that a study gives back what was fitted."""

import json

import lightgbm as lgb
import numpy as np
import optuna
import polars as pl
import pytest
import recommenders
from conformance import ESTIMATORS, FUNNELS, MIXED, features, targets_for, tiny
from recommenders import ITEMS, RECOMMENDERS, TRAIN

from tabmtl import (
    RMTGB,
    IndependentTasks,
    MMoE,
    MultiTaskEnsemble,
    MultiTaskEnsembleClassifier,
    MultiTaskEnsembleRegressor,
    SharedBottom,
    tuning,
)
from tabmtl.sessions import Blend, CategoryPopularity, Popularity
from tabmtl.tuning import pareto_front, with_params
from tabmtl.tuning.spaces import check_space, current, decode, encode, suggest

ENSEMBLES = {MultiTaskEnsemble, MultiTaskEnsembleClassifier, MultiTaskEnsembleRegressor}
EMPTY = {Popularity, CategoryPopularity, *ENSEMBLES}
EVERY = [cls for cls in (*ESTIMATORS, *RECOMMENDERS) if cls not in EMPTY]


def named(classes):
    return pytest.mark.parametrize("cls", classes, ids=lambda cls: cls.__name__)


def samples(space, n, seed=0):
    """Parameters that trials suggest."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [suggest(study.ask(), space) for _ in range(n)]


@named(EVERY)
def test_every_estimator_says_what_to_tune(cls):
    space = cls().search_space
    assert len(space) >= 3
    assert set(space) <= set(cls().get_params())
    assert json.loads(json.dumps(space)).keys() == space.keys(), "plain data"
    checked = check_space(cls(), space)
    values = cls().get_params()
    assert set(current(cls(), checked)) == {name for name in space if values[name] is not None}, "holds the defaults"


def test_what_has_nothing_to_tune_is_refused():
    for cls in EMPTY:
        assert cls.search_space == {}
        with pytest.raises(ValueError, match=rf"{cls.__name__} has nothing to tune"):
            check_space(cls(), cls.search_space)


def test_a_subclass_adds_to_the_space_of_its_base():
    assert set(MMoE.search_space) > {"learning_rate", "d_embedding", "dropout", "expert_norm", "n_experts"}
    assert "n_experts" not in SharedBottom.search_space
    assert set(RMTGB.search_space) > {"learning_rate", "subsample", "theta_penalty"}


@pytest.mark.usefixtures("three_folds")
@named([cls for cls in (*MIXED, *FUNNELS) if cls not in EMPTY])
def test_sampled_parameters_fit(cls):
    X = features()
    for params in samples(check_space(cls(), cls.search_space), 2):
        model = tiny(cls, epochs=1).set_params(**params).fit(X, targets_for(cls, X))
        assert model.get_params().items() >= params.items()


@pytest.mark.all_faces
@named([cls for cls in RECOMMENDERS if cls not in {*EMPTY, Blend}])  # whose space is that of its parts
def test_sampled_parameters_fit_a_recommender(cls):
    for params in samples(check_space(cls(), cls.search_space), 2):
        model = recommenders.tiny(cls.__name__, epochs=1).set_params(**params).fit(TRAIN, items=ITEMS)
        assert model.get_params().items() >= params.items()


SPACE = {
    "n_experts": {"low": 2, "high": 5},
    "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
    "dropout": {"low": 0, "high": 0.5, "step": 0.25},
    "expert_hidden": {"choices": ([8], (8, 4), np.array([16, 8]).tolist())},
    "balance": {"choices": ("sum", {"a": 1.0, "b": 2.5}, (1, 2))},
    "head_hidden": {"choices": (0, np.int64(8), None)},
    "batch_size": {"choices": (32, "auto", np.int64(128), 256)},
    "early_stopping": {"choices": (False, True)},
}


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@pytest.mark.filterwarnings("error")
def test_a_study_and_its_frame_give_back_what_was_suggested(storage, tmp_path):
    kept = None if storage == "memory" else f"sqlite:///{tmp_path}/study.db"
    space, seen = check_space(MMoE(), SPACE), {}

    def run(trial):
        seen[trial.number] = suggest(trial, space)
        return trial.number

    study = optuna.create_study(study_name="s", storage=kept, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(run, n_trials=12)
    if storage != "memory":
        study = optuna.load_study(study_name="s", storage=kept)
    trials = pareto_front(study, dominated=True)
    for trial in study.trials:
        for found in (trial, trials.filter(trial=trial.number), trials.row(trial.number, named=True)):
            params = with_params(MMoE(), found).get_params()
            assert {name: params[name] for name in seen[trial.number]} == seen[trial.number]
    kinds = {name: {type(params[name]) for params in seen.values()} for name in space}
    assert kinds["expert_hidden"] == {tuple}
    assert kinds["balance"] == {str, dict, tuple}
    assert kinds["n_experts"] == {int}
    assert kinds["dropout"] == kinds["learning_rate"] == {float}
    assert kinds["batch_size"] == {int, str}
    assert kinds["early_stopping"] == {bool}


def test_with_params_leaves_everything_else_and_the_original():
    base = MMoE(epochs=3, random_state=5)
    model = with_params(base, {"n_experts": 3, "expert_hidden": "[16, 8]"})
    assert (model.n_experts, model.expert_hidden, model.epochs, model.random_state) == (3, (16, 8), 3, 5)
    assert base.n_experts == 8
    with pytest.raises(ValueError, match="expected one row, got 2"):
        with_params(base, pl.DataFrame({"trial": [1, 2], "param/n_experts": [2, 3]}))
    with pytest.raises(ValueError, match="has no parameter 'n_groups'"):
        with_params(base, {"n_groups": 3})
    with pytest.raises(ValueError, match=r"names \['n_groups'\], and the parameters of MMoE are \['activation'"):
        check_space(MMoE(), {"n_groups": {"low": 1, "high": 2}})


def test_parameters_of_an_inner_estimator_may_be_searched():
    base = IndependentTasks(regressor=lgb.LGBMRegressor())
    space = check_space(base, {"regressor__num_leaves": {"low": 2, "high": 63}})
    assert current(base, space) == {"regressor__num_leaves": 31}
    assert with_params(base, {"regressor__num_leaves": 7}).regressor.num_leaves == 7


@pytest.mark.parametrize("size", ["auto", 64])
def test_a_number_among_texts_is_a_first_trial(size):
    base = MMoE(batch_size=size)
    found = current(base, check_space(base, MMoE.search_space))
    assert with_params(MMoE(), found).batch_size == size


def test_what_lies_outside_the_space_is_left_to_the_search():
    base = MMoE(n_experts=40, expert_hidden=(7,), learning_rate=5e-3)
    space = check_space(base, MMoE.search_space)
    assert current(base, space)["learning_rate"] == 5e-3
    assert not {"n_experts", "expert_hidden"} & set(current(base, space))


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "sum", (1, (2, None)), {"a": (1, 2)}, ()])
def test_codes_are_exact(value):
    assert decode(encode("x", value)) == value
    assert isinstance(encode("x", value), bool | int | float | str | None)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"low": 1}, "expected low and high"),
        ({"low": 1, "high": 2, "choices": (1,)}, "expected low and high"),
        ({"low": 1, "high": 2, "prior": "log"}, "expected low and high"),
        ({"low": 2, "high": 1}, "finite numbers low <= high, got 2 and 1"),
        ({"low": 0, "high": np.inf}, "finite numbers"),
        ({"low": False, "high": True}, "finite numbers"),
        ({"low": 0, "high": 1, "log": True}, "a log scale needs low above 0"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "a log scale"),
        ({"choices": ()}, "choices must be a sequence"),
        ({"choices": "sum"}, "choices must be a sequence"),
        ({"choices": ("sum", True)}, "numbers, text or sequences, or all booleans"),
        ({"choices": (0, True)}, "or all booleans"),
        ({"choices": ("32", 64)}, "text must not be a number"),
        ({"choices": (1, 1.0)}, "listed twice"),
        ({"choices": ("[8]", (8,))}, "must not start with a bracket"),
        ({"choices": (object(),)}, "plain data"),
        ({"choices": ((object(),),)}, "plain data"),
    ],
)
def test_an_entry_that_has_not_the_form_is_named(entry, message):
    with pytest.raises(ValueError, match=rf"search_space, n_experts: .*{message}"):
        check_space(MMoE(), {"n_experts": entry})


def test_without_optuna_only_its_names_are_missing(monkeypatch):
    """`unittest.assertWarns` asks every imported module for ``__warningregistry__``."""
    monkeypatch.setattr(tuning, "find_spec", lambda name: None)
    assert not hasattr(tuning, "__warningregistry__") and not hasattr(tuning, "no_such_name")
    with pytest.raises(ModuleNotFoundError, match=r"optuna, which is missing: pip install 'tabmtl\[tune\]'"):
        tuning.__getattr__("open_study")
