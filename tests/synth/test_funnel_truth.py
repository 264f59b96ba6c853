"""The law of a funnel: its logits, the rows it draws, and what it answers for rows that were never drawn."""

import numpy as np
import polars as pl
import pytest

from tabmtl.synth import make_funnel
from tabmtl.synth.funnel_truth import roc_auc


@pytest.fixture(scope="module")
def funnel():
    return make_funnel(100_000, n_users=500, n_items=200, random_state=3)


def test_logits_are_bilinear_in_the_hidden_vectors(funnel):
    truth = funnel.truth
    X = funnel.X.head(100)
    a = truth.user_vectors[X["user"].str.slice(1).cast(int).to_numpy()].astype(float)
    b = truth.item_vectors[X["item"].str.slice(1).cast(int).to_numpy()].astype(float)
    affinity = np.stack([((a @ form) * b).sum(axis=1) for form in truth.affinity.astype(float)], axis=1)
    # What remains is a function of the context alone: it does not change with the user or the item.
    other = X.with_columns(user=pl.lit(X["user"][0]), item=pl.lit(X["item"][0]))
    rest = truth.logits(X) - affinity
    np.testing.assert_allclose(rest, truth.logits(other) - affinity[:1], atol=1e-5)


def test_expected_values_follow_the_logits(funnel):
    X = funnel.X.head(1_000)
    logits, expected = funnel.truth.logits(X), funnel.truth.expected(X)
    for t, name in ((0, "click"), (1, "cvr"), (2, "like"), (3, "long_view")):
        np.testing.assert_allclose(np.log(expected[name] / (1 - expected[name])), logits[:, t], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.log(expected["watch_time"]), logits[:, 4])


def test_a_row_is_answered_alone_in_any_order_and_without_its_other_columns(funnel):
    X = funnel.X.head(20_000)
    order = np.random.default_rng(0).permutation(X.height)
    answer = funnel.truth.logits(X)
    np.testing.assert_allclose(funnel.truth.logits(X[order]), answer[order], atol=1e-5)
    np.testing.assert_allclose(funnel.truth.logits(X[7:8])[0], answer[7], atol=1e-5)
    few = X.select("discount", "hour", "idle_hours", "device", "position", "item", "user")
    np.testing.assert_array_equal(funnel.truth.logits(few), answer)
    assert funnel.truth.logits(X.head(0)).shape == (0, 5)


def test_pairs_that_were_never_drawn_can_be_ranked(funnel):
    context = funnel.X.select("hour", "device", "position", "idle_hours", "discount").head(1)
    pairs = funnel.truth.users.select("user").head(50).join(funnel.truth.items.select("item"), how="cross")
    expected = funnel.truth.expected(pairs.join(context, how="cross"))
    best = pairs.with_columns(expected["click"]).group_by("user").agg(pl.col("item").get(pl.col("click").arg_max()))
    assert expected.height == 50 * 200
    assert best["item"].n_unique() > 5


@pytest.mark.parametrize(("column", "value"), [("user", "u500"), ("user", "x"), ("item", "u001"), ("item", None)])
def test_an_id_of_another_world_is_refused(funnel, column, value):
    X = funnel.X.head(3).with_columns(pl.lit(value, dtype=pl.String).alias(column))
    last = {"user": "u499", "item": "i199"}[column]
    with pytest.raises(ValueError, match=rf"X: {column} must be one of .000 to {last}, got {value!r}"):
        funnel.truth.logits(X)


def test_a_missing_number_counts_as_its_mean(funnel):
    X = funnel.X.head(10)
    null = X.with_columns(pl.lit(None, dtype=pl.Float32).alias("idle_hours"), discount=None)
    mean = X.with_columns(idle_hours=pl.lit(np.e), discount=pl.lit(0.25))
    np.testing.assert_allclose(funnel.truth.logits(null), funnel.truth.logits(mean), atol=1e-6)


@pytest.mark.parametrize("position_bias", [0.0, 2.0])
def test_positions_change_clicks_alone_by_the_bias(position_bias):
    funnel = make_funnel(100, position_bias=position_bias, random_state=0)
    first, last = (funnel.truth.logits(funnel.X.with_columns(position=pl.lit(p))) for p in (0, 9))
    np.testing.assert_allclose(first - last, np.tile([position_bias, 0, 0, 0, 0], (100, 1)), atol=1e-9)


def test_impressions_follow_the_popularity_law(funnel):
    for column, count in (("user", 500), ("item", 200)):
        share = np.arange(1, count + 1) ** -0.8
        share /= share.sum()
        seen = np.bincount(funnel.X[column].str.slice(1).cast(int).to_numpy(), minlength=count)
        error = (seen - 100_000 * share) / np.sqrt(100_000 * share)
        assert np.mean(error**2) == pytest.approx(1, abs=0.4), column
    assert make_funnel(10_000, n_users=100, skew=0, random_state=0).X["user"].value_counts()["count"].max() < 160


def test_parts_of_an_impression_are_independent(funnel):
    columns = ["user", "item", "hour", "device", "position"]
    codes = funnel.X.select(pl.col("user", "item").str.slice(1), "hour", pl.col("device").to_physical(), "position")
    numbers = np.column_stack([codes.cast(pl.Float64).to_numpy(), funnel.X["idle_hours"].fill_null(0)])
    correlation = np.corrcoef(numbers.T)
    assert np.abs(correlation - np.eye(len(columns) + 1)).max() < 0.02
    assert sorted(funnel.X["hour"].unique()) == list(range(24))
    assert sorted(funnel.X["position"].unique()) == list(range(10))
    assert funnel.X["discount"].max() <= 0.5


def test_context_adds_its_share_to_the_logits(funnel):
    rows = funnel.X.with_columns(user=pl.lit("u000"), item=pl.lit("i000"), position=pl.lit(0))
    logits = funnel.truth.logits(rows.drop_nulls())
    np.testing.assert_allclose(logits.var(axis=0), 0.2 * 1.2**2 * np.array([1, 1, 1, 1, 0.25]), rtol=0.05)


def test_ties_count_half_in_the_auc():
    rank, y = pl.Series([1.0, 1.0, 2.0, 0.0]), pl.Series([1.0, 0.0, 1.0, 0.0])
    assert roc_auc(rank, y, 1 - y) == pytest.approx(3.5 / 4)
    assert np.isnan(roc_auc(rank, y * 0, 1 - y))
