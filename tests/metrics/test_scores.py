"""Scores equal scikit-learn on the labelled rows, or say why they are undefined."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from tabmtl.base.schema import TabmtlWarning
from tabmtl.metrics.scores import (
    mean_score,
    score_task,
    score_tasks,
    undefined_reason,
)
from tabmtl.targets import KINDS, Task, find_kind

N_ROWS = 120


def d2_of(y, p, w, power):
    """The share of the deviance that is explained."""
    return sk.d2_tweedie_score(y, p, sample_weight=w, power=power)


def d2_of_pinball(y, p, w, level):
    """The share of the pinball loss that is explained."""
    return sk.d2_pinball_score(y, p, sample_weight=w, alpha=level)


def deviance_of(y, p, w, power):
    """The deviance, higher is better."""
    return -sk.mean_tweedie_deviance(y, p, sample_weight=w, power=power)


def gap_in_bins(called, came, w):
    """The gap of what was called and what came in each of ten bins, weighed by their shares, less its noise."""
    w, bins = np.ones(len(came)) if w is None else w, []
    for low in np.arange(10) / 10:
        rows = (called >= low) & ((called < low + 0.1) | (low == 0.9))
        if rows.any():
            parts = w[rows] / w[rows].sum()
            noise = sum(part**2 * p * (1 - p) for part, p in zip(parts, called[rows], strict=True))
            bins.append((w[rows].sum() / w.sum(), abs(parts @ (called - came)[rows]), noise))
    squares = sum(share * (gap**2 - noise) for share, gap, noise in bins)
    beyond = squares - np.sqrt(sum(2 * (share * noise) ** 2 for share, _, noise in bins))
    spread = np.sqrt(max(beyond, 0))
    taken = [np.sqrt(2 / np.pi) * (np.hypot(spread, np.sqrt(noise)) - spread) for *_, noise in bins]
    return sum(share * (gap - less) for (share, gap, _), less in zip(bins, taken, strict=True))


@pytest.mark.parametrize(("slope", "n"), [(1.0, 200), (1.0, 1_000), (2.0, 1_000)])
def test_the_calibration_error_is_the_true_one_on_average(slope, n):
    """It would be .06 for a calibrated model and 200 rows, if the noise of bins counted."""
    rng, task = np.random.default_rng(0), Task(name="late", kind="binary", metric="neg_expected_calibration_error")
    found, odds = [], rng.normal(size=100_000)
    p, true = 1 / (1 + np.exp(-slope * odds)), 1 / (1 + np.exp(-odds))
    expected = np.abs(np.bincount((10 * p).astype(int), p - true)).sum() / len(p)
    for rows in rng.permutation(100_000)[: 100 * n].reshape(100, n):
        y = (rng.random(n) < true[rows]).astype(float)
        found.append(-score_task(task, y, np.column_stack([1 - p[rows], p[rows]])))
    assert np.mean(found) == pytest.approx(expected, abs=0.01)


BINARY = {
    None: lambda y, p, w: sk.roc_auc_score(y, p[:, 1], sample_weight=w),
    "average_precision": lambda y, p, w: sk.average_precision_score(y, p[:, 1], sample_weight=w),
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p.argmax(1), sample_weight=w),
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(y, p.argmax(1), sample_weight=w),
    "neg_log_loss": lambda y, p, w: -sk.log_loss(y, p, sample_weight=w),
    "neg_brier_score": lambda y, p, w: -sk.brier_score_loss(y, p[:, 1], sample_weight=w),
    "neg_expected_calibration_error": lambda y, p, w: -gap_in_bins(p[:, 1], y, w),
    "neg_log_predicted_over_observed": lambda y, p, w: -abs(np.log(np.average(p, 0, w)[1] / np.average(y, weights=w))),
    "f1": lambda y, p, w: sk.f1_score(y, p.argmax(1), sample_weight=w),
    "f1_macro": lambda y, p, w: sk.f1_score(y, p.argmax(1), average="macro", sample_weight=w),
}
MULTICLASS = {
    None: lambda y, p, w: sk.roc_auc_score(y, p, multi_class="ovr", sample_weight=w),
    **{name: BINARY[name] for name in ("accuracy", "balanced_accuracy", "neg_log_loss", "f1_macro")},
    "neg_brier_score": lambda y, p, w: -sk.brier_score_loss(y, p, sample_weight=w),
    "neg_expected_calibration_error": lambda y, p, w: -gap_in_bins(p.max(axis=1), y == p.argmax(axis=1), w),
}
REGRESSION = {
    None: lambda y, p, w: sk.r2_score(y, p, sample_weight=w),
    "explained_variance": lambda y, p, w: sk.explained_variance_score(y, p, sample_weight=w),
    "neg_root_mean_squared_error": lambda y, p, w: -sk.root_mean_squared_error(y, p, sample_weight=w),
    "neg_mean_absolute_error": lambda y, p, w: -sk.mean_absolute_error(y, p, sample_weight=w),
    "neg_mean_squared_error": lambda y, p, w: -sk.mean_squared_error(y, p, sample_weight=w),
}


def of_median(score, **options):
    """A score of scikit-learn's for the first class up to which the probabilities sum to a half."""
    return lambda y, p, w: score(y, (np.cumsum(p, axis=1) < 0.5).sum(axis=1), sample_weight=w, **options)


