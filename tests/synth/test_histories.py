"""Impressions with histories: the formula of the interest, what matches, and what the histories are worth."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.synth import make_histories


def by_hand(data, half_life):
    """Interest and matches of every row, from its lists alone."""
    group = dict(data.items.select("item", "group").iter_rows())
    for item, _, history, hours in data.X.iter_rows():
        if history is None:
            yield 0.0, None
            continue
        matches = [group[entry] == group[item] for entry in history]
        alive = [2 ** (-each / half_life) for each, match in zip(hours, matches, strict=True) if match]
        yield 1 - math.prod(1 - each for each in alive), matches


@settings(max_examples=20, deadline=None)
@given(
    n_rows=st.integers(1, 60),
    n_items=st.integers(1, 40),
    half_life=st.sampled_from([1.0, 30.0, math.inf]),
    options=st.fixed_dictionaries(
        {}, optional={"mean_length": st.floats(0, 20), "strength": st.floats(0, 10), "missing": st.floats(0, 1)}
    ),
    share=st.floats(0, 1),
)
def test_lists_tell_the_interest(n_rows, n_items, half_life, options, share):
    n_groups = max(round(share * n_items), 1)
    data = make_histories(n_rows, n_items=n_items, n_groups=n_groups, half_life=half_life, random_state=0, **options)
    text = pl.String
    lists = {"history": pl.List(text), "history_hours": pl.List(pl.Float32)}
    assert data.X.schema == {"item": text, "position": pl.Int8, **lists}
    assert data.items["group"].n_unique() == n_groups
    history, hours = data.X["history"], data.X["history_hours"]
    assert history.list.len().equals(hours.list.len(), null_equal=True)
    assert (hours.explode().drop_nulls() > 0).all()
    assert (hours.list.eval(pl.element().diff().drop_nulls() < 0).list.all()).drop_nulls().all()  # the newest last
    interest, matches = zip(*by_hand(data, half_life), strict=True)
    # hours are float32
    np.testing.assert_allclose(data.interest.to_numpy(), interest, atol=1e-5)
    assert data.matches.to_list() == list(matches)
    assert data.users.len() == data.y.height == n_rows
    assert (data.y["click"].is_in([0, 1]) & data.y["like"].is_in([0, 1])).all()


def test_means_are_those_of_the_labels():
    data = make_histories(200_000, random_state=3)
    for known in (data.expected, data.expected_without):
        for name in data.tasks:
            error = (data.y[name] - known[name]).to_numpy()
            deciles = np.array_split(error[np.argsort(known[name].to_numpy(), kind="stable")], 10)
            z = [np.mean(part) / (np.std(part) / np.sqrt(len(part))) for part in deciles]
            assert np.abs(z).max() < 4, name


def test_histories_are_worth_the_difference_of_the_ceilings():
    data = make_histories(100_000, random_state=0)
    known, without = (data.ceiling("expected", history=history) for history in (True, False))
    assert known["click"] - without["click"] > 0.1
    assert 0.02 < known["like"] - without["like"] < 0.05
    assert known["rating"] == without["rating"]
    drawn = data.ceiling(), data.ceiling(history=False)
    for task in data.tasks:
        assert drawn[0][task] == pytest.approx(known[task], abs=0.01)
        assert drawn[1][task] == pytest.approx(without[task], abs=0.01)
    useless = make_histories(2000, strength=0, random_state=0)
    assert useless.ceiling() == useless.ceiling(history=False)


def test_unknown_and_new_users_are_two_things():
    history = make_histories(4000, missing=0.2, random_state=0).X["history"]
    assert 0.15 < history.is_null().mean() < 0.25
    assert 0.05 < (history.list.len() == 0).mean() < 0.3


def test_half_of_the_interest_goes_in_a_half_life():
    data = make_histories(500, n_groups=1, half_life=12.0, random_state=0)
    single = pl.DataFrame([data.X["history_hours"], data.interest]).filter(pl.col("history_hours").list.len() == 1)
    np.testing.assert_allclose(single["interest"], 2 ** (-single["history_hours"].list.first() / 12), atol=1e-6)


def test_ceilings_name_their_labels():
    with pytest.raises(ValueError, match="labels must be one of drawn, expected, got 'all'"):
        make_histories(10, random_state=0).ceiling("all")
