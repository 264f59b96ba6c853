"""LightGBM's trees: binned rows, ensembles on gradients from outside, and forests of several ensembles."""

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tabmtl.base.schema import MISSING, UNSEEN, Batch, Columns
from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.columns import Features
from tabmtl.estimators.boosted.border import Ensemble, bin_rows, small_limits, tree_matrix
from tabmtl.models.rmtgb.fitted import Forest
from tabmtl.models.shared_trees import trees
from tabmtl.models.shared_trees.trees import VectorEnsemble, VectorForest, _nearest

OPTIONS = {"max_bin": 63, "feature_pre_filter": False, "num_threads": 1, "verbosity": -1}
PARAMS = OPTIONS | {
    "learning_rate": 0.3,
    "num_leaves": 7,
    "min_data_in_leaf": 10,
    "deterministic": True,
    "force_row_wise": True,
    "min_data_per_group": 5,  # so that small tables have categorical splits
    "cat_smooth": 1.0,
}


def columns(names=("a", "b", "c", "d")):
    *numeric, categorical = names
    missing = (True,) * len(numeric)
    return Columns(
        numeric=tuple(numeric), categorical=(categorical,), levels=(tuple("abcdefgh"),), has_missing=missing, bins=()
    )


COLUMNS = columns()


def rows(n=400, seed=0, n_numeric=3):
    """Rows with missing numbers, and a category of eight levels, missing or unseen."""
    rng = np.random.default_rng(seed)
    x_num = rng.normal(size=(n, n_numeric)).astype(np.float32)
    x_num[rng.random(x_num.shape) < 0.1] = np.nan
    return Batch(x=Features(numbers=x_num, codes=rng.integers(0, 10, size=(n, 1)).astype(np.int32)))


def labels(batch, width=1, seed=0):
    """Labels (width, n) that every column bears on."""
    rng = np.random.default_rng(seed)
    y = np.nan_to_num(batch.x.numbers) @ rng.normal(size=(batch.x.numbers.shape[1], width))
    y += rng.normal(size=(10, width))[batch.x.codes[:, 0]] + 0.1 * rng.normal(size=y.shape)
    return y.T


def squared_error(y):
    return lambda scores: ((scores - y).astype(np.float32), np.ones(y.shape, dtype=np.float32))


def grown(y, rounds=8, data=None, valid=None, **changes):
    """An ensemble that follows the squared error of y."""
    data = bin_rows(rows(), COLUMNS, OPTIONS) if data is None else data
    ensemble = Ensemble(PARAMS | changes, data, valid, width=len(y))
    for _ in range(rounds):
        ensemble.update(squared_error(y))
    return ensemble


BATCH = rows()
Y = labels(BATCH, width=3)
MATRIX = tree_matrix(rows(200, seed=1))


def predicted(ensemble, matrix=MATRIX):
    """Scores (width, n) of LightGBM's own booster."""
    return ensemble.booster.predict(matrix, raw_score=True).reshape(len(matrix), -1).T


def forest_of(width, rounds=(4, 0, 7, 2)):
    """Ensembles of so many rounds, and all in one forest."""
    ensembles = [grown(labels(BATCH, width, seed=i), count) for i, count in enumerate(rounds)]
    return ensembles, Forest.join([ensemble.finish() for ensemble in ensembles], width)


FORESTS = {width: forest_of(width) for width in (1, 3)}


def test_codes_start_at_0_and_missing_and_unseen_are_nan():
    x_num = np.array([[1.5], [np.nan], [0], [2]], dtype=np.float32)
    x_cat = np.array([[MISSING], [UNSEEN], [2], [9]], dtype=np.int32)
    matrix = tree_matrix(Batch(x=Features(numbers=x_num, codes=x_cat)))
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.column_stack([x_num, [np.nan, np.nan, 0, 7]]))


