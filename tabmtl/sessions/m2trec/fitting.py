"""One fit of M2TRec: who teaches and who judges, the items, the training, and the worth of own and of new items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch

from tabmtl.base.ranks import answer, check_same
from tabmtl.base.storage.stored import fingerprint
from tabmtl.columns.declared import declare
from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.categories import ItemCategories
from tabmtl.sessions.m2trec.ceiling import describe_metadata, warn_of_ceiling
from tabmtl.sessions.m2trec.fitted import FittedM2TRec
from tabmtl.sessions.m2trec.index import ItemIndex
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.m2trec.new_items import (
    NewItems,
    measure_new_items,
    report_new_items,
    share_of_births,
    warn_of_equals,
)
from tabmtl.sessions.m2trec.training import Examples, Feed, SessionLoop
from tabmtl.sessions.m2trec.validation import Validation
from tabmtl.sessions.ragged import AnySessions, Sessions
from tabmtl.sessions.ranking import log_totals
from tabmtl.sessions.repeats import Choices, RepeatWeights, learn_weights
from tabmtl.training.checkpoint import checksum
from tabmtl.training.device import find_device, seed_of, seeded, threads
from tabmtl.training.epochs import run_epochs, trained_attributes
from tabmtl.training.run import running

#: Clicks of the mean clicked item from which a directed path is trained, if sessions that are set aside can judge it,
#: and if none can; and its strength then (docs/lab.md, "The directed path").
_SPARSE, _DENSE, _DENSE_STRENGTH = 12, 25, 0.5


class Fitting:
    """One fit; `run` gives the fitted attributes.

    Parameters
    ----------
    log : AnySessions
        All sessions of the log of fit.
    catalogue : Catalogue
    valid : Sessions or None
        Those of ``clicks_val``.
    model : M2TRec
        Its parameters.
    **once
        Parameters of this training alone.

    Attributes
    ----------
    maker, options : M2TRec
        Unfitted, with the parameters of the model, and with those of this training.
    train : AnySessions
        Those that are trained on, of two clicks at least.
    valid : Sessions or None
        Those that judge, of two clicks at least: of ``clicks_val``, or set aside.
    coder : ItemCoder or None
        The encoding of metadata, learned on the items that are trained on; None without metadata.
    known : KnownItems
    """

    def __init__(self, log: AnySessions, catalogue: Catalogue, valid: Sessions | None, model: Any, **once: Any) -> None:
        self.log, self.catalogue, self.group = log, catalogue, log.group
        self.maker, self.options = replace(model), replace(model, **once)
        self.train, self.valid = self._set_aside(valid)
        self.coder, self.known = self._read_items(self.train.count_items(len(catalogue)))
        if self.group.size > 1:
            judged = None if self.valid is None else checksum([self.valid.items, self.valid.offsets])
            facts = {"the item table": fingerprint(self.known), "the validation log": judged}
            check_same(self.group, {f"the checksum of {what}": fact for what, fact in facts.items()})

    def _set_aside(self, valid: Sessions | None) -> tuple[AnySessions, Sessions | None]:
        """Part the sessions to train on from those that judge."""
        sessions = self.log
        if valid is None and self.options.early_stopping:
            sessions, valid = sessions.set_newest_aside(self.options.validation_fraction)
        train = sessions.at_least(2)
        if not len(train):
            raise ValueError("no session of the click log has two clicks, so there is no next click to learn from")
        if valid is not None:
            valid = valid.at_least(2)
            if not len(valid):
                raise ValueError("no session of the validation log has two clicks; give a longer clicks_val")
        return train, valid

    def _read_items(self, clicks: np.ndarray) -> tuple[ItemCoder | None, KnownItems]:
        """Learn the encoding of metadata, and encode that of all items, whose clicks are given, (N,)."""
        coder, features, row = self._fit_coder(clicks), None, None
        if coder is not None and self.catalogue.metadata is not None:
            features, row = coder.encode(self.catalogue.metadata)
            if coder.text_vectors is not None:
                coder.text_vectors.forget()
        shared = self.options.id_mode == "none"
        return coder, KnownItems(features=features, row=row, clicks=clicks, shared=shared)

    def _network(self) -> M2TRecNetwork:
        """Build the network before its training."""
        return M2TRecNetwork(self.coder, self.known.n_own, self.options)

    def _fit_coder(self, clicks: np.ndarray) -> ItemCoder | None:
        """Learn the encoding of metadata on the items with clicks (N,); None without metadata."""
        options, metadata = self.options, self.catalogue.metadata
        if metadata is not None and metadata.width:
            return ItemCoder.fit(
                metadata.filter(pl.Series(clicks > 0)),
                categories=options.categories,
                columns=declare(options.columns),
                min_frequency=options.min_frequency,
            )
        needs = [] if options.id_mode == "full" else [f"id_mode={options.id_mode!r}"]
        needs += [] if options.item_tower == "mlp" else [f"item_tower={options.item_tower!r}"]
        for name in ("categories", "columns"):
            columns = getattr(options, name) or ()
            needs += [f"{name}={columns!r}"] if len(columns) else []
        if needs:
            cure = "fit with items="
            if metadata is not None:
                cure = f"the one given has no column but {options.item_column!r}"
            raise ValueError(f"an item table with metadata is needed for {' and '.join(needs)}: {cure}")
        return None

    def run(self) -> dict[str, Any]:
        """Train, measure, and return the fitted attributes by name."""
        options, known, valid = self.options, self.known, self.valid
        attributes = self._look_at_metadata()
        device, seed = find_device(options.device), self.group.gather(options._seed())[0]
        with seeded(seed, device):
            network = self._network().to(device)
            with threads(options.n_jobs, network):
                validation = None if valid is None else Validation(network, known, valid, options)
                if self.group.rank:  # the networks are the same, the noise is not
                    torch.manual_seed(seed_of(seed, self.group.rank))
                loop = self._loop(network, validation, seed)
                (trained,) = run_epochs(
                    [network], loop, options, run=running(), on_epoch=options.on_epoch, describe=_describe
                )
                attributes |= self._set_strength(network, validation)
                attributes |= trained_attributes(trained.history, trained.best.epoch)
                hidden = NewItems.hidden().values(known)  # until they are measured
                index = ItemIndex(network, loop.items, options, *hidden)
                index.repeats = self._learn_repeats(index)
                new, report = self._measure_new_items(index)
        fitted = FittedM2TRec.of(
            network,
            maker=self.maker,
            coder=self.coder,
            items=known,
            categories=self._read_categories(),
            new_items=new,
        )
        return attributes | {"_repeats": index.repeats, "new_item_report_": report, "_fitted": fitted.with_index(index)}

    def _look_at_metadata(self) -> dict[str, Any]:
        """Warn if metadata cannot tell the items apart, and return the fitted attributes that say how well it does."""
        options, train, valid = self.options, self.train, self.valid
        is_first = self.group.rank == 0
        if self.known.shared:
            earlier, judged = train.set_newest_aside(options.validation_fraction) if valid is None else (train, valid)
            if judged is not None and is_first:
                warn_of_ceiling(self.known, earlier.sample, judged)
        judged = train.sample if valid is None else valid
        return describe_metadata(self.known, judged, verbose=options.verbose if is_first else 0)

    def _loop(self, network: M2TRecNetwork, validation: Validation | None, seed: int) -> SessionLoop:
        """Prepare the training of the network, in which few clicks leave the directed path out."""
        options, known, train = self.options, self.known, self.train
        device = next(network.parameters()).device
        if self._leaves_path_out(validation):
            network.encoder.left_out = 1.0
        read = partial(
            Examples.of, unit_of=known.unit_of, max_length=options.max_length, mode=options.training, device=device
        )
        feed: Feed = train.feed(read, seed)
        return SessionLoop(network, known.on(device), feed, options._tasks(), options, validation)

    def _leaves_path_out(self, validation: Validation | None) -> bool:
        """Tell whether the log has too few clicks to train a directed path."""
        clicks = self.known.clicks
        return bool(clicks[clicks > 0].mean() < (_DENSE if validation is None else _SPARSE))

    def _set_strength(self, network: M2TRecNetwork, validation: Validation | None) -> dict[str, float]:
        """Choose the strength of the directed path, and give the fitted attribute; none without such a path."""
        if network.encoder.direct is None:
            return {}
        strength = 0.0
        if network.encoder.left_out < 1:
            strength = _DENSE_STRENGTH if validation is None else answer(self.group, validation.choose_strength)
        network.encoder.scale_direct(strength)
        return {"directed_strength_": strength}

    def _learn_repeats(self, index: ItemIndex) -> RepeatWeights:
        """Learn what a session's own items are worth on the sessions that judge, if there are any."""
        if self.valid is None or not self.options.repeats:
            return RepeatWeights()
        return self._repeats_on(self.valid, index)

    def _repeats_on(self, judged: Sessions, index: ItemIndex) -> RepeatWeights:
        """Learn them on sessions that the network of an index has not learned."""
        max_length = self.options.max_length

        def log_shares(sessions: Sessions) -> np.ndarray:
            scores = index.scores(sessions)
            scores -= log_totals(scores)
            return scores

        def learn() -> dict[str, float]:
            n_items = len(index.unit_of) - 1
            choices = Choices.of(judged, n_items, log_shares, lambda some: some.last(max_length))
            return vars(learn_weights(choices))

        return RepeatWeights(**answer(self.group, learn))

    def _measure_new_items(self, index: ItemIndex) -> tuple[NewItems, pl.DataFrame]:
        """Measure what new items are worth on the sessions that judge, or else on the newest of training."""
        options, known, judged = self.options, self.known, self.valid
        if judged is None:
            _, judged = self.log.set_newest_aside(options.validation_fraction)
        if judged is None or not np.append(0, known.clicks)[judged.next_clicks()].any():
            judged = self.train.sample
        share = options.new_item_share
        if isinstance(share, str):
            share = share_of_births(self.train, len(self.catalogue))

        def measure() -> tuple[dict[str, Any], pl.DataFrame]:
            new, facts = measure_new_items(index.scores_by, known, judged, share)
            new = new.capped(index.scores_by, known, options.max_new_share)
            report = report_new_items(index.scores_by, known, new, facts)
            warn_of_equals(known, known.clicks == 0, "listed")
            return vars(new), report

        found, report = answer(self.group, measure)
        return NewItems(**found), report

    def _read_categories(self) -> tuple[ItemCategories, ...]:
        """Read the columns of categories and tags, and count their transitions in the log."""
        metadata = self.catalogue.metadata
        if self.coder is None or metadata is None:
            return ()
        return tuple(ItemCategories.fit(metadata[name], self.log) for name in self.coder.category_names)


def _describe(record: Mapping[str, float | None]) -> str:
    """Describe an epoch for `verbose=1`."""
    names = [name for name in ("train/loss", "val/recall@20", "val/mrr@20") if record.get(name) is not None]
    return "  ".join(f"{name} {record[name]:.4f}" for name in names)
