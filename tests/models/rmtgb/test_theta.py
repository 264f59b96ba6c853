"""Stage 2 of R-MTGB: two functions, and the one parameter of every task that mixes them."""

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logsumexp, softmax

from tabmtl import RMTGB
from tabmtl.models.rmtgb import estimator as rmtgb
from tabmtl.models.rmtgb import stages
from tabmtl.models.rmtgb.stages import MixedStage
from tabmtl.models.rmtgb.targets import BinnedRows, LongTargets, Targets
from tabmtl.synth import make_outlier_tasks
from tabmtl.targets import KINDS

PARAMS = {"learning_rate": 0.3, "num_leaves": 4, "min_data_in_leaf": 1, "min_data_in_bin": 1, "num_threads": 1}
PARAMS |= {"verbosity": -1, "seed": 0, "deterministic": True, "force_row_wise": True}
THETA = np.array([0.4, -1.1, 0.2])
N_ROWS, N_TASKS = 30, 3

every_kind = pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
every_layout = pytest.mark.parametrize("layout", ["long", "wide"])


def mixed_stage(kind="regression", layout="long", *, rate=None, factor=1.0, copies=1, task_weight=None, penalty=0.0):
    """Stage 2 on rows of three tasks, in the wide layout with holes and weights; regression labels times a factor."""
    rng = np.random.default_rng(1)
    width = 3 if kind == "multiclass" else 1
    shape = (N_ROWS,) if layout == "long" else (N_TASKS, N_ROWS)
    y = factor * rng.normal(size=shape) if kind == "regression" else rng.integers(0, max(width, 2), shape).astype(float)
    weight = np.ones(shape) if layout == "long" else rng.choice([0.0, 1.0, 1.5], shape)
    scores = factor * rng.normal(size=(*shape[:-1], width, N_ROWS))
    x = np.repeat(rng.normal(size=(N_ROWS, 4)), copies, axis=0)
    labels = {
        "kind": KINDS[kind],
        "width": width,
        "y": np.repeat(y, copies, axis=-1),
        "weight": np.repeat(weight, copies, axis=-1),
        "task_weight": task_weight,
    }
    counts = copies * np.array([6, 10, 14])
    targets = LongTargets(**labels, counts=counts) if layout == "long" else Targets(**labels)
    options = {"min_data_in_bin": 1, "feature_pre_filter": False, "verbosity": -1, "num_threads": 1}
    data = lgb.Dataset(x, label=np.zeros(len(x)), params=options).construct()
    rows = BinnedRows(data=data, targets=targets, scores=np.repeat(scores, copies, axis=-1))
    return MixedStage(PARAMS, rows, theta=THETA.copy(), rate=rate, penalty=penalty)


def functions(stage, seed=2):
    """Some B and A at the rows: (2K, n)."""
    size = (2 * stage.rows.targets.width, stage.rows.data.num_data())
    return np.random.default_rng(seed).normal(size=size)


def each_cell(stage):
    """Task, row, label, weight and scores before stage 2 of every cell."""
    targets, scores = stage.rows.targets, stage.rows.scores
    if not isinstance(targets, LongTargets):
        for t, i in np.ndindex(targets.y.shape):
            yield t, i, targets.y[t, i], targets.weight[t, i], scores[t, :, i]
    else:
        for i, t in enumerate(np.repeat(np.arange(N_TASKS), targets.counts)):
            yield t, i, targets.y[i], targets.weight[i], scores[:, i]


def written_total(before, theta, B, A):
    """F at one cell."""
    s = 1 / (1 + np.exp(-theta))
    return before + (1 - s) * B + s * A


def written_derivatives(kind, y, F):
    """-∂L/∂F and ∂²L/∂F² of one cell."""
    if kind == "regression":
        return y - F, np.ones(1)
    if kind == "binary":
        return y - expit(F), expit(F) * (1 - expit(F))
    p = softmax(F)
    return (np.arange(3) == y) - p, 1.5 * p * (1 - p)


def written_loss(stage, theta, f):
    """Total loss of all cells, each times the weight of its task."""
    total, width = 0.0, stage.rows.targets.width
    task_weight = np.ones(N_TASKS) if stage.rows.targets.task_weight is None else stage.rows.targets.task_weight
    for t, i, y, weight, before in each_cell(stage):
        F = written_total(before, theta[t], f[:width, i], f[width:, i])
        if stage.rows.targets.kind.name == "regression":
            loss = (y - F[0]) ** 2 / 2
        elif stage.rows.targets.kind.name == "binary":
            loss = np.log1p(np.exp(F[0])) - y * F[0]
        else:
            loss = logsumexp(F) - F[int(y)]
        total += task_weight[t] * weight * loss
    return total


