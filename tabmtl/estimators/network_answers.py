"""From fitted weights to answers: of all tasks, or of some by a network of these alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tabmtl.estimators.asked import part_of
from tabmtl.estimators.training import on_device
from tabmtl.schema import Batch
from tabmtl.training.device import threads
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.predict import predict_scores

if TYPE_CHECKING:
    from tabmtl.encode import LabelCoder, TableCoder


def restricted(network: Any, places: tuple[int, ...]) -> torch.nn.Module | None:
    """Return the network of some tasks, made once of the whole one; None if its class cannot."""
    if not hasattr(network, "restricted"):
        return None
    device = next(network.parameters()).device
    return part_of(network, (places, device), lambda: network.restricted(places).eval())


class NetworkAnswers:
    """The answers of a fitted network to encoded rows."""

    if TYPE_CHECKING:
        coder_: TableCoder
        tasks_: Any
        task_weights_: Any
        task_snapshot_: Any
        batch_size_: int
        precision: Any
        n_jobs: Any
        _link: Callable[..., Any]

        def fitted_network(self) -> tuple[Any, torch.device]: ...

        def unfitted(self) -> Any: ...

        def _labels_of(self, places: tuple[int, ...], *, is_flat: bool = False) -> LabelCoder: ...

        def _rebuild_of_tasks(self, network: torch.nn.Module) -> list[torch.nn.Module]: ...

    def _run(self, function: Callable[..., Any], batch: Batch, snapshot: int = 0) -> Any:
        """Return the result of `predict_scores` or `represent_rows` on encoded rows, by some of the kept weights."""
        network, device = self._kept_network(snapshot)
        return self._run_by(network, device, function, batch)

    def _run_by(self, network: Any, device: torch.device, function: Callable[..., Any], batch: Batch) -> Any:
        with threads(self.n_jobs, network):
            return function(network, on_device(batch, device), self.precision, batch_size=self.batch_size_)

    def _kept_network(self, snapshot: int) -> tuple[Any, torch.device]:
        """Return the network of some of the kept weights, and its device."""
        network, device = self.fitted_network()
        if snapshot:
            if self._task_modules is None:
                self._task_modules: list[torch.nn.Module] | None = self._rebuild_of_tasks(network)
            network = self._task_modules[snapshot - 1].to(device)
        return network, device

    def _outputs(self, X: Any, batch: Batch) -> list[np.ndarray]:
        scores = self._scores_of(batch) if len(self.task_weights_) else self._linked(batch)
        return self.coder_.labels.outputs([score.cpu().numpy() for score in scores])

    def _linked(self, batch: Batch, snapshot: int = 0) -> list[torch.Tensor]:
        return self._run(partial(predict_scores, link=self._link), batch, snapshot)

    def _scores_of(self, batch: Batch) -> list[torch.Tensor]:
        """Return the linked scores of encoded rows, each task's by its own weights."""
        if batch.task is None:
            used = np.unique(self.task_snapshot_).tolist()
            scores = {k: self._linked(batch, k) for k in used}
            return [scores[k][t] for t, k in enumerate(self.task_snapshot_.tolist())]
        place = self.task_snapshot_[batch.task]
        parts = [np.flatnonzero(place == k) for k in np.unique(place)]
        answers = [self._linked(batch.rows(rows), int(place[rows[0]]))[0] for rows in parts]
        return [torch.cat(answers)[np.argsort(np.concatenate(parts))]]

    def _outputs_of(self, X: Any, batch: Batch, places: tuple[int, ...]) -> list[np.ndarray]:
        snapshot = self.task_snapshot_.tolist() if len(self.task_weights_) else [0] * len(self.tasks_)
        scores: dict[int, np.ndarray] = {}
        for k in sorted({snapshot[t] for t in places}):
            own = tuple(t for t in places if snapshot[t] == k)
            scores |= zip(own, (score.cpu().numpy() for score in self._linked_of(batch, own, k)), strict=True)
        return self._labels_of(places).outputs([scores[t] for t in places])

    def _linked_of(self, batch: Batch, places: tuple[int, ...], snapshot: int) -> list[torch.Tensor]:
        """Return the linked scores of some tasks, by a network of these and of what their link takes."""
        whole, device = self._kept_network(snapshot)
        needed, link = part_of(whole, places, lambda: self._link_of(places))
        network = restricted(whole, needed)
        if network is None:
            linked = self._linked(batch, snapshot)
            return [linked[t] for t in places]
        return self._run_by(network, device, partial(predict_scores, link=link), batch)[: len(places)]

    def _link_of(self, places: tuple[int, ...]) -> tuple[tuple[int, ...], Callable[..., Any]]:
        """Return the numbers of some tasks and of those that their link takes too, and this link."""
        loss: MultiTaskLoss = self.unfitted()._loss(self.tasks_)
        needed = loss.needed(places)
        return needed, loss.restricted(needed).link_rows
