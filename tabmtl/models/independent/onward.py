"""A fitted model of one task that goes on by new rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np

from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.boosted.walk import booster_of
from tabmtl.models.independent.choice import TreesOfTask
from tabmtl.models.independent.mixture import Learned, Mixture
from tabmtl.models.independent.quantiles import TreesOfQuantiles
from tabmtl.models.independent.rows import Sample
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

Learner = TreesOfTask | TreesOfQuantiles


def with_rounds(learner: Learner, model: Learned, rows: Sample, n_rounds: int, n_known: int, watch: Watch) -> Learned:
    """Return a model of a task that has learned from rows too, by further rounds.

    LightGBM alone gets further trees, as by ``lightgbm.train(..., init_model=...)``. Beside a mixture there are trees
    that begin at the scores of its answers, whatever it mixes. ``n_known`` labels it has learned from.
    """
    if not n_rounds:
        return model
    scores = raw_scores(learner.task, model, rows.x)
    share = len(rows) / (len(rows) + n_known)
    header, trees = _append(learner, rows, scores, n_rounds, share, watch)
    if isinstance(model, Mixture):
        known = [] if model.more is None else model.more.cut()[1]
        return replace(model, more=TreeText.joined(header, [*known, *trees], learner.task.width))
    header, known = model.cut()
    return TreeText.joined(header, known + trees, scores.shape[1], " ".join(model.first("objective")))


def _append(
    learner: Learner, rows: Sample, scores: np.ndarray, n_rounds: int, share: float, watch: Watch
) -> tuple[str, list[str]]:
    """Grow rounds that begin at raw scores (n, W) of rows; return a header, and their trees."""
    if isinstance(learner, TreesOfTask):
        return learner.grower.append(rows, scores, n_rounds, share, watch).cut()
    texts = [
        level.grower.append(rows, scores[:, [k]], n_rounds, share, watch) for k, level in enumerate(learner.levels)
    ]
    return texts[0].cut()[0], [*chain.from_iterable(zip(*(text.cut()[1] for text in texts), strict=False))]


def raw_scores(task: Task, model: Learned, x: np.ndarray) -> np.ndarray:
    """Return the raw scores (n, W) of a model at rows of `tree_matrix`, or those that the answers of a mixture mean."""
    if isinstance(model, Mixture):
        return np.asarray(task.kind.unlink(task.kind.answered_means(model.answer(task, x, 1), 0.0, 1.0), np))
    return np.asarray(booster_of(model).predict(x, raw_score=True)).reshape(len(x), -1)