def move(stage, inner, theta):
    """What one step moves θ by."""
    stage.theta = theta.copy()
    stage._move_theta(inner)
    return stage.theta - theta


def training_scores(booster):
    """Raw scores (n,) of the rows grown on."""
    found = []
    booster.eval_train(lambda scores, data: (found.append(scores.copy()), ("kept", 0.0, False))[1])
    return found[0]


@pytest.mark.parametrize("penalty", [0.0, 0.5])
@every_layout
@every_kind
def test_both_trees_of_a_round_fit_the_same_scores(kind, layout, penalty):
    """A: g = -s r; B: g = -(1 - s) r. h = 1 for squared error, else s² h and (1 - s)² h; with a penalty the larger."""
    stage = mixed_stage(kind, layout, penalty=penalty)
    f, width = functions(stage), stage.rows.targets.width
    gradient, hessian = np.zeros((2, *f.shape))
    for t, i, y, weight, before in each_cell(stage):
        B, A = f[:width, i], f[width:, i]
        r, h = written_derivatives(kind, y, written_total(before, THETA[t], B, A))
        s, squared = expit(THETA[t]), kind == "regression"
        gradient[:width, i] -= (1 - s) * weight * r
        gradient[width:, i] -= s * weight * r
        of_both = [1.0, 1.0] if squared else [max(s, 1 - s) ** 2] * 2 if penalty else [(1 - s) ** 2, s**2]
        hessian[:width, i] += of_both[0] * weight * h
        hessian[width:, i] += of_both[1] * weight * h
    ours = stage.gradients(f)
    np.testing.assert_allclose(ours[0], gradient, atol=1e-6)
    np.testing.assert_allclose(ours[1], hessian, atol=2e-6)  # a floor of 1e-6 keeps Newton's from 0


@pytest.mark.parametrize("task_weight", [None, np.array([0.5, 2.0, 0.5])])
@every_layout
@every_kind
def test_the_sum_step_goes_down_the_gradient_of_the_total_loss(kind, layout, task_weight):
    rate, tiny = 0.07, 1e-6
    stage = mixed_stage(kind, layout, rate=rate, task_weight=task_weight)
    f = functions(stage)
    stage.gradients(f)
    for t in range(N_TASKS):
        up, down = THETA + tiny * np.eye(N_TASKS)[t], THETA - tiny * np.eye(N_TASKS)[t]
        slope = (written_loss(stage, up, f) - written_loss(stage, down, f)) / (2 * tiny)
        assert stage.theta[t] - THETA[t] == pytest.approx(-rate * slope, abs=1e-7)
        assert abs(slope) > 1e-3


@pytest.mark.parametrize("rate", [None, 0.3])
@every_layout
@every_kind
def test_the_first_round_leaves_theta_as_it_is(kind, layout, rate, monkeypatch):
    monkeypatch.setattr(stages, "_EVIDENCE", 0.0)
    stage = mixed_stage(kind, layout, rate=rate)
    stage.update()
    np.testing.assert_array_equal(stage.theta, THETA)
    stage.update()
    assert (stage.theta != THETA).any()


@pytest.mark.parametrize("rate", [None, 0.05])
def test_two_separate_ensembles_grow_the_same_trees(rate, monkeypatch):
    """Three rounds of A and B, each in a booster of its own."""
    monkeypatch.setattr(stages, "_EVIDENCE", 0.0)
    stage, other = mixed_stage(rate=rate), mixed_stage()
    y, before = other.rows.targets.y, other.rows.scores[0]
    task, theta = np.repeat(np.arange(N_TASKS), other.rows.targets.counts), THETA.copy()
    boosters = [lgb.Booster({**PARAMS, "objective": "none"}, other.rows.data) for _ in range(2)]
    B, A = np.zeros((2, N_ROWS))
    for _ in range(3):
        stage.update()
        s = expit(theta)[task]
        r = y - before - (1 - s) * B - s * A
        inner, slope = r * (A - B), expit(theta) * (1 - expit(theta))
        sums, sizes = (np.bincount(task, values) for values in (inner, np.abs(inner)))
        theta = theta + (2 * slope * sums / (sizes + 1e-300) if rate is None else rate * slope * sums)
        for booster, part in zip(boosters, ((1 - s) * r, s * r), strict=True):
            booster.update(fobj=lambda scores, data, part=part: (-part, np.ones(N_ROWS)))
        B, A = map(training_scores, boosters)
    np.testing.assert_allclose(stage.ensemble.scores(), [B, A], atol=1e-6)
    np.testing.assert_allclose(stage.theta, theta, atol=1e-6)


