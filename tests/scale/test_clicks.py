"""Click logs on a disk: the sessions of a frame, whatever the files and the ranks, and what is told of mistakes."""

from __future__ import annotations

import os

import numpy as np
import polars as pl
import pytest
from recommenders import ITEMS, LOG
from wired import run_ranks

from tabmtl.base.ranks import ALONE
from tabmtl.scale import Shards, clicks
from tabmtl.scale.clicks import stored_log
from tabmtl.sessions import STAN, M2TRec
from tabmtl.sessions.catalogue import make_catalogue
from tabmtl.sessions.log import LogColumns, group_log, read_log
from tabmtl.sessions.m2trec.new_items import LAUNCH, share_of_births
from tabmtl.sessions.ragged import Sessions
from tabmtl.training.run import current

CLICKS = LOG.clicks.sample(fraction=1.0, shuffle=True, seed=0)
COLUMNS = LogColumns()
CATALOGUE = make_catalogue(CLICKS["item_id"], ITEMS, "item_id")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Deal to four lanes of two parts or more, and read four sessions at a time."""
    monkeypatch.setattr(clicks, "LANES", 4)
    monkeypatch.setattr(clicks, "CHUNK_SESSIONS", 4)
    monkeypatch.setattr(clicks, "_BLOCK_CHUNKS", 3)
    monkeypatch.setattr(clicks, "_PART_CLICKS", CLICKS.height // 6)


def in_memory(columns=COLUMNS):
    return group_log(read_log(CLICKS, columns), CATALOGUE.ids)


def on_disk(source, columns=COLUMNS, weights=None):
    with stored_log(Shards(source), columns, weights, current()) as log:
        return log.sessions(CATALOGUE.ids)


def clicks_of(sessions: Sessions) -> set[tuple[int, ...]]:
    """The clicked items of every session, which tell nearly all of them apart."""
    return {tuple(part) for part in np.split(sessions.items.tolist(), sessions.offsets[1:-1])}


def assert_same(one, other):
    for name in ("offsets", "items"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("time_column", ["time", None])
def test_the_sample_is_the_log_and_counts_are_exact(time_column):
    columns = LogColumns(time=time_column)
    found, expected = on_disk(CLICKS.lazy(), columns), in_memory(columns)
    assert_same(found.sample, expected)
    assert (len(found), found.n_clicks, found.has_times) == (len(expected), expected.n_clicks, time_column is not None)
    np.testing.assert_array_equal(found.count_items(len(CATALOGUE)), CATALOGUE.counts)
    assert set.union(*map(clicks_of, found.blocks())) == clicks_of(expected)
    older, newest = found.set_newest_aside(0.1)
    kept, aside = expected.set_newest_aside(0.1)
    assert_same(older.sample, kept)
    assert_same(newest, aside)
    np.testing.assert_array_equal(older.at_least(2).count_items(60), kept.at_least(2).count_items(60))


def test_sessions_depend_neither_on_the_files_nor_on_the_ranks(tmp_path):
    for number, start in enumerate((0, 10, 900)):
        CLICKS[start : (10, 900, CLICKS.height)[number]].write_parquet(tmp_path / f"{number}.parquet")
    one, two = on_disk(CLICKS.lazy()), on_disk(tmp_path / "*.parquet")

    def lanes(sessions):
        edges = [sessions.lane_edges[lane : lane + 2] for lane in sessions.lanes]
        return [sessions.read(np.arange(first, last)) for first, last in edges]

    ranks = run_ranks(2, lambda: lanes(on_disk(CLICKS.lazy())))
    for one_lane, two_lane, of_rank in zip(lanes(one), lanes(two), [*ranks[0], *ranks[1]], strict=True):
        assert_same(one_lane, two_lane)
        assert_same(one_lane, of_rank)


def test_a_sample_of_a_long_log(monkeypatch):
    monkeypatch.setattr(clicks, "SAMPLE_SESSIONS", 100)
    found, expected = on_disk(CLICKS.lazy()), in_memory()
    assert len(found.sample) == 100
    older, newest = found.set_newest_aside(0.2)
    cut = newest.ends()[0]
    assert len(newest) == 20
    assert all((block.ends() <= cut).all() for block in older.blocks())
    assert len(older) == np.count_nonzero(expected.ends() < cut)
    ends, place = (np.concatenate(part) for part in zip(*((b.ends(), p) for b, p in found.placed()), strict=True))
    order = np.argsort(ends, kind="stable")
    assert (np.diff(place[order]) >= 0).all()
    np.testing.assert_allclose(place[order], (np.arange(len(ends)) + 0.5) / len(ends), atol=0.15)
    two = run_ranks(2, lambda: on_disk(CLICKS.lazy()).sample)
    assert_same(two[0], found.sample)
    assert_same(two[1], found.sample)


def test_births_are_those_of_the_log(monkeypatch):
    monkeypatch.setattr(clicks, "CHUNK_SESSIONS", 300)
    rng = np.random.default_rng(0)
    born = rng.integers(0, 4_000, 400)
    session = np.repeat(np.arange(6_000), 2)
    there = [np.flatnonzero(born <= min(s, 3_999)) for s in range(6_000)]
    item = np.concatenate([rng.choice(some, 2) if len(some) else [0, 0] for some in there])
    log = pl.DataFrame({"session_id": session, "item_id": item, "time": np.arange(12_000)})
    ids = log["item_id"].unique().sort()
    expected = share_of_births(group_log(read_log(log, LogColumns()), ids), len(ids))

    def share():
        with stored_log(Shards(log.lazy()), LogColumns(), None, current()) as found:
            return share_of_births(found.sessions(ids), len(ids))

    assert expected != LAUNCH
    assert [share(), *run_ranks(2, share)] == pytest.approx([expected] * 3, abs=0)


def test_a_cache_is_used_again(tmp_path, monkeypatch):
    written = []
    write = clicks._Dealing.write
    monkeypatch.setattr(clicks._Dealing, "write", lambda self, files: written.append(1) or write(self, files))
    CLICKS.write_parquet(tmp_path / "clicks.parquet")

    def read(columns=COLUMNS):
        shards = Shards(tmp_path / "clicks.parquet", cache=tmp_path / "cache")
        with stored_log(shards, columns, None, ALONE) as log:
            return log.sessions(CATALOGUE.ids)

    first, again = read(), read()
    assert_same(first.sample, again.sample)
    assert len(written) == 1
    assert not list((tmp_path / "cache").glob(".dealt-*"))
    read(LogColumns(time=None))
    assert len(written) == 2


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Categorical, pl.Float64])
def test_names_of_sessions_of_any_type(dtype):
    names = {name: i for i, name in enumerate(CLICKS["session_id"].unique().sort())}
    ids = CLICKS["session_id"].replace_strict(names)
    log = CLICKS.with_columns(
        session_id=ids.cast(pl.String).cast(dtype) if dtype == pl.Categorical else ids.cast(dtype)
    )
    assert_same(on_disk(log.lazy()).sample, in_memory())


def test_a_cache_may_have_any_name_and_weights_any_number(tmp_path):
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    CLICKS.write_parquet(folder / "clicks.parquet")
    shards = Shards(CLICKS.lazy(), cache=folder / "cache")
    columns = LogColumns(event="kind")
    log = CLICKS.with_columns(kind=pl.lit("buy")).lazy()
    with stored_log(Shards(log, cache=folder / "cache"), columns, {"buy": np.float32(3)}, ALONE) as found:
        assert found.arrays["weights"].tolist() == [3.0] * len(CLICKS)
    with stored_log(shards, COLUMNS, None, ALONE) as found:
        assert_same(found.sessions(CATALOGUE.ids).sample, in_memory())


def test_clicks_that_are_lost_on_the_way_are_missed(tmp_path, monkeypatch):
    count = clicks._Dealing._count_items

    def lose(self, folder):
        counted = count(self, folder)
        next(folder.iterdir()).unlink()
        return counted

    monkeypatch.setattr(clicks._Dealing, "_count_items", lose)
    with pytest.raises(OSError, match=r"clicks were dealt to .* are left: another process"):
        on_disk(CLICKS.lazy())


def test_a_negative_zero_is_the_same_session():
    log = CLICKS.with_columns(session_id=pl.when(pl.int_range(pl.len()) % 2 == 0).then(0.0).otherwise(-0.0))
    assert len(on_disk(log.lazy()).sample) == 1
    with pytest.raises(TypeError, match="'session_id' of Shards is binary: cast it to text"):
        on_disk(log.with_columns(pl.col("session_id").cast(pl.String).cast(pl.Binary)).lazy())


def test_weights_of_events():
    log = CLICKS.with_columns(kind=pl.when(pl.int_range(pl.len()) % 3 > 0).then(pl.lit("view")))
    columns = LogColumns(event="kind")
    with pytest.warns(UserWarning, match=r"weights names the events \['buy'\], which no click in 'kind' has.*'view'"):
        found = on_disk(log.lazy(), columns, {"buy": 2.0, "view": 3.0})
    weights = np.concatenate([block.weights for block in found.blocks()])
    assert np.bincount(weights.astype(int)).tolist() == [0, -(-len(log) // 3), 0, len(log) - -(-len(log) // 3)]


def test_mistakes_are_told():
    model = M2TRec(epochs=1)
    with pytest.raises(ValueError, match=r"the click log has no column 'session'; its columns are .* session_column"):
        M2TRec(session_column="session").fit(Shards(LOG.clicks.lazy()))
    for name in ("session_id", "item_id", "time"):
        holed = CLICKS.with_columns(pl.when(pl.int_range(pl.len()) != 7).then(name).alias(name))
        with pytest.raises(ValueError, match=rf"the column '{name}' of a part of the click log is missing .* in 1 of"):
            model.fit(Shards(holed.lazy()))
    with pytest.raises(ValueError, match="the click log has no row"):
        model.fit(Shards(CLICKS.clear().lazy()))
    with pytest.raises(TypeError, match=r"STAN reads a click log as one frame.*scan_parquet.* M2TRec reads Shards"):
        STAN().fit(Shards(CLICKS.lazy()))
    fitted = STAN().fit(LOG.clicks)
    with pytest.raises(TypeError, match=r"the click log is read as one frame, not as Shards: give it in parts"):
        fitted.evaluate(Shards(CLICKS.lazy()))


def test_a_log_that_loses_rows_or_changes_makes_no_cache(tmp_path, monkeypatch):
    file, cache = tmp_path / "log.parquet", tmp_path / "cache"
    pl.DataFrame({"session": range(300), "item": ["a", "b", "c"] * 100}).write_parquet(file)
    columns = LogColumns(session="session", item="item", time=None)
    sink = pl.LazyFrame.sink_parquet
    ways = {
        "gave 200 of 300 rows": lambda scan, *args, **options: sink(scan.head(200), *args, **options),
        "was changed while it was read": lambda *args, **options: os.utime(file, (1, 1)) or sink(*args, **options),
    }
    for message, way in ways.items():
        monkeypatch.setattr(pl.LazyFrame, "sink_parquet", way)
        with (
            pytest.raises(ValueError, match=f"log.parquet {message}"),
            stored_log(Shards(file, cache=cache), columns, None, ALONE),
        ):
            pass
        assert not [*cache.iterdir()]
