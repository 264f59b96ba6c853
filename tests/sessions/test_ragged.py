"""Steps of ragged sessions are those of lists."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recommenders import lists, sessions_of

from tabmtl.sessions.ragged import Sessions, spread


@given(lengths=st.lists(st.integers(0, 5), max_size=6), n=st.integers(1, 3), data=st.data())
@settings(deadline=None, max_examples=60)
def test_ragged_steps_are_those_of_lists(lengths, n, data):
    size = sum(lengths)
    codes = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    sessions = Sessions(
        ids=pl.Series(range(len(lengths)), dtype=pl.Int64),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        items=np.array(codes, dtype=np.int32),
        times=np.arange(size, dtype=np.float64),
    )
    plain = lists(sessions)
    index = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8)) if lengths else []

    assert sessions.lengths.tolist() == lengths
    assert len(sessions) == len(lengths)
    assert lists(sessions.take(np.array(index, dtype=np.int64))) == [plain[i] for i in index]
    assert lists(sessions.last(n)) == [(name, items[-n:]) for name, items in plain]
    assert sessions.count_items(4).tolist() == [codes.count(item) for item in range(1, 5)]
    assert lists(sessions.without_unseen()) == [(name, [i for i in items if i]) for name, items in plain]
    ends = zip(sessions.last_items().tolist(), plain, strict=True)
    assert all(code == items[-1] for code, (_, items) in ends if items)
    assert lists(sessions.at_least(n)) == [(name, items) for name, items in plain if len(items) >= n]

    prefixes, targets = sessions.prefixes()
    cuts = [(name, items, k) for name, items in plain for k in range(1, len(items))]
    assert lists(prefixes) == [(name, items[:k]) for name, items, k in cuts]
    assert targets.tolist() == [items[k] for _, items, k in cuts]
    assert sessions.count_prefixes() == len(cuts)
    chosen = spread(len(cuts), n)
    some, some_targets = sessions.prefixes(chosen)
    assert lists(some) == [lists(prefixes)[place] for place in chosen]
    assert some_targets.tolist() == [targets[place] for place in chosen]

    longest = max([1, *lengths])
    assert sessions.padded().tolist() == [items + [0] * (longest - len(items)) for _, items in plain]
    turned = [items[::-1] + [0] * (longest - len(items)) for _, items in plain]
    assert sessions.padded(newest_first=True).tolist() == turned

    # times go along with their clicks
    assert prefixes.times is not None
    assert all(codes[int(t)] == item for t, item in zip(prefixes.times, prefixes.items, strict=True))


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (19, 19), (20, 19), (30, 28), (100, 95)])
def test_the_newest_are_set_aside_unless_there_are_few(n, kept):
    sessions = sessions_of(*[[1, 1]] * n)
    older, newest = sessions.set_newest_aside(0.05)
    assert older.ids.to_list() == list(range(kept))
    assert (newest is None) == (n < 20)
    assert newest is None or newest.ids.to_list() == list(range(kept, n))


def test_sessions_of_one_click_are_not_set_aside():
    sessions = sessions_of(*[[1, 1]] * 24, [1])
    older, newest = sessions.set_newest_aside(0.05)
    assert newest is None
    assert len(older) == 25