ORDINAL = {
    None: of_median(sk.cohen_kappa_score, weights="quadratic", labels=range(4)),
    "neg_mean_absolute_error": lambda y, p, w: -of_median(sk.mean_absolute_error)(y, p, w),
    "accuracy": of_median(sk.accuracy_score),
}
POWERS = {"poisson": 1, "gamma": 2, "tweedie": 1.5}
CASES = [
    *(("binary", metric, oracle) for metric, oracle in BINARY.items()),
    *(("multiclass", metric, oracle) for metric, oracle in MULTICLASS.items()),
    *(("ordinal", metric, oracle) for metric, oracle in ORDINAL.items()),
    *(("regression", metric, oracle) for metric, oracle in REGRESSION.items()),
    ("quantile:0.8", None, partial(d2_of_pinball, level=0.8)),
    ("quantile", None, lambda y, p, w: sk.d2_absolute_error_score(y, p, sample_weight=w)),
    ("quantile:0.8", "neg_mean_pinball_loss", lambda y, p, w: -sk.mean_pinball_loss(y, p, sample_weight=w, alpha=0.8)),
    ("huber", None, lambda y, p, w: sk.d2_absolute_error_score(y, p, sample_weight=w)),
    *((kind, None, partial(d2_of, power=power)) for kind, power in POWERS.items()),
    *((kind, f"neg_mean_{kind}_deviance", partial(deviance_of, power=power)) for kind, power in POWERS.items()),
]


def some_rows(kind, rng, n=N_ROWS):
    """Labels with holes, outputs, and weights of which some are 0."""
    n_classes = 2 if kind == "binary" else 4
    if find_kind(kind).answer == "values":
        y, output = rng.gamma(5.0, 1.0, n), rng.gamma(5.0, 1.0, n)
    else:
        y, output = rng.integers(0, n_classes, n).astype(float), rng.dirichlet(np.ones(n_classes), n)
    y[rng.random(n) < 0.3] = np.nan
    return y, output, np.where(rng.random(n) < 0.2, 0.0, rng.random(n))


