"""RealMLP and TabM of pytabkit, with the defaults that it tuned, as :mod:`benchmarks.peers.outside` asks them.

pytabkit has an environment of its own, without this package, and ``TABMTL_PYTABKIT`` names its folder::

    python3.11 -m venv FOLDER
    FOLDER/bin/pip install pytabkit==1.8.0 pyarrow

A fifth of the rows stops the training, as is the default. Classifiers stop by AUC, which judges them, as those of
AutoGluon do, or by another metric of pytabkit that ``stop`` names: their default, the error rate, says nothing about
rare classes. RealMLP smooths no labels then, as pytabkit advises. Missing numbers, which pytabkit refuses, become the
mean, with a column that tells so, as AutoGluon gives them to RealMLP; a missing category is one of its own.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytabkit
from sklearn.impute import SimpleImputer

from benchmarks.peers.guest import Predict, serve

#: Options of classifiers.
CLASSIFIERS: dict[str, dict[str, Any]] = {"RealMLP_TD": {"use_ls": False}, "TabM_D": {}}


def fit(X: pd.DataFrame, y: pd.Series, kind: str, seed: int, *, model: str, stop: str = "1-auc_ovr") -> Predict:
    """Fit ``RealMLP_TD`` or ``TabM_D``, on one thread."""
    numbers = X.select_dtypes(["number", "bool"]).columns
    imputer = SimpleImputer(add_indicator=True, keep_empty_features=True).set_output(transform="pandas")
    imputer.fit(X[numbers].astype(float))

    def complete(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.drop(columns=numbers).join(imputer.transform(rows[numbers].astype(float)))

    is_regression = kind == "regression"
    network = getattr(pytabkit, f"{model}_{'Regressor' if is_regression else 'Classifier'}")
    options = {} if is_regression else {"val_metric_name": stop, **CLASSIFIERS[model]}
    fitted = network(device="cpu", n_threads=1, random_state=seed, **options).fit(complete(X), y.to_numpy())
    if is_regression:
        return lambda rows: fitted.predict(complete(rows))
    return lambda rows: fitted.predict_proba(complete(rows))[:, 1]


if __name__ == "__main__":
    serve(fit)
