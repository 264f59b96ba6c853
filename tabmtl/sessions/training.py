"""How M2TRec puts a training together: examples, candidates, validation and progress; the steps are in `loop`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from tabmtl.epochs import Record, run_epochs
from tabmtl.progress import watching
from tabmtl.sessions.data import Sessions
from tabmtl.sessions.items import KnownItems
from tabmtl.sessions.loop import Examples, LoopOptions, SessionLoop
from tabmtl.sessions.network import M2TRecNetwork, Units
from tabmtl.sessions.recommender import rank_next
from tabmtl.sessions.scorer import Scorer
from tabmtl.sessions.softmax import Candidates

if TYPE_CHECKING:
    from tabmtl.sessions.m2trec import M2TRec

VALIDATED = 20_000  # clicks that are predicted after an epoch, spread over the validation log


def train_network(
    model: M2TRec, network: M2TRecNetwork, units: Units, items: KnownItems, train: Sessions, valid: Sessions | None
) -> tuple[list[Record], int]:
    """Train the network of an estimator; the kept weights are left in it.

    Parameters
    ----------
    model : M2TRec
        Whose hyper-parameters rule.
    network : M2TRecNetwork
    units : Units
        On the device of the network.
    items : KnownItems
    train : Sessions
        Of two clicks at least.
    valid : Sessions or None
        None trains all epochs.

    Returns
    -------
    history : list of dict
        One record an epoch.
    best : int
        Index of the epoch whose weights were kept.
    """
    device = units.row.device
    loop = SessionLoop(
        network,
        units,
        Examples.of(train, items.unit_of, model.max_length, model.training, device),
        Candidates(*_clicks_of_units(items, train, device), model.n_negatives),
        weights=model._tasks(),
        options=LoopOptions(
            epochs=model.epochs,
            batch_size=model.batch_size,
            learning_rate=model.learning_rate,
            weight_decay=model.weight_decay,
            average_decay=model.average_decay,
            precision=model.precision,
        ),
        validate=_validation(model, network, units, items, valid),
    )
    patience = model.patience if model.early_stopping and valid is not None else None
    with watching(model.epochs, _describe, verbose=model.verbose, on_epoch=model.on_epoch) as on_epoch:
        return run_epochs(network, loop, epochs=model.epochs, patience=patience, on_epoch=on_epoch)


def _clicks_of_units(items: KnownItems, train: Sessions, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Training clicks of every unit (U,), and those that are targets: all but the first of a session."""
    later = np.ones(len(train.items), dtype=bool)
    later[train.offsets[:-1]] = False
    targets = np.bincount(items.unit_of[train.items[later]], minlength=len(items.unit_rows))
    return torch.from_numpy(items.unit_clicks).to(device), torch.from_numpy(targets).to(device)


def _validation(
    model: M2TRec, network: M2TRecNetwork, units: Units, items: KnownItems, valid: Sessions | None
) -> Callable[[], tuple[Record, float | None]]:
    """What an epoch's weights are judged by: ranks of next clicks among all items."""
    if valid is None:
        return lambda: ({}, None)
    judged = valid.at_least(2)

    def validate() -> tuple[Record, float | None]:
        scorer = Scorer.of(network, units, items.unit_of, items.bias(model.cold_prior), model.max_length)
        ranking = rank_next(scorer.scores, judged, items.clicks, most=VALIDATED)
        score = ranking.mrr(20)
        return {"val/recall@20": ranking.recall(20), "val/mrr@20": score}, score

    return validate


def _describe(record: Mapping[str, float | None]) -> str:
    """What `verbose=1` shows of an epoch."""
    names = [name for name in ("train/loss", "val/recall@20", "val/mrr@20") if record.get(name) is not None]
    return "  ".join(f"{name} {record[name]:.4f}" for name in names)
