"""Tune estimators with Optuna: one objective with pruning, or one per task and the Pareto front between them.

Every estimator states what is worth tuning as plain data, ``search_space``. `objective` and `session_objective` turn an
estimator and its rows into what a trial does, `Objective.within` gives trials a budget, and `Objective.reported_to`
tells a `Reporter` of them. `open_study` makes a study or goes on with one, and `run_study` works on it, in as many
processes as there are. `pareto_front` and `choose_point` read what was found, and `with_params` gives an estimator with
it. A study is plain Optuna: its plots, samplers and dashboard go on working.
"""

from importlib.util import find_spec

if find_spec("optuna") is None:
    raise ModuleNotFoundError(
        "tabmtl.tuning searches with optuna, which is missing: pip install 'tabmtl[tune]'", name="optuna"
    )

from tabmtl.tuning.front import NoPointError, choose_point, pareto_front
from tabmtl.tuning.objectives import Objective, objective, session_objective
from tabmtl.tuning.spaces import with_params
from tabmtl.tuning.studies import open_study
from tabmtl.tuning.trial import ENDED, FAILURE, SCORES, Reporter, Scores
from tabmtl.tuning.workers import count_ended, repeated_trials, run_study

__all__ = [
    "ENDED",
    "FAILURE",
    "SCORES",
    "NoPointError",
    "Objective",
    "Reporter",
    "Scores",
    "choose_point",
    "count_ended",
    "objective",
    "open_study",
    "pareto_front",
    "repeated_trials",
    "run_study",
    "session_objective",
    "with_params",
]
