"""R-MTGB with blocks left out is plain LightGBM: pooled, per task, or the one after the other."""

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from conformance import tiny
from scipy.special import expit, logit, softmax

from tabmtl import RMTGB
from tabmtl.synth import make_outlier_tasks
from tabmtl.training.watch import Watch

#: As the estimator has it, in LightGBM's words.
PARAMS = {
    "learning_rate": 0.05,
    "num_leaves": 16,
    "min_data_in_leaf": 20,
    "lambda_l2": 0.1,
    "boost_from_average": False,
    "force_row_wise": True,
    "deterministic": True,
    "seed": 0,
    "num_threads": 1,
    "verbosity": -1,
}
BINNED = {"max_bin": 255, "feature_pre_filter": False, "num_threads": 1, "verbosity": -1}

every_kind = pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])


def table(kind, n_tasks=4, n_train=120):
    """A long table of a kind, its rows sorted by task."""
    bench = make_outlier_tasks(n_tasks=n_tasks, n_outliers=n_tasks // 4, n_train=n_train, n_test=0, random_state=0)
    order = bench.X["task"].arg_sort()
    X, y = bench.X[order], bench.y[order]
    if kind == "binary":
        y = pl.Series("y", np.where(y > 0.3, "yes", "no"))
    if kind == "multiclass":
        y = pl.Series("y", ["c", "a", "b"]).gather(np.digitize(y, [-0.4, 0.6]))
    return X, y


def fit(X, y, shared, outlier, own, **options):
    estimator = RMTGB(
        task_column="task" if "task" in X.columns else None,
        n_estimators_shared=shared,
        n_estimators_outlier=outlier,
        n_estimators_task=own,
        early_stopping=False,
        random_state=0,
        **options,
    )
    return estimator.fit(X, y)


def answer(estimator, X, kind):
    """Numbers an estimator says about a long table: values or probabilities."""
    return estimator.predict(X).to_numpy() if kind == "regression" else estimator.predict_proba(X)


def codes(y, kind):
    """Labels as LightGBM takes them: standardised values or class numbers."""
    if kind == "regression":
        return (y.to_numpy() - y.mean()) / y.std(ddof=0)
    return np.searchsorted(np.unique(y.to_list()), y.to_list()).astype(float)


def constant(labels, kind):
    """The best constant score, one per output."""
    if kind == "regression":
        return np.array([labels.mean()])
    if kind == "binary":
        return logit([labels.mean()])
    return np.log(np.bincount(labels.astype(int), minlength=3) / len(labels))


def boost(binned_rows, labels, scores, n_rounds, kind, **params):
    """Raw scores (n, K) after so many more rounds of plain LightGBM on a matrix and its bins."""
    matrix, data = binned_rows
    options = {"objective": kind, "num_class": 3 if kind == "multiclass" else 1}
    options |= {} if kind == "regression" else {"max_delta_step": 20}
    data.set_label(labels).set_init_score(scores if scores.shape[1] > 1 else scores[:, 0])
    booster = lgb.Booster({**PARAMS, **options, **params}, data)
    for _ in range(n_rounds):
        booster.update()
    return scores + booster.predict(matrix, raw_score=True).reshape(scores.shape)


def linked(scores, y, kind):
    """Raw scores (n, K) as the estimator answers."""
    if kind == "regression":
        return scores[:, 0] * y.std(ddof=0) + y.mean()
    if kind == "binary":
        return np.column_stack([1 - expit(scores[:, 0]), expit(scores[:, 0])])
    return softmax(scores, axis=1)


def binned(X):
    """Features (n, p), and the same binned."""
    matrix = X.drop("task", strict=False).to_numpy().astype(np.float32)
    return matrix, lgb.Dataset(matrix, label=np.zeros(len(X)), params=BINNED).construct()


def part(binned_rows, rows):
    """Some rows, with the bins of all."""
    matrix, data = binned_rows
    return matrix[rows], data.subset(rows.tolist()).construct()


def own_constants(residuals, hessians, tasks, kind):
    """Newton step of a constant for every task, shrunk as far as chance explains the differences: at every row."""
    names, index = np.unique(tasks, return_inverse=True)
    r, r2, h = (
        np.stack([part[index == t].sum(0) for t in range(len(names))]) for part in (residuals, residuals**2, hessians)
    )
    step = r / h if kind == "regression" else np.clip(r / h, -2, 2)
    error = r2 / h**2
    between = np.maximum(0, (step**2 - error).mean(axis=0))
    return (step * between / (between + error))[index]


def derivatives(scores, labels, kind):
    """-∂L/∂F and ∂²L/∂F² (n, K)."""
    if kind == "regression":
        return labels[:, None] - scores, np.ones_like(scores)
    if kind == "binary":
        p = expit(scores)
        return labels[:, None] - p, p * (1 - p)
    p = softmax(scores, axis=1)
    return np.eye(3)[labels.astype(int)] - p, 1.5 * p * (1 - p)


@every_kind
def test_block_1_alone_is_pooled_lightgbm(kind):
    X, y = table(kind)
    labels = codes(y, kind)
    start = np.tile(constant(labels, kind), (len(X), 1))
    expected = linked(boost(binned(X), labels, start, 20, kind), y, kind)
    said = answer(fit(X, y, 20, 0, 0), X, kind)
    np.testing.assert_allclose(said, expected, atol=1e-6, rtol=1e-6)


@every_kind
def test_block_3_alone_is_one_lightgbm_per_task_on_the_same_bins(kind):
    """Leaves of a task hold 20 rows, or a tenth of its rows if that is less."""
    X, y = table(kind, n_train=250)
    kept = pl.Series(np.arange(len(X)) >= 205)  # 45 rows are left of the first task
    X, y = X.filter(kept), y.filter(kept)
    labels, whole, tasks = codes(y, kind), binned(X), X["task"].to_numpy()
    expected = []
    for task, least in {"t0": 4, "t1": 20, "t2": 20, "t3": 20}.items():
        rows = np.flatnonzero(tasks == task)
        start = np.tile(constant(labels[rows], kind), (len(rows), 1))
        expected.append(boost(part(whole, rows), labels[rows], start, 20, kind, min_data_in_leaf=least))
    said = answer(fit(X, y, 0, 0, 20), X, kind)
    np.testing.assert_allclose(said, linked(np.concatenate(expected), y, kind), atol=1e-6, rtol=1e-6)


@every_kind
def test_without_block_2_each_task_boosts_on_what_pooled_lightgbm_leaves(kind):
    """MTGB, with a constant for each task between the two."""
    X, y = table(kind)
    labels, whole, tasks = codes(y, kind), binned(X), X["task"].to_numpy()
    scores = boost(whole, labels, np.tile(constant(labels, kind), (len(X), 1)), 10, kind)
    scores = scores + own_constants(*derivatives(scores, labels, kind), tasks, kind)
    for task in np.unique(tasks):
        rows = np.flatnonzero(tasks == task)
        scores[rows] = boost(part(whole, rows), labels[rows], scores[rows], 10, kind, min_data_in_leaf=12)
    said = answer(fit(X, y, 10, 0, 10), X, kind)
    np.testing.assert_allclose(said, linked(scores, y, kind), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("layout", ["long", "wide"])
@every_kind
def test_a_single_task_is_plain_boosting(kind, layout):
    X, y = table(kind, n_tasks=1, n_train=250)
    X = X if layout == "long" else X.drop("task")
    labels = codes(y, kind)
    start = np.tile(constant(labels, kind), (len(X), 1))
    expected = linked(boost(binned(X), labels, start, 15, kind), y, kind)
    estimator = fit(X, y, 5, 5, 15)
    assert estimator.block_rounds_.drop("task").row(0) == (0, 0, 15)
    np.testing.assert_allclose(answer(estimator, X, kind), expected, atol=1e-6, rtol=1e-6)


def test_losses_share_the_time_by_their_labels(monkeypatch):
    shares, part = [], Watch.part

    def note(watch, share):
        shares.append(share)
        return part(watch, share)

    monkeypatch.setattr(Watch, "part", note)
    X = np.random.default_rng(0).normal(size=(80, 2))
    y = pl.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 0] > 0})
    y = y.with_columns(pl.when(pl.int_range(80) < 40).then(pl.col("a", "b")))
    tiny(RMTGB, early_stopping=False).fit(X, y)
    assert shares == [1 / 2, 1]  # of two regressions with 40 labels each, and of a classification with 80
    shares.clear()
    tiny(RMTGB).fit(X, y)
    assert shares[-3:] == [1, 1, 1]  # all that is left to the fit of all rows, whose rounds are known


def test_a_time_limit_lets_all_tasks_grow_side_by_side(monkeypatch):
    X = np.random.default_rng(0).normal(size=(80, 2))
    y = pl.DataFrame({"a": X[:, 0], "b": X[:, 1]})
    rounds = []
    monkeypatch.setattr(Watch, "cuts", lambda *_: rounds.append(1) or len(rounds) >= 7)
    model = tiny(RMTGB, early_stopping=False, n_estimators_shared=0, n_estimators_outlier=0, time_limit=1.0).fit(X, y)
    assert model.block_rounds_["own"].to_list() == [7, 7]
