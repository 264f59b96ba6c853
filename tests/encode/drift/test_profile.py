"""Profiles and their comparison, without a model: cells of every form, equal rows, and what is found."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.columns import Sequence
from tabmtl.encode.drift import Profile
from tabmtl.encode.drift.compare import Limits, compare
from tabmtl.encode.drift.readings import Reading, read_columns
from tabmtl.encode.features import FeatureCoder

LIMITS = Limits(size=0.1, alpha=0.05)


def number(values, name="x"):
    return Reading(name, "", 0, np.asarray(values, dtype=np.float64))


def learn(*readings):
    return Profile.learn(readings, of_columns="fit", of_answers="unseen")


def compared(before, now, limits=LIMITS):
    profile = learn(*before)
    return compare(profile, profile.count(now, ()), list(dict.fromkeys(profile.names)), (), limits)


def test_equal_rows_cry_no_more_often_than_stated():
    """Of 200 draws of 20 columns of all sorts, at 5 %; by chance alone, and few rows too."""
    rng, cries = np.random.default_rng(0), 0
    levels = 2.0 + np.arange(200)
    share = 1 / np.arange(1, 201)

    def draw(n):
        found = [number(rng.normal(size=n).round(k % 3), f"n{k}") for k in range(8)]
        found += [
            number(np.where(rng.random(n) < 0.03 * k, np.nan, rng.exponential(size=n)), f"m{k}") for k in range(6)
        ]
        codes = [rng.choice(levels, n, p=share / share.sum()) for _ in range(6)]
        codes = [np.where(rng.random(n) < 0.01, 1.0, own) for own in codes]
        return found + [Reading(f"c{k}", "", 202, own) for k, own in enumerate(codes)]

    for i in range(200):
        found = compared(draw(1_000), draw((40, 100, 1_000)[i % 3]), Limits(size=0.0, alpha=0.05))
        cries += found["is_drift"].any()
    assert cries <= 0.05 * 200 + 2 * np.sqrt(200 * 0.05 * 0.95)


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5, np.nan]), min_size=20, max_size=60),
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5, 9.0, np.nan]), min_size=20, max_size=60),
)
def test_divergences_are_bounded_and_counts_of_blocks_add_up(before, now):
    profile, new = learn(number(before)), np.array(now)
    counts = profile.count([number(new)], ())
    assert counts.sum() == len(new)
    np.testing.assert_array_equal(counts, sum(profile.count([number(part)], ()) for part in (new[:7], new[7:])))
    line = compare(profile, counts, ["x"], (), LIMITS).row(0, named=True)
    assert 0 <= line["jensen_shannon"] <= min(line["psi"] / 8 + 1e-12, np.log(2))
    assert line["missing"] == np.isnan(new).mean()
    assert not compare(profile, profile.counts, ["x"], (), LIMITS)["is_drift"].item()


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        ([5.0] * 30, [5.0] * 30, ""),
        ([5.0] * 30, [6.0] * 30, "distribution"),
        ([5.0] * 30, [5.0 + 1e-9] * 30, ""),  # rounding
        ([0.0] * 98 + [1.0] * 2, [0.0] * 50 + [1.0] * 50, "distribution"),  # few values differ from the least
        ([1.0, np.nan] * 50, [1.0] * 100, "distribution, missing"),
        ([np.nan] * 50, [1.0] * 50, "distribution, missing"),
    ],
)
def test_one_value_and_none_have_bins_too(before, now, why):
    assert compared([number(before)], [number(now)])["why"].item() == why


def test_beyond_chance_is_not_enough():
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=(2, 5_000))
    found = compared([number(before)], [number(now + 0.15)])
    assert (found["p_value"].item() < 1e-3, found["is_drift"].item()) == (True, False)
    assert compared([number(before)], [number(now + 0.15)], Limits(size=0.01, alpha=0.05))["is_drift"].item()


def test_few_rows_are_said_and_not_judged():
    found = compared([number(np.arange(100))], [number(np.arange(19))])
    assert found.select("psi", "is_drift", "why", "n").row(0) == (None, None, "too few rows", 19)


def test_every_form_of_features_is_read_by_the_columns_of_the_frame():
    rng, n = np.random.default_rng(0), 400
    frame = pl.DataFrame(
        {
            "number": rng.normal(size=n),
            "town": rng.choice(["Ulm", "Bonn"], n),
            "tags": [[*map(str, rng.choice(9, k, replace=False))] for k in rng.integers(0, 4, n)],
            "seen": [[*map(str, rng.choice(9, k))] for k in rng.integers(0, 4, n)],
            "vector": rng.normal(size=(n, 3)),
        }
    )
    coder = FeatureCoder.fit(frame, columns={"seen": Sequence()})
    changes = {
        "number": pl.col("number") * 1000,
        "town": pl.col("town").str.replace("Ulm", "Neu-Ulm"),
        "tags": pl.col("tags").list.head(1),
        "seen": pl.col("seen").list.eval(pl.lit("new")),
        "vector": pl.col("vector").arr.to_list().list.eval(pl.element() * 3),
    }

    def read(frame):
        return read_columns(coder.encode(frame), coder.columns, coder.origins_by_form)

    profile = learn(*read(frame))
    assert set(profile.names) == set(frame.columns)
    for name, change in changes.items():
        found = compare(
            profile, profile.count(read(frame.with_columns(change.alias(name))), ()), [*changes], (), LIMITS
        )
        assert found.filter("is_drift")["name"].to_list() == [name]
        assert (found.filter(pl.col("unseen") > 0)["name"].to_list() == [name]) == (name in ("town", "seen"))


def test_answers_of_tasks_come_and_go():
    profile = Profile.learn([number(range(30))], [number(range(40), "y")], of_columns="fit", of_answers="unseen")
    more = profile.with_answers([number(range(50), "z")], "learned")
    assert (more.names, more.sources, more.n_columns) == (("x", "y", "z"), ("fit", "unseen", "learned"), 1)
    assert [more.counts[more.cells(j)].sum() for j in range(3)] == [30, 40, 50]
    less = more.of_tasks({"z"})
    assert (less.names, less.sources, less.n_columns) == (("x", "z"), ("fit", "learned"), 1)
    assert [less.counts[less.cells(j)].sum() for j in range(2)] == [30, 50]