@pytest.mark.parametrize("layout", ["long", "wide"])
@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_the_scale_free_step_knows_neither_scale_nor_rows(kind, layout, monkeypatch):
    monkeypatch.setattr(stages, "_EVIDENCE", 0.0)
    stage, doubled = mixed_stage(kind, layout), mixed_stage(kind, layout, copies=2)
    inner = np.random.default_rng(3).normal(size=stage.rows.targets.y.shape)
    step = move(stage, inner, THETA)
    assert (np.abs(step) > 1e-3).all()
    np.testing.assert_allclose(move(stage, 1e4 * inner, THETA), step, rtol=1e-12)
    np.testing.assert_allclose(move(stage, 1e-4 * inner, THETA), step, rtol=1e-12)
    np.testing.assert_allclose(move(doubled, np.repeat(inner, 2, axis=-1), THETA), step, rtol=1e-12)


def test_the_scale_free_step_knows_no_weight_of_tasks():
    one, two = mixed_stage(layout="wide"), mixed_stage(layout="wide", task_weight=np.array([0.1, 2.0, 0.9]))
    inner = np.random.default_rng(3).normal(size=one.rows.targets.y.shape)
    np.testing.assert_array_equal(move(two, inner, THETA), move(one, inner, THETA))


def test_the_sum_step_knows_both():
    stage, doubled = mixed_stage(rate=0.1), mixed_stage(rate=0.1, copies=2)
    inner = np.random.default_rng(3).normal(size=N_ROWS)
    step = move(stage, inner, THETA)
    np.testing.assert_allclose(move(stage, 10 * inner, THETA), 10 * step)
    np.testing.assert_allclose(move(doubled, np.repeat(inner, 2), THETA), 2 * step)


def test_the_scale_free_step_is_half_at_most_and_ends_at_twelve():
    stage = mixed_stage()
    agreed = np.ones(N_ROWS)  # all rows of every task pull one way
    longest = 0.5 * (1 - 4 / stage.rows.targets.counts)  # the fewer rows, the less evidence
    np.testing.assert_allclose(move(stage, agreed, np.zeros(N_TASKS)), longest)
    for inner in (1e6 * agreed, -agreed, np.random.default_rng(4).normal(size=N_ROWS)):
        assert (np.abs(move(stage, inner, THETA)) <= 0.5).all()
    stage.theta = np.full(N_TASKS, 11.9999999)
    for _ in range(3):
        stage._move_theta(agreed)
    assert (stage.theta <= 12).all()
    assert move(stage, agreed, np.full(N_TASKS, 20.0)).tolist() == [-8.0] * N_TASKS


