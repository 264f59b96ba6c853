"""The network of M2TRec: units to vectors, sessions to queries, queries to scores of items and of categories.

Shapes: U units (of `ItemVectors`), B sessions of at most L clicks, P queries, d the width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.sessions.m2trec.encoder import SessionEncoder, unit_length
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.tower import FIRST_LENGTH, FeatureTensors, ItemTower, ItemVectors

if TYPE_CHECKING:
    from tabmtl.sessions.m2trec import M2TRec


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """What the network knows of its units, on a device; unit 0 is an item that nobody knows.

    Attributes
    ----------
    features : FeatureTensors or None
        Distinct rows of metadata; the last stands for nothing known.
    row : Tensor of int64, shape (U,)
        Row of metadata of every unit.
    own : Tensor of int64, shape (U,)
        Which own vector every unit has; 0 for none.
    levels : Tensor of int64, shape (U, n_levels)
        Code of every unit's category at each level; 0 missing.
    popularity : Tensor of float32, shape (U,)
        log(clicks / mean clicks); 0 of units without clicks.
    """

    features: FeatureTensors | None
    row: Tensor
    own: Tensor
    levels: Tensor
    popularity: Tensor

    @classmethod
    def of(cls, items: KnownItems, level_columns: Sequence[int], device: torch.device) -> Units:
        """The units of items; columns of categories by number are the levels."""
        tensors = None if items.features is None else FeatureTensors.of(items.features, device)
        rows, own, popularity = (
            torch.from_numpy(array).to(device) for array in (items.unit_rows, items.unit_own, items.popularity)
        )
        levels = rows.new_zeros(len(rows), 0)
        if tensors is not None:
            rows = rows.where(rows >= 0, len(tensors) - 1)
            levels = tensors.x_cat[rows][:, list(level_columns)].long()
        return cls(features=tensors, row=rows, own=own, levels=levels, popularity=popularity)

    def __len__(self) -> int:
        return len(self.row)


class M2TRecNetwork(nn.Module):
    """Item tower, session encoder and heads.

    A score of an item is q·E_i, or with a temperature cos(q, E_i) / tau; those of the categories of level l are
    W_l h + b_l, where h is the summary that q is made of. With ``popularity``, (w·h + b) log(n_i / mean n) is added to
    the score of item i, which was clicked n_i times in training; with ``repeats``, w'·h + b' to those of the items that
    the session has clicked. With ``hierarchy``, what the heads say is fed back::

        q' = W_q [q ; W_p [softmax(c_1) ; softmax(c_2) ; ...]]

    Parameters
    ----------
    items : ItemVectors
    encoder : SessionEncoder
    level_sizes : sequence of int
        Number of codes of each level of categories.
    temperature : float or None
    hierarchy, popularity, repeats : bool
    """

    def __init__(
        self,
        items: ItemVectors,
        encoder: SessionEncoder,
        level_sizes: Sequence[int],
        *,
        temperature: float | None,
        hierarchy: bool,
        popularity: bool,
        repeats: bool,
    ) -> None:
        super().__init__()
        self.items, self.encoder, self.temperature = items, encoder, temperature
        d_model = items.d_model
        self.heads = nn.ModuleList(nn.Linear(encoder.width, size) for size in level_sizes)
        self.weigh_popularity = _zero_map(encoder.width) if popularity else None
        self.weigh_repeat = _zero_map(encoder.width) if repeats else None
        self.project = self.join = None
        if hierarchy and level_sizes:
            self.project = nn.Linear(sum(level_sizes), d_model)
            self.join = nn.Linear(2 * d_model, d_model)
            with torch.no_grad():  # begin as q' = q: a random map would take queries out of the space of the items
                self.join.weight.copy_(torch.cat([torch.eye(d_model), torch.zeros(d_model, d_model)], dim=1))
                self.join.bias.zero_()

    def vectors(self, units: Units, index: Tensor) -> Tensor:
        """Vectors (n, d + 1) of units by number (n,), as scores compare them, float32; last comes the popularity."""
        vectors = self.items(units.features, units.row[index], units.own[index])
        vectors = vectors.float() if self.temperature is None else unit_length(vectors)
        return torch.cat([vectors, units.popularity[index, None]], dim=1)

    def forward(self, clicked: Tensor, lengths: Tensor, *, every: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Queries and category scores of sessions.

        Parameters
        ----------
        clicked : Tensor of shape (B, L, d + 1)
            Vectors of the clicked items, newest first.
        lengths : Tensor of shape (B,)
        every : bool, default=False
            Of every prefix, one row each, place by place; not only of whole sessions.

        Returns
        -------
        queries : Tensor of float32, shape (P, d + 2)
            Their inner products with vectors are the scores, but for the last column: it is added to those of clicked
            items.
        categories : list of Tensor (P, n codes)
        """
        queries, summaries = self.encoder(clicked[..., :-1], lengths, every=every)
        if every:
            inside = torch.arange(clicked.shape[1], device=lengths.device) < lengths[:, None]
            queries, summaries = queries[inside], summaries[inside]
        categories = [head(summaries) for head in self.heads]
        if self.project is not None and self.join is not None:
            said = self.project(torch.cat([torch.softmax(c.float(), dim=1) for c in categories], dim=1))
            queries = self.join(torch.cat([queries, said], dim=1))
        queries = queries.float() if self.temperature is None else unit_length(queries) / self.temperature
        for weigh in (self.weigh_popularity, self.weigh_repeat):
            more = F.pad(queries[:, :0], (0, 1)) if weigh is None else weigh(summaries).float()
            queries = torch.cat([queries, more], dim=1)
        return queries, categories


def _zero_map(width: int) -> nn.Linear:
    """A map to one number, which begins as 0."""
    linear = nn.Linear(width, 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def make_network(model: M2TRec, coder: ItemCoder | None, n_own: int, tasks: Iterable[str]) -> M2TRecNetwork:
    """The untrained network of an estimator's hyper-parameters.

    Parameters
    ----------
    model : M2TRec
    coder : ItemCoder or None
        Of the item table, if there is one.
    n_own : int
        Items that have a vector of their own.
    tasks : iterable of str
        Levels of categories that are predicted.
    """
    tower, level_sizes, width = None, [], model.d_model
    if coder is not None:
        columns = None if coder.table is None else coder.table.columns
        tower = ItemTower(columns, coder.bag_sizes, sum(coder.vectors.values()), width, unknown_rate=model.unknown_rate)
        sizes = {} if columns is None else dict(zip(columns.categorical, columns.cardinalities, strict=True))
        level_sizes = [sizes[name] for name in tasks]
    items = ItemVectors(
        tower,
        n_own,
        width,
        own_std=0.0 if model.id_mode == "delta" else FIRST_LENGTH * width**-0.5,
        own_dropout=model.id_dropout if model.id_mode == "full" and tower is not None else 0.0,
        own_bound=model.delta_norm if model.id_mode == "delta" else None,
    )
    encoder = SessionEncoder(
        width,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        d_ffn=4 * width,
        max_length=model.max_length,
        pooling=model.pooling,
        dropout=model.dropout,
        item_dropout=model.item_dropout,
    )
    return M2TRecNetwork(
        items,
        encoder,
        level_sizes,
        temperature=model.temperature,
        hierarchy=model.hierarchy,
        popularity=model.popularity,
        repeats=model.repeats,
    )
