"""How M2TRec puts a training together: examples, candidates, validation and progress; the steps are in `loop`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.m2trec.index import Scorer
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork, Units
from tabmtl.sessions.m2trec.softmax import Candidates
from tabmtl.sessions.m2trec.training import Examples, LoopOptions, SessionLoop
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.ranking import rank_next
from tabmtl.training.epochs import Record, run_epochs
from tabmtl.training.hooks import watching

if TYPE_CHECKING:
    from tabmtl.sessions.m2trec import M2TRec

_SESSIONS_TO_SPLIT = 20  # fewer sessions are all trained on
VALIDATED = 20_000  # clicks that are predicted after an epoch, spread over the validation log


def split_sessions(model: M2TRec, sessions: Sessions, valid: Sessions | None) -> tuple[Sessions, Sessions | None]:
    """Sessions to train on, of two clicks at least, and to validate on: those given, or set aside to stop early."""
    if valid is None and model.early_stopping:
        sessions, valid = newest_apart(sessions, model.validation_fraction)
    train = sessions.at_least(2)
    if not len(train):
        raise ValueError("no session of the click log has two clicks, so there is no next click to learn from")
    if valid is not None and not len(valid.at_least(2)):
        raise ValueError("no session of the validation log has two clicks; give a longer clicks_val")
    return train, valid


def newest_apart(sessions: Sessions, share: float) -> tuple[Sessions, Sessions | None]:
    """Older sessions and the newest share; all and None where there are few."""
    if len(sessions) < _SESSIONS_TO_SPLIT:
        return sessions, None
    kept = len(sessions) - max(1, round(share * len(sessions)))
    return sessions.take(np.arange(kept)), sessions.take(np.arange(kept, len(sessions)))


def fit_coder(model: M2TRec, catalogue: Catalogue, counts: np.ndarray) -> ItemCoder | None:
    """The encoding of metadata, learned on the items that have clicks among ``counts`` (N,); None without metadata."""
    if catalogue.metadata is not None and catalogue.metadata.width:
        return ItemCoder.fit(
            catalogue.metadata.filter(pl.Series(counts > 0)),
            categories=model.categories,
            categorical=model.categorical_features,
            texts=model.text_features,
            min_frequency=model.min_frequency,
        )
    needs = [] if model.id_mode == "full" else [f"id_mode={model.id_mode!r}"]
    named = ("categories", "categorical_features", "text_features")
    lists = {name: getattr(model, name) for name in named if not isinstance(getattr(model, name), str)}
    needs += [f"{name}={list(columns)}" for name, columns in lists.items() if len(columns)]
    if needs:
        cure = "fit with items="
        if catalogue.metadata is not None:
            cure = f"the one given has no column but {model.item_column!r}"
        raise ValueError(f"an item table with metadata is needed for {' and '.join(needs)}: {cure}")
    return None


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
        Candidates(torch.from_numpy(items.unit_clicks).to(device), model.n_negatives),
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


def history_frame(records: Any) -> pl.DataFrame:
    """Records of epochs, or columns of them by name, as a frame: whole numbers of epochs, and measures."""
    history = pl.DataFrame(records, infer_schema_length=None)
    return history.with_columns(pl.col("epoch").cast(pl.Int64), pl.exclude("epoch").cast(pl.Float64))
