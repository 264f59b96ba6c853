"""R-MTGB and SharedTrees beside a plain loop over scikit-learn's trees, and other boosters, on one thread.

The time of ours is that of ``fit`` as a user calls it: reading the polars frame, binning, all trees.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
from sklearn.metrics import r2_score, root_mean_squared_error
from sklearn.multioutput import MultiOutputRegressor

from benchmarks.harness import Measures, Side, Sides, asking, cpu, gauged, in_own_process
from benchmarks.peers.rmtgb import PlainRMTGB
from tabmtl import RMTGB, SharedTrees
from tabmtl.synth import make_outlier_tasks
from tabmtl.targets import KINDS, Kind

#: LightGBM's, as ours sets them.
PARAMS: dict[str, Any] = {
    "objective": "regression",
    "boost_from_average": False,
    "learning_rate": 0.1,
    "force_row_wise": True,
    "deterministic": True,
    "num_threads": 1,
    "verbosity": -1,
}
FIXED: dict[str, Any] = {"learning_rate": 0.1, "early_stopping": False, "n_jobs": 1, "random_state": 0}


def draw_columns(n_tasks: int, n_rows: int, n_features: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw rows of tasks that are alike and come in turn, float32.

    The columns are features ``x0``, ``x1``, ... and the ``task``, a whole number. The target is a sum of smooth
    functions of pairs of features, and of one feature by task, with noise.
    """
    rng = np.random.default_rng(seed)
    task = np.arange(n_rows, dtype=np.int32) % n_tasks
    before = rng.standard_normal(n_tasks).astype(np.float32)[task]
    columns, y = {}, 0.3 * rng.standard_normal(n_rows, dtype=np.float32)
    for j in range(n_features):
        x = rng.standard_normal(n_rows, dtype=np.float32)
        y += np.sin(x + before) / np.float32(n_features**0.5)
        columns[f"x{j}"] = before = x
    return columns | {"task": task}, y


def rmtgb(rounds: int, num_leaves: int, **options: Any) -> RMTGB:
    """Make R-MTGB of equally many rounds a stage; leaves of stumps may hold one row, as in the release."""
    stages: dict[str, Any] = dict.fromkeys(("n_estimators_shared", "n_estimators_outlier", "n_estimators_task"), rounds)
    least = 1 if num_leaves == 2 else 20
    return RMTGB(**stages, num_leaves=num_leaves, min_child_samples=least, **FIXED, **options)


def plain(rows: int = 300, rounds: int = 50) -> Sides:
    """Compare with the released code's algorithm: ten tasks, two of them outliers, of some rows each, with stumps."""
    data = make_outlier_tasks(rows, random_state=0)
    (X, tasks), (X_test, tasks_test) = (
        (frame.drop("task").to_numpy(), np.unique(frame["task"], return_inverse=True)[1])
        for frame in (data.X, data.X_test)
    )
    theirs = PlainRMTGB(rounds, rounds, rounds, learning_rate=PARAMS["learning_rate"])
    ours = rmtgb(rounds, 2, task_column="task", theta_step="sum", theta_penalty=0.0)

    def side(fit: Any, predict: Any) -> Side:
        return lambda seed: cpu(fit)(seed) | {"RMSE": float(root_mean_squared_error(data.y_test, predict()))}

    return {
        "plain": side(partial(theirs.fit, X, tasks, data.y.to_numpy()), partial(theirs.predict, X_test, tasks_test)),
        "ours": side(partial(ours.fit, data.X, data.y), partial(ours.predict, data.X_test)),
    }


def related_targets(columns: dict[str, np.ndarray], y: np.ndarray, n_tasks: int, seed: int = 1) -> pl.DataFrame:
    """Make wide targets: the same function with a feature more, and noise, for each task."""
    rng, n_features = np.random.default_rng(seed), len(columns) - 1
    noise = [0.3 * rng.standard_normal(len(y), dtype=np.float32) for _ in range(n_tasks)]
    return pl.DataFrame({f"y{t}": y + columns[f"x{t % n_features}"] + noise[t] for t in range(n_tasks)})


def shared(rows: int = 100_000, n_tasks: int = 8, n_trees: int = 200, kind: str = "regression") -> Sides:
    """Compare SharedTrees of all tasks with one LightGBM of as many trees for the first; 20 features, 16 leaves."""
    columns, y = draw_columns(1, rows, 20)
    Y = related_targets(columns, y, n_tasks)
    Y = Y if kind == "regression" else Y > 0
    X = pl.DataFrame(columns).drop("task")
    matrix = X.to_numpy()
    model = SharedTrees(n_estimators=n_trees, num_leaves=16, **FIXED)
    params = PARAMS | {"num_leaves": 16, "lambda_l2": model.reg_lambda, "objective": kind}
    first = Y["y0"].to_numpy().astype(np.float32)
    return {
        "LightGBM": cpu(lambda: lgb.train(params, lgb.Dataset(matrix, first), n_trees)),
        "ours": cpu(partial(model.fit, X, Y)),
    }


