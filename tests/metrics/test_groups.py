"""Scores by group hold what scikit-learn, or a count of all orders of tied rows, says of every group."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from tabmtl.base.schema import TabmtlWarning
from tabmtl.metrics.groups import BY_GROUP
from tabmtl.metrics.intervals import score_interval, score_intervals
from tabmtl.metrics.metric import find_metric
from tabmtl.metrics.scores import Answered, score_metrics, score_task, undefined_reason
from tabmtl.targets import Task

CLASSES = {"binary": (0, 1), "ordinal": (0, 1, 2, 3)}


def draw(kind, rng):
    """Rows of groups in a mixed order, with ties, missing labels, weights, and groups whose labels are alike."""
    group = rng.permutation(np.repeat(np.arange(30), np.arange(30) % 7))
    y = np.minimum(rng.poisson(0.7, len(group)), len(CLASSES[kind]) - 1).astype(float)
    p = rng.integers(1, 4, (len(group), len(CLASSES[kind]))).astype(float)
    y[rng.random(len(y)) < 0.05] = np.nan
    return y, p / p.sum(axis=1, keepdims=True), rng.integers(0, 4, len(y)) / 2, group


def orders(score):
    """All orders of rows from the highest score, by every order of those that are tied."""
    return [order for order in permutations(range(len(score))) if (np.diff(score[list(order)]) <= 0).all()]


def auc(y, score, weight, k):
    if y.max() == 1:
        return roc_auc_score(y, score, sample_weight=weight)
    pairs = [(i, j) for i in range(len(y)) for j in range(len(y)) if y[i] > y[j]]
    right = [(score[i] > score[j]) + (score[i] == score[j]) / 2 for i, j in pairs]
    return np.average(right, weights=[weight[i] * weight[j] for i, j in pairs])


def ndcg(y, score, weight, k):
    return ndcg_score([y], [score], k=k)


def reciprocal_rank(y, score, weight, k):
    first = [1 + np.flatnonzero(y[list(order)] > 0)[0] for order in orders(score)]
    return np.mean([0 if k is not None and rank > k else 1 / rank for rank in first])


def hit(y, score, weight, k):
    return np.mean([(y[list(order)][:k] > 0).any() for order in orders(score)])


REFERENCES = {"gauc": (auc, None), "mrr": (reciprocal_rank, None), "mrr@2": (reciprocal_rank, 2)}
REFERENCES |= {f"ndcg@{k}": (ndcg, k) for k in (1, 3, 10)} | {f"hit_rate@{k}": (hit, k) for k in (1, 3, 10)}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("metric", REFERENCES)
def test_a_score_is_the_mean_of_those_of_the_groups(metric, kind):
    y, p, weight, group = draw(kind, np.random.default_rng(0))
    reference, k = REFERENCES[metric]
    found, weights = [], []
    for each in np.unique(group):
        own = (group == each) & ~np.isnan(y) & (weight > 0)
        if len(set(y[own])) < 2:
            continue
        score = (p[own] * np.arange(p.shape[1])).sum(axis=1)
        found.append(reference(y[own], score, weight[own], k))
        weights.append(weight[own].sum() if metric == "gauc" else weight[own].mean())
    assert 5 < len(found) < 25
    task = Task(name="a", kind=kind, classes=CLASSES[kind], metric=metric)
    expected = pytest.approx(np.average(found, weights=weights), abs=1e-12)
    assert score_task(task, y, p, weight, group) == expected
    order = np.random.default_rng(1).permutation(len(y))
    assert score_task(task, y[order], p[order], weight[order], 7**9 * group[order]) == expected


def test_many_tied_rows_count_as_all_their_orders():
    y = np.zeros(5000)
    y[:3] = 1
    p, group = np.full((5000, 2), 0.5), np.zeros(5000, dtype=int)
    scores = {
        name: metric.score(y.astype(int), p, sample_weight=None, group=group) for name, metric in BY_GROUP.items()
    }
    assert scores["gauc"] == 0.5
    assert scores["hit_rate@10"] == pytest.approx(1 - np.prod([(4987 + i) / (4997 + i) for i in (1, 2, 3)]), rel=1e-6)
    misses = np.cumprod([(4997 - i) / (5000 - i) for i in range(4997)])  # no relevant row among the first
    rank = np.arange(1, 4999)
    assert scores["mrr"] == pytest.approx((-np.diff(np.append(1, np.append(misses, 0))) / rank).sum(), rel=1e-6)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("metric", BY_GROUP)
def test_influence_of_a_group_is_the_slope_of_the_score_in_its_weight(metric, kind):
    y, p, weight, group = draw(kind, np.random.default_rng(2))
    task = Task(name="a", kind=kind, classes=CLASSES[kind], metric=metric)
    rows = np.isin(group, [g for g in group if len(set(y[(group == g) & ~np.isnan(y) & (weight > 0)])) > 1])
    rows &= ~np.isnan(y) & (weight > 0)
    labels = y[rows].astype(int)
    influence = find_metric(task.kind.metrics, metric).influence(labels, p[rows], weight[rows], group[rows])
    for each in np.unique(group[rows]):
        step = 1e-4 * (group == each) * weight
        slope = (score_task(task, y, p, weight + step, group) - score_task(task, y, p, weight - step, group)) / 2e-4
        assert influence[group[rows] == each].sum() == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("metric", BY_GROUP)
def test_standard_errors_are_the_spread_over_draws_of_groups(metric):
    rng, task = np.random.default_rng(3), Task(name="a", kind="binary", metric=metric.replace("10", "2"))
    found = []
    for _ in range(200):
        group = np.repeat(np.arange(40), rng.integers(3, 12, 40))
        taste, base = rng.normal(1, 1, 40)[group], rng.normal(-1, 1, 40)[group]
        x = rng.normal(size=len(group))
        y = (base + taste * x + rng.logistic(size=len(group)) > 0).astype(float)
        p = 1 / (1 + np.exp(-x))
        found.append(score_interval(task, y, np.column_stack([1 - p, p]), None, group))
    scores, errors, lows, highs = np.array(found).T
    assert np.mean(errors) == pytest.approx(np.std(scores, ddof=1), rel=0.12)
    assert 0.91 <= np.mean((lows < scores.mean()) & (scores.mean() < highs)) <= 0.99


def test_groups_of_one_label_are_left_out_and_counted():
    y = np.array([0, 1, 1, 1, 0, 0, 1, np.nan, np.nan, 0, 1])
    group = np.array([3, 3, 3, 5, 7, 7, 8, 8, 9, 4, 4])
    p = np.linspace(0.1, 0.9, 11)
    task = Task(name="a", kind="binary", metric=("gauc", "roc_auc"))
    answered = Answered([task], y[:, None], [np.column_stack([1 - p, p])], group=group)
    scores = score_metrics(answered)
    assert scores == {"a": 1.0} and scores.n_groups == {"a": (2, 3)}
    assert "2 groups count, 3 of labels all alike do not" in scores._repr_html_()
    table = score_intervals(*answered)
    assert table.select("metric", "n_labelled", "n_groups", "n_left_out").rows() == [
        ("gauc", 5, 2, 3),
        ("roc_auc", 9, 5, 0),
    ]


def test_without_a_group_of_two_labels_there_is_no_score():
    task, group = Task(name="a", kind="binary", metric="mrr"), np.array([0, 0, 1])
    y, p = np.array([1.0, 1.0, 0.0]), np.full((3, 2), 0.5)
    with pytest.warns(
        TabmtlWarning, match="task 'a': a score by group is undefined: no group has two different labels"
    ):
        assert np.isnan(score_task(task, y, p, None, group))
    assert undefined_reason(task, y, None, group) == "no group has two different labels"


@pytest.mark.parametrize("metric", ["ndcg", "hit_rate", "ndcg@0", "ndcg@-1", "ndcg@1.5", "gauc@3", "mrr@", "ndcg@03"])
def test_names_of_no_metric_are_refused(metric):
    with pytest.raises(ValueError, match=r"metric '.*' does not fit binary tasks; choose one of .*'gauc', 'ndcg@10'"):
        Task(name="a", kind="binary", metric=metric)
