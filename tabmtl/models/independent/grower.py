"""The LightGBM model of one task, grown on its rows, and the losses of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
from sklearn.utils.class_weight import compute_sample_weight

from tabmtl.base.schema import Columns
from tabmtl.base.storage.lightgbm_text import TreeText, constant_tree, is_constant, shift_tree
from tabmtl.estimators.boosted.border import dataset, least_level_rows, newest_round
from tabmtl.estimators.boosted.rounds import LEAST_PENALTY
from tabmtl.estimators.boosted.walk import booster_of
from tabmtl.models.independent.rows import Sample
from tabmtl.targets import Task
from tabmtl.targets.kind import LONGEST_STEP
from tabmtl.targets.log_mean import LEAST
from tabmtl.targets.quantile import Quantile
from tabmtl.training.watch import Watch

#: Trees that are grown at least, where there are any: fewer were chosen by chance.
LEAST_TREES = 20
#: From scores and data to gradients and hessians.
Objective = Callable[..., tuple[np.ndarray, np.ndarray]]
_USUAL_RATE = 0.1  # LightGBM's own


def monotone_constraints(task: Task, columns: Columns) -> dict[str, Any]:
    """Return LightGBM's parameters by which answers to a task are monotone in columns, none if they need not be."""
    if not task.monotone:
        return {}
    return {"monotone_constraints": [task.monotone.get(name, 0) for name in (*columns.numeric, *columns.categorical)]}


