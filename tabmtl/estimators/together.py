"""Networks that are fitted as one, such as those of the folds of an ensemble; see `tabmtl.nn.joined`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from tabmtl.base.schema import Batch
from tabmtl.encode import TableCoder
from tabmtl.estimators.encoded import label_rows, reads_frames
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.estimators.rows import FitRows
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.estimators.training import NetworkTraining, evaluate_scores, in_training_units
from tabmtl.nn.joined import can_join
from tabmtl.training.device import find_device, on_device, seeded, threads
from tabmtl.training.epochs import run_epochs
from tabmtl.training.joint import Joint
from tabmtl.training.run import running
from tabmtl.training.table_loop import TableLoop
from tabmtl.training.watch import describe_tasks

_MOST_ROWS = 12_000  # to learn from; of more, the products of a step take nearly all of its time


def fit_together(
    estimators: Sequence[MultiTaskEstimator], coder: TableCoder, tables: Sequence[Mapping[str, Any]]
) -> bool:
    """Fit networks of one form as one, each on a table of its own, if they can be joined; tell whether they are fitted.

    Each learns from its own labels, with its own rows set aside, order of rows, noise and early stopping, as if it were
    fitted alone. The ``history_`` has no scores of training rows.

    Parameters
    ----------
    estimators : sequence of MultiTaskEstimator
        With the same parameters but for ``random_state``.
    coder : TableCoder
        Of all rows, as for `tabmtl.estimators.encoded.fit_encoded`.
    tables : sequence of mapping
        Arguments of `fit_encoded` for each: X, batch, y, sample_weight, groups and time.

    Raises
    ------
    ValueError, TypeError
        As ``fit`` does.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = X[:, :2]
    >>> networks = [SharedBottom(epochs=2, random_state=seed) for seed in range(2)]
    >>> coder = networks[0].__learner__().coder(X, y)
    >>> tables = [{"X": X[k::2], "batch": coder.read(X[k::2]), "y": y[k::2]} for k in range(2)]
    >>> fit_together(networks, coder, tables)
    True
    >>> [network.predict(X).shape for network in networks]
    [(200, 2), (200, 2)]
    """
    networks = [each for each in estimators if isinstance(each, NetworkEstimator) and _may_join(each)]
    if not len(networks) == len(estimators) > 1 or len(tables[0]["batch"]) > _MOST_ROWS:
        return False
    with replace(running(), job=None).fit(networks[0]):
        parts = _parts(networks, coder, tables)
        if parts is not None:
            _fit_joined(parts)
    return parts is not None


@dataclass(frozen=True, eq=False)
class _Part:
    """Network before its training, with its rows."""

    training: NetworkTraining
    rows: FitRows
    valid: FitRows | None
    network: torch.nn.Module


def _may_join(estimator: NetworkEstimator) -> bool:
    """Tell whether the parameters of a network allow that it is trained as a part of one."""
    is_plain = isinstance(estimator.balance, str) and estimator.on_epoch is None and estimator.task_column is None
    return is_plain and not reads_frames(estimator) and find_device(estimator.device).type == "cpu"


def _parts(
    networks: Sequence[NetworkEstimator], coder: TableCoder, tables: Sequence[Mapping[str, Any]]
) -> list[_Part] | None:
    """Return the networks with their rows; None if these networks cannot be joined."""
    parts = []
    for estimator, table in zip(networks, tables, strict=True):
        own, rows = label_rows(estimator, coder, **table)
        training = NetworkTraining(estimator=estimator, coder=own, seed=estimator._seed())
        learned, valid = training.set_aside(rows, None)
        with seeded(training.seed, torch.device("cpu")):
            network = estimator._network(own.features.columns, own.labels.tasks)
        if not can_join(network):
            return None
        parts.append(_Part(training, learned, valid, network))
    forms = {(part.valid is None, *(task.width for task in part.training.coder.labels.tasks)) for part in parts}
    return parts if len(forms) == 1 else None


def _fit_joined(parts: Sequence[_Part]) -> None:
    """Train networks as one, and set the fitted attributes of each."""
    first, cpu, networks = parts[0].training, torch.device("cpu"), [part.network for part in parts]
    options, tasks = first.estimator, first.coder.labels.tasks

    def read(part: _Part, rows: FitRows) -> Batch:
        return on_device(in_training_units(rows.read(), part.training.coder), cpu)

    learned = [read(part, part.rows) for part in parts]
    judged = [read(part, part.valid) for part in parts if part.valid is not None]
    evaluate = [partial(evaluate_scores, part.training.coder) for part in parts]
    with seeded(first.seed, cpu), threads(options.n_jobs, networks[0]):
        joint = Joint(networks, learned, judged)
        loss = options._loss(tasks)
        loop = TableLoop(options, joint.network, loss, joint.rows, joint.valid, evaluate=evaluate, joint=joint)
        describe = partial(describe_tasks, tasks)
        found = run_epochs(networks, loop, options, run=running(), on_epoch=None, describe=describe)
        for part, rows, own in zip(parts, learned, found, strict=True):
            training, batch_size = part.training, min(loop.batch_size, loop.n_rows)
            fitted = training.trained(part.network, rows, batch_size, own)
            training.estimator._set_fitted(training.coder, fitted)
