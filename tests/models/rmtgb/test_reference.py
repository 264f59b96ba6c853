"""R-MTGB beside figures of the released code (GAA-UAM/R-MTGB, June 2025) on the same data: its synthetic setting.

Ten tasks, the last two outliers with one other function, 300 train and 1000 test rows each, seeds 0 to 4. The release
was run with scikit-learn 1.6.1 on these rows; its figures are means over the five seeds of the RMSE over all test rows.
"""

import numpy as np
import pytest

from tabmtl import RMTGB
from tabmtl.synth import make_outlier_tasks

ROUNDS = ("n_estimators_shared", "n_estimators_outlier", "n_estimators_task")
#: As the release is: stumps of any size, all rounds, θ by the summed gradient without a penalty.
AS_RELEASED = {
    "theta_step": "sum",
    "theta_penalty": 0.0,
    "num_leaves": 2,
    "min_child_samples": 1,
    "reg_lambda": 0.0,
    "early_stopping": False,
}

#: Rounds of the blocks, learning rate, RMSE of the release.
CELLS = [
    ((50, 50, 50), 1.0, 0.4795),
    ((50, 50, 50), 0.1, 0.4472),
    ((0, 50, 50), 1.0, 0.4753),
    ((0, 50, 50), 0.1, 0.4566),
    ((0, 50, 0), 1.0, 0.4393),
    ((50, 0, 50), 1.0, 0.4865),
    ((50, 0, 50), 0.1, 0.4564),
    ((0, 0, 100), 1.0, 0.4960),
    ((0, 0, 100), 0.1, 0.4524),
    ((100, 0, 0), 1.0, 0.5951),
    ((100, 0, 0), 0.1, 0.5897),
]


@pytest.fixture(scope="module")
def benches():
    return [make_outlier_tasks(random_state=seed) for seed in range(5)]


def errors(benches, rounds, random_state=0, **options):
    """RMSE of every seed over all rows, those of normal tasks, and those of outliers: (5, 3)."""
    found = []
    for bench in benches:
        estimator = RMTGB(task_column="task", random_state=random_state, **dict(zip(ROUNDS, rounds, strict=True)))
        square = (estimator.set_params(**options).fit(bench.X, bench.y).predict(bench.X_test) - bench.y_test) ** 2
        far = bench.X_test["task"].is_in(list(bench.outliers))
        found.append([square.mean(), square.filter(~far).mean(), square.filter(far).mean()])
    return np.sqrt(found)


#: Every block alone, and all of them; the others in `make test-all`.
QUICK = [CELLS[i] for i in (0, 4, 7)]


@pytest.mark.parametrize(
    "rounds, rate, released",
    [pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.all_faces) for cell in CELLS],
    ids=str,
)
def test_the_error_is_the_releases(benches, rounds, rate, released):
    """To 2 %.

    Ours bins the features, starts at the mean and draws another start of θ. Where θ has time to settle, these are
    worth less than that: a prototype with bins and with the mean was 0 to 1.7 % below the release in these cells.
    """
    ours = errors(benches, rounds, learning_rate=rate, **AS_RELEASED)[:, 0].mean()
    assert ours == pytest.approx(released, rel=0.02)


def test_the_error_is_the_releases_where_theta_cannot_settle(benches):
    """To 3 %, as a mean over four starts of θ.

    Block 2 alone, of 50 small steps: over ten starts of θ the mean over the seeds runs from .537 to .559, with a
    standard deviation of 1.3 %. The release's .5554 is one such draw, so two deviations from a mean of four are 3 %.
    """
    options = {"learning_rate": 0.1, **AS_RELEASED}
    ours = [errors(benches, (0, 50, 0), start, **options)[:, 0].mean() for start in range(4)]
    assert np.mean(ours) == pytest.approx(0.5554, rel=0.03)


@pytest.mark.all_faces
@pytest.mark.parametrize("theta_step", ["sum", "scale-free"])
def test_larger_trees_are_worth_what_they_were_in_the_prototype(benches, theta_step):
    """Within two standard deviations over the seeds.

    The prototype, 0/100/50 with 16 leaves and steps of 0.1: .1809 ± .020 over all rows, .150 in normal and .270 in
    outlier tasks. On the same rows and in as many trees, one LightGBM per task reaches .238, pooled LightGBM without
    the task .497 (both figures of the prototype's runs), and the mean of y about .71.
    """
    options = {
        "theta_step": theta_step,
        "theta_penalty": 0.0,
        "min_child_samples": 10,
        "learning_rate": 0.1,
        "early_stopping": False,
    }
    every, normal, far = errors(benches, (0, 100, 50), **options).mean(axis=0)
    assert abs(every - 0.1809) < 2 * 0.020
    assert abs(normal - 0.150) < 2 * 0.020
    assert abs(far - 0.270) < 2 * 0.035  # over the seeds, ours: there are two tasks only
    single = errors(benches, (0, 0, 150), **options).mean(axis=0)
    assert single[0] == pytest.approx(0.2377, rel=0.02)
    assert every < 0.8 * single[0]
    assert normal < 0.7 * single[1]
