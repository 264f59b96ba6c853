"""The models of `benchmarks.evidence`: their names, what each of them learns from, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from benchmarks.peers.outside import AutoGluon, RealMLP, TabM
from benchmarks.problems import Alone, Bag, CatBoost, Distilled, Plain, Scikit, Transfer
from tabmtl import IndependentTasks, MMoE, MultiTabNet, MultiTaskEnsemble, SharedBottom, SharedTrees

Kind = Literal["joint", "single", "alone", "plain", "peer", "distilled", "transfer", "baseline", "sharing"]

ENSEMBLE, EACH_ALONE = "MultiTaskEnsemble", "MultiTaskEnsemble, each task alone"
FAST = "MultiTaskEnsemble, fast"
DISTILLED = "MultiTaskEnsemble, distilled"
REFERENCE, LIGHTGBM, BAG, CATBOOST = "IndependentTasks", "LightGBM tuned", "LightGBM tuned, bag", "CatBoost"
AUTOGLUON, FOURFOLD = "AutoGluon", "AutoGluon, four times the CPU"
REALMLP, REALMLP_BY_LOSS, TABM = "RealMLP_TD", "RealMLP_TD, stopped by cross-entropy", "TabM_D"
TRANSFER = "LightGBM tuned, with answers to the others"
TWIN, TREES, TREE_BAG = "single-task twin", "SharedTrees", "SharedTrees, bag"
TREES_ALONE = "SharedTrees, each task alone"
#: Commits of the package: the first of the new ensemble, the first whose trees learn numbers without noise, and that
#: of one mixer and of means of levels, which was frozen before draws 1 to 4 were run.
OF_ENSEMBLE, OF_SMALL_LEAVES, OF_ONE_MIXER = "a31871e", "5cc174dd", "943f5176"
#: The commit that costs are compared with: the newest one before 3db40d33 that changed the package.
BASELINE = "a489ef08"
#: Numbers of labels of the scarce target: those of the goals, which come first, and those beside them.
FEW, FEWEST = (150, 500), (50,)
#: Forecasts of the rivers that learn nothing.
AS_NOW, LINE = "as now", "line between hours"
#: CPU seconds of a fit of a model of which nothing is known.
GUESS = 3.0


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the evidence.

    Parameters
    ----------
    kind : str
        "joint" learns all tasks together, "single" each task for itself. "alone" is the ensemble with one task, and
        "plain" what one writes without any choice. A "peer" is another library, in an environment of its own. A
        "distilled" network answers for the ensemble, and a "transfer" is a single-task model that reads answers to the
        other tasks. A "baseline" learns nothing, and models of "sharing" are those of that part only.
    make : callable
        Takes ``tasks`` and ``random_state``.
    seconds : float or None
        CPU seconds of a fit, as long as none has been measured; None where older records, or else `GUESS`, tell.
    times : float
        CPU seconds that it is given, by those of the ensemble in the same setting; 0 for a model that takes its own.
    first : str
        The first commit of the package that gives its answers; records of older ones do not count.
    tuned_on : int
        How many of the first draws, or folds, have test rows by which something of it was chosen. They do not judge it:
        ``docs/lab.md`` says what they chose.
    """

    kind: Kind
    make: Callable[..., Any] = Alone
    seconds: float | None = None
    times: float = 0.0
    first: str = OF_ENSEMBLE
    tuned_on: int = 0


_SMALL = partial(Model, first=OF_SMALL_LEAVES)
_MIXER = partial(Model, first=OF_ONE_MIXER)
#: Draw 0, and the first fold, chose the guard, the mixing rule and the candidates, and leaves without noise.
_MIXED = partial(_MIXER, tuned_on=1)
#: Tuned LightGBM, its bag and the transfer are of older code, whose small trees take twice the rounds at half the rate.
_LIGHTGBM = partial(IndependentTasks, families=("lightgbm",), tune="all")
#: The better of the two plain LightGBMs, by the table of the reference.
_SMALL_TREES = partial(Plain, n_estimators=60, num_leaves=7, learning_rate=0.05)

#: By their cost: the cheap ones run first.
MODELS: dict[str, Model] = {
    AS_NOW: Model(kind="baseline", seconds=0.0),
    LINE: Model(kind="baseline", seconds=0.0),
    "60 x 7": Model(kind="plain", make=_SMALL_TREES, seconds=0.1),
    "LightGBM": Model(kind="plain", make=Plain, seconds=0.1),
    "linear": Model(kind="plain", make=partial(Scikit, LogisticRegression(max_iter=1_000), Ridge()), seconds=0.5),
    "ExtraTrees": Model(kind="plain", make=partial(Scikit, ExtraTreesClassifier(), ExtraTreesRegressor()), seconds=1.0),
    LIGHTGBM: _SMALL(kind="single", make=_LIGHTGBM),
    REFERENCE: _MIXER(kind="single", make=IndependentTasks, tuned_on=3),
    TRANSFER: _SMALL(kind="transfer", make=partial(Transfer, _LIGHTGBM, _SMALL_TREES), seconds=5.0),
    BAG: _SMALL(kind="single", make=partial(Bag, _LIGHTGBM)),
    CATBOOST: Model(kind="single", make=CatBoost),
    TREES: _MIXER(kind="joint", make=SharedTrees, tuned_on=2),
    TREES_ALONE: _MIXER(kind="alone", make=SharedTrees, tuned_on=2),
    "SharedBottom, 4 members": Model(kind="joint", make=partial(SharedBottom, n_members=4)),
    FAST: _MIXED(kind="joint", make=partial(MultiTaskEnsemble, models="fast"), seconds=10.0),
    ENSEMBLE: _MIXED(kind="joint", make=MultiTaskEnsemble, seconds=50.0),
    EACH_ALONE: _MIXED(kind="alone", make=MultiTaskEnsemble, seconds=8.0),
    DISTILLED: _MIXED(kind="distilled", make=partial(Distilled, MultiTaskEnsemble), seconds=100.0),
    REALMLP: Model(kind="peer", make=RealMLP, seconds=20.0),
    REALMLP_BY_LOSS: Model(kind="peer", make=partial(RealMLP, stop="cross_entropy"), seconds=20.0),
    TABM: Model(kind="peer", make=TabM, seconds=20.0),
    AUTOGLUON: Model(kind="peer", make=AutoGluon, seconds=50.0, times=1.0),
    FOURFOLD: Model(kind="peer", make=AutoGluon, seconds=200.0, times=4.0),
    TWIN: _MIXER(kind="sharing", make=partial(Alone, SharedTrees)),
    "MMoE": Model(kind="sharing", make=MMoE),
    "MultiTabNet": Model(kind="sharing", make=MultiTabNet),
    TREE_BAG: _MIXER(kind="sharing", make=partial(Bag, SharedTrees)),
}


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """Return the names of the models of some kinds."""
    return tuple(name for name, model in MODELS.items() if model.kind in kinds)


#: Single-task models with all draws, the best of which the ensemble is compared with, and rivals of the reference.
SINGLE, RIVALS = (*of_kind("single", "plain", "alone"), AUTOGLUON), (*of_kind("plain"), CATBOOST)
