"""Kinds of numbers against statsmodels, on tables whose truth is linear: predictions within their standard errors."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.genmod.families import Gamma, Poisson, Tweedie
from statsmodels.genmod.families.links import Log

from tabmtl import RMTGB, SharedBottom, SharedTrees

pytestmark = pytest.mark.all_faces  # slow: make test-all

N = 4000
rng = np.random.default_rng(0)
#: Two values a column, so that no scaling bends what is linear.
X = rng.integers(0, 2, (N, 3)).astype(np.float64)
CELLS = np.unique(X, axis=0)
RATE = np.exp(X @ [0.9, -0.6, 0.3])
SPREAD = 0.5 + X[:, 1]
NOISE = rng.normal(size=N)
LABELS = {
    "poisson": rng.poisson(RATE),
    "gamma": rng.gamma(3.0, RATE / 3),
    "tweedie:1.5": [rng.gamma(2.0, 0.5, n).sum() for n in rng.poisson(RATE)],
    "regression": 2 * X[:, 0] - X[:, 2] + NOISE,
    "huber:0.3": 2 * X[:, 0] - X[:, 2] + np.where(rng.random(N) < 0.1, 20, 1) * NOISE,
    "quantile:0.8": 2 * X[:, 0] - X[:, 2] + SPREAD * NOISE,
    "quantiles:0.2:0.5:0.8": 2 * X[:, 0] - X[:, 2] + SPREAD * NOISE,
}
FAMILIES = {"poisson": Poisson(), "gamma": Gamma(Log()), "tweedie:1.5": Tweedie(Log(), var_power=1.5)}
Y = {kind: np.asarray(labels, dtype=np.float64) for kind, labels in LABELS.items()}
ALL = {"early_stopping": False, "random_state": 0}
TREES = {"learning_rate": 0.2, "min_child_samples": 1, "reg_lambda": 0.0, **ALL}
#: Models, and whether they learn every cell by itself.
MODELS = {
    "linear": (
        partial(SharedBottom, hidden=(), head_hidden=0, dropout=0.0, epochs=20, learning_rate=0.02, **ALL),
        False,
    ),
    "SharedTrees": (partial(SharedTrees, n_estimators=150, n_estimators_task=0, **TREES), True),
    "RMTGB": (partial(RMTGB, n_estimators_shared=0, n_estimators_outlier=0, n_estimators_task=100, **TREES), True),
}


def design(rows, saturated):
    """A constant and the columns, and all their products."""
    a, b, c = rows.T
    products = [a * b, a * c, b * c, a * b * c] if saturated else []
    return np.column_stack([np.ones(len(rows)), a, b, c, *products])


def oracle(kind, saturated):
    """What statsmodels answers to the cells, and standard errors; of positive means the logarithms."""
    name, *levels = kind.split(":")
    x, cells, y = design(X, saturated), design(CELLS, saturated), Y[kind]
    if kind in FAMILIES:
        fits = [sm.GLM(y, x, FAMILIES[kind]).fit()]
    elif name == "regression":
        fits = [sm.OLS(y, x).fit()]
    elif name == "huber":
        fits = [sm.RLM(y, x, sm.robust.norms.HuberT()).fit()]
    else:
        fits = [sm.QuantReg(y, x).fit(q=float(level)) for level in levels]
    errors = [np.sqrt(np.einsum("ij,jk,ik->i", cells, fit.cov_params(), cells)) for fit in fits]
    return np.column_stack([cells @ fit.params for fit in fits]), np.column_stack(errors)


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_statsmodels(name):
    make, saturated = MODELS[name]
    names = {f"y{t}": kind for t, kind in enumerate(LABELS)}
    model = make(tasks=names).fit(X, np.column_stack([*Y.values()]))
    single, several = model.predict(CELLS), model.predict_quantiles(CELLS)
    for t, kind in enumerate(LABELS):
        found = several if kind.startswith("quantiles") else single[:, [t]]
        found = np.log(found) if kind in FAMILIES else found
        expected, error = oracle(kind, saturated)
        assert (np.abs(found - expected) < 1.25 * error).all(), kind
        if saturated and kind in FAMILIES:
            np.testing.assert_allclose(found, expected, atol=1e-3)
