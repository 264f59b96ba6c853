"""Networks that are fitted and asked as one, such as those of the folds of an ensemble; see `tabmtl.nn.joined`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.encode.read import read_groups
from tabmtl.estimators.network import NetworkEstimator, evaluate_scores, in_training_units, on_device
from tabmtl.estimators.rows import FrameRows
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.model_selection.repeats import group_equal_rows, number_groups
from tabmtl.nn.joined import JoinedNetworks, can_join
from tabmtl.schema import Batch
from tabmtl.storage.stored import fingerprint
from tabmtl.training.device import find_device, seeded, threads
from tabmtl.training.joint import Member, train_jointly
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.predict import predict_scores
from tabmtl.training.run import running
from tabmtl.training.watch import describe_tasks

_MOST_ROWS = 12_000  # to learn from; of more, the products of a step take nearly all of its time


def fit_together(
    estimators: Sequence[MultiTaskEstimator], tables: Sequence[Mapping[str, Any]], whole: Mapping[str, Any]
) -> None:
    """Fit copies of one estimator, each on a table of its own; networks that can, as one.

    Joined networks read features by scales and levels of one table. Otherwise each is fitted as if it were alone: with
    its own labels, rows set aside, order of rows, noise and early stopping. Its ``history_`` has no scores of training
    rows. All other estimators are fitted one after the other.

    Parameters
    ----------
    estimators : sequence of MultiTaskEstimator
        With the same parameters but for ``random_state``.
    tables : sequence of mapping
        Arguments of the ``fit`` of each.
    whole : mapping
        Arguments of a ``fit`` on all rows; their features give the scales and levels.

    Raises
    ------
    ValueError, TypeError
        As ``fit`` does.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> whole = {"X": X, "y": X[:, :2]}
    >>> networks = [SharedBottom(epochs=2, random_state=seed) for seed in range(2)]
    >>> fit_together(networks, [{"X": X[:100], "y": X[:100, :2]}, {"X": X[100:], "y": X[100:, :2]}], whole)
    >>> [network.predict(X).shape for network in networks]
    [(200, 2), (200, 2)]
    """
    networks = [each for each in estimators if isinstance(each, NetworkEstimator) and _may_join(each)]
    if len(networks) == len(estimators) > 1 and len(tables[0]["X"]) <= _MOST_ROWS:
        parts = _parts(networks, tables, whole)
        if parts is not None:
            _fit_joined(parts)
            return
    for estimator, table in zip(estimators, tables, strict=True):
        estimator.fit(**table)


@dataclass(frozen=True, eq=False)
class _Part:
    """Network before its training, with its rows."""

    estimator: NetworkEstimator
    coder: TableCoder
    seed: int
    rows: FrameRows
    valid: FrameRows | None
    network: torch.nn.Module


def _may_join(estimator: NetworkEstimator) -> bool:
    """Tell whether the parameters of a network allow that it is trained as a part of one."""
    is_plain = isinstance(estimator.balance, str) and estimator.balance == "sum" and not estimator.flat
    is_wide = estimator.task_column is None and estimator.preprocessor is None
    is_quiet = estimator.on_epoch is None and not estimator.keep_on_interrupt and running().group.size == 1
    return is_plain and is_wide and is_quiet and find_device(estimator.device).type == "cpu"


def _parts(
    networks: Sequence[NetworkEstimator], tables: Sequence[Mapping[str, Any]], whole: Mapping[str, Any]
) -> list[_Part] | None:
    """Return the networks with their rows; None if these networks cannot be joined."""
    first, parts = networks[0], list[_Part]()
    first.check_call(whole["X"])
    shared = first.learn_coder(whole["X"], whole["y"])
    for estimator, table in zip(networks, tables, strict=True):
        X, y, weight = table["X"], table["y"], table.get("sample_weight")
        labels = LabelCoder.fit(y, weight, tasks=estimator.tasks, force=estimator._target_kind, task_levels=None)
        coder = replace(shared, labels=estimator._with_metrics(labels))
        batch, seed, groups = coder.read(X, y, weight), estimator._seed(), table.get("groups")
        group = group_equal_rows(batch) if groups is None else number_groups(read_groups(groups, X, len(batch)))
        rows, valid = estimator._set_aside(coder, FrameRows(replace(batch, group=group), labels.tasks, X), None, seed)
        with seeded(seed, torch.device("cpu")):
            network = estimator._network(coder.features.columns, coder.labels.tasks)
        if not can_join(network):
            return None
        parts.append(_Part(estimator, coder, seed, rows, valid, network))
    return parts if len({(part.valid is None, _widths(part.coder)) for part in parts}) == 1 else None


def _widths(coder: TableCoder) -> tuple[int, ...]:
    """Return the number of scores of every task."""
    return tuple(task.width for task in coder.labels.tasks)


def _answers_alone(estimator: NetworkEstimator) -> bool:
    """Tell whether a fitted network answers all tasks of a row of a wide table at once, on a CPU."""
    is_plain = estimator.coder_.task_column is None and estimator.coder_.preprocessing is None
    return is_plain and not estimator.task_weights_ and find_device(estimator.device).type == "cpu"


def _fit_joined(parts: Sequence[_Part]) -> None:
    """Train networks as one, and set the fitted attributes of each."""
    first, cpu = parts[0], torch.device("cpu")
    members = []
    for part in parts:
        rows, valid = (
            None if own is None else on_device(in_training_units(own.read(), part.coder), cpu)
            for own in (part.rows, part.valid)
        )
        assert rows is not None
        evaluate = partial(evaluate_scores, part.coder)
        members.append(Member(network=part.network, rows=rows, valid=valid, evaluate=evaluate))
    tasks = first.coder.labels.tasks
    loss = partial(_loss_of, first.estimator, first.coder)
    with running().fit(first.estimator) as run, seeded(first.seed, cpu), threads(first.estimator.n_jobs, first.network):
        batch_size = train_jointly(first.estimator, members, loss, run, partial(describe_tasks, tasks))
        for part, member in zip(parts, members, strict=True):
            found = member.history, member.snapshots
            fitted = part.estimator._trained(part.network, part.coder, member.rows, batch_size, *found)
            part.estimator._set_fitted(part.coder, fitted | part.estimator._to_judge(part.coder, part.valid))


def _loss_of(estimator: NetworkEstimator, coder: TableCoder, n_networks: int) -> MultiTaskLoss:
    """Return the loss of the tasks of several networks side by side."""
    return estimator._loss(coder.labels.tasks * n_networks)


class AskedTogether:
    """Fitted networks that answer rows as one.

    Parameters
    ----------
    estimators : sequence of NetworkEstimator
        Whose networks can be joined, and whose features are coded alike; see `of`.
    """

    def __init__(self, estimators: Sequence[NetworkEstimator]) -> None:
        first = estimators[0]
        self._first, self._labels = first, [each.coder_.labels for each in estimators]
        self._joined = JoinedNetworks([each.fitted_network()[0] for each in estimators])
        self._joined.network.eval()
        self._link = _loss_of(first.unfitted(), first.coder_, len(estimators)).link_rows

    @classmethod
    def of(cls, estimators: Sequence[MultiTaskEstimator]) -> Self | None:
        """Join fitted estimators; None if they are no networks of one form that read features alike."""
        networks = [each for each in estimators if isinstance(each, NetworkEstimator) and _answers_alone(each)]
        if not len(networks) == len(estimators) > 1 or not can_join(networks[0].fitted_network()[0]):
            return None
        forms = {(type(each), fingerprint(each.coder_.features), _widths(each.coder_)) for each in networks}
        return cls(networks) if len(forms) == 1 else None

    def read(self, X: pl.DataFrame) -> Batch:
        """Encode rows as every one of the networks does."""
        return self._first.coder_.read(X)

    def answer(self, batch: Batch) -> list[list[np.ndarray]]:
        """Answer encoded rows: for each network, probabilities (n, K) or values (n,) for every column of y.

        Parameters
        ----------
        batch : Batch
            What `read` returns.
        """
        n, first = self._joined.n, self._first
        x = replace(batch.x, numbers=np.tile(batch.x.numbers, (1, n)), codes=np.tile(batch.x.codes, (1, n)))
        wide, network = on_device(Batch(x=x), torch.device("cpu")), self._joined.network
        with threads(first.n_jobs, network):
            scores = predict_scores(network, wide, first.precision, link=self._link)
        arrays, n_tasks = [score.numpy() for score in scores], len(scores) // n
        return [labels.outputs(arrays[k * n_tasks : (k + 1) * n_tasks]) for k, labels in enumerate(self._labels)]
