"""Scorers of predictions refuse recommenders."""

import numpy as np
import polars as pl
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score

from tabmtl import make_multitask_scorer, permutation_importances
from tabmtl.sessions import Popularity


def test_scores_of_predictions_cannot_judge_sessions():
    log = pl.DataFrame({"session_id": np.arange(30) // 3, "item_id": ["a", "b", "c"] * 10, "time": np.arange(30)})
    clicks, cure = log.to_pandas(), r"judges predictions, and Popularity gives lists: leave scoring out"
    with pytest.raises(ValueError, match=f"^roc_auc_score of scikit-learn {cure}"):
        cross_val_score(Popularity(), clicks, scoring="roc_auc", cv=2, error_score="raise")
    with pytest.raises(ValueError, match=cure):
        GridSearchCV(Popularity(), {"repeats": [False]}, scoring="accuracy", cv=2, error_score="raise").fit(clicks)
    with pytest.raises(TypeError, match="expected an estimator with score_tasks, such as MultiTabNet, got Popularity"):
        cross_val_score(Popularity(), clicks, scoring=make_multitask_scorer(), cv=2, error_score="raise")
    assert cross_val_score(Popularity(), clicks, cv=2, error_score="raise").mean() > 0
    with pytest.raises(AttributeError, match=r"Popularity has no predict: say recommend\(clicks\)"):
        Popularity().predict(clicks)


def test_recommenders_have_no_importances_of_features():
    with pytest.raises(TypeError, match="got a Popularity"):
        permutation_importances(Popularity(), pl.DataFrame({"a": [1.0]}), pl.DataFrame({"y": [1.0]}))
