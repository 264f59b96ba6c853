"""Smaller networks: cut by what the tasks can do without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from tabmtl.base.params import check_at_least, check_known, check_positive, check_share, is_number
from tabmtl.base.schema import unsaid, warn_user
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.extras.cuts import Pruner, check_scored, score_all
from tabmtl.nn import units
from tabmtl.nn.units import Form
from tabmtl.training.device import threads
from tabmtl.training.predict import predict_scores
from tabmtl.training.weights import weight_arrays


def prune(
    model: NetworkEstimator,
    X: Any,
    y: Any,
    *,
    keep: float | Sequence[float] = 0.4,
    floor: float = 0.002,
    preference: Mapping[str, float] | None = None,
) -> Any:
    """Return a smaller model, without the experts and hidden units that the tasks can do without.

    It is fitted, and whole in itself: it predicts, is saved, exported and trained on by `partial_fit`. A `fit` of it
    begins anew with all units, unless ``warm_start=True``. Greedy steps take units of a layer, or an expert; gates
    share the weight of an expert that goes among those that they see. Each takes the cut with the least rise of the
    losses by what it saves; :mod:`tabmtl.extras.cuts` has the formulas. The same rows give the same model.

    Parameters
    ----------
    model : estimator
        A fitted network whose layers tell what reads them: SharedBottom, MMoE or PLE. It stays as it is.
    X : frame or array of shape (n, p)
        Rows with the columns of fit, which judge the cuts, and settle statistics of batch normalisation: rows that
        the model has not learned from, such as a thousand.
    y : frame, series or array of shape (n,) or (n, T)
        Their targets. Every task needs labels that its score is defined on.
    keep : float or sequence of float, default=0.4
        Share of the multiplications of a row (`multiply_adds`) at which cutting ends. Several falling shares give a
        model each, by one run of cuts.
    floor : float, default=0.002
        Most that the score of a task, by its metric, may fall on these rows, in all, from that of the network whose
        statistics are settled on them. Cutting ends before ``keep`` where every cut that is left would cost a task
        more, and a warning names these tasks; 0 allows none a loss.
    preference : mapping of str to float, optional
        How much a rise of the loss of a task counts where cuts are ranked; 1 for a task that is left out.

    Returns
    -------
    smaller : like model, or list of these
        It has learned no decisions: call `calibrate`, `tune_thresholds` and `conformalize` on it. ``history_`` tells of
        the fit of the model. Its `drift` tells of columns alone, or compares with rows that it is given.

        ``pruned_`` tells of its cuts as they were, and is not in its file. It has a row for the model as it came, with
        settled statistics, and one for every cut, in order: ``cut``, the name of the layer or bucket; ``left``, the
        number of units or experts that it has then (in a long table, where tasks lose as many each, that of each of
        several); ``multiply_adds``, the size; and ``score/<task>``, the score of each task on these rows.

    Raises
    ------
    ValueError, TypeError
        If the network has no units to lose, keep, floor or preference is out of bounds, the rows do not fit or are
        those of fit (a loaded model cannot know), the score of a task is undefined on them, or the model has tasks that
        were added or removed.

    References
    ----------
    Ye, Zhang, Chen, Fan and Wang (2023), "Performance-aware Approximation of Global Channel Pruning for Multitask
    CNNs", IEEE TPAMI, arXiv 2303.11923.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> from tabmtl.extras import multiply_adds, prune
    >>> X = np.random.default_rng(0).normal(size=(400, 4))
    >>> y = X @ np.ones((4, 2))
    >>> model = SharedBottom(epochs=3, random_state=0).fit(X[:300], y[:300])
    >>> smaller = prune(model, X[300:], y[300:], keep=0.5, floor=0.01)
    >>> multiply_adds(smaller) < multiply_adds(model)
    True
    """
    found, (network, device) = [], _network_of(model)
    fitted, coder = model.model_.fitted, model.coder_
    shares, weights = _options(keep, floor, preference or {}, [task.name for task in model.tasks_])
    if fitted.lineage is not None:
        raise ValueError(
            "add_task or remove_task has changed the tasks of this network, and new heads read all its units; prune it "
            "first: prune(model, X, y).add_task(X, y)"
        )
    if coder.labels.decisions is not None:
        warn_user(
            "smaller models leave out what calibrate, tune_thresholds and conformalize have learned; call them anew"
        )
    answered = model.__labelled_answers__(X, y, unseen_for="prune", calibrated=False)
    check_scored(answered := answered._replace(tasks=[task.at(None) for task in answered.tasks]))
    rows = replace(model.encoded(X), y=torch.from_numpy(coder.labels.standardize(answered.labels)).to(device))

    def judge(smaller: Any) -> dict[str, float]:
        scores = predict_scores(smaller, rows, model.precision, batch_size=model.batch_size_, link=fitted.link)
        outputs = coder.labels.outputs([own.cpu().numpy() for own in scores])
        return score_all(answered._replace(outputs=outputs))

    with threads(model.n_jobs, network):
        form = fitted.removed_units or Form.whole()
        pruner = Pruner(network, rows, fitted.loss(), judge, form=form, preference=weights, precision=model.precision)
        for share in shares:
            steps = pruner.prune(share, floor)
            with unsaid():  # of experts that fit has told of
                measured = model._inspect(pruner.network, replace(rows, y=None))
            found.append(model.with_weights(weight_arrays(pruner.network.state_dict()), form=pruner.form))
            found[-1].__dict__ |= measured | {"pruned_": steps}
    return found[0] if is_number(keep) else found


def _options(keep: Any, floor: Any, preference: Mapping[str, float], names: list[str]) -> tuple[list[float], Tensor]:
    """Return the sizes, and the weights (T,) of the tasks; raise a ValueError for what is none."""
    shares = [*keep] if isinstance(keep, Sequence) and not isinstance(keep, str) else [keep]
    for share in shares:
        check_share("keep", share, whole=True)
    if not shares or shares != sorted(shares, reverse=True):
        raise ValueError(f"keep must be a share, or a list of falling ones, got {keep!r}")
    check_at_least("floor", floor, low=0)
    check_known("preference names tasks", preference, names, "the model")
    for name, weight in preference.items():
        check_positive(f"preference[{name!r}]", weight)
    return shares, torch.tensor([float(preference.get(name, 1.0)) for name in names])


def widths(model: NetworkEstimator) -> dict[str, int]:
    """Return the number of units of every hidden layer of a network, and of experts of every bucket with several.

    Parameters
    ----------
    model : estimator
        As in `prune`.

    Returns
    -------
    widths : dict of str to int
        By names: the head of the second task is ``heads.1``. Heads of `add_task` do not count.
    """
    return {group.name: group.n_units for group in _network_of(model)[0].units()}


def multiply_adds(model: NetworkEstimator) -> int:
    """Return the multiplications of a row with weights: of matrices, not of tables of embeddings.

    In a long table, a row computes its own task; then it is their mean over the tasks. Heads of `add_task` do not
    count.

    Parameters
    ----------
    model : estimator
        As in `prune`.

    Returns
    -------
    multiply_adds : int
    """
    return units.multiply_adds(_network_of(model)[0], is_long=model.coder_.task_column is not None)


def _network_of(model: NetworkEstimator) -> tuple[Any, torch.device]:
    """Return the network without heads that came later, and its device; a TypeError if it has no units to lose."""
    check_is_fitted(model)
    network, device = model.fitted_network()
    network = getattr(network, "base", network)
    if not hasattr(network, "units"):
        raise TypeError(
            f"{type(model).__name__} does not tell which units of its network it may lose; SharedBottom, MMoE and PLE "
            "do"
        )
    return network, device
