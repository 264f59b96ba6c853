"""Recommenders whose scores are inner products of vectors: search, new items, export and files."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from sklearn.utils.validation import check_is_fitted

from tabmtl.params import check_count, check_jobs, check_positive
from tabmtl.sessions.catalogue import Catalogue, plain_names, read_items
from tabmtl.sessions.log import code_items
from tabmtl.sessions.m2trec.fitting import history_frame
from tabmtl.sessions.m2trec.index import NeighbourGraph, Scorer, share_found, warn_of_misses
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork, Units
from tabmtl.sessions.ragged import Sessions, spread
from tabmtl.sessions.recommender import Recommender
from tabmtl.storage.atomic import write_file
from tabmtl.storage.persist import Saved, join_parts, split_parts
from tabmtl.training.device import find_device, seeded, threads

_CHECKED = 100  # sessions on which approximate search is compared with exact search
_TYPICAL = 1_000  # sessions of one click that the graph of neighbours is built for
_METADATA_FACTS = ("n_distinct_metadata_", "oracle_ceiling_")


@dataclass(kw_only=True, eq=False, repr=False)
class VectorRecommender(Recommender):
    """Base of recommenders that compare a query of the session with vectors of items.

    A subclass gives `_network` and the names of its category tasks, and fits ``weights_``, ``_coder`` and ``_items``.

    Parameters
    ----------
    max_length : int, default=50
        Clicks of a session that are read, the newest.
    cold_prior : float, default=1.0
        Training clicks that an item without any is credited with. By its metadata such an item stands for the mean of
        all items like it; its score is lowered by the log of what it lacks to their mean number of clicks. Raise it, up
        to that mean, where new items are launched to sell. With ``id_mode="none"``, clicks that every item has beyond
        its own when items of equal metadata are ranked. Without an item table, clicks that an item without any has
        where popularity answers.
    device : str, default="auto"
        ``"auto"`` is a GPU if torch sees one, else the CPU. It may be set after fit.
    n_jobs : int, optional
        Threads, as scikit-learn counts them; None lets the size of the network decide. It may be set after fit.
    **options
        The fields of :class:`tabmtl.sessions.recommender.Recommender` (columns of the click log).
    """

    max_length: int = 50
    cold_prior: float = 1.0
    device: str = "auto"
    n_jobs: int | None = None

    _reads_metadata: ClassVar[bool] = True

    @abstractmethod
    def _network(self, coder: ItemCoder | None, n_own: int) -> M2TRecNetwork:
        """Build the untrained network for items of an encoding, of which some have a vector of their own."""

    @abstractmethod
    def _tasks(self) -> dict[str, float]:
        """Levels whose category is a task, and the weight of its loss."""

    def _check_params(self) -> None:
        check_count("max_length", self.max_length)
        check_positive("cold_prior", self.cold_prior)
        find_device(self.device)
        check_jobs("n_jobs", self.n_jobs)

    def _set_fitted(self, catalogue: Catalogue, fitted: dict[str, Any]) -> None:
        super()._set_fitted(catalogue, fitted)
        self._coder: ItemCoder | None = fitted["_coder"]
        self._items: KnownItems = fitted["_items"]
        self._module: M2TRecNetwork | None = self._rebuild()  # a file whose weights do not fit is refused here
        self._scorer: Scorer | None = None
        self._graph: NeighbourGraph | None = None

    def recommend(
        self,
        sessions: Any,
        k: int = 20,
        *,
        candidates: Any = None,
        exclude_seen: bool = False,
        approximate: bool = False,
    ) -> Any:
        """Recommend items for the next click of every session; see `Recommender.recommend`.

        Matrix kernels round otherwise for fewer than four sessions: their scores may differ in the last bits from
        those of the same sessions among others.

        Parameters
        ----------
        sessions, k, candidates, exclude_seen
            As every recommender has them.
        approximate : bool, default=False
            Search a graph of neighbours (usearch, the extra ``ann``) and not all items: worth it from about a million
            items on. The graph is built at the first such call. ``approximate_recall_`` says which share of the exact
            recommendations it found, on up to 100 of these sessions; a warning says where it is below 0.9.

        Returns
        -------
        recommendations : frame like ``sessions``

        Raises
        ------
        TypeError, ValueError, ImportError
            As `Recommender.recommend`; if ``approximate`` is asked for with candidates, or usearch is missing.
        """
        if not approximate:
            return super().recommend(sessions, k, candidates=candidates, exclude_seen=exclude_seen)
        check_is_fitted(self)
        check_count("k", k)
        if candidates is not None:
            raise ValueError("approximate=True searches all items; leave out candidates, or search exactly")
        read = self._read(sessions)
        if not len(read):
            return self._frame(read, *self._top(read, k, None, exclude_seen), sessions)
        found = self._neighbours().search(
            self._queries(read), k, read if exclude_seen else read.last(self._as_fitted().max_length), exclude_seen
        )
        some = read.take(np.arange(min(len(read), _CHECKED)))
        exact, _ = self._top(some, k, None, exclude_seen)
        self.approximate_recall_ = share_found(found[0][: len(some)], exact)
        warn_of_misses(self.approximate_recall_, k, len(some))
        return self._frame(read, *found, sessions)

    def _neighbours(self) -> NeighbourGraph:
        """The graph of all items, built for the sessions of one click on each of many items, and for one of none."""
        if self._graph is None:
            clicked = np.append(1 + spread(self.n_items_, _TYPICAL), 0).astype(np.int32)
            offsets = np.arange(len(clicked) + 1)
            one_click = Sessions(ids=pl.Series(clicked), offsets=offsets, items=clicked, times=None)
            self._graph = NeighbourGraph(self.item_vectors(), self._queries(one_click))
        return self._graph

    def transform(self, sessions: Any) -> np.ndarray:
        """Queries of sessions: their inner products with `item_vectors` are the scores, but for what was clicked.

        Parameters
        ----------
        sessions : frame
            A click log with the columns of fit; of no row, there is no query.

        Returns
        -------
        queries : ndarray of float32, shape (S, d_model + 3)
            Sessions in the order of their last clicks, those of equal time in that of their first rows: that in which
            `recommend` answers them. The last columns are what a session makes of an item's popularity; what it adds to
            the scores of items that it has clicked (see ``repeats``), where vectors have 0; and 1.
        """
        check_is_fitted(self)
        return self._queries(self._read(sessions))

    def _queries(self, sessions: Sessions) -> np.ndarray:
        scorer = self._fitted_scorer()
        with threads(self.n_jobs, scorer.network):
            return scorer.queries(sessions).cpu().numpy()

    def item_vectors(self) -> np.ndarray:
        """Vectors of all items in the order of ``item_ids_``.

        Returns
        -------
        vectors : ndarray of float32, shape (N, d_model + 3)
            The last columns are the log of the item's clicks over their mean, 0, and what is added to the item's score
            in every session: see ``cold_prior``.
        """
        check_is_fitted(self)
        return np.ascontiguousarray(self._fitted_scorer().matrix.T.cpu().numpy())

    def export_index(self, path: str | Path) -> None:
        """Write what an index of nearest neighbours outside needs.

        Inner products with `transform` are the scores, but for items that the session has clicked: to theirs, add the
        last column of the query but one.

        Parameters
        ----------
        path : str or Path
            Folder, made where it does not exist: ``vectors.npy``, float32 of shape (N, d_model + 3), and
            ``items.parquet``, one row an item in the same order. Each file is written beside and then renamed.
        """
        folder, vectors, items = Path(path), BytesIO(), BytesIO()
        np.save(vectors, self.item_vectors())
        pl.DataFrame({self._log_columns().item: self.item_ids_}).write_parquet(items)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "vectors.npy", vectors.getvalue())
        write_file(folder / "items.parquet", items.getvalue())

    def add_items(self, items: Any) -> Self:
        """Add items by their metadata; they can be recommended at once, and nothing is trained.

        Parameters
        ----------
        items : frame
            Rows of an item table with the columns of that of fit; values may be new.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an item is in the catalogue already, or the table does not fit that of fit; nothing is added then.
        """
        check_is_fitted(self)
        column, known = self._log_columns().item, self._catalogue
        names, metadata = read_items(items, column)
        here = code_items(names, known.ids, f"the items of {column!r}").to_numpy() > 0
        if here.any():
            raise ValueError(
                f"the catalogue holds {names.filter(pl.Series(here)).head(3).to_list()} already: add new items only"
            )
        if self._coder is None:
            raise ValueError("this model was fitted without an item table, so it knows no new item: fit with items=")
        extended = self._items.extended(self._coder.encode(metadata))
        counts = np.concatenate([known.counts, np.zeros(len(names), dtype=np.int64)])
        # the wider of two types of whole numbers holds the items of both
        joined = pl.concat([known.ids.to_frame("item"), names.to_frame("item")], how="vertical_relaxed")
        catalogue = Catalogue(ids=plain_names(joined["item"]), counts=counts)
        scorer = self._fitted_scorer()
        fitted = self._as_fitted()
        units = fitted._units(self._coder, extended, scorer.unit_vectors.device)
        self._scorer = scorer.extended(units, extended.unit_of, extended.bias(fitted.cold_prior))
        self._items, self._graph = extended, None
        self._set_catalogue(catalogue)
        return self

    def _in_force(self) -> Self:
        return self  # its scorer has the parameters of fit

    def _cure_of_unknown(self) -> str:
        return super()._cure_of_unknown() if self._coder is None else "add_items adds them"

    def _scores(self, sessions: Sessions) -> np.ndarray:
        scorer = self._fitted_scorer()
        with threads(self.n_jobs, scorer.network):
            return scorer.scores(sessions)

    def _fitted_scorer(self) -> Scorer:
        """The network with the vectors of all items, computed on first use."""
        device = find_device(self.device)
        if self._scorer is None or self._scorer.unit_vectors.device.type != device.type:
            fitted = self._as_fitted()
            if self._module is None:
                self._module = self._rebuild()
            bias = self._items.bias(fitted.cold_prior)
            units = fitted._units(self._coder, self._items, device)
            self._scorer = Scorer.of(self._module.to(device), units, self._items.unit_of, bias, fitted.max_length)
        return self._scorer

    def _rebuild(self) -> M2TRecNetwork:
        """The network with its weights; a RuntimeError if they are not those of parameters, encoding and items."""
        with seeded(0, torch.device("cpu")):
            network = self._as_fitted()._network(self._coder, int(self._items.own.max(initial=0)))
        network.load_state_dict({name: torch.tensor(array) for name, array in self.weights_.items()})
        return network

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        for name in ("_module", "_scorer", "_graph"):
            if name in state:
                state[name] = None  # the weights say it all, as arrays
        return state

    def _units(self, coder: ItemCoder | None, items: KnownItems, device: torch.device) -> Units:
        columns = () if coder is None or coder.table is None else coder.table.columns.categorical
        levels = [columns.index(name) for name in self._tasks()]
        return Units.of(items, levels, device)

    def _state(self) -> Saved:
        items, arrays = self._items.to_state()
        facts: dict[str, Any] = {
            "items": items,
            "coder": None,
            "history": self.history_.to_dict(as_series=False),
            "best_iteration": self.best_iteration_,
            "metadata": {name: getattr(self, name) for name in _METADATA_FACTS if hasattr(self, name)},
        }
        parts = {"items": arrays, "weights": self.weights_}
        if self._coder is not None:
            facts["coder"], parts["coder"] = self._coder.to_state()
        return Saved(facts=facts, arrays=join_parts(parts))

    def _fitted_from(self, catalogue: Catalogue, saved: Saved) -> dict[str, Any]:
        parts = split_parts(saved.arrays, ("items", "weights", "coder"))
        facts = saved.facts
        coder = None if facts["coder"] is None else ItemCoder.from_state(facts["coder"], parts["coder"])
        return facts["metadata"] | {
            "history_": history_frame(facts["history"]),
            "best_iteration_": facts["best_iteration"],
            "weights_": parts["weights"],
            "_coder": coder,
            "_items": KnownItems.from_state(facts["items"], parts["items"]),
        }
