"""Candidates of an ensemble: those it has by default, and the rules for given ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.independent import IndependentTasks
from tabmtl.models.mmoe import MMoE
from tabmtl.models.rmtgb import RMTGB
from tabmtl.models.shared_bottom import SharedBottom
from tabmtl.models.shared_trees import SharedTrees

#: Names in the leaderboard that no candidate may have: the linear models, and the mixture.
LINEAR, MIXTURE = "LinearStack", "MultiTaskEnsemble"
_TAKEN = (LINEAR, MIXTURE, "task")  # which is a column of the weights
_REFERENCE = "IndependentTasks"


def default_candidates() -> dict[str, MultiTaskEstimator]:
    """Return the default candidates of `MultiTaskEnsemble`, unfitted, in the order in which they are tried.

    Examples
    --------
    >>> from tabmtl import MultiTabNet, MultiTaskEnsemble, default_candidates
    >>> ensemble = MultiTaskEnsemble(candidates={**default_candidates(), "MultiTabNet": MultiTabNet()})
    """
    return {
        _REFERENCE: IndependentTasks(tune=4),
        "SharedTrees": SharedTrees(),
        "RMTGB": RMTGB(),
        # The folds average the networks already: neither restarts nor more members are worth their time here.
        "MMoE": MMoE(restarts=0),
        "SharedBottom": SharedBottom(n_members=4, restarts=0),
    }


def check_candidates(name: str, value: Any) -> None:
    """Raise an error unless a value is None, or maps names to estimators of several tasks with good parameters."""
    if value is None:
        return
    if not isinstance(value, dict) or not value:
        raise TypeError(
            f"{name} must map names to estimators, such as {{'SharedTrees': SharedTrees()}}, or be None, got {value!r}"
        )
    for key, candidate in value.items():
        if not isinstance(key, str) or key in _TAKEN:
            raise ValueError(f"{name} must have names of text other than {', '.join(_TAKEN)}, got {key!r}")
        if not isinstance(candidate, MultiTaskEstimator):
            cure = "wrap one of scikit-learn: IndependentTasks(classifier=..., regressor=...)"
            if isinstance(candidate, type) and issubclass(candidate, MultiTaskEstimator):
                cure = f"that is the class; write {candidate.__name__}()"
            raise TypeError(
                f"{name}[{key!r}] must be an estimator of this package, or derived from one, got {candidate!r}; {cure}"
            )
        candidate.check_params(f"{name}[{key!r}]")


def with_reference(candidates: Mapping[str, MultiTaskEstimator] | None) -> dict[str, MultiTaskEstimator]:
    """Return the candidates, single-task ones first; a tuned reference is added where none is given."""
    found = default_candidates() if candidates is None else dict(candidates)
    single = {name: each for name, each in found.items() if isinstance(each, IndependentTasks)}
    if not single:
        single = {_free_name(_REFERENCE, found): IndependentTasks(tune=4)}
    return single | {name: each for name, each in found.items() if name not in single}


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name
