"""Several fitted networks asked as one network; see `tabmtl.nn.joined`."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from tabmtl.base.schema import Batch
from tabmtl.estimators.asked import Together
from tabmtl.estimators.base import unfitted
from tabmtl.nn.joined import FewRows, JoinedNetworks, can_join
from tabmtl.training.device import find_device, threads
from tabmtl.training.predict import predict_scores

_SLICE_ROWS = 128  # activations of more rows of all networks leave the cache


class NetworksTogether(Together):
    """Networks that read rows alike, joined where their form allows it; else each answers by itself."""

    @cached_property
    def _joined(self) -> JoinedNetworks | None:
        """The networks as one."""
        first, networks = self.models[0], [model.fitted_network()[0] for model in self.models]
        forms = {tuple(task.width for task in own.tasks) for own in self._labels}
        is_long = first.coder_.task_column is not None
        if len(networks) < 2 or len(forms) > 1 or is_long or not can_join(networks[0]):
            return None
        if self.places is not None:
            networks = [network.restricted(self.places) for network in networks]
        joined = JoinedNetworks(networks)
        network: Any = joined.network.eval()
        network.heads.merge()
        return joined

    @cached_property
    def _few(self) -> FewRows:
        """The networks for few rows."""
        joined: Any = self._joined
        return FewRows(joined.network).eval()

    @cached_property
    def _link(self) -> Any:
        """The link of the scores of all networks side by side."""
        first = self.models[0]
        return unfitted(first)._loss(self._labels[0].tasks * len(self.models)).link_rows

    def answers(self, X: Any, batch: Batch) -> list[list[np.ndarray]]:
        """Return the answers of every network; see `Together`."""
        first, n = self.models[0], len(self.models)
        if find_device(first.device).type != "cpu" or self._joined is None:
            return super().answers(X, batch)
        network: Any = self._joined.network
        rows = Batch(x=batch.x.beside_itself(n)).map(torch.from_numpy)
        network = self._few if FewRows.suits(network, len(batch)) else network
        with threads(first.n_jobs, network):
            found = predict_scores(network, rows, first.precision, link=self._link, slice_rows=_SLICE_ROWS)
        scores = [score.numpy() for score in found]
        return self.linked(_dealt(scores, n))


def _dealt(scores: list[np.ndarray], n: int) -> list[list[np.ndarray]]:
    """Return the scores of each of n networks."""
    n_tasks = len(scores) // n
    return [scores[k * n_tasks : (k + 1) * n_tasks] for k in range(n)]