@pytest.mark.parametrize(("kind", "metric", "oracle"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_score_is_that_of_scikit_learn_on_the_labelled_rows(kind, metric, oracle, weighted):
    y, output, weight = some_rows(kind, np.random.default_rng(3))
    labelled = ~np.isnan(y)
    task = Task(name="a", kind=kind, metric=metric)
    score = score_task(task, y, output, weight if weighted else None)
    expected = oracle(y[labelled], output[labelled], weight[labelled] if weighted else None)
    assert score == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("kind", "oracle"), [("binary", BINARY[None]), ("multiclass", MULTICLASS[None])])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decimals", [0, 1])
def test_tied_scores_count_by_half(kind, oracle, weighted, decimals):
    y, output, weight = some_rows(kind, np.random.default_rng(6))
    rows = ~np.isnan(y) & (weight > 0)
    y, weight = y[rows], weight[rows] if weighted else None
    output = output[rows].round(decimals)
    output[:, 0] = 1 - output[:, 1:].sum(axis=1)  # scikit-learn wants them to sum to one
    assert score_task(Task(name="a", kind=kind), y, output, weight) == pytest.approx(oracle(y, output, weight))


@pytest.mark.parametrize(("kind", "metric", "oracle"), CASES)
def test_float32_scores_alike_and_silently(kind, metric, oracle):
    y, output, _ = some_rows(kind, np.random.default_rng(5))
    task = Task(name="a", kind=kind, metric=metric)
    score = score_task(task, y.astype(np.float32), output.astype(np.float32))
    assert score == pytest.approx(score_task(task, y, output), abs=1e-4)


@given(st.lists(st.sampled_from([0.0, 1.0, 3.0, math.nan]), min_size=1, max_size=30), st.integers(0, 9))
def test_multiclass_scores_bear_absent_classes(labels, seed):
    y = np.array(labels)
    probability = np.random.default_rng(seed).dirichlet(np.ones(4), len(y))
    for metric in MULTICLASS:
        task = Task(name="a", kind="multiclass", metric=metric, classes=("p", "q", "r", "s"))
        if undefined_reason(task, y) is None:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert math.isfinite(score_task(task, y, probability))
        else:
            with pytest.warns(TabmtlWarning, match="task 'a'"):
                assert math.isnan(score_task(task, y, probability))


@pytest.mark.parametrize(
    ("kind", "metric", "labels", "reason"),
    [
        ("binary", None, [math.nan, math.nan], "no labelled row"),
        ("binary", "accuracy", [math.nan, math.nan], "no labelled row"),
        ("binary", None, [1.0, math.nan], "one single class"),
        ("multiclass", "balanced_accuracy", [1.0, 1.0], "one single class"),
        ("regression", None, [2.5, math.nan], "one single labelled row"),
        ("regression", "explained_variance", [2.5, 2.5], "every label is 2.5"),
    ],
)
def test_undefined_score_is_nan_and_names_task_and_reason(kind, metric, labels, reason):
    task = Task(name="late", kind=kind, metric=metric)
    y = np.array(labels)
    output = np.zeros(2) if kind == "regression" else np.full((2, 2), 0.5)
    with pytest.warns(TabmtlWarning, match=f"task 'late'.*{reason}"):
        assert math.isnan(score_task(task, y, output))
    with pytest.warns(TabmtlWarning, match=reason):
        assert score_tasks([task], y[:, None], [output]) == {"late": None}


def test_losses_and_accuracy_of_one_row_are_defined():
    y = np.array([1.0, math.nan])
    probability = np.array([[0.2, 0.8], [0.5, 0.5]])
    scored = {
        metric: score_task(Task(name="a", kind="binary", metric=metric), y, probability)
        for metric in ("accuracy", "neg_log_loss")
    }
    assert scored == {"accuracy": 1.0, "neg_log_loss": pytest.approx(math.log(0.8))}
    error = Task(name="a", kind="regression", metric="neg_mean_absolute_error")
    assert score_task(error, y, np.array([1.5, 0.0])) == -0.5


NUMBERS = Task(name="a", kind="regression")
LABELS = np.array([0.0, 1.0, 1.0])
REFUSED = [
    ("task 'a'.*diverged", lambda: score_task(NUMBERS, LABELS, np.array([1.0, math.nan, 0.0]))),
    ("each of 1 tasks, got 2 columns and 1 outputs", lambda: score_tasks([NUMBERS], np.zeros((3, 2)), [LABELS])),
    *((r"of shape \(3,", partial(score_task, Task(name="a", kind=k), LABELS, np.zeros((3, 1)))) for k in KINDS),
]


@pytest.mark.parametrize(("message", "call"), REFUSED)
def test_metrics_and_outputs_that_do_not_fit_are_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_outputs_without_label_need_not_be_finite():
    assert score_task(NUMBERS, np.array([1.0, 2.0, math.nan]), np.array([1.0, 2.0, math.nan])) == 1.0


@pytest.mark.parametrize("per_task_weight", [False, True])
def test_score_tasks_scores_each_column_with_its_weights(per_task_weight):
    rng = np.random.default_rng(0)
    tasks = [Task(name=kind, kind=kind) for kind in ("regression", "binary", "multiclass")]
    rows = [some_rows(task.kind.name, rng) for task in tasks]
    y = np.column_stack([labels for labels, _, _ in rows])
    weight = np.column_stack([w for _, _, w in rows]) if per_task_weight else rows[0][2]
    scores = score_tasks(tasks, y, [output for _, output, _ in rows], weight)
    assert list(scores) == ["regression", "binary", "multiclass"]
    for task, (labels, output, w) in zip(tasks, rows, strict=True):
        assert scores[task.name] == score_task(task, labels, output, w if per_task_weight else weight)


def test_mean_score_leaves_undefined_tasks_out():
    assert mean_score({"a": 0.5, "b": None, "c": math.nan, "d": 0.7}) == pytest.approx(0.6)
    assert math.isnan(mean_score({"a": None}))
    assert math.isnan(mean_score({}))
