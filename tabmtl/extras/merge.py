"""Merge fine-tuned networks into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import polars as pl
import torch

from tabmtl.base.params import check_choice
from tabmtl.base.schema import Batch
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.extras.match import check_models
from tabmtl.extras.vectors import TaskVectors
from tabmtl.training.device import on_device

Method = Literal["average", "task_arithmetic"]
Network = TypeVar("Network", bound=NetworkEstimator)
_SCALE = 0.4  # of task arithmetic


def merge(
    base: Network,
    models: Sequence[Network],
    *,
    method: Method = "average",
    scale: float | Sequence[float] | None = None,
    X: Any = None,
) -> Network:
    """Merge networks that were fine-tuned from one base, each on tasks of its own, into one network without training.

    Fine-tune copies of the fitted base with ``warm_start=True`` and labels of some tasks only, others null. Weights
    that one task alone reads, such as its head, come from the model that trained the task, or are the mean of several
    such models, or the base's. All others are merged.

    Parameters
    ----------
    base : fitted network
        Any of the package, such as `SharedBottom`.
    models : sequence of fitted networks
        Fine-tuned from the base: of its class, with its columns, levels and tasks.
    method : str, default="average"
        How far shared weights move from those of the base, given the moves τ_k of K models:

        - ``"average"``: by their mean, so that the weights are the mean of the models' (Wortsman et al. 2022, "Model
          soups", arXiv 2203.05482)
        - ``"task_arithmetic"``: by their weighted sum, sum_k λ_k τ_k (Ilharco et al. 2023, "Editing Models with Task
          Arithmetic", arXiv 2212.04089, abstract read)
    scale : float or sequence of float, optional
        λ of task arithmetic, for all models or for each; default 0.4, which is ours. Choose it on rows that the models
        have not learned from, or see :func:`merge_front`.
    X : frame or array of shape (n, p), optional
        Rows without labels, with the columns of fit, such as those that the models learned from. Statistics of batch
        normalisation are settled on them; without X, they are the means of the models'.

    Returns
    -------
    merged : fitted network
        Of the class and the parameters of the base, which stays as it is. What fit has told of the base, such as
        ``history_``, is the base's; calibrators, thresholds and intervals are dropped. So ``drift`` compares columns
        with the rows of the base, whatever rows the models have learned since, and judges no prediction; give it a
        ``reference`` for both.

    Raises
    ------
    TypeError, ValueError
        If a model has another class, or other columns, levels, classes or parameters of the network than the base; if
        most of its weights have moved farther than their own length, as if it had begun elsewhere; if no model has
        learned anything; if the scale is so large that weights or answers are not finite; or an option does not fit.
        The message names the model by its place in the list.

    Notes
    -----
    On three tables with three departments each, the mean was above the common network, and at most .020 below one
    network of all labels. Neither task arithmetic nor methods that change single weights were ahead of it in the mean
    of the tables (docs/lab.md, "Merging fine-tuned networks"). Networks that have moved far apart do not merge well: go
    on in small steps.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> from tabmtl.extras import merge
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.ones((4, 2))
    >>> base = SharedBottom(epochs=2, random_state=0).fit(X, y)
    >>> doubled = {name: weight * np.float32(1.2) for name, weight in base.weights_.items()}
    >>> merged = merge(base, [base.with_weights(doubled), base])
    >>> bool(np.isclose(merged.weights_["trunk.0.weight"], 1.1 * base.weights_["trunk.0.weight"]).all())
    True
    """
    check_choice("method", method, get_args(Method))
    check_models(base, models)
    scales = _scales(method, scale, len(models))
    with np.errstate(over="ignore", invalid="ignore"):
        merged = base.with_weights(TaskVectors.of(base, models).added(scales), X)
    if not _is_finite(merged):
        raise ValueError(
            f"scale={scale!r} gives weights or answers that are not finite; give a smaller one, such as {_SCALE}"
        )
    return merged


def _is_finite(merged: NetworkEstimator) -> bool:
    """Return whether all weights are finite, and the scores of a row without values."""
    network, device = merged.fitted_network()
    coder = merged.coder_.after
    task = None if coder.task_column is None else np.zeros(1, dtype=np.int64)
    empty = pl.DataFrame({name: [None] for name in coder.features.names})
    row = on_device(Batch(x=coder.features.encode(empty), task=task), device)
    with torch.no_grad():
        values = [*network.state_dict().values(), *network(row.x, row.task)]
    return all(bool(value.isfinite().all()) for value in values)


def _scales(method: Method, scale: float | Sequence[float] | None, n_models: int) -> np.ndarray:
    """Return the scale of every model, (K,)."""
    if method == "average":
        if scale is not None:
            raise ValueError("method='average' has no scale; leave it out, or say method='task_arithmetic'")
        return np.full(n_models, 1 / n_models)
    try:
        found = np.asarray(_SCALE if scale is None else scale, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array(np.nan)
    if found.shape not in ((), (n_models,)) or not np.isfinite(found).all():
        raise ValueError(f"scale must be a finite number, or one for each of the {n_models} models, got {scale!r}")
    return np.broadcast_to(found, n_models)
