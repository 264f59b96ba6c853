"""Logs of click sessions: frames, births, records, seeds, and what is refused."""

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.synth import make_sessions

SMALL = {"n_sessions": 300, "n_items": 60, "random_state": 0}
METADATA = ["category", "subcategory", "brand", "price", "tags", "name"]


@pytest.fixture(scope="module")
def log():
    return make_sessions(5_000, 400, random_state=0)


class TestFrames:
    @settings(max_examples=20)
    @given(
        n_sessions=st.integers(1, 40),
        n_items=st.integers(20, 200),
        options=st.fixed_dictionaries(
            {},
            optional={
                "cold_share": st.floats(0, 0.5),
                "repeat_rate": st.floats(0, 1),
                "metadata_noise": st.floats(0, 1),
                "missing": st.floats(0, 1),
                "test_share": st.floats(0.001, 0.999),
                "mean_length": st.floats(2, 20),
                "n_days": st.floats(0.01, 100),
                "n_categories": st.integers(1, 10),
                "n_subcategories": st.integers(1, 5),
                "n_tags": st.integers(1, 5),
                "stickiness": st.floats(0, 1),
            },
        ),
    )
    def test_names_dtypes_and_order(self, n_sessions, n_items, options):
        log = make_sessions(n_sessions, n_items, random_state=0, **options)
        time = pl.Datetime("us")
        text = dict.fromkeys(["item_id", "category", "subcategory", "brand"], pl.String)
        assert log.clicks.schema == {"session_id": pl.Int64, "item_id": pl.String, "time": time}
        assert log.items.schema == {**text, "price": pl.Float64, "tags": pl.List(pl.String), "name": pl.String}
        assert log.truth.items.schema == log.items.schema
        assert log.births.schema == {"item_id": pl.String, "birth": time}
        assert log.items.height == log.births.height == n_items
        assert log.items["item_id"].equals(log.births["item_id"])
        assert not log.truth.items.null_count().sum_horizontal().item()
        assert log.clicks["time"].is_sorted()
        starts = log.clicks.group_by("session_id", maintain_order=True).agg(pl.col("time").first(), pl.len())
        assert starts["session_id"].to_list() == list(range(n_sessions))
        assert starts["len"].min() >= 2
        assert log.truth.begin <= starts["time"].min()
        assert starts["time"].max() < log.truth.end

    def test_clicks_of_a_session_follow_each_other_and_sessions_interleave(self, log):
        gaps = log.clicks.select(pl.col("time").diff().over("session_id")).to_series().drop_nulls()
        assert gaps.min() >= timedelta(seconds=1)
        assert gaps.mean().total_seconds() == pytest.approx(60, rel=0.05)
        assert (log.clicks["session_id"].diff() < 0).sum() > 1_000
        lengths = log.clicks.group_by("session_id").len()["len"]
        assert lengths.mean() == pytest.approx(5, abs=0.25)

    def test_metadata_is_nested_and_named_as_documented(self, log):
        items = log.truth.items
        assert items["category"].n_unique() == 10
        assert items.select("category", "subcategory").n_unique() == items["subcategory"].n_unique() == 40
        assert items["brand"].n_unique() == 20
        assert set(items["tags"].list.len()) == {1, 2, 3}
        assert (items["tags"].list.n_unique() == items["tags"].list.len()).all()
        assert items["tags"].explode().n_unique() == 24
        brand, kind, _ = items["name"].str.split(" ").list.to_struct(fields=["b", "k", "f"]).struct.unnest()
        assert brand.equals(items["brand"], null_equal=True)
        assert ((kind == items["category"]) | (kind == items["subcategory"])).all()
        spread = items.group_by("category").agg(pl.col("price").max() / pl.col("price").min())["price"]
        assert (spread <= 8.2).all()
        assert (spread > 3).all()
        vocabulary = [items[name].unique() for name in ("category", "subcategory", "brand")]
        assert pl.concat([*vocabulary, items["tags"].explode().unique()]).is_unique().all()

    def test_repeats_are_as_frequent_as_asked_for(self):
        shares = []
        for rate in (0.0, 0.5, 1.0):
            flat = dict.fromkeys([f"{name}_affinity" for name in ("brand", "first", "subcategory", "price")], 0)
            log = make_sessions(1_000, 3_000, repeat_rate=rate, skew=0, random_state=0, **flat)
            seen = log.clicks.select(pl.struct("session_id", "item_id").is_first_distinct()).to_series()
            shares.append((~seen).sum() / (len(seen) - 1_000))
        assert shares[0] < 0.03
        assert shares[1] == pytest.approx(0.5, abs=0.04)
        assert shares[2] == 1