def test_rows_are_binned_once_under_plain_names():
    data = bin_rows(BATCH, columns(("a b", "c[0]", 'd"', "é")), OPTIONS)
    assert (data.num_data(), data.num_feature()) == (400, 4)
    assert data.get_feature_name() == ["a_b", "c_0_", "d_", "é"]


def test_bins_of_a_reference_are_shared():
    data = bin_rows(BATCH, COLUMNS, OPTIONS)
    alike = bin_rows(rows(1), COLUMNS, OPTIONS, data)
    assert [alike.feature_num_bin(j) for j in range(4)] == [data.feature_num_bin(j) for j in range(4)]
    assert bin_rows(rows(40, seed=2), COLUMNS, OPTIONS).feature_num_bin(0) < data.feature_num_bin(0)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=8), min_size=4, max_size=4, unique=True))
@example(["a b", "[x, y]", '{"é": 1}', ""])
@example(["a:b,c\n=\t'", "价格", "Tree=0", "a_b"])
@example(["x", "x ", "x\t", "x_1"])
@example(["", " ", "_", "__"])
def test_any_names_get_through_the_text(names):
    data = bin_rows(BATCH, columns(tuple(names)), OPTIONS)
    assert len(set(data.get_feature_name())) == 4
    ensemble = grown(Y[:1], 2, data)
    forest = Forest.join([ensemble.finish()], 1)
    assert forest.booster.feature_name() == data.get_feature_name()
    np.testing.assert_array_equal(forest.predict(0, MATRIX), predicted(ensemble))


def test_gradients_from_outside_and_a_target_grow_the_trees_of_lightgbms_regression():
    data = lgb.Dataset(tree_matrix(BATCH), Y[0], categorical_feature=[3], params=OPTIONS)
    theirs = lgb.train(PARAMS | {"objective": "regression", "boost_from_average": False}, data, 8).predict(MATRIX)
    targeted = Ensemble(PARAMS, bin_rows(BATCH, COLUMNS, OPTIONS), target=Y[0])
    for _ in range(8):
        targeted.update(pytest.fail)  # never asked
    for ensemble in (grown(Y[:1]), targeted):
        np.testing.assert_allclose(predicted(ensemble)[0], theirs, atol=1e-6, rtol=1e-6)


def test_newton_leaves_are_gradients_over_hessians():
    weight = np.random.default_rng(0).uniform(0.5, 2, size=Y[:1].shape).astype(np.float32)
    ensemble = Ensemble(PARAMS | {"learning_rate": 1.0}, bin_rows(BATCH, COLUMNS, OPTIONS))
    ensemble.update(lambda scores: (((scores - Y[:1]) * weight).astype(np.float32), weight))
    scores = ensemble.scores()[0]
    for leaf in np.unique(scores):
        of_leaf = scores == leaf
        assert leaf == pytest.approx(np.average(Y[0, of_leaf], weights=weight[0, of_leaf]), rel=1e-5)


def test_outputs_are_dealt_to_equal_ensembles_in_order():
    y = labels(BATCH, width=4)
    finished = grown(y, 3).finish(2)
    assert finished.rounds == 3
    np.testing.assert_allclose(finished.gains, sum(grown(half, 3).finish().gains for half in (y[:2], y[2:])))
    assert finished.ensembles == [grown(half, 3).finish().ensembles[0] for half in (y[:2], y[2:])]
    forest = Forest.join([finished], 2)
    assert forest.offsets.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(forest.predict(1, MATRIX), predicted(grown(y[2:], 3)))


