"""Rows of a funnel: what is drawn, how often, how well the truth foretells it, and what is refused."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score, roc_auc_score

from tabmtl.synth import make_funnel

BINARY = ["click", "conversion", "like", "long_view"]
SMALL = {"n_rows": 500, "n_users": 50, "n_items": 30, "random_state": 0}


@pytest.fixture(scope="module")
def funnel():
    return make_funnel(100_000, n_users=2_000, n_items=500, random_state=0)


class TestFrames:
    @settings(max_examples=settings().max_examples // 12)
    @given(
        n_rows=st.integers(1, 50),
        n_users=st.integers(1, 1200),
        n_items=st.integers(1, 1200),
        click_rate=st.floats(0.001, 0.999),
        converting=st.floats(0.001, 0.999),
        unclicked=st.sampled_from(["zero", "null"]),
        shared=st.floats(0, 1),
        options=st.fixed_dictionaries(
            {},
            optional={
                "group_correlation": st.floats(-1, 1),
                "spread": st.floats(0, 10),
                "interaction": st.floats(0, 1),
                "position_bias": st.floats(0, 10),
                "skew": st.floats(0, 10),
                "n_categories": st.integers(1, 40),
                "n_brands": st.integers(1, 40),
                "missing": st.floats(0, 1),
            },
        ),
    )
    def test_names_dtypes_and_values(self, n_rows, click_rate, converting, unclicked, options, **sizes):
        funnel = make_funnel(
            n_rows,
            click_rate=click_rate,
            conversion_rate=click_rate * converting,
            unclicked=unclicked,
            random_state=0,
            **sizes,
            **options,
        )
        ids, enums, integers = ["user", "item"], ["category", "brand", "device"], ["hour", "position"]
        numeric = ["user_x0", "user_x1", "item_x0", "item_x1", "idle_hours", "discount"]
        dtypes = [(ids, pl.String), (enums, pl.Enum), (integers, pl.Int8), (numeric, pl.Float32)]
        assert {name: t.base_type() for name, t in funnel.X.schema.items()} == {c: t for cs, t in dtypes for c in cs}
        assert funnel.y.schema == {**dict.fromkeys(BINARY, pl.Int8), "watch_time": pl.Float64}
        assert funnel.expected.schema == dict.fromkeys([*funnel.tasks, "cvr"], pl.Float64)
        assert funnel.X.height == funnel.y.height == funnel.expected.height == n_rows
        assert funnel.probabilities.columns == [*BINARY, "cvr"]
        assert ((funnel.probabilities.to_numpy() >= 0) & (funnel.probabilities.to_numpy() <= 1)).all()
        assert funnel.y["watch_time"].is_finite().all()
        assert funnel.y["watch_time"].min() >= 0
        assert all(math.isnan(score) or score <= 1 for score in funnel.ceiling().values())

    def test_groups_and_chain_name_the_tasks(self, funnel):
        assert list(funnel.tasks) == funnel.y.columns
        assert sorted(name for group in funnel.task_groups.values() for name in group) == sorted(funnel.tasks)
        assert funnel.task_chain == ["click", "conversion"]
        assert [funnel.tasks[name] for name in funnel.y.columns] == ["binary"] * 4 + ["regression"]

    def test_an_item_determines_its_columns_and_a_user_does(self, funnel):
        for key, columns in (("user", ["user_x0", "user_x1"]), ("item", ["category", "brand", "item_x0", "item_x1"])):
            assert funnel.X.select(key, *columns).n_unique() == funnel.X[key].n_unique()

    @pytest.mark.parametrize("missing", [0.0, 0.3, 1.0])
    def test_nulls_are_in_the_two_numeric_context_columns(self, missing):
        X = make_funnel(20_000, missing=missing, random_state=0).X
        shares = {name: X[name].null_count() / X.height for name in X.columns}
        for name, share in shares.items():
            assert share == pytest.approx(missing * (name in ("idle_hours", "discount")), abs=0.02)

    def test_a_million_levels(self):
        X = make_funnel(50_000, n_users=1_000_000, n_items=1_000_000, skew=0, random_state=0).X
        assert X["user"].n_unique() > 48_000
        assert X["item"].n_unique() > 48_000
        assert X["user"].str.len_bytes().unique().to_list() == [7]


class TestLabels:
    @pytest.mark.parametrize(
        "rates",
        [
            {},
            {"click_rate": 0.02, "conversion_rate": 0.001, "like_rate": 0.5, "long_view_rate": 0.9},
            {"click_rate": 0.5, "conversion_rate": 0.49, "spread": 3.0, "selection": -0.2, "shared": 0.2},
        ],
    )
    def test_rates_over_impressions_are_those_asked_for(self, rates):
        funnel = make_funnel(200_000, random_state=1, **rates)
        asked = {"click_rate": 0.1, "conversion_rate": 0.01, "like_rate": 0.03, "long_view_rate": 0.3, **rates}
        for name in BINARY:
            rate = asked[f"{name}_rate"]
            assert funnel.expected[name].mean() == pytest.approx(rate, rel=0.05), name
            assert funnel.y[name].mean() == pytest.approx(rate, rel=0.05 + 5 / math.sqrt(200_000 * rate)), name

    def test_a_conversion_implies_a_click(self, funnel):
        assert funnel.y["conversion"].sum() > 500
        assert (funnel.y["conversion"] <= funnel.y["click"]).all()

    def test_null_hides_conversions_without_a_click_and_changes_nothing_else(self):
        zero, null = (make_funnel(5_000, unclicked=unclicked, random_state=0) for unclicked in ("zero", "null"))
        assert zero.X.equals(null.X)
        assert zero.expected.equals(null.expected)
        assert (null.y["conversion"].is_null() == (null.y["click"] == 0)).all()
        assert null.y.with_columns(pl.col("conversion").fill_null(0)).equals(zero.y)
        assert null.draw(100, random_state=0).y["conversion"].null_count() > 50
        assert null.ceiling() == zero.ceiling()

    @pytest.mark.parametrize("task", BINARY)
    def test_probabilities_are_calibrated(self, funnel, task):
        p, y = funnel.probabilities[task].to_numpy(), funnel.y[task].to_numpy()
        for part in np.array_split(np.argsort(p), 20):
            assert y[part].sum() == pytest.approx(p[part].sum(), abs=5 * np.sqrt(p[part].sum()) + 1)

    def test_cvr_is_calibrated_among_clicks(self, funnel):
        clicked = funnel.y["click"] == 1
        p, y = funnel.expected["cvr"].filter(clicked).to_numpy(), funnel.y["conversion"].filter(clicked).to_numpy()
        for part in np.array_split(np.argsort(p), 10):
            assert y[part].sum() == pytest.approx(p[part].sum(), abs=5 * np.sqrt(p[part].sum()) + 1)
        np.testing.assert_allclose(
            funnel.expected["conversion"], funnel.expected["click"] * funnel.expected["cvr"], rtol=1e-12
        )

    def test_watch_times_scatter_around_their_means(self, funnel):
        mean, y = funnel.expected["watch_time"].to_numpy(), funnel.y["watch_time"].to_numpy()
        for part in np.array_split(np.argsort(mean), 10):
            assert np.mean(y[part] / mean[part]) == pytest.approx(1, abs=0.04)
        assert np.std(np.log(y / mean)) == pytest.approx(0.6, rel=0.02)

    def test_clicked_rows_convert_better_by_the_selection(self):
        ratios = []
        for selection in (-0.2, 0.0, 0.6, 1.0):
            expected = make_funnel(50_000, selection=selection, shared=0.3, random_state=0).expected
            ratios.append(expected["conversion"].sum() / expected["click"].sum() / expected["cvr"].mean())
        assert ratios == sorted(ratios)
        assert ratios[0] < 0.95
        assert ratios[1] == pytest.approx(1, abs=0.1)
        assert ratios[2] > 1.5


class TestCeiling:
    def test_scores_are_those_of_scikit_learn(self, funnel):
        scores, clicked = funnel.ceiling(), funnel.y["click"] == 1
        for name in BINARY:
            assert scores[name] == pytest.approx(roc_auc_score(funnel.y[name], funnel.expected[name]), abs=1e-9)
        assert scores["watch_time"] == pytest.approx(r2_score(funnel.y["watch_time"], funnel.expected["watch_time"]))
        cvr = roc_auc_score(funnel.y["conversion"].filter(clicked), funnel.expected["cvr"].filter(clicked))
        assert scores["cvr"] == pytest.approx(cvr, abs=1e-9)

    def test_the_expected_score_is_the_drawn_one_without_its_luck(self, funnel):
        drawn, expected = funnel.ceiling(), funnel.ceiling("expected")
        assert drawn.keys() == expected.keys() == {*funnel.tasks, "cvr"}
        for name, score in expected.items():
            assert drawn[name] == pytest.approx(score, abs=0.03), name

    def test_the_probability_of_a_click_does_not_rank_conversions_as_well(self, funnel):
        assert roc_auc_score(funnel.y["conversion"], funnel.expected["click"]) < funnel.ceiling()["conversion"] - 0.01

    def test_more_spread_means_a_higher_ceiling_and_none_means_chance(self):
        low, high = (make_funnel(20_000, spread=s, random_state=0).ceiling("expected") for s in (0.5, 2.0))
        assert all(low[name] + 0.1 < high[name] for name in low)
        none = make_funnel(2_000, spread=0, position_bias=0, random_state=0).ceiling("expected")
        assert none == pytest.approx({**dict.fromkeys([*BINARY, "cvr"], 0.5), "watch_time": 0.0})

    def test_a_missing_class_gives_nan(self):
        funnel = make_funnel(20, click_rate=1e-4, conversion_rate=1e-5, random_state=0)
        assert math.isnan(funnel.ceiling()["click"])
        assert math.isnan(funnel.ceiling()["cvr"])


class TestSeeds:
    def test_the_number_of_rows_does_not_change_the_world(self):
        short, long = (make_funnel(**{**SMALL, "n_rows": n}).truth for n in (5, 500))
        assert short.users.equals(long.users)
        assert short.items.equals(long.items)
        np.testing.assert_array_equal(short.bias, long.bias)
        np.testing.assert_array_equal(short.affinity, long.affinity)

    @pytest.mark.parametrize("seed", [0, 1, None])
    def test_fresh_rows_are_other_rows_of_the_same_world(self, seed):
        train = make_funnel(**SMALL)
        test = train.draw(500, random_state=seed)
        assert test.truth is train.truth
        assert test.X.schema == train.X.schema
        assert not test.y.equals(train.y)
        old, new = (set(frame.X["idle_hours"].drop_nulls()) for frame in (train, test))
        assert len(old & new) < 20
        assert test.expected.equals(train.truth.expected(test.X))
        if seed is not None:
            assert test.y.equals(train.draw(500, random_state=seed).y)
            assert not test.y.equals(train.draw(500, random_state=seed + 1).y)


class TestErrors:
    def test_labels_of_a_ceiling_are_drawn_or_expected(self, funnel):
        with pytest.raises(ValueError, match="labels must be one of drawn, expected, got 'all'"):
            funnel.ceiling("all")
