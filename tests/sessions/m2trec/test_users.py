"""Clicks of a user's earlier sessions: which ones stand before a session, how they are read, and what they teach."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from forging import forge_arrays
from recommenders import ITEMS, TEST, TRAIN, all_scores, fitted, index_of, tiny

import tabmtl
from tabmtl.sessions.log import LogColumns, read_sessions
from tabmtl.sessions.m2trec.users import UserClicks
from tabmtl.sessions.ragged import Sessions
from tabmtl.testing.storage import reload

CATALOGUE = pl.Series(range(1, 100))


def read(log: pl.DataFrame) -> Sessions:
    return read_sessions(log, LogColumns(user="user"), CATALOGUE)


def draw(seed: int, n_sessions: int = 40) -> pl.DataFrame:
    """Sessions that overlap, of five users and of nobody, with items that nobody knows."""
    rng = np.random.default_rng(seed)
    owner = np.sort(rng.integers(0, n_sessions, 4 * n_sessions))
    user = rng.choice([*"abcde", None], n_sessions)
    time = rng.integers(0, 60, n_sessions)[owner] + rng.integers(0, 8, len(owner))
    items = rng.integers(1, 110, len(owner))
    return pl.DataFrame({"session_id": owner, "user": user[owner].tolist(), "item_id": items, "time": time})


def expected_past(log: pl.DataFrame, session: int, n: int) -> list[int]:
    """Said in other words: earlier sessions of the user by their end, and the last clicks of them."""
    own = log.filter(session_id=session)
    user = own["user"][0]
    if user is None:
        return []
    ended = log.filter(user=user).with_row_index().sort("session_id", "time", "index", maintain_order=True)
    ended = ended.with_columns(end=pl.col("time").max().over("session_id"))
    first = pl.col("index").min().over("session_id")
    ended = (
        ended.with_columns(first=first).filter(pl.col("end") < own["time"].min()).sort("end", "first", "time", "index")
    )
    return ended.filter(pl.col("item_id") < 100)["item_id"].tail(n).to_list()


def split(ragged: Sessions) -> list[list[int]]:
    """The items of every session."""
    return [part.tolist() for part in np.split(ragged.items, ragged.offsets[1:-1])]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [1, 7, 500])
def test_the_last_clicks_of_sessions_that_ended_before_precede(seed, n):
    log = draw(seed)
    sessions = read(log)
    found = UserClicks.of(sessions).precede(sessions, n).past
    assert split(found) == [expected_past(log, session, n) for session in sessions.ids]
    assert len(found.items)


@pytest.mark.parametrize("seed", range(4))
def test_a_later_log_is_preceded_by_what_is_kept_of_an_earlier_one(seed):
    log = draw(seed, 80)
    late = pl.col("time").min().over("session_id") > 40
    earlier, later = log.filter(~late), log.filter(late)
    clicks = UserClicks.of(read(earlier))
    kept, sessions = clicks.newest(500), read(later)
    assert kept.items.tolist() == clicks.items.tolist()
    past = UserClicks.of(sessions, kept).precede(sessions, 6).past
    for found, session in zip(split(past), sessions.ids, strict=True):
        mine = later.filter(session_id=session)
        # clicks of the earlier log that overlaps the later one are left out
        begins = later.filter(pl.col("user").eq_missing(mine["user"][0]))["time"].min()
        whole = pl.concat([earlier.filter(pl.col("time").max().over("session_id") < begins), later])
        assert found == expected_past(whole, session, 6)


def test_the_newest_clicks_of_each_user_are_kept():
    clicks = UserClicks.of(read(draw(0)))
    kept = clicks.newest(6)
    for user in range(5):
        assert kept.items[kept.users == user].tolist() == clicks.items[clicks.users == user][-6:].tolist()


def test_a_log_that_was_learned_from_is_not_read_twice():
    sessions = read(draw(0))
    clicks = UserClicks.of(sessions)
    again = UserClicks.of(sessions, clicks.newest(10))
    assert again.items.tolist() == clicks.items.tolist()


def test_past_clicks_belong_to_no_session():
    sessions = read(draw(1))
    plain, whole = sessions, UserClicks.of(sessions).precede(sessions, 5)
    assert whole.lengths.tolist() == plain.lengths.tolist()
    assert whole.count_prefixes() == plain.count_prefixes()
    assert whole.known_clicks()[1].tolist() == plain.known_clicks()[1].tolist()
    prefixes, targets = whole.prefixes()
    assert targets.tolist() == plain.prefixes()[1].tolist()
    for part in (whole, whole.last(2), whole.without_unseen(), prefixes, whole.recoded(np.arange(101))):
        joined, ages = part.joined()
        owner = [whole.ids.to_list().index(name) for name in part.ids]
        assert part.past.lengths.tolist() == whole.past.lengths[owner].tolist()
        for before, own, clicks, old in zip(*map(split, (part.past, part, joined, ages)), strict=True):
            assert clicks == before + own
            assert old == [*range(len(before), 0, -1), *[0] * len(own)]


# in M2TRec

USERS = pl.col("session_id") % 40  # ten sessions each


def with_users(log: pl.DataFrame) -> pl.DataFrame:
    return log.with_columns(user=USERS)


@pytest.fixture(scope="module")
def model():
    return tiny("M2TRec", user_column="user", user_clicks=4).fit(with_users(TRAIN), items=ITEMS)


@pytest.mark.parametrize("params", [{}, {"pooling": "mean"}, {"pooling": "last", "hierarchy": True}], ids=str)
def test_a_query_of_all_prefixes_is_that_of_the_prefix(params):
    model = tiny("M2TRec", user_column="user", user_clicks=4, epochs=1, **params).fit(with_users(TRAIN), items=ITEMS)
    index, encoder = index_of(model), model.fitted_network()[0].encoder
    with torch.no_grad():
        encoder.age.weight[1:] = torch.randn(4, 16)
    session = model._read_log(with_users(TEST)).at_least(5).take(np.array([3]))
    assert session.past.lengths[0] == 4
    prefixes, _ = session.prefixes()
    alone = index.queries(prefixes)[:, :-1]
    joined, ages = session.joined()
    units = torch.from_numpy(index.unit_of[joined.padded(newest_first=True)])
    ages = torch.from_numpy(ages.padded(newest_first=True).astype(np.int64))
    with torch.no_grad():
        every, _ = index.network(index.unit_vectors[units], torch.tensor([units.shape[1]]), ages, all_prefixes=True)
    assert len(every) == session.lengths[0]
    torch.testing.assert_close(every[1:].flip(0), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("params", [{}, {"training": "per_prefix"}], ids=str)
def test_examples_show_the_past_behind_the_own_clicks(params):
    from tabmtl.sessions.m2trec.training import Examples

    sessions = read(draw(2))
    sessions = UserClicks.of(sessions).precede(sessions, 3).at_least(2)
    mode = params.get("training", "per_session")
    examples = Examples.of(sessions, np.arange(101), 50, mode, torch.device("cpu"))
    assert examples.past is not None
    index = np.arange(len(examples.lengths))
    units, lengths, _, _ = examples.read(index)
    found, ages = examples.past.append(units, lengths, index)
    shown = sessions if mode == "per_session" else sessions.prefixes()[0]
    if mode == "per_session":  # without the last click, which is a target only
        shown = shown.prefixes(np.cumsum(shown.lengths - 1) - 1)[0]
    joined, aged = shown.joined()
    order = slice(None)
    if mode == "per_prefix":  # examples of a session begin with the longest
        order = np.lexsort((-shown.lengths, np.repeat(np.arange(len(sessions)), sessions.lengths - 1)))
    assert found.tolist() == joined.padded(newest_first=True)[order].tolist()
    assert ages.tolist() == aged.padded(newest_first=True)[order].tolist()


def test_earlier_sessions_change_answers_and_only_those_of_their_user(model):
    log = with_users(TEST)
    found = all_scores(model, log)
    assert found["score"].is_finite().all()
    nobody = all_scores(model, log.with_columns(user=pl.lit(None, pl.Int64)))
    strangers = all_scores(model, log.with_columns(user=10_000 + pl.col("session_id")))
    assert strangers.equals(nobody)
    assert not found.equals(nobody)
    listed = log.filter(pl.col("session_id") == log["session_id"][0])
    answer = model.recommend(listed["item_id"].to_list(), k=5)
    expected = model.recommend(listed.with_columns(user=None), k=5).drop("session_id")
    assert answer["item_id"].equals(expected["item_id"])
    seen = model.recommend(listed, k=60, exclude_seen=True)  # leaves out the session's own items, not the past
    assert len(seen) == 60 - listed["item_id"].n_unique()


def test_users_are_kept_in_files(model, tmp_path):
    log, loaded = with_users(TEST), reload(model, tmp_path / "model")
    assert all_scores(loaded, log).equals(all_scores(model, log))
    assert loaded.evaluate(log, categories="brand").equals(model.evaluate(log, categories="brand"))
    assert loaded.predict_categories(log, "brand").equals(model.predict_categories(log, "brand"))
    loaded.add_items(ITEMS[:2].with_columns(item_id="new " + pl.col("item_id")))
    assert loaded.recommend(log, k=3).height == model.recommend(log, k=3).height

    def forged(arrays):
        arrays["users.items"][0] = 10_000

    with pytest.raises(tabmtl.ModelFileError, match=r"users\.items"):
        tabmtl.load(forge_arrays(tmp_path / "model", forged))


@pytest.mark.parametrize("params", [{"user_clicks": 0}, {"user_column": None}], ids=str)
def test_without_past_clicks_the_model_is_the_plain_one(params):
    plain = tiny("M2TRec", **{"user_column": "user"} | params).fit(with_users(TRAIN), items=ITEMS)
    assert all_scores(plain, with_users(TEST)).equals(all_scores(fitted("M2TRec"), TEST))


@pytest.mark.parametrize("pooling", ["items", "mean"])
def test_what_a_user_bought_is_learned_from(pooling):
    """Every user has an item of 12 that ends all sessions. Without users, the most popular one is right in a fifth.

    A model of the user's most frequent item, a single task, would be right in nearly all.
    """
    rng = np.random.default_rng(0)
    n_users, n = 60, 600
    favourite, user = rng.integers(0, 12, n_users), rng.integers(0, n_users, n)
    items = np.stack([rng.integers(12, 24, n), favourite[user]], axis=1).ravel()
    log = pl.DataFrame({"session_id": np.repeat(np.arange(n), 2), "item_id": items, "time": np.arange(2 * n)})
    log = log.with_columns(user=np.repeat(user, 2))
    train, test = log.head(1_000), log.tail(200)
    common = {"categories": (), "text_features": (), "epochs": 30, "learning_rate": 0.01, "pooling": pooling}
    recalls = []
    for params in ({"user_column": "user"}, {}):
        model = tiny("M2TRec", **common, **params).fit(train)
        recalls.append(model.evaluate(test, 1)["recall@1"][0])
    assert recalls[0] > 0.7
    assert recalls[1] < 0.25


def test_past_clicks_of_new_items_are_unseen_by_who_goes_on():
    early, later = (draw(seed).with_columns(pl.col("item_id") % 5 + shift) for seed, shift in ((0, 0), (1, 3)))
    later = later.with_columns(pl.col("session_id", "time") + 100)
    model = tiny("M2TRec", user_column="user", categories=(), text_features=()).fit(early)
    assert model.partial_fit(later).recommend(later, k=8)["item_id"].max() == 7


def test_what_does_not_fit_is_refused(model):
    log = with_users(TRAIN)
    with pytest.raises(ValueError, match="user_column needs a time_column"):
        tiny("M2TRec", user_column="user", time_column=None).fit(log, items=ITEMS)
    with pytest.raises(ValueError, match=r"no column 'user'; .* name it by user_column"):
        model.recommend(TEST)
    with pytest.raises(ValueError, match=r"the session \d+ has the users \[\d+, \d+\]: a session belongs to one user"):
        model.recommend(TEST.with_columns(user=pl.int_range(pl.len())))
    with pytest.raises(TypeError, match="users must be named by text or whole numbers, got Float64"):
        model.recommend(TEST.with_columns(user=0.5))
    with pytest.raises(TypeError, match="the users are String, those"):
        model.recommend(with_users(TEST).with_columns(pl.col("user").cast(pl.String)))
