"""Merge fine-tuned networks into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.merging.arithmetic import average, task_arithmetic
from tabmtl.merging.breadcrumbs import breadcrumbs
from tabmtl.merging.concrete import concrete
from tabmtl.merging.consensus import consensus
from tabmtl.merging.match import check_models
from tabmtl.merging.pcb import pcb
from tabmtl.merging.vectors import TaskVectors
from tabmtl.params import RandomState, check_choice, check_random_state
from tabmtl.training.losses import MultiTaskLoss

Method = Literal["average", "task_arithmetic", "breadcrumbs", "consensus", "pcb", "concrete"]
Network = TypeVar("Network", bound=NetworkEstimator)

_ROWS = 512  # of a step of "concrete"
_SURE, _LEAST = 50.0, 1e-12  # scores and probabilities at the bounds of its entropy


def merge(
    base: Network,
    models: Sequence[Network],
    *,
    method: Method = "average",
    scale: float | Sequence[float] | None = None,
    X: Any = None,
    random_state: RandomState = None,
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
        - ``"concrete"``: their sum, by a mask that makes the network sure of its classes in rows X; for classifications

        The modules of :mod:`tabmtl.merging` have the formulas.
    scale : float or sequence of float, optional
        λ of the sum, for all models or for each; by default 0.4, of "concrete" 0.3, and of "pcb" 1. ``"average"`` has
        none. Choose it on rows that the models have not learned from, or see :func:`merge_front`.
    X : frame or array of shape (n, p), optional
        Rows without labels, with the columns of fit, such as those that the models learned from. Statistics of batch
        normalisation are settled on them; without X, they are the means of the models'. ``"concrete"`` needs X.
    random_state : int, RandomState or None, default=None
        Random seed of ``"concrete"``.

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
    What a method is worth on tables is not measured yet.

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
    return merger.merge(method, scale, X, random_state)


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

    def merge(
        self,
        method: Method,
        scale: float | Sequence[float] | None = None,
        X: Any = None,
        random_state: RandomState = None,
    ) -> Any:
        """Return the merged model; see `merge`."""
        check_choice("method", method, get_args(Method))
        check_random_state("random_state", random_state)
        move = self._move(method, self._scale(method, scale), X, random_state)
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

    def _move(self, method: Method, scale: dict[str, Any], X: Any, random_state: RandomState) -> np.ndarray:
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
            case "concrete":
                seed = draw_seed(random_state)
                return concrete(tau, sizes, self._entropy(X, seed), **scale, seed=seed)

    def _entropy(self, X: Any, seed: int) -> Any:
        """Return the function of "concrete": the entropy of trained tasks on rows of X after a move."""
        base, vectors = self._base, self._vectors
        if X is None:
            raise ValueError("method='concrete' learns its mask on rows without labels; give X, such as those of fit")
        numbers = [task.name for t, task in enumerate(base.tasks_) if t in self.trained and not task.is_classification]
        if numbers:
            raise ValueError(f"method='concrete' is for classifications, and {numbers} are none; take another method")
        batch, (network, device) = base.encoded(X), base.fitted_network()
        tasks, link = base.coder_.labels.column_tasks, MultiTaskLoss(base.tasks_).link
        asked = self.trained if len(tasks) == len(base.tasks_) else [0]
        # two names of one weight would be two weights
        names = {name for each in (network.named_parameters(), network.named_buffers()) for name, _ in each}
        rng = np.random.default_rng(seed)

        def entropy(move: Tensor) -> Tensor:
            rows = batch.rows(torch.from_numpy(rng.permutation(len(batch))[:_ROWS]).to(device))
            weights = {name: weight.to(device) for name, weight in vectors.moving(move).items() if name in names}
            scores = link(torch.func.functional_call(network, weights, (rows.x, rows.task)))
            # beyond these bounds, gradients of a surer answer are no numbers
            sure = [scores[t].clamp(-_SURE, _SURE) for t in asked]
            answers = [tasks[t].kind.answers(own, 0.0, 1.0, torch) for t, own in zip(asked, sure, strict=True)]
            return torch.stack([-torch.xlogy(p, p.clamp_min(_LEAST)).sum(dim=1).mean() for p in answers]).sum()

        return entropy