@pytest.mark.parametrize("width", [1, 2])
def test_scores_are_those_of_predict(width):
    data, valid = bin_rows(BATCH, COLUMNS, OPTIONS), rows(100, seed=5)
    ensemble = grown(Y[:width], data=data, valid=bin_rows(valid, COLUMNS, OPTIONS, data))
    for batch, scores in ((BATCH, ensemble.scores()), (valid, ensemble.scores(of_valid=True))):
        assert scores.shape == (width, len(batch))
        np.testing.assert_allclose(scores, predicted(ensemble, tree_matrix(batch)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("kept", [0, 1, 5, 8])
def test_rolling_back_leaves_the_ensemble_that_never_grew_on(kept, width):
    data = bin_rows(BATCH, COLUMNS, OPTIONS)
    valid = bin_rows(rows(100, seed=5), COLUMNS, OPTIONS, data)
    ensemble, short = (grown(Y[:width], rounds, data, valid) for rounds in (8, kept))
    ensemble.roll_back(kept)
    assert ensemble.rounds == short.rounds == kept
    assert ensemble.finish().ensembles == short.finish().ensembles
    for of_valid in (False, True):
        np.testing.assert_allclose(ensemble.scores(of_valid=of_valid), short.scores(of_valid=of_valid), atol=1e-12)


def test_a_later_round_without_a_split_does_not_count():
    ensemble = grown(Y[:1], 3)
    before = ensemble.scores().copy()
    for _ in range(2):
        ensemble.update(lambda scores: (np.zeros_like(scores), np.ones_like(scores)))
    assert ensemble.rounds == ensemble.finish().rounds == 3
    assert len(ensemble.finish().ensembles[0]) == 3
    np.testing.assert_array_equal(ensemble.scores(), before)


@pytest.mark.parametrize("target", [None, Y[0]])
def test_a_first_round_without_a_split_does_not_count(target):
    """Not even the mean of the target is fitted: too few rows for a split teach an ensemble nothing."""
    few = PARAMS | {"min_data_in_leaf": 1_000}
    ensemble = Ensemble(few, bin_rows(BATCH, COLUMNS, OPTIONS), target=target)
    for _ in range(2):
        ensemble.update(squared_error(Y[:1]))
    np.testing.assert_array_equal(ensemble.scores(), np.zeros((1, 400)))
    assert_is_nothing(ensemble)


def test_cut_takes_back_all_rounds_after_a_first_one_without_a_split():
    ensemble = grown(Y[:1], 0)
    ensemble.update(lambda scores: (np.zeros_like(scores), np.ones_like(scores)))
    ensemble.update(squared_error(Y[:1]))
    assert ensemble.rounds == 1
    ensemble.roll_back(0)
    assert_is_nothing(ensemble)


def assert_is_nothing(ensemble):
    finished = ensemble.finish()
    assert ensemble.rounds == finished.rounds == finished.gains.sum() == 0
    np.testing.assert_array_equal(Forest.join([finished], 1).predict(0, MATRIX), np.zeros((1, 200)))


def test_an_output_without_a_split_keeps_step_with_the_others():
    def one_of_two(scores):
        gradient, hessian = squared_error(Y[:2])(scores)
        gradient[1] = 0
        return gradient, hessian

    ensemble = grown(Y[:2], 0)
    for _ in range(3):
        ensemble.update(one_of_two)
    forest = Forest.join([ensemble.finish(2)], 1)
    assert forest.offsets.tolist() == [0, 3, 6]
    np.testing.assert_array_equal(forest.predict(0, MATRIX), predicted(grown(Y[:1], 3)))
    np.testing.assert_array_equal(forest.predict(1, MATRIX), np.zeros((1, 200)))


@pytest.mark.parametrize("width", FORESTS)
def test_every_part_of_a_forest_is_its_ensemble_bit_by_bit(width):
    ensembles, forest = FORESTS[width]
    assert (forest.offsets.tolist(), forest.width) == ([0, 4, 4, 11, 13], width)
    assert "cat_threshold" in forest.text
    for i, ensemble in enumerate(ensembles):
        np.testing.assert_array_equal(forest.predict(i, MATRIX), predicted(ensemble) if ensemble.rounds else 0)
        np.testing.assert_array_equal(forest.predict(i, MATRIX[:1], n_threads=2), forest.predict(i, MATRIX)[:, :1])


@pytest.mark.parametrize("width", FORESTS)
def test_rows_get_all_scores_at_once_bit_by_bit(width):
    _, forest = FORESTS[width]
    expected = np.concatenate([forest.predict(i, MATRIX) for i in range(4)])
    many = np.tile(MATRIX, (2, 1))
    np.testing.assert_array_equal(forest.predict_all(many, 1), np.tile(expected, 2))
    for n in (1, 16, 17):
        np.testing.assert_array_equal(forest.predict_all(MATRIX[:n], 1), expected[:, :n])


@pytest.mark.parametrize("width", FORESTS)
def test_a_forest_without_trees_gives_0(width):
    nothing = grown(Y[:width], 0).finish()
    forest = Forest.join([nothing, nothing], width)
    assert forest.offsets.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(forest.predict(1, MATRIX), np.zeros((width, 200)))
    for n in (1, 200):
        np.testing.assert_array_equal(forest.predict_all(MATRIX[:n], 1), np.zeros((2 * width, n)))
    exported = forest.export({0: 1.0}, [0.5] * width, "regression" if width == 1 else f"multiclass num_class:{width}")
    np.testing.assert_array_equal(exported.predict(MATRIX, raw_score=True), np.full((200, width), 0.5).squeeze())


@pytest.mark.parametrize("width", FORESTS)
def test_text_and_offsets_are_the_whole_forest(width):
    _, forest = FORESTS[width]
    for text in (forest.text, forest.booster.model_to_string(num_iteration=-1)):
        copy = Forest(text=TreeText(text), offsets=forest.offsets)
        for i in range(4):
            np.testing.assert_array_equal(copy.predict(i, MATRIX), forest.predict(i, MATRIX))


@given(
    st.sampled_from(sorted(FORESTS)),
    st.dictionaries(st.integers(0, 3), st.floats(-1e3, 1e3), max_size=4),
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
)
def test_export_is_the_weighted_sum(width, factors, start):
    _, forest = FORESTS[width]
    start = start[:width]
    booster = forest.export(factors, start, "regression" if width == 1 else f"multiclass num_class:{width}")
    expected = np.array(start)[:, None] + sum(
        (factor * forest.predict(i, MATRIX) for i, factor in factors.items()), np.zeros((width, 200))
    )
    scale = 1 + np.abs(start).max() + 10 * sum(map(abs, factors.values()))
    scores = booster.predict(MATRIX, raw_score=True).reshape(200, width).T
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12 * scale)
    contributions = booster.predict(MATRIX, pred_contrib=True).reshape(200, width, 5).sum(axis=2).T
    np.testing.assert_allclose(contributions, scores, rtol=0, atol=1e-12 * scale)


def vector_ensemble(n=400, n_valid=100, **changes):
    """Trees on a gradient, and rows that are followed."""
    batch, valid = rows(n), rows(n_valid, seed=1)
    data = bin_rows(batch, COLUMNS, OPTIONS)
    return VectorEnsemble(PARAMS | changes, data, batch, bin_rows(valid, COLUMNS, OPTIONS, data), valid), batch, valid


def test_leaves_are_those_of_lightgbm():
    ensemble, batch, valid = vector_ensemble()
    rng, found, values = np.random.default_rng(0), [], []
    for _ in range(6):
        grown = ensemble.grow(rng.normal(size=400).astype(np.float32), np.ones(400, dtype=np.float32))
        n_leaves, leaves = grown
        found.append(leaves)
        values.append(rng.normal(size=(n_leaves, 3)))
    done = ensemble.finish()
    forest = VectorForest.join(done.header, done.ensembles[0], values, 3)
    assert len(forest) == ensemble.rounds == 6
    for i, own in enumerate((batch, valid)):
        expected = forest.find_leaves(tree_matrix(own)) - forest._offsets[:-1]
        np.testing.assert_array_equal(np.stack([leaves[i] for leaves in found], axis=1), expected)
    summed = forest.sum_values(forest.find_leaves(tree_matrix(valid)))
    by_hand = sum(own[leaves[1]] for own, leaves in zip(values, found, strict=True))
    np.testing.assert_allclose(summed, by_hand, atol=1e-12)
    single = [forest.sum_values(forest.find_leaves(tree_matrix(valid)[i : i + 1])) for i in range(20)]
    np.testing.assert_array_equal(np.concatenate(single), summed[:20])
    np.testing.assert_array_equal(
        forest.sum_values(forest.find_leaves(tree_matrix(valid)), slice(1, 2))[:, 0], summed[:, 1]
    )


def test_leaves_of_equal_values_are_told_apart(monkeypatch):
    asked = []
    monkeypatch.setattr(trees, "_nearest", lambda *args: asked.append(_nearest(*args)) or asked[-1])
    batch = rows()
    numbers = np.random.default_rng(0).integers(-1, 2, (400, 3)).astype(np.float32)
    batch = replace(batch, x=replace(batch.x, numbers=numbers))
    ensemble = VectorEnsemble(PARAMS | {"num_leaves": 3}, bin_rows(batch, COLUMNS, OPTIONS), batch)
    middle = batch.x.numbers[:, 0] == 0
    gradient = np.where(middle, 1, -1).astype(np.float32)  # on both sides of the middle, leaves have one value
    for _ in range(3):
        n_leaves, (leaf,) = ensemble.grow(gradient, np.ones(400, dtype=np.float32))
        booster = ensemble._trees.booster
        newest = booster.current_iteration() - 1
        expected = booster.predict(tree_matrix(batch), pred_leaf=True, start_iteration=newest, num_iteration=1)
        np.testing.assert_array_equal(leaf, np.ravel(expected))
        assert len(np.unique(leaf)) == n_leaves
    assert any(found is None for found in asked)


def test_values_are_found_by_search_and_by_table():
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=9), np.array([0.0, 1e-7, 1.0])):
        index = rng.integers(0, len(values), 500)
        changes = values[index] + 1e-12 * rng.normal(size=500)
        np.testing.assert_array_equal(_nearest(changes.copy(), values, 1e-10), index)
        assert _nearest(changes, np.append(values, values[:1]), 1e-10) is None


