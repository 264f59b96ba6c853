"""Tune estimators with Optuna: one objective with pruning, or one per task and the Pareto front between them.

Every estimator has a ``search_space`` of plain data. `objective` and `session_objective` make an `Objective` of an
estimator and its rows. `Objective.within` gives its trials a budget, and `Objective.reported_to` reports them to a
`Reporter`. `open_study` makes or opens a study, and `run_study` runs its trials, in any number of processes.
`pareto_front` and `choose_point` choose a trial, and `with_params` makes an estimator of it. A study is plain Optuna:
its plots, samplers and dashboard work as usual. Its trials carry the scores of the validation rows, why they were ended
early, and why their fit failed as user attributes, named `SCORES`, `ENDED` and `FAILURE`.
"""

from importlib.util import find_spec
from typing import Any

from tabmtl.base.lazy import attach

_load, __dir__, __all__ = attach(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name in __all__ and find_spec("optuna") is None:
        raise ModuleNotFoundError(
            "tabmtl.tuning searches with optuna, which is missing: pip install 'tabmtl[tune]'", name="optuna"
        )
    return _load(name)
