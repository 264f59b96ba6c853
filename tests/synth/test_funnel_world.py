"""The world of a funnel: which tasks go together, and how users and items are made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.synth import make_funnel


def correlations(funnel):
    """Correlations of the logits of the tasks over the rows of a funnel."""
    return np.corrcoef(funnel.truth.logits(funnel.X).T)


def pairs(matrix):
    """Mean entry of pairs of tasks in one group, and across the groups."""
    group = np.array([0, 0, 0, 1, 1])
    same = (group[:, None] == group) & ~np.eye(5, dtype=bool)
    return matrix[same].mean(), matrix[group[:, None] != group].mean()


@pytest.mark.all_faces  # eight seconds
@settings(max_examples=10)
@given(
    shared=st.floats(0, 1),
    group_correlation=st.floats(-1, 1),
    interaction=st.floats(0, 1),
    spread=st.floats(0.1, 3),
)
def test_every_part_correlates_as_asked_for(shared, group_correlation, interaction, spread):
    funnel = make_funnel(
        10,
        n_users=20,
        n_items=20,
        shared=shared,
        group_correlation=group_correlation,
        interaction=interaction,
        spread=spread,
        random_state=0,
    )
    group = np.array([0, 0, 0, 1, 1])
    asked = np.where(group[:, None] == group, shared, shared * group_correlation)
    np.fill_diagonal(asked, 1)
    scale = spread * np.outer([1, 1, 1, 1, 0.5], [1, 1, 1, 1, 0.5])
    affinity = funnel.truth.affinity.astype(float)
    for part, share in (
        (affinity[:, 1:, 0], 0.4 * (1 - interaction)),
        (affinity[:, 0, 1:], 0.4 * (1 - interaction)),
        (affinity[:, 1:, 1:].reshape(5, -1), 0.8 * interaction),
        (funnel.truth.context, 0.2),
    ):
        np.testing.assert_allclose(part @ part.T / spread, share * asked * scale, atol=1e-5)
    assert (affinity[:, 0, 0] == 0).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (0.6, 0.18)),
        ({"shared": 0.0}, (0, 0)),
        *(({"group_correlation": g}, (0.6, 0.6 * g)) for g in (-1.0, 0.0, 1.0)),
    ],
    ids=str,
)
def test_tasks_of_a_group_go_together_more_than_others_do(options, expected):
    found = pairs(correlations(make_funnel(20_000, random_state=0, **options)))
    assert found == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("selection", [-0.2, 0.0, 1.0])
def test_selection_correlates_click_and_conversion(selection):
    C = correlations(make_funnel(20_000, selection=selection, position_bias=0, random_state=0))
    assert C[0, 1] == pytest.approx(selection, abs=0.15)
    assert C[0, 2] == pytest.approx(0.6, abs=0.15)


def test_the_least_selection_is_the_border_of_what_can_be():
    options = {"n_rows": 10, "shared": 0.5, "group_correlation": -0.8, "random_state": 0}
    with pytest.raises(ValueError, match="selection must lie in") as error:
        make_funnel(**options, selection=-1.0)
    least = float(str(error.value).split("[")[1].split(",")[0])
    context = make_funnel(**options, selection=least + 1e-2).truth.context
    correlation = context @ context.T / np.outer(*[np.sqrt((context**2).sum(axis=1))] * 2)
    assert correlation[0, 1] == pytest.approx(least + 1e-2)
    assert np.linalg.eigvalsh(correlation)[0] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("n_items", "n_brands"), [(1000, 100), (1000, 1000), (7, 100)])
def test_every_level_has_an_item(n_items, n_brands):
    items = make_funnel(10, n_items=n_items, n_brands=n_brands, random_state=0).truth.items
    for column, count in (("category", 20), ("brand", n_brands)):
        sizes = items[column].value_counts()["count"]
        assert len(sizes) == len(items[column].dtype.categories) == min(count, n_items)
        assert sizes.max() - sizes.min() <= 1


def test_ids_sort_as_popularity_does():
    truth = make_funnel(10, n_users=1234, n_items=10, random_state=0).truth
    assert truth.users["user"].is_sorted()
    assert (truth.users["user"][0], truth.users["user"][-1]) == ("u0000", "u1233")
    assert truth.items["item"].to_list() == [f"i{k}" for k in range(10)]


def test_items_of_a_category_or_brand_are_alike():
    truth = make_funnel(10, n_items=20_000, n_categories=500, n_brands=700, random_state=0).truth
    vectors = truth.item_vectors[:, 1:].astype(float)
    assert vectors.var() == pytest.approx(1, rel=0.05)
    for column, share in (("category", 0.3), ("brand", 0.2)):
        codes = truth.items[column].to_physical().to_numpy()
        means = np.stack([vectors[codes == code].mean(axis=0) for code in range(codes.max() + 1)])
        within = (1 - share) / (20_000 / len(means))
        assert means.var() - within == pytest.approx(share, abs=0.04), column


def test_numeric_columns_show_half_of_two_hidden_numbers():
    truth = make_funnel(10, n_users=20_000, n_items=20_000, random_state=0).truth
    for frame, prefix, vectors in (
        (truth.users, "user", truth.user_vectors),
        (truth.items, "item", truth.item_vectors),
    ):
        assert (vectors[:, 0] == 1).all()
        for j in range(2):
            seen = frame[f"{prefix}_x{j}"].to_numpy()
            assert np.corrcoef(seen, vectors[:, 1 + j])[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.03)
            assert seen.std() == pytest.approx(1, abs=0.06)