def test_trees_without_any_value_are_left_out():
    ensemble, batch, _ = vector_ensemble()
    for _ in range(2):
        ensemble.grow(np.nan_to_num(batch.x.numbers[:, 0]), np.ones(400, dtype=np.float32))
    done = ensemble.finish()
    sizes = [int(tree.partition("num_leaves=")[2].split()[0]) for tree in done.ensembles[0]]
    values = [np.zeros((sizes[0], 2)), np.ones((sizes[1], 2))]
    assert len(VectorForest.join(done.header, done.ensembles[0], values, 2)) == 1
    empty = VectorForest.join(done.header, [], [], 2)
    assert len(empty) == 0
    np.testing.assert_array_equal(empty.sum_values(empty.find_leaves(tree_matrix(batch))), np.zeros((400, 2)))
    np.testing.assert_array_equal(
        empty.export(slice(0, 1), np.array([3.0]), 1.0, "regression").predict(tree_matrix(batch)), 3
    )
    with pytest.raises(ValueError, match="there are values of 1 leaves, expected 0"):
        VectorForest(values=np.zeros((1, 2)), text=empty.text)


def test_limits_shrink_with_few_rows_and_stay_with_many():
    params = {"min_child_samples": 20, "num_leaves": 16, "bagging_fraction": 0.5, "bagging_freq": 1, "seed": 3}
    lightgbm_defaults = {"min_data_per_group": 100, "cat_smooth": 10, "cat_l2": 10}
    assert small_limits(params, 1000) == params | lightgbm_defaults
    few = {"min_child_samples": 4, "min_data_per_group": 4, "cat_smooth": 0.4, "cat_l2": 0.4}
    assert small_limits(params, 40) == params | few
    one = {"min_child_samples": 1, "num_leaves": 2, "min_data_per_group": 1}
    assert small_limits(params, 1) == params | one | {"cat_smooth": 0.01, "cat_l2": 0.01}