def test_the_scale_free_step_waits_for_two_standard_errors():
    stage = mixed_stage()
    noise = np.tile([1.0, -1.0], N_ROWS // 2)  # sums to 0 in every task
    for inner, moves in ((noise + 0.2, False), (noise + 2.0, True)):
        assert ((move(stage, inner, THETA) != 0) == moves).all()


@pytest.mark.parametrize("level", [-5.0, -0.4, 0.4, 2.0])
def test_the_penalty_draws_what_does_not_differ_to_the_median(level, monkeypatch):
    """Task 0 follows the median, 1 differs a little, and 2 beyond all doubt."""
    monkeypatch.setattr(stages, "_FREE", 0.0)
    plain, drawn = mixed_stage(rate=0.01), mixed_stage(rate=0.01, penalty=0.5)
    task = np.repeat(np.arange(N_TASKS), drawn.rows.targets.counts)
    noise = np.tile([1.0, -1.0], N_ROWS // 2)
    inner = np.array([0.0, 0.1, 5.0])[task] + noise
    total, size, square = (np.bincount(task, values) for values in (inner, np.abs(inner), inner**2))
    doubt = np.minimum(1, 4 * square / np.maximum((total - np.median(total / size) * size) ** 2, 1e-300))
    assert doubt[:2].tolist() == [1, 1]
    assert doubt[2] < 0.5
    start = level + THETA
    after = start + move(plain, inner, start)
    median = np.median(after)
    common = np.sign(median) * np.clip(abs(median), 1, 3)
    kept = median if abs(median) > 3 else common
    np.testing.assert_allclose(start + move(drawn, inner, start), common + (after - kept) / (1 + 0.5 * doubt))


def test_the_penalty_waits_until_the_tasks_can_part_and_is_none_where_theta_is_held():
    drawn, plain = mixed_stage(penalty=0.5), mixed_stage()
    for waits in (True, True, True, True, False):  # the learning rate is 0.3
        inner = np.random.default_rng(3).normal(size=N_ROWS)
        assert (move(drawn, inner, THETA) == move(plain, inner, THETA)).all() == waits
        drawn.theta = plain.theta = THETA
        drawn.update()
    held = mixed_stage(rate=0.0, penalty=0.5)
    for _ in range(6):
        held.update()
    np.testing.assert_array_equal(held.theta, THETA)


@pytest.mark.parametrize("target", ["regression", "classification"])
def test_at_most_half_of_the_tasks_are_outliers(target):
    flipped, options = set(), {"n_estimators_outlier": 15, "n_estimators_task": 0, "early_stopping": False}
    for seed in range(6):
        bench = make_outlier_tasks(n_tasks=5, n_train=60, n_test=0, target=target, random_state=seed)
        estimator = RMTGB(task_column="task", random_state=seed, **options).fit(bench.X, bench.y)
        score = estimator.outlier_score_["outlier_score"]
        assert (score > 0.5).sum() <= 2
        assert score.is_between(0, 1).all()
        start = np.random.default_rng([seed, 0]).standard_normal(5)
        flipped.add(bool((np.sign(start) != np.sign(score.to_numpy() - 0.5)).sum() > 2))
    assert len(flipped) == 2  # sides changed places in some fits, and not in others


@every_kind
def test_a_start_on_the_other_side_gives_the_same_model(kind, monkeypatch):
    bench = make_outlier_tasks(n_tasks=5, n_outliers=1, n_train=80, n_test=40, random_state=0)
    y = bench.y
    if kind != "regression":
        y = pl.Series("y", ["a", "b", "c"]).gather((y > 0.3).cast(int) + (y > 0.8).cast(int) * (kind == "multiclass"))
    estimators = []
    for spread in (0.1, -0.1):
        monkeypatch.setattr(rmtgb, "_SPREAD", spread)
        options = {"n_estimators_outlier": 40, "n_estimators_task": 5, "early_stopping": False, "random_state": 0}
        estimators.append(RMTGB(task_column="task", **options).fit(bench.X, y))
    said = [
        e.predict(bench.X_test).to_numpy() if kind == "regression" else e.predict_proba(bench.X_test)
        for e in estimators
    ]
    np.testing.assert_allclose(said[0], said[1], atol=1e-9)
    scores = [estimator.outlier_score_["outlier_score"].to_numpy() for estimator in estimators]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-9)


def test_taking_rounds_back_takes_back_the_steps_of_theta(monkeypatch):
    monkeypatch.setattr(stages, "_EVIDENCE", 0.0)
    pair = long, short = mixed_stage(), mixed_stage()
    for stage, rounds in zip(pair, (6, 3), strict=True):
        for _ in range(rounds):
            stage.update()
    assert (long.theta != short.theta).any()
    long.roll_back(3)
    np.testing.assert_array_equal(long.theta, short.theta)
    np.testing.assert_allclose(long.after().scores, short.after().scores, atol=1e-12)


def test_taking_back_all_steps_of_the_penalty_leaves_no_task_on_its_own_side():
    """Before the penalty sets in, here after 3 rounds, the random start alone may decide the side of a task."""
    grown = {rounds: mixed_stage(penalty=0.5) for rounds in (2, 5)}
    for stage in grown.values():
        for _ in range(6):
            stage.update()
    start = grown[2]._thetas[2]
    assert (start > 0).any()
    assert (start < 0).any()
    for rounds, stage in grown.items():
        stage.roll_back(rounds)
    np.testing.assert_array_equal(grown[2].theta, np.full(N_TASKS, np.median(start)))
    np.testing.assert_array_equal(grown[5].theta, grown[5]._thetas[5])
    np.testing.assert_allclose(grown[2].after().scores, grown[2].total(grown[2].rows, grown[2].ensemble.scores()))
    plain = mixed_stage()
    for _ in range(6):
        plain.update()
    plain.roll_back(2)
    np.testing.assert_array_equal(plain.theta, plain._thetas[2])
