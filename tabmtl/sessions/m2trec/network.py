"""The network of M2TRec: units to vectors, sessions to queries, queries to scores of items and of categories.

Shapes: B sessions of at most L clicks, P queries, d the width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.nn.embeddings import grown_rows
from tabmtl.nn.layers import at_least_float32
from tabmtl.sessions.m2trec.encoder import SessionEncoder, unit_length
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import NetworkItems
from tabmtl.sessions.m2trec.tower import FIRST_LENGTH, ItemVectors

_LEFT_OUT = 0.5  # share of the training queries without popularity


class M2TRecNetwork(nn.Module):
    """Item tower, session encoder and heads.

    The score of an item is q·E_i, or with a temperature cos(q, E_i) / tau; the scores of the categories of level l are
    W_l h + b_l, where h is the summary that q is made of. ``popularity`` adds (w·h + b) log(n_i / mean n) to the score
    of item i, which was clicked n_i times in training. Training leaves that out for a random half of the queries:
    popularity is learned in a few steps, and the vectors, which are noise by then, would be brought to say nothing.

    Parameters
    ----------
    coder : ItemCoder or None
        Of the item table, if there is one.
    n_own : int
        Items that have a vector of their own.
    options : M2TRec

    Attributes
    ----------
    level_columns : list of int
        Number of every level among the categorical columns.
    """

    def __init__(self, coder: ItemCoder | None, n_own: int, options: Any) -> None:
        super().__init__()
        self.temperature, self.coder = options.temperature, coder
        self.items = ItemVectors(coder, n_own, options)
        self.encoder = SessionEncoder(self.items.width, options)
        width = self.encoder.width
        columns = None if coder is None else coder.features.columns
        names, sizes = ((), ()) if columns is None else (columns.categorical, columns.cardinalities)
        self.level_columns = [names.index(name) for name in options._tasks()]
        level_sizes = [sizes[column] for column in self.level_columns]
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in level_sizes)
        self.weigh_popularity = None
        if options.popularity:
            self.weigh_popularity = nn.Linear(width, 1)
            for parameter in self.weigh_popularity.parameters():
                nn.init.zeros_(parameter)

    def load_grown(self, weights: Mapping[str, np.ndarray], before: ItemCoder | None, own: np.ndarray) -> None:
        """Load the weights of a network that knew fewer levels and fewer items.

        A new level begins as the unseen ones, as which it was read so far. A new own vector is drawn as in a fit, as
        long as the others are now: one of 0 would put the item in the middle of all that share its metadata, before
        most of them (docs/lab.md, "Going on").

        Parameters
        ----------
        weights : mapping of str to ndarray
        before : ItemCoder or None
            Of the item table then.
        own : ndarray of int64, shape (n_own,)
            Number of the own vector that each item with an own vector had; 0 for none.
        """
        grown = dict(weights)
        for name, rows in (self._grown_rows(before) | {"items.own.weight": np.append(0, own)}).items():
            if name in grown:
                grown[name] = np.take(grown[name], rows, axis=0)
        if self.items.own is not None:
            drawn = self.items.own.weight.detach().cpu().numpy()
            known, new = weights.get("items.own.weight", drawn[:1]), 1 + np.flatnonzero(own == 0)
            lengths = np.linalg.norm(known[1:], axis=1)
            grown.setdefault("items.own.weight", np.zeros_like(drawn))
            grown["items.own.weight"][new] = drawn[new] * (np.median(lengths) / FIRST_LENGTH if len(lengths) else 1)
        self.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in grown.items()})

    def _grown_rows(self, before: ItemCoder | None) -> dict[str, np.ndarray]:
        """Give the old row of every row of the weights that have one for each level, by the name of these weights."""
        if before is None or self.coder is None:
            return {}
        then, now = before.features.columns, self.coder.features.columns
        tables = "items.tower.tokenizer"
        found = {
            f"{tables}.categorical.table.weight": grown_rows(then.cardinalities, now.cardinalities),
            f"{tables}.bags.table.weight": grown_rows(then.bag_sizes, now.bag_sizes),
        }
        levels = [(then.cardinalities[column], now.cardinalities[column]) for column in self.level_columns]
        for number, (few, many) in enumerate(levels):
            found |= dict.fromkeys((f"heads.{number}.weight", f"heads.{number}.bias"), grown_rows([few], [many]))
        return found

    def vectors(self, items: NetworkItems, units: Tensor) -> Tensor:
        """Compute the vectors (n, d + 1) of units (n,), as scores compare them, float32; the popularity comes last."""
        vectors = self.items(items.features, items.row[units], items.own[units])
        vectors = at_least_float32(vectors) if self.temperature is None else unit_length(vectors)
        return torch.cat([vectors, items.popularity[units, None]], dim=1)

    def forward(self, clicked: Tensor, lengths: Tensor, *, all_prefixes: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Compute queries and category scores of sessions.

        Parameters
        ----------
        clicked : Tensor of shape (B, L, d + 1)
            Vectors of the clicked items, newest first.
        lengths : Tensor of shape (B,)
        all_prefixes : bool, default=False
            Read every prefix, one query each, place by place; not only the whole sessions.

        Returns
        -------
        queries : Tensor of float32, shape (P, d + 1)
            Their inner products with vectors are the scores.
        categories : list of Tensor (P, n codes)
        """
        queries, summaries = self.encoder(clicked[..., :-1], lengths, all_prefixes=all_prefixes)
        if all_prefixes:
            inside = torch.arange(clicked.shape[1], device=lengths.device) < lengths[:, None]
            queries, summaries = queries[inside], summaries[inside]
        categories = [head(summaries) for head in self.heads]
        queries = at_least_float32(queries) if self.temperature is None else unit_length(queries) / self.temperature
        if self.weigh_popularity is None:
            return F.pad(queries, (0, 1)), categories
        weight = at_least_float32(self.weigh_popularity(summaries))
        if self.training:
            weight = weight * (torch.rand_like(weight) >= _LEFT_OUT)
        return torch.cat([queries, weight], dim=1), categories