def check_given(task: Task, given: Mapping[str, Any]) -> None:
    """Raise a ValueError if parameters of a given LightGBM estimator contradict a task, or have no effect on it."""
    kind = task.kind
    needed = {**Quantile().lightgbm, "alpha": kind.levels} if kind.levels else {**kind.lightgbm}
    needed |= dict.fromkeys(kind.lightgbm_scaled)  # no value of the caller's has the right unit
    is_ours = needed["objective"] == "none"
    free = {"metric"} if needed["objective"] in ("none", "quantile") else {"metric", "objective"}
    wrong = {name for name in needed.keys() - free if given.get(name) not in (None, needed[name])}
    cures = dict.fromkeys(sorted(wrong), "declare another kind")
    if is_ours or kind.levels:  # whose trees are shifted or joined: neither linear leaves nor means allow it
        unfit = {"linear_tree": (True,), "boosting": ("rf", "random_forest"), "boosting_type": ("rf", "random_forest")}
        cures |= {name: "declare another kind" for name, values in unfit.items() if given.get(name) in values}
    if is_ours:
        idle = {"is_unbalance": False, "scale_pos_weight": 1}
        cures |= {
            name: "give the Task a class_weight" for name, value in idle.items() if given.get(name, value) != value
        }
    if task.monotone and given.get("monotone_constraints") is not None:
        cures["monotone_constraints"] = f"leave out the monotone={task.monotone} of the Task"
    if cures:
        name, cure = next(iter(cures.items()))
        raise ValueError(
            f"task {task.name!r} is {kind}, and the given estimator has {name}={given[name]!r}, which "
            f"does not go with its Task; leave {name} out, or {cure}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Grower:
    """Grows the LightGBM model of one task.

    Parameters
    ----------
    task : Task
    columns : Columns
    n_trees : int
        The most trees.
    class_weight : dict or "balanced" or None
    params : dict
        LightGBM's other parameters.
    patience : int
        Trees without a better score of the rows that stop the training, which end it.
    takes_few : bool
        Whether few rows have a choice of their own.
    """

    task: Task
    columns: Columns
    n_trees: int
    class_weight: Any
    params: dict[str, Any]
    patience: int
    takes_few: bool

    def grow(self, rows: Sample, held_out: Sample | None, options: dict[str, Any], watch: Watch) -> TreeText:
        """Grow trees by options; rows held out stop the training."""
        params = {"min_data_per_group": least_level_rows(len(rows)), **self.params, **options}
        data = self.data(rows)
        watched: list[lgb.Dataset] = []
        callbacks: list[Callable[..., Any]] = []
        params["objective"] = self.gradients or params["objective"]
        if held_out is not None:
            if params["metric"] == "auc" and len(np.unique(held_out.y)) < 2:
                params["metric"] = "binary_logloss"  # one class has no AUC, and LightGBM calls it perfect
            watched = [self.data(held_out, reference=data)]
            callbacks = [lgb.early_stopping(self.patience, verbose=False)]
        if watch.is_limited:
            callbacks.append(_TimeLimit(watch, self.task.name))
        judge = self._mean_loss if self.gradients else None
        booster = lgb.train(params, data, self.n_trees, valid_sets=watched, callbacks=callbacks, feval=judge)
        rounds = booster.best_iteration or -1
        if self.takes_few and held_out is not None and params["metric"] == "auc" and 0 < rounds < LEAST_TREES:
            rounds = self._least_rounds(booster, rows, held_out)
        return self.text(booster, rounds, rows)

    def append(self, rows: Sample, scores: np.ndarray, n_rounds: int, share: float, watch: Watch) -> TreeText:
        """Grow rounds of trees that begin at raw scores (n, W) of rows, by a share of every step.

        A shift that all rows share gives no split, and beside given scores LightGBM grows no constant. Where a round
        finds no split for an output, its tree is therefore a constant.
        """
        least = max(1, min(self.params.get("min_child_samples", LEAST_TREES), len(rows) // 10))
        params = {"min_data_per_group": least_level_rows(len(rows)), **self.params, "min_child_samples": least}
        params |= {"learning_rate": share * params.get("learning_rate", _USUAL_RATE)}
        params |= {"reg_lambda": max(LEAST_PENALTY, params.get("reg_lambda", 0.0))}
        gradients = self.gradients
        if gradients is None and self.task.classes and len(np.unique(rows.y)) < len(self.task.classes):
            # LightGBM's own objectives grow nothing for a class that all rows have, or none
            params["objective"], gradients = "none", self._derive
        # without the least rows of a leaf, LightGBM would drop the columns of few rows when it bins them
        data = self.data(rows, init_score=_column(scores), params=params)
        header, trees = "", list[str]()
        booster = lgb.Booster(params, data)
        for number in range(1, n_rounds + 1):
            has_split = not booster.update(fobj=gradients)
            header, newest = newest_round(booster)
            idle = np.array([not has_split or is_constant(tree) for tree in newest])
            if idle.any():
                grown = np.asarray(booster.predict(rows.x, raw_score=True)).reshape(scores.shape)
                steps = self._constants(params, data, scores + grown, gradients) * idle
                scores = scores + grown + steps
                newest = [constant_tree(steps[k]) if idle[k] else tree for k, tree in enumerate(newest)]
                seeded = params | {"random_state": params["random_state"] + number}
                booster = lgb.Booster(seeded, data.set_init_score(_column(scores)))
            trees += newest
            if number < n_rounds and watch.cuts(f"task {self.task.name!r}, round {number} of {n_rounds}"):
                break
        return TreeText.joined(header, trees, scores.shape[1])

    def _constants(
        self, params: dict[str, Any], data: lgb.Dataset, scores: np.ndarray, gradients: Objective | None
    ) -> np.ndarray:
        """Return the steps (W,) that all rows take together from raw scores (n, W)."""
        whole = {"num_leaves": 2, "reg_lambda": 0.0, "colsample_bytree": 1.0, "subsample_freq": 0}
        stump = lgb.Booster(params | whole, data.set_init_score(_column(scores)))
        stump.update(fobj=gradients)
        limit = np.inf if self.task.kind.units == "standardized" else LONGEST_STEP * params["learning_rate"]
        return np.clip([_mean_value(tree) for tree in newest_round(stump)[1]], -limit, limit)

    def grow_constant(self, rows: Sample, watch: Watch) -> TreeText:
        """Grow the model that answers rows with their best constant."""
        return self.grow(rows, None, {"min_child_samples": len(rows), "num_iterations": 1}, watch)

    def _least_rounds(self, booster: lgb.Booster, rows: Sample, held_out: Sample) -> int:
        """Return the fewest rounds worth taking: ROC AUC of few rows is highest early by chance."""
        rounds = min(LEAST_TREES, booster.current_iteration())
        answer = self.task.kind.of_lightgbm(np.asarray(booster.predict(held_out.x, num_iteration=rounds)))
        is_better = self.losses(answer, held_out).sum() < self.constant_losses(rows, held_out).sum()
        return rounds if is_better else booster.best_iteration

    @property
    def gradients(self) -> Objective | None:
        """Objective for LightGBM where it has none for the kind."""
        return self._derive if self.params["objective"] == "none" else None

    def _derive(self, scores: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        kind, (label, weight) = self.task.kind, _labels(data)
        means = kind.means(label, self.task.width)
        gradient, hessian = np.empty((2, *means.shape))
        kind.derivatives(scores.reshape(means.shape), means, gradient, hessian)
        if weight is not None:
            gradient, hessian = gradient * weight[:, None], hessian * weight[:, None]
        return (gradient, hessian) if scores.ndim == 2 else (gradient[:, 0], hessian[:, 0])

    def _mean_loss(self, scores: np.ndarray, data: lgb.Dataset) -> tuple[str, float, bool]:
        label, weight = _labels(data)
        losses = self.task.kind.answer_losses(self.task.kind.of_lightgbm(scores), label)
        return "loss", float(np.average(losses, weights=weight)), False

    def _start(self, rows: Sample) -> np.ndarray:
        """Return the scores (W,) of the best constant of rows, from which LightGBM finds its own for its objectives."""
        means = self.task.kind.means(rows.y, self.task.width)
        return self.task.kind.start(np.average(means, axis=0, weights=rows.weight))

    def text(self, booster: lgb.Booster, n_rounds: int, rows: Sample) -> TreeText:
        """Return the trees of some rounds that have grown on rows; the first ones hold what the scores began with."""
        text = TreeText(booster.model_to_string(num_iteration=n_rounds))
        if self.gradients is None:
            return text
        header, trees = text.cut()
        start = self._start(rows)
        first = [shift_tree(tree, value) for tree, value in zip(trees, start, strict=False)]
        return TreeText.joined(header, [*first, *trees[len(start) :]], len(start))

    def data(self, rows: Sample, reference: lgb.Dataset | None = None, **options: Any) -> lgb.Dataset:
        """Return rows as LightGBM's data, by the bins of others if there are any; else classes weigh as they should."""
        y = rows.y
        if self.task.kind.units == "scaled" and not y.any():
            y = np.full_like(y, LEAST)  # LightGBM refuses counts that are all 0
        options = {"label": y, "weight": rows.weight, "reference": reference, "free_raw_data": False} | options
        if self.gradients is not None and "init_score" not in options:
            first = self._start(rows) if reference is None else np.asarray(reference.get_init_score())[:1]
            init = np.repeat(first.reshape(1, -1), len(rows), axis=0)
            options["init_score"] = init if init.shape[1] > 1 else init[:, 0]
        data = dataset(rows.x, self.columns, **options)
        if reference is None and self.class_weight is not None and self.task.is_classification:
            # as LightGBM's own classifier does
            factor = compute_sample_weight(self.class_weight, np.array(self.task.classes)[rows.y.astype(np.int64)])
            data.set_weight(factor if rows.weight is None else rows.weight * factor)
        return data

    def answer(self, trees: TreeText, x: np.ndarray) -> np.ndarray:
        """Return the answers of a model to rows of `tree_matrix`."""
        answers = booster_of(trees).predict(x, num_threads=self.params["num_threads"])
        return self.task.kind.of_lightgbm(np.asarray(answers))

    def losses(self, answer: np.ndarray, rows: Sample) -> np.ndarray:
        """Return the loss of every label, times its weight: (n,)."""
        losses = self.task.kind.answer_losses(answer, rows.y)
        return losses if rows.weight is None else losses * rows.weight

    def constant(self, rows: Sample) -> np.ndarray:
        """Return the best constant answer to rows, (1,) or (1, K)."""
        return self.task.kind.constant(rows.y, rows.weight, self.task.classes)

    def constant_losses(self, rows: Sample, asked: Sample) -> np.ndarray:
        """Return the losses of the best constant of rows at others: (n,)."""
        return self.losses(np.repeat(self.constant(rows), len(asked), axis=0), asked)


def _column(scores: np.ndarray) -> np.ndarray:
    """Return raw scores (n, W) as LightGBM takes them: (n,) of one output."""
    return scores if scores.shape[1] > 1 else scores[:, 0]


def _mean_value(tree: str) -> float:
    """Return the step that all rows of a tree take together."""
    if is_constant(tree):
        return 0.0
    lines = dict(line.split("=", 1) for line in tree.splitlines())
    values, weights = (np.array(lines[name].split(), dtype=np.float64) for name in ("leaf_value", "leaf_weight"))
    return float(np.average(values, weights=weights))


def _labels(data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """Return labels and weights of LightGBM's data."""
    weight = data.get_weight()
    return np.asarray(data.get_label()), None if weight is None else np.asarray(weight)


class _TimeLimit:
    """Callback of LightGBM that ends the training of a task when the time is over, with the best trees so far."""

    order = 40  # after early stopping
    before_iteration = False

    def __init__(self, watch: Watch, task: str) -> None:
        self._watch, self._task = watch, task
        self._best, self._score = 0, -np.inf

    def __call__(self, env: Any) -> None:
        results = env.evaluation_result_list or []
        score = (results[0][2] if results[0][3] else -results[0][2]) if results else float(env.iteration)
        if score > self._score:
            self._best, self._score = env.iteration, score
        rounds = f"round {env.iteration + 1} of {env.end_iteration}"
        if env.iteration + 1 < env.end_iteration and self._watch.cuts(f"task {self._task!r}, {rounds}"):
            raise lgb.callback.EarlyStopException(self._best, results)
