"""The peer from RecTools: which clicks it is asked for, and how its lists are scored; RecTools itself is not needed."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.peers.rectools import make_prefixes, score_lists
from tabmtl.sessions import Popularity
from tabmtl.synth import make_sessions


def test_every_click_but_the_first_is_asked_for_given_those_before_it():
    clicks = pd.DataFrame(
        {"session_id": ["b", "a", "b", "b", "c"], "item_id": [1, 7, 3, 2, 9], "time": [1, 2, 9, 5, 3]}
    )
    prefixes, targets = make_prefixes(clicks)
    assert targets.tolist() == [2, 3]
    assert prefixes.groupby("prefix")["item_id"].agg(list).to_dict() == {0: [1], 1: [1, 2]}


def test_lists_are_scored_as_recommenders_are():
    train, test = make_sessions(100, 60, random_state=0).split()
    model = Popularity().fit(train)
    _, targets = make_prefixes(test.to_pandas())
    best = model.recommend(test.head(1), k=20)["item_id"].to_list()  # the same in every session
    lists = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(targets)), 20),
            "item_id": best * len(targets),
            "rank": np.tile(np.arange(1, 21), len(targets)),
        }
    )
    found, ranking = score_lists(lists, targets), model.rank(test)
    assert len(ranking.ranks) == len(targets)
    assert found["recall"] == pytest.approx(ranking.recall(20), abs=0.05)  # popularity has ties, which count against it
    assert found["mrr"] == pytest.approx(ranking.mrr(20), abs=0.01)
