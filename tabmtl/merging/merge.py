"""Merge fine-tuned networks into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from tabmtl.estimators.network import NetworkEstimator
from tabmtl.merging.arithmetic import average, task_arithmetic
from tabmtl.merging.breadcrumbs import breadcrumbs
from tabmtl.merging.consensus import consensus
from tabmtl.merging.match import check_models
from tabmtl.merging.pcb import pcb
from tabmtl.merging.vectors import TaskVectors
from tabmtl.params import check_choice

Method = Literal["average", "task_arithmetic", "breadcrumbs", "consensus", "pcb"]
Network = TypeVar("Network", bound=NetworkEstimator)


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
        How far shared weights move from those of the base, given the moves of all models:

        - ``"average"``: the mean of the moves
        - ``"task_arithmetic"``: their weighted sum
        - ``"breadcrumbs"``: their sum, without outliers and negligible moves
        - ``"consensus"``: their sum, of weights that two or more models need
        - ``"pcb"``: a mean, weighed by how far a weight matters to a model and agrees with the others

        The modules of :mod:`tabmtl.merging` have the formulas.
    scale : float or sequence of float, optional
        λ of the sum, for all models or for each; by default 0.4, and of "pcb" 1. ``"average"`` has none. Choose it on
        rows that the models have not learned from, or see :func:`merge_front`.
    X : frame or array of shape (n, p), optional
        Rows without labels, with the columns of fit, such as those that the models learned from. Statistics of batch
        normalisation are settled on them; without X, they are the means of the models'.

    Returns
    -------
    merged : fitted network
        Of the class and the parameters of the base, which stays as it is. What fit has told of the base, such as
        ``history_``, is the base's; calibrators, thresholds and intervals are dropped.

    Raises
    ------
    TypeError, ValueError
        If a model has another class, or other columns, levels, classes or parameters of the network than the base; if
        it is as far from the base as if it had begun elsewhere; if no model has learned anything; or an option does not
        fit. The message names the model by its place in the list.

    Notes
    -----
    On three tables with three departments each, the mean was above the common network, and at most .017 below one
    network of all labels. No other method was ahead of it on more than one (docs/lab.md, "Merging fine-tuned
    networks"). Networks that have moved far apart do not merge well: go on in small steps.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> from tabmtl.merging import merge
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.ones((4, 2))
    >>> base = SharedBottom(epochs=2, random_state=0).fit(X, y)
    >>> doubled = {name: weight * np.float32(1.2) for name, weight in base.weights_.items()}
    >>> merged = merge(base, [base.with_weights(doubled), base])
    >>> bool(np.isclose(merged.weights_["trunk.0.weight"], 1.1 * base.weights_["trunk.0.weight"]).all())
    True
    """
    check_models(base, models)
    merger = Merger(base, models)
    return merger.merge(method, scale, X)


class Merger:
    """Models that fit a base, taken apart once, to be merged in several ways.

    Parameters
    ----------
    base, models : as in `merge`
    """

    def __init__(self, base: Any, models: Sequence[Any]) -> None:
        self._base, self._vectors = base, TaskVectors.of(base, models)

    @property
    def trained(self) -> list[int]:
        """Numbers of the tasks that some model has trained."""
        return [t for t, own in enumerate(self._vectors.trainers) if own]

    def merge(self, method: Method, scale: float | Sequence[float] | None = None, X: Any = None) -> Any:
        """Return the merged model; see `merge`."""
        check_choice("method", method, get_args(Method))
        move = self._move(method, self._scale(method, scale))
        return self._base.with_weights(self._vectors.moved(move), X)

    def _scale(self, method: Method, scale: Any) -> dict[str, np.ndarray]:
        """Return the argument ``scale`` of a method, if one is given."""
        if scale is None:
            return {}
        if method == "average":
            raise ValueError("method='average' has no scale; leave it out, or say method='task_arithmetic'")
        found, n = np.asarray(scale, dtype=np.float64), len(self._vectors.tau)
        if found.shape not in ((), (n,)) or not np.isfinite(found).all():
            raise ValueError(f"scale must be a finite number, or one for each of the {n} models, got {scale!r}")
        return {"scale": found}

    def _move(self, method: Method, scale: dict[str, Any]) -> np.ndarray:
        tau, sizes = self._vectors.tau, self._vectors.sizes
        match method:
            case "average":
                return average(tau)
            case "task_arithmetic":
                return task_arithmetic(tau, **scale)
            case "breadcrumbs":
                return breadcrumbs(tau, sizes, **scale)
            case "consensus":
                return consensus(tau, **scale)
            case "pcb":
                return pcb(tau, **scale)