class TestColdItems:
    def test_births_are_respected_and_cold_items_come_late(self, log):
        clicks = log.clicks.join(log.births, on="item_id")
        assert (clicks["time"] >= clicks["birth"]).all()
        assert len(log.cold) == 40
        births = log.births.filter(pl.col("item_id").is_in(log.cold.to_list()))["birth"]
        assert births.min() >= log.cut
        assert births.max() <= log.cut + 0.5 * (log.truth.end - log.cut)
        assert (log.births.filter(pl.col("birth") < log.cut)["birth"] == log.truth.begin).all()
        assert log.cut == log.truth.begin + timedelta(days=24)

    def test_the_cut_parts_sessions_and_leaves_cold_items_to_the_test(self, log):
        train, test = log.split()
        assert train.height + test.height == log.clicks.height
        assert not set(train["session_id"]) & set(test["session_id"])
        assert train["time"].max() < log.cut
        assert (test.group_by("session_id").agg(pl.col("time").max())["time"] >= log.cut).all()
        assert train.height / log.clicks.height == pytest.approx(0.8, abs=0.03)
        cold = log.cold.to_list()
        assert not train["item_id"].is_in(cold).any()
        assert test["item_id"].is_in(cold).mean() > 0.04
        assert all(part["time"].is_sorted() for part in (train, test))

    def test_no_share_is_no_cold_item_and_every_category_keeps_a_warm_one(self):
        assert make_sessions(**SMALL, cold_share=0).cold.is_empty()
        log = make_sessions(**SMALL, cold_share=50 / 60)
        warm = log.truth.items.filter(~pl.col("item_id").is_in(log.cold.to_list()))
        assert warm.height == warm["category"].n_unique() == 10

    def test_names_tell_nothing(self, log):
        cold = log.births["birth"].to_numpy() >= np.datetime64(log.cut)
        assert abs(np.corrcoef(np.arange(400), cold)[0, 1]) < 0.2
        assert abs(np.corrcoef(np.arange(400), log.truth.codes["category"])[0, 1]) < 0.2


class TestRecords:
    @pytest.mark.parametrize("missing", [0.0, 0.3, 1.0])
    def test_cells_are_missing_at_random(self, missing):
        items = make_sessions(10, 3_000, missing=missing, random_state=0).items
        for name in METADATA:
            assert items[name].null_count() / 3_000 == pytest.approx(missing, abs=0.04)
        assert items["item_id"].null_count() == 0

    @pytest.mark.parametrize("noise", [0.0, 0.2, 1.0])
    def test_cells_are_wrong_at_random(self, noise):
        log = make_sessions(10, 3_000, metadata_noise=noise, missing=0, random_state=0)
        for name in METADATA:
            column = log.items[name]
            # A cell taken from another item may be the same by luck.
            column, true = (c.list.join(" ") if name == "tags" else c for c in (column, log.truth.items[name]))
            same = sum((share / 3_000) ** 2 for share in true.value_counts()["count"])
            assert (column != true).mean() == pytest.approx(noise * (1 - same), abs=0.04)
            assert set(column) <= set(true)

    def test_what_is_recorded_changes_neither_truth_nor_clicks(self):
        plain, noisy = make_sessions(**SMALL), make_sessions(**SMALL, metadata_noise=0.5, missing=0.5)
        assert plain.clicks.equals(noisy.clicks)
        assert plain.truth.items.equals(noisy.truth.items)
        assert not plain.items.equals(noisy.items)
        np.testing.assert_array_equal(plain.truth.attraction, noisy.truth.attraction)


class TestAttraction:
    def test_metadata_tells_all_but_the_own_part(self):
        truth = make_sessions(10, 5_000, idiosyncratic=0.7, skew=1.2, random_state=0).truth
        own = np.log(truth.attraction / truth.told)
        assert own.std() == pytest.approx(0.7, rel=0.05)
        design = [truth.items.select(name).to_dummies().to_numpy() for name in ("brand", "subcategory")]
        tags = truth.items["tags"].to_list()
        names = sorted({tag for some in tags for tag in some})
        design.append(np.array([[(tag in some) / math.sqrt(len(some)) for tag in names] for some in tags]))
        design.append(truth.level[:, None])
        x = np.hstack(design)
        told = np.log(truth.told)
        fitted = x @ np.linalg.lstsq(x, told, rcond=None)[0]
        np.testing.assert_allclose(fitted, told, atol=1e-6)
        assert 0.7 < told.std() < 1.7

    def test_the_price_gives_the_level(self):
        truth = make_sessions(10, 2_000, random_state=0).truth
        low = truth.items.select((pl.col("price").log() / math.log(8)).alias("z"), "category")
        offset = (low["z"] - pl.Series(truth.level)).to_frame("o").with_columns(low["category"])
        assert offset.group_by("category").agg(pl.col("o").max() - pl.col("o").min())["o"].max() < 0.02


class TestSeeds:
    def test_the_number_of_sessions_does_not_change_the_world(self):
        short, long = (make_sessions(**{**SMALL, "n_sessions": n}) for n in (5, 500))
        assert short.items.equals(long.items)
        assert short.births.equals(long.births)
        np.testing.assert_array_equal(short.truth.transitions, long.truth.transitions)

    @pytest.mark.parametrize("seed", [0, 1, None])
    def test_fresh_sessions_are_others_of_the_same_world(self, seed):
        train = make_sessions(**SMALL)
        fresh = train.draw(300, random_state=seed)
        assert fresh.truth is train.truth
        assert fresh.items is train.items
        assert fresh.cut == train.cut
        assert not set(fresh.clicks["time"]) & set(train.clicks["time"])
        if seed is not None:
            assert fresh.clicks.equals(train.draw(300, random_state=seed).clicks)
            assert not fresh.clicks.equals(train.draw(300, random_state=seed + 1).clicks)

    def test_many_sessions_over_many_items(self):
        log = make_sessions(20_000, 20_000, n_brands=500, n_categories=100, random_state=0)
        assert log.clicks.height == pytest.approx(100_000, rel=0.05)
        assert log.clicks["item_id"].n_unique() > 5_000