def has_several_scores(kind: Kind) -> bool:
    """Return whether a model computes several scores for a task of a kind, of three classes if it has some."""
    return kind.width(("a", "b", "c")) > 1


def labels_of(kind: Kind, Y: pl.DataFrame) -> pl.DataFrame:
    """Make labels of a kind: of numbers all the same ones above 0, of classes two, or three, with equally many rows."""
    if kind.answer != "probabilities":
        return (Y / 2).select(pl.all().exp())
    n = 3 if has_several_scores(kind) else 2
    return Y.select((pl.all().rank() * n / (pl.len() + 1)).floor().cast(pl.Int8))


def kinds(rows: int = 20_000, n_tasks: int = 8, n_trees: int = 50) -> Sides:
    """Compare SharedTrees of tasks of every kind with those of squared errors, which come first; as `shared`."""
    columns, y = draw_columns(1, rows, 20)
    X, Y = pl.DataFrame(columns).drop("task"), related_targets(columns, y, n_tasks)

    def side(kind: Kind) -> Side:
        model = SharedTrees(n_estimators=n_trees, num_leaves=16, tasks=dict.fromkeys(Y.columns, kind), **FIXED)
        return cpu(partial(model.fit, X, labels_of(kind, Y)))

    return {name: side(KINDS[name]) for name in dict.fromkeys(("regression", *KINDS))}


def one_row(n_tasks: int = 8, requests: int = 1000) -> Sides:
    """Measure one row of 20 features: of SharedTrees of 200 trees, and of R-MTGB with ten long tasks, exported too."""
    columns, y = draw_columns(10, 3000, 20)
    Y = related_targets(columns, y, n_tasks)
    X = pl.DataFrame(columns)
    long, shared = rmtgb(50, 16, task_column="task"), SharedTrees(n_estimators=200, num_leaves=16, **FIXED)
    long.fit(X, y)
    shared.fit(X.drop("task"), Y)
    row = X[:1]
    return {
        "R-MTGB, predict": asking(long.predict, [row], requests),
        "R-MTGB, a task's exported model": asking(
            long.export_task("0").predict, [long.encode(row).to_numpy()], requests
        ),
        "SharedTrees": asking(shared.predict, [row.drop("task")], requests),
    }


def vector(rows: int = 100_000, n_tasks: int = 16, n_trees: int = 99) -> Sides:
    """Compare boosters of several regressions with one LightGBM for each: 20 features, 16 leaves, as many rounds.

    Each side has a process of its own. The rows, and a fifth as many to test, are drawn by the seed. R² is the mean
    over the tasks. CatBoost's trees are symmetric; R-MTGB has a third of the rounds in each stage. A round of
    SharedTrees is one tree, led by one task, so five times as many stand beside.
    """
    import catboost
    import xgboost

    equal: dict[str, Any] = {"learning_rate": FIXED["learning_rate"], "reg_lambda": 1.0}
    ours, theirs = FIXED | equal | {"num_leaves": 16}, equal | {"n_estimators": n_trees}
    models: dict[str, Any] = {
        "LightGBM per task": MultiOutputRegressor(lgb.LGBMRegressor(num_leaves=16, n_jobs=1, verbose=-1, **theirs)),
        "CatBoost, MultiRMSE": catboost.CatBoostRegressor(
            loss_function="MultiRMSE", depth=4, thread_count=1, verbose=False, allow_writing_files=False, **theirs
        ),
        "XGBoost, vector leaves": xgboost.XGBRegressor(
            multi_strategy="multi_output_tree",
            tree_method="hist",
            grow_policy="lossguide",
            max_leaves=16,
            max_depth=0,
            n_jobs=1,
            **theirs,
        ),
        "SharedTrees": SharedTrees(n_estimators=n_trees, n_estimators_task=0, **ours),
        "SharedTrees, 5 x the rounds": SharedTrees(n_estimators=5 * n_trees, n_estimators_task=0, **ours),
        "RMTGB": rmtgb(n_trees // 3, 16, reg_lambda=equal["reg_lambda"]),
    }
    return {name: partial(in_own_process, fit_regressions, model, rows, n_tasks) for name, model in models.items()}


def fit_regressions(model: Any, rows: int, n_tasks: int, seed: int) -> Measures:
    """Measure the fit of related regressions, and its mean R² on new rows, which are drawn before."""
    columns, y = draw_columns(1, rows + rows // 5, 20, seed)
    X = pl.DataFrame(columns).drop("task").to_numpy()
    Y = related_targets(columns, y, n_tasks, seed + 1).to_numpy()
    found: Measures = {}
    with gauged(found):
        model.fit(X[:rows], Y[:rows])
    return found | {"R²": float(r2_score(Y[rows:], model.predict(X[rows:])))}
