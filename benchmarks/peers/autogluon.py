"""AutoGluon for one task, within some CPU seconds of one core, as :mod:`benchmarks.peers.outside` asks it.

AutoGluon has an environment of its own, without this package, and ``TABMTL_AUTOGLUON`` names its folder::

    python3.11 -m venv FOLDER
    FOLDER/bin/pip install 'autogluon.tabular[catboost,fastai,lightgbm,xgboost]==1.6.3'

``best_quality`` holds LightGBM, CatBoost, XGBoost, random forests, ExtraTrees, and networks of fastai and torch; the
extras are all that it needs. Ray is left out, so that all folds are fitted one after the other in this process. Set
are the preset, the time limit, one core, the seed of the folds, and as metric the score that the model is judged by;
all else has its defaults, stacking and its check among them. The check holds some rows out, and ends the fit with an
error where these have one class, as they may where a class is rare. The fit begins anew without the check then, and
has the seconds that are left.

Its clock is that of the CPU: while it fits, ``time.time`` tells the CPU seconds of the process. So a limit buys the
same work on a busy machine as on a quiet one. What no fit can be without, such as the imports, comes before.
"""

from __future__ import annotations

import importlib
import time
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import pandas as pd
from autogluon.tabular import TabularPredictor

from benchmarks.peers.guest import Predict, serve

_LABEL = "label of the task"
_METRICS = {"binary": "roc_auc", "regression": "r2"}
#: Imported by AutoGluon at the first fit of a model that needs them.
_LATE = ("torch", "fastai.tabular.all", "lightgbm", "catboost", "xgboost", "sklearn.ensemble")


def fit(
    X: pd.DataFrame, y: pd.Series, kind: str, seed: int, *, seconds: float, preset: str = "best_quality"
) -> Predict:
    """Fit a preset within some CPU seconds, and keep its models in memory."""
    rows, begin = X.assign(**{_LABEL: y}), time.process_time()
    try:
        predictor = _fit(rows, kind, seed, time_limit=seconds, presets=preset)
    except ValueError as error:
        if "Only one class present" not in str(error):
            raise
        left = seconds - (time.process_time() - begin)
        predictor = _fit(rows, kind, seed, time_limit=left, presets=preset, dynamic_stacking=False)
    print(predictor.leaderboard().to_string())
    predictor.persist(max_memory=None)  # its check of the memory takes many seconds
    if kind == "regression":
        return lambda rows: predictor.predict(rows).to_numpy()
    return lambda rows: predictor.predict_proba(rows)[predictor.class_labels[-1]].to_numpy()


def _fit(rows: pd.DataFrame, kind: str, seed: int, **options: Any) -> TabularPredictor:
    predictor = TabularPredictor(
        _LABEL,
        problem_type=kind,
        eval_metric=_METRICS[kind],
        path=mkdtemp(),
        verbosity=2,
        learner_kwargs={"random_state": seed},
    )
    begin = time.time() - time.process_time()
    with patch("time.time", lambda: begin + time.process_time()):
        return predictor.fit(
            rows,
            num_cpus=1,
            num_gpus=0,
            fit_strategy="sequential",
            ag_args_ensemble={"fold_fitting_strategy": "sequential_local"},
            ds_args={"memory_safe_fits": False},
            **options,
        )


if __name__ == "__main__":
    for module in _LATE:
        importlib.import_module(module)
    serve(fit)
