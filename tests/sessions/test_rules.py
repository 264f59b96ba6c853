"""Sequential rules against their definition, written out."""

import numpy as np
import pytest
from recommenders import log

from tabmtl.sessions import SequentialRules

WEIGHTS = {"div": lambda x: 1 / x, "div_squared": lambda x: 1 / x**2, "same": lambda x: 1}


def random_log(seed, n_sessions=40, n_items=9):
    rng = np.random.default_rng(seed)
    return log({f"s{i}": rng.integers(n_items, size=rng.integers(1, 9)).tolist() for i in range(n_sessions)})


def scores(model, sessions):
    """Score by session and item, of the items that were found."""
    found = model.recommend(log(sessions), k=model.n_items_)
    return {(s, i): score for s, i, score in found.select("session_id", "item_id", "score").rows() if score > 0}


def reference(train, session, steps, n_last, decay, weight):
    rules, known = {}, [item for item in session if any(item in items for items in train.values())]
    for items in train.values():
        for place, before in enumerate(items):
            for later in range(place + 1, min(place + steps + 1, len(items))):
                rules[before, items[later]] = rules.get((before, items[later]), 0) + weight(later - place)
    found = {}
    for back, item in enumerate(known[::-1][:n_last]):
        for (before, after), weight in rules.items():
            if before == item:
                found[after] = found.get(after, 0) + decay**back * weight
    return found


def test_rules_count_how_soon_an_item_follows():
    model = SequentialRules(steps=2, n_last=1).fit(log({"s": "abcd", "t": "ac", "u": "aa"}))
    # a: b one click later, c two in s and one in t, d three, which is too many, and a itself in u
    assert scores(model, {"n": "a"}) == {("n", "b"): 1, ("n", "c"): 1.5, ("n", "a"): 1}
    assert scores(model, {"n": "ab"}) == {("n", "c"): 1, ("n", "d"): 0.5}


def test_items_that_nothing_precedes_follow_by_popularity():
    model = SequentialRules(n_last=1).fit(log({"s": "ab", "t": "cc", "u": "cd"}))
    found = model.recommend(log({"n": "a"}), k=4)
    assert found["item_id"].to_list() == ["b", "c", "a", "d"]
    np.testing.assert_allclose(found["score"], [1, 3 / 4 - 1, 1 / 4 - 1, 1 / 4 - 1], rtol=1e-6)
    # nothing follows b, and z is unseen
    for items in ("b", "z"):
        assert model.recommend(log({"n": items}), k=4)["item_id"].to_list() == ["c", "a", "b", "d"]


@pytest.mark.parametrize("n_last", [1, 5])
@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("decay", [0.5, 1.0])
@pytest.mark.parametrize("weighting", WEIGHTS)
def test_scores_equal_the_definition(n_last, steps, decay, weighting):
    train, new = random_log(0), random_log(1, n_items=12)
    model = SequentialRules(steps=steps, n_last=n_last, decay=decay, weighting=weighting).fit(train)
    trained, read = (dict(part.group_by("session_id").agg("item_id").iter_rows()) for part in (train, new))
    expected = {
        (name, item): score
        for name, items in read.items()
        for item, score in reference(trained, items, steps, n_last, decay, WEIGHTS[weighting]).items()
    }
    found = scores(model, read)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-5)


def test_sessions_of_one_click_make_no_rule():
    model = SequentialRules().fit(log({"s": "a", "t": "b", "u": "b"}))
    assert scores(model, {"n": "ab"}) == {}
    assert model.recommend(log({"n": "a"}), k=2)["item_id"].to_list() == ["b", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"n_last": 1.5}, "n_last must be a whole number"),
        ({"decay": 0}, "decay must be above 0 and at most 1"),
        ({"decay": 1.1}, "decay must be above 0 and at most 1"),
        ({"weighting": "cubic"}, "weighting must be one of .*'div_squared'"),
    ],
)
def test_parameters_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SequentialRules(**options).fit(random_log(0))
