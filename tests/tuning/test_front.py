"""The Pareto front as a frame, and the choice of a point."""

import optuna
import polars as pl
import pytest

from tabmtl import MMoE
from tabmtl.tuning import choose_point, pareto_front, with_params

FRONT = pl.DataFrame(
    {
        "trial": [2, 5, 7],
        "score/late": [0.80, 0.70, 0.74],
        "score/delay": [0.10, 0.40, 0.30],
        "param/n_experts": [2, 3, 4],
    }
)


@pytest.fixture(scope="module")
def study():
    """Seven trials of two tasks: two on the front, three behind, one pruned and one failed."""
    study = optuna.create_study(directions=["maximize"] * 2)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["late", "delay"])
    for values in ([0.8, 0.1], [0.7, 0.1], [0.7, 0.4], [0.6, 0.3], [0.7, 0.3]):
        trial = study.ask()
        trial.suggest_int("n_experts", 2, 16)
        trial.suggest_categorical("expert_hidden", ["[64]", "[128, 64]"])
        study.tell(trial, values)
    for state in (optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL):
        study.tell(study.ask(), state=state)
    return study


def test_the_front_has_a_row_for_every_trial_that_none_beats(study):
    front = pareto_front(study)
    names = ["trial", "score/late", "score/delay", "param/n_experts", "param/expert_hidden"]
    assert front.columns == names
    assert front.select("trial", "score/late", "score/delay").rows() == [(0, 0.8, 0.1), (2, 0.7, 0.4)]
    trials = pareto_front(study, dominated=True)
    assert trials["trial"].to_list() == [0, 1, 2, 3, 4]
    assert trials["dominated"].to_list() == [False, True, False, True, True]
    assert trials.filter(~pl.col("dominated")).drop("dominated").equals(front)
    assert with_params(MMoE(), front[1]).n_experts == study.trials[2].params["n_experts"]


def test_a_study_of_one_number_has_its_best_trial():
    study = optuna.create_study(direction="maximize")
    assert pareto_front(study).is_empty()
    assert pareto_front(study).columns == ["trial", "score/0"]
    for value in (0.1, 0.3, 0.2):
        study.tell(study.ask(), value)
    assert pareto_front(study).rows() == [(1, 0.3)]


def test_a_point_by_weights():
    assert choose_point(FRONT, weights={"late": 9, "delay": 1})["trial"].item() == 2
    assert choose_point(FRONT, weights={"late": 1, "delay": 1})["trial"].item() == 5
    assert choose_point(FRONT, weights={"late": 1}).equals(FRONT[:1]), "a task that is left out has no weight"


def test_a_point_with_no_task_below_the_reference():
    assert choose_point(FRONT, reference={"late": 0.69, "delay": 0.2})["trial"].item() == 5
    assert choose_point(FRONT, reference={"late": 0.72, "delay": 0.2})["trial"].item() == 7
    assert choose_point(FRONT, reference={"late": 0.74, "delay": 0.3})["trial"].item() == 7, "as good will do"
    assert choose_point(FRONT, reference={"late": 0.72, "delay": None})["trial"].item() == 2, "without a reference"


def test_the_mean_gain_is_relative_and_leaves_out_what_is_near_zero():
    close = {"late": 0.5, "delay": 0.005}  # 60 %, 40 % and 48 %; of delay there is no saying
    assert choose_point(FRONT, reference=close)["trial"].item() == 2
    assert choose_point(FRONT, reference={"late": 0.0, "delay": 0.0})["trial"].item() == 5, "then the differences"


FAR = (
    r"of 3 points, none has every task at its reference or above; delay is below in all. Nearest is trial 5, below in "
    r"late by 0.0500, delay by 0.0200: search on"
)
REFUSED = [
    (FRONT, {}, "weights or a reference"),
    (FRONT, {"weights": {"late": 1}, "reference": {"late": 1}}, "weights or a reference"),
    (FRONT, {"weights": {"lat": 1}}, r"numbers of the tasks \['late', 'delay'\], got {'lat': 1}"),
    (FRONT, {"weights": {}}, "numbers of the tasks"),
    (FRONT, {"weights": {"late": -1, "delay": 2}}, "weights must be at least 0"),
    (FRONT, {"weights": {"late": 0}}, "one above it"),
    (FRONT, {"reference": {"late": 0.5}}, "numbers of the tasks"),
    (FRONT, {"reference": {"late": 0.5, "delay": float("nan")}}, "reference must hold finite numbers"),
    (FRONT, {"reference": {"late": None, "delay": None}}, "reference must hold finite numbers"),
    (FRONT, {"reference": {"late": 0.75, "delay": 0.42}}, FAR),
    (FRONT, {"reference": {"late": 0.77, "delay": 0.25}}, "or above. Nearest is trial 7, below in late by 0.0300:"),
    (FRONT.clear(), {"weights": {"late": 1}}, "no point to choose"),
    (FRONT.select("trial"), {"weights": {"late": 1}}, "no point to choose"),
]


@pytest.mark.parametrize(("front", "arguments", "message"), REFUSED)
def test_what_no_point_fits_is_refused(front, arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_point(front, **arguments)
