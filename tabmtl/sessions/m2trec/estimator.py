"""M2TRec: a session recommender that knows items by their metadata, so that it recommends items it has never seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import (
    BatchSize,
    Count,
    CountOrZero,
    Names,
    Positive,
    RandomState,
    Rate,
    Share,
    check_at_least,
    check_count,
    is_number,
    near,
)
from tabmtl.base.storage.atomic import write_file
from tabmtl.base.storage.stored import Stored
from tabmtl.columns.declared import DeclaredColumns
from tabmtl.estimators.base import FromFitted, at_once, drafted
from tabmtl.estimators.source import is_source
from tabmtl.estimators.trained import TrainedEstimator, TrainedState
from tabmtl.sessions.catalogue import Catalogue, Growth, counted_catalogue, read_items
from tabmtl.sessions.categories import ItemCategories, rank_next_category, summarize_categories
from tabmtl.sessions.log import Column, check_column, code_items, read_log, read_sessions
from tabmtl.sessions.m2trec.encoder import Pooling
from tabmtl.sessions.m2trec.events import check_event_weights, warn_of_absent, weigh_events
from tabmtl.sessions.m2trec.fitted import FittedM2TRec
from tabmtl.sessions.m2trec.fitting import Fitting
from tabmtl.sessions.m2trec.going_on import GoingOn
from tabmtl.sessions.m2trec.index import ItemIndex, share_found, warn_of_misses
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.new_items import NewItems, check_new_item_share, report_new_items, warn_of_equals
from tabmtl.sessions.m2trec.tower import FIELD_WIDTH
from tabmtl.sessions.m2trec.training import ExampleMode
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.ranking import bucket_masks, top_k
from tabmtl.sessions.recommender import VALIDATION_LOG, Recommender, SessionState, columns_of
from tabmtl.sessions.split import warn_of_unknown
from tabmtl.training.device import threads
from tabmtl.training.run import current

_CHECKED = 100  # sessions on which approximate search is compared with exact search
_LONGEST = 10_000  # clicks that a network may read: it keeps the distances of all pairs


def check_weights(name: str, value: Any) -> None:
    """Raise a ValueError for a value that is neither a weight nor a list of weights."""
    if isinstance(value, str | bytes | Mapping) or not (is_number(value) or isinstance(value, Iterable)):
        raise ValueError(f"{name} must be a number or a list of one a level of categories, got {value!r}")
    for weight in value if isinstance(value, Iterable) else [value]:
        check_at_least(name, weight, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class M2TRecState(TrainedState, SessionState):
    """Fitted attributes that a file keeps."""

    weights_: Annotated[dict[str, np.ndarray], Stored("f4")]
    _coder: ItemCoder | None
    _items: KnownItems
    _new_items: NewItems
    _categories: tuple[ItemCategories, ...]
    n_distinct_metadata_: int | None
    oracle_ceiling_: dict[str, float] | None
    new_item_report_: pl.DataFrame
    directed_strength_: float | None

    #: Fields of earlier releases; a file may have them, if they hold nothing.
    gone_fields: ClassVar[tuple[str, ...]] = ("optimizer", "users")

    def __post_init__(self) -> None:
        if not ((self._coder is None) == (self._items.features is None) == (self._items.row is None)):
            raise ValueError("it has metadata of items, rows of it, or an encoding of it, but not all three")
        if self._coder is not None and self._items.features is not None:
            self._coder.check(self._items.features)
        found, named = [column.name for column in self._categories], self._coder.category_names if self._coder else []
        if found != named:
            raise ValueError(f"the categories of its items are those of the columns {found}, expected {named}")


@dataclass(kw_only=True, eq=False, repr=False)
class M2TRec(TrainedEstimator, Recommender):
    """Metadata-aware multi-task transformer for sessions (M2TRec, arXiv 2209.11824).

    An item's vector is a function of its metadata, so items that were never clicked have one too. A transformer reads
    the items of a session, and one pass predicts the next item and, as further tasks, its category at every level of a
    hierarchy::

        E_i = tower(metadata_i) (+ own_i)        q, h = encoder(E of the clicks)
        loss = CE(q·E, next item) + sum_l a_l CE(W_l h, its category at level l)

    Only the abstract and the figure of the architecture of the paper were at hand: metadata in place of item ids, the
    average-pooled transformer, and next item, category and subcategories learned together (:meth:`paper`). The rest is
    our reading: widths, positions, the form of the logits, losses and training. The equations are in
    :mod:`~tabmtl.sessions.m2trec.tower`, :mod:`~tabmtl.sessions.m2trec.encoder` and
    :mod:`~tabmtl.sessions.m2trec.softmax`.

    A fitted model answers as it was fitted: parameters that are set later wait for the next fit, except ``device`` and
    ``n_jobs``.

    ``fit(Shards("clicks/*.parquet"))`` reads a log that need not fit in memory, and in `tabmtl.scale.joined` shares it
    with other processes. Early stopping, and learning what own and new items are worth, then read a sample of 200 000
    sessions; a smaller log is read whole.

    Parameters
    ----------
    categories : sequence of str, default=()
        Columns of the item table with the levels of categories, coarse to fine. Each is a feature and a task.
    columns : mapping of str to str or kind of `tabmtl.columns`, optional
        What columns of the item table hold: "number", "category", "date", "text", "tags", "vector" or "ignore", or an
        object with options, such as ``Text(encoder=...)``. Those left out follow from their type: text, categories and
        booleans are categories, numbers are numbers even if they hold codes, lists of text or whole numbers are tags,
        lists of floats are vectors. Of a loaded model, `add_items` needs the encoder of text again, by
        ``set_params(columns=...)``.
    id_mode : {"full", "none"}, default="full"
        Own vector of an item that is clicked in training, added to the vector of its metadata. ``"full"`` is a free
        vector, which some steps leave out (``id_dropout``) so that metadata alone stays good for new items. ``"none"``
        has no own vectors, as in the paper: items of equal metadata share one place in the softmax, and are ranked by
        training clicks.
    id_dropout : float in [0, 1), default=0.1
        With ``id_mode="full"``, rate at which a row of metadata stands alone. If k items of a step share the row, each
        loses its own vector with probability ``id_dropout / k``.
    item_tower : {"mlp", "concat"}, default="mlp"
        Map from metadata to a vector. ``"mlp"`` has two layers over the embeddings of the fields. ``"concat"``, as in
        the paper, puts these embeddings side by side, 32 numbers a field, whatever ``d_model`` is.
    d_model : int, default=128
        Width of vectors and queries.
    n_layers, n_heads : int, default=1, 2
        Numbers of layers of the transformer and of attention heads in each. ``d_model`` must be a multiple of
        ``n_heads``.
    pooling : {"items", "undirected", "mean", "last", "mean+last"}, default="items"
        Map from the outputs of the transformer to a query; ``"mean"`` is the paper's. See
        :class:`tabmtl.sessions.m2trec.encoder.SessionEncoder`. A query of ``"undirected"`` lies between the clicked
        items. ``"items"`` adds a directed path to it: what follows b need not be what b follows. The path pays if items
        have many clicks, and costs if they have few. It is left out if the mean clicked item has fewer than 12 clicks.
        Otherwise, the sessions set aside choose its strength, and training goes on without the path once it harms them.
        Without such sessions, the strength is 0.5 from 25 clicks on, and 0 below.
    temperature : float or None, default=0.07
        Divisor of scores, which are cosines of query and item. None takes inner products instead.
    dropout : float in [0, 1), default=0.1
        Share of hidden values, of attention weights and of vectors of clicked items that is dropped in training.
    popularity : bool, default=False
        Add the log of an item's training clicks to its score, times a number that depends on the session. This helps
        the top of the list if everybody buys the same few items, and costs rare items.
    category_weight : float or sequence of float, default=0.1
        Weights a_l of the category losses, one for all levels or one for each. 0 trains the item task alone.
    event_column : str, optional
        Column of the log with the kind of each click, such as a view or a purchase, as text or whole numbers. Only fit
        reads it, and only for ``event_weights``.
    event_weights : mapping of str to float, optional
        Weights of events. The loss of a predicted click is multiplied by the weight of its event, and divided by the
        mean weight. Other events, and missing ones, weigh 1. Clicks of weight 0 are read, but not predicted.
    min_frequency : int, default=1
        Number of items that a level of a category or tag needs. Rarer levels count as unseen.
    training : {"per_session", "per_prefix"}, default="per_session"
        Examples of training. ``"per_session"`` predicts every click after the first in one pass over a session.
        ``"per_prefix"``, as in the paper, makes an example of every prefix, whose clicks also look at later ones; it is
        slower by the length of a session.
    n_negatives : int or None, default=4096
        Number of candidates in the softmax of a step. These are the items of its sessions, each counted once a session,
        filled up with drawn items. None takes all items.
    batch_size : int or "auto", default="auto"
        Number of clicks that a step predicts. ``"auto"`` takes about a 64th of the clicks of an epoch, at least 256 and
        at most 2 048.
    early_stopping : bool, default=True
        Stop by MRR@20 on the validation log; without one, on the newest ``validation_fraction`` of the sessions, which
        are then not trained on. False trains all epochs and keeps the last weights. A validation log is still scored,
        chooses the strength of the directed path, and teaches ``repeats``, which learn nothing without it.
    validation_fraction : float in (0, 1), default=0.05
        Share of the sessions that early stopping sets aside if fit gets no ``clicks_val``. Logs of fewer than 20
        sessions set none aside.
    precision : {"auto", "float32", "bf16"}, default="auto"
        Precision of the matrix products of training. ``"auto"`` is bfloat16 on CPUs that multiply such matrices in
        hardware (AMX or AVX512-BF16), and float32 elsewhere, also on GPUs. Name a precision if the same seed must give
        the same model on different machines. Answers are always computed in float32.
    random_state : int, RandomState or None, default=None
        Seed of all randomness; the global generators stay untouched.
    max_length : int, default=50
        Number of newest clicks of a session that are read; at most 10 000.
    new_item_share : "auto" or float, default="auto"
        Clicks of an item without training clicks, which `add_items` adds or the item table of fit lists, in relation to
        the mean clicked item. ``"auto"`` looks at the items that first appear in the log of fit. Without times, or with
        too few such items, it is 2/3, which had the best recall on three logs (docs/lab.md, "New items").
    max_new_share : float in (0, 1), optional
        Largest share of the first 20 places that items without training clicks may have, on average over sessions set
        aside. Their scores are lowered until this holds.

    Attributes
    ----------
    item_ids_, item_counts_ : polars.Series, ndarray
        The catalogue, and the clicks of every item in the log of fit, including sessions that were set aside.
    n_distinct_metadata_ : int
        Number of distinct rows of metadata among the ``n_items_`` items of fit; missing without metadata.
    oracle_ceiling_ : dict of str to float
        Recall@20 and MRR@20 of an oracle that knows the metadata of the next item. This is the best that
        ``id_mode="none"`` can reach on the validation sessions; without these, on the training sessions. Missing
        without metadata.
    history_ : polars.DataFrame
        One row per epoch: ``epoch`` from 0, losses, and Recall@20 and MRR@20 on at most 3 000 validation clicks, among
        the items of the training and validation sessions, with the directed path or without it.
    directed_strength_ : float
        Strength of the directed path: 0, 0.5 or 1, whichever makes the clicks of the sessions set aside, or of
        ``clicks_val``, most likely. Without such sessions, see ``pooling``. Only with ``pooling="items"``.
    new_item_report_ : polars.DataFrame
        Worth of items without training clicks, on sessions set aside, in one row: ``n_items``; ``share``, clicks in
        relation to the mean clicked item; ``offset`` of the scores; ``mass``, the mean probability; ``places``, the
        share of the first 20 places; ``clicks``, the share of the next clicks when the model was fitted; and
        ``recall@20`` of clicked items whose own vectors are taken away, a tenth at a time.
    approximate_recall_ : float
        Share of the exact recommendations that the last ``recommend(approximate=True)`` found.

    Examples
    --------
    >>> from tabmtl.sessions import M2TRec
    >>> from tabmtl.synth import make_sessions
    >>> log = make_sessions(300, 50, random_state=0)
    >>> model = M2TRec(categories=["category"], epochs=1, random_state=0).fit(log.clicks, items=log.items)
    >>> model.recommend(log.clicks.head(4), k=3).columns
    ['session_id', 'rank', 'item_id', 'score']
    """

    categories: Names = ()
    columns: DeclaredColumns = None
    id_mode: Literal["full", "none"] = "full"
    id_dropout: Rate = 0.1
    item_tower: Literal["mlp", "concat"] = "mlp"
    d_model: Count = 128
    n_layers: Count = 1
    n_heads: Count = 2
    pooling: Pooling = "items"
    temperature: Positive | None = 0.07
    dropout: Rate = 0.1
    popularity: bool = False
    category_weight: Annotated[float | Sequence[float], check_weights] = 0.1
    event_column: Column | None = None
    event_weights: Annotated[Mapping[str, float] | None, check_event_weights] = None
    min_frequency: Count = 1
    training: ExampleMode = "per_session"
    n_negatives: Count | None = 4096
    max_length: Annotated[int, partial(check_count, high=_LONGEST)] = 50
    new_item_share: Annotated[float | Literal["auto"], check_new_item_share] = "auto"
    max_new_share: Share | None = None
    epochs: Count = 4
    batch_size: BatchSize = "auto"
    learning_rate: Positive = 4e-3
    validation_fraction: Share = 0.05
    precision: Literal["auto", "float32", "bf16"] = "auto"  # type: ignore[assignment]
    patience: Count = 2
    restarts: CountOrZero = 0
    random_state: RandomState = None

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 5e-4, "high": 1e-2, "log": True},
        "d_model": {"choices": (64, 128, 256)},
        "pooling": {"choices": get_args(Pooling)},
        "temperature": {"low": 0.03, "high": 0.2, "log": True},
        "id_dropout": {"low": 0.0, "high": 0.5},
        "dropout": {"low": 0.0, "high": 0.5},
        "popularity": {"choices": (False, True)},
    }

    #: Parameters of earlier releases; a file may have them, if they have these defaults.
    __gone_params__: ClassVar[dict[str, Any]] = (
        TrainedEstimator.__gone_params__
        | Recommender.__gone_params__
        | {"user_column": None, "user_clicks": 10, "clip_norm": None, "directed": True, "hierarchy": False}
        | {"delta_norm": 0.5, "item_dropout": 0.1, "unknown_rate": 0.05}
    )
    _log_scale: ClassVar[bool] = True
    _reads_metadata: ClassVar[bool] = True
    _reads_shards: ClassVar[bool] = True
    _stored: ClassVar[type] = M2TRecState
    _coder = FromFitted("coder")
    _items = FromFitted("items")
    _new_items = FromFitted("new_items")
    _categories = FromFitted("categories")

    @classmethod
    def paper(cls, *, categories: Sequence[str], **params: Any) -> Self:
        """Make an M2TRec of the form that its paper states.

        Items have no vectors of their own, and the embeddings of their fields stand side by side. A transformer without
        a causal mask reads every prefix, and its states are averaged. Next item and categories are learned together.
        The paper's abstract and figure state no more: other parameters keep the defaults of this class.

        Parameters
        ----------
        categories : sequence of str
            Columns of the item table with the levels of categories, coarse to fine.
        **params
            Other parameters of M2TRec.

        Returns
        -------
        model : M2TRec
            Unfitted.

        Examples
        --------
        >>> from tabmtl.sessions import M2TRec
        >>> M2TRec.paper(categories=["category"], epochs=3).id_mode
        'none'
        """
        form: dict[str, Any] = {"id_mode": "none", "item_tower": "concat", "pooling": "mean", "training": "per_prefix"}
        return cls(categories=categories, **form | {"repeats": False} | params)

    def _learned(self, state: Any = None) -> dict[str, Any]:
        told = super()._learned(state)
        return told | {"_fitted": FittedM2TRec(maker=replace(self), **FromFitted.taken_from(told, type(self)))}

    def _restore(self, state: Any) -> None:
        super()._restore(state)
        self._fitted.module()  # weights that do not fit are refused here

    @at_once
    def recommend(
        self,
        sessions: Any,
        k: int = 20,
        *,
        candidates: Any = None,
        exclude_seen: bool = False,
        approximate: bool = False,
        probability: bool = False,
    ) -> Any:
        """Recommend items for the next click of every session; see `Recommender.recommend`.

        Scores of fewer than four sessions may differ in the last bits from those of the same sessions among others,
        because matrix kernels round differently for them.

        Parameters
        ----------
        sessions, k, candidates, exclude_seen
            As in every recommender.
        approximate : bool, default=False
            Search a graph of neighbours (usearch, the extra ``ann``) instead of all items: worth it from about a
            million items on. The graph is built at the first such call. ``approximate_recall_`` is the share of the
            exact recommendations that it found, on up to 100 of these sessions; below 0.9 there is a warning.
        probability : bool, default=False
            Add a column ``probability``: exp(score) as a share of its sum over all items that may be recommended, so
            without those that ``candidates`` or ``exclude_seen`` rule out. Calibrated by what was learned of
            ``repeats``.

        Returns
        -------
        recommendations : frame like ``sessions``

        Raises
        ------
        TypeError, ValueError, ImportError
            As `Recommender.recommend`; and if ``approximate`` comes with candidates or probability, or usearch is
            missing.
        """
        if not approximate:
            return self._recommend(sessions, k, candidates, exclude_seen, probability=probability)
        check_is_fitted(self)
        check_count("k", k)
        if candidates is not None:
            raise ValueError("approximate=True searches all items; leave out candidates, or search exactly")
        if probability:
            raise ValueError("probability=True needs the scores of all items; leave out approximate=True")
        read = self._read(sessions)
        some = read.take(np.arange(min(len(read), _CHECKED)))
        exact, scores, _ = self._top(some, k, None, exclude_seen)
        if not len(read):
            return self._frame(read, exact, {"score": scores}, sessions)
        with self._searched() as index:
            found, scores = index.search(read, k, exclude_seen)
        self.approximate_recall_ = share_found(found[: len(some)], exact)
        warn_of_misses(self.approximate_recall_, k, len(some))
        return self._frame(read, found, {"score": scores}, sessions)

    def similar(self, item: Any, k: int = 20) -> pl.DataFrame:
        """Find the items whose vectors have the greatest cosine with that of an item; see `Recommender.similar`.

        The vectors hold all that is known of an item, its metadata and its own part, so new items are compared too.
        """
        check_is_fitted(self)
        check_count("k", k)
        place = int(self._catalogue.codes([item], "item", self._cure_of_unknown())[0]) - 1
        with self._searched() as index:
            scores = index.cosines(place)
        scores[place] = -np.inf
        items, scores = top_k(scores[None], k)
        items = np.where(np.isneginf(scores), -1, items)
        return self._frame(self._read([item]), items, {"score": scores}, [item])

    def predict_categories(self, sessions: Any, column: str, k: int = 3) -> Any:
        """Predict the category of the next click of every session: the probabilities of all items, summed by category.

        Parameters
        ----------
        sessions : frame or list of items
            As in `recommend`.
        column : str
            A column of categories or of tags of the item table of fit, whether in ``categories`` or not. An item counts
            fully for each of its tags: the probability of a tag is that of a next item that has it.
        k : int, default=3
            Categories per session; fewer if items have fewer.

        Returns
        -------
        predictions : frame like ``sessions``
            Columns: the session, ``rank`` (from 1), the column, with null for a missing category, and ``probability``.
            Sessions are in the order of `recommend`.

        Raises
        ------
        TypeError, ValueError
            If the log does not fit, or the item table of fit had no such column of categories.

        Examples
        --------
        >>> import polars as pl
        >>> from tabmtl.sessions import M2TRec
        >>> log = pl.DataFrame({"session_id": [1, 1, 2, 2], "item_id": ["a", "b", "b", "a"], "time": [0, 1, 2, 3]})
        >>> items = pl.DataFrame({"item_id": ["a", "b", "c"], "colour": ["red", "blue", "red"]})
        >>> model = M2TRec(epochs=1, random_state=0).fit(log, items=items)
        >>> model.predict_categories(log.head(1), "colour").columns
        ['session_id', 'rank', 'colour', 'probability']
        """
        check_is_fitted(self)
        check_count("k", k)
        categories, read = self._column_of(column), self._read(sessions)
        if column in (self.columns_.session, "rank", "probability"):
            raise ValueError(f"column {column!r} is named like another column of the answer: fit with another name")
        codes, probabilities = categories.top(partial(self._scores_of, exclude_seen=False), read, k)
        places = np.where(np.isfinite(probabilities), codes, -1)
        return self._frame(read, places, {"probability": probabilities}, sessions, categories.labels)

    def evaluate(
        self, clicks: Any, k: int | Sequence[int] = 20, *, exclude_seen: bool = False, categories: str | None = None
    ) -> pl.DataFrame:
        """Compute metrics of items, and perhaps of a category, over the full catalogue; see `Recommender.evaluate`.

        Parameters
        ----------
        clicks, k, exclude_seen
            As in every recommender.
        categories : str, optional
            A column of the item table with one category an item; a missing one is a category too. Adds columns for
            three predictors of the next click's category: ``category``, the items' probabilities summed, as
            `predict_categories` gives them; ``last``, the category of the last known click; and ``transitions``, the
            categories that followed this one in the log of fit (kept for columns of at most 2 000 values).

        Returns
        -------
        metrics : polars.DataFrame
            The rows of `Recommender.evaluate`, and with ``categories`` the columns ``category_accuracy``,
            ``category_top3`` (the share of targets whose category is among the first three) and
            ``category_log_likelihood`` (the mean log probability), ``last_accuracy``, and three of ``transitions``.
            Targets outside the catalogue, whose category is unknown, do not count in these.

        Raises
        ------
        TypeError, ValueError
            As `Recommender.evaluate`; and if the item table of fit had no such column, or it holds tags.
        """
        check_is_fitted(self)
        column = None if categories is None else self._column_of(categories)
        if column and self._coder and self._coder.features.kind_of(column.name) == "tags":
            raise ValueError(f"column {categories!r} holds tags, several an item: evaluate a column of one category")
        table = super().evaluate(clicks, k, exclude_seen=exclude_seen)
        if column is None:
            return table
        sessions = self._read_log(clicks).at_least(2)
        found = rank_next_category(lambda some: self._scores_of(some, exclude_seen), sessions, column)
        counts = np.concatenate([[0], self.item_counts_])[sessions.prefixes()[1]]
        rows = [summarize_categories(found, chosen) for chosen in bucket_masks(counts).values()]
        return table.hstack(pl.DataFrame(rows, infer_schema_length=None))

    def transform(self, sessions: Any) -> np.ndarray:
        """Compute queries of sessions; their inner products with `item_vectors` are the scores of unclicked items.

        With these inner products x and ``repeat_weights_``, an item that the session holds scores ``trust x_i + (1 -
        trust) log sum_j exp(x_j) + seen + last [i is the last click]``, the sum over the items j that it does not hold.
        Those that a search finds, and a sample for the others, estimate it well.

        Parameters
        ----------
        sessions : frame, or list of items
            A click log with the columns of fit; a log without a row has no query. A list of items is one session.

        Returns
        -------
        queries : ndarray of float32, shape (S, d_model + 2)
            Sessions in the order given, as `recommend` answers them. The last two columns are the weight of an item's
            popularity, and that of the term of its own.
        """
        check_is_fitted(self)
        read = self._read(sessions)
        with self._searched() as index:
            return index.queries(read).cpu().numpy() * np.float32(index.repeats.scale)

    def item_vectors(self) -> np.ndarray:
        """Give the vectors of all items in the order of ``item_ids_``.

        Returns
        -------
        vectors : ndarray of float32, shape (N, d_model + 2)
            The last two columns are the log of the item's clicks over their mean, and the term of the item's score in
            every session, which raises or lowers new items.
        """
        check_is_fitted(self)
        with self._searched() as index:
            return index.vectors()

    def export_index(self, path: str | Path) -> None:
        """Write files for an index of nearest neighbours outside this package.

        Inner products with `transform` are the scores, except for items that the session has clicked: see there.

        Parameters
        ----------
        path : str or Path
            Folder, made where it does not exist: ``vectors.npy``, float32 of shape (N, d_model + 2), and
            ``items.parquet``, one row an item in the same order. Each file is written beside and then renamed.
        """
        folder, vectors, items = Path(path), BytesIO(), BytesIO()
        np.save(vectors, self.item_vectors())
        pl.DataFrame({self.columns_.item: self.item_ids_}).write_parquet(items)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "vectors.npy", vectors.getvalue())
        write_file(folder / "items.parquet", items.getvalue())

    @drafted
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
        column, known = self.columns_.item, self._catalogue
        names, metadata = read_items(items, column)
        here = code_items(names, known.ids, f"the items of {column!r}").to_numpy() > 0
        if here.any():
            raise ValueError(
                f"the catalogue holds {names.filter(pl.Series(here)).head(3).to_list()} already: add new items only"
            )
        if self._coder is None:
            raise ValueError("this model was fitted without an item table, so it knows no new item: fit with items=")
        extended = self._items.extended(len(names), *self._coder.encode(metadata, self.columns))
        categories = tuple(column.extended(metadata[column.name]) for column in self._categories)
        fitted = replace(self._fitted, items=extended, categories=categories)
        with self._searched() as index:
            before = index.unit_vectors
            index = fitted.holding(index.network).index(before.device, self._repeats, before)
            new = self._new_items.capped(index.scores_by, extended, self._fitted_params["max_new_share"])
            report = report_new_items(index.scores_by, extended, new, self.new_item_report_)
        catalogue = known.extended(names)
        warn_of_equals(extended, np.arange(len(catalogue)) >= len(known), "added")
        found = {"_fitted": replace(fitted, new_items=new).with_index(index), "new_item_report_": report}
        self._set_fitted(catalogue, self._learned() | found, self._fitted_params)
        return self

    # parameters

    def __check_params__(self) -> None:
        super().__check_params__()
        if self.item_tower == "concat" and FIELD_WIDTH % self.n_heads:
            raise ValueError(f"n_heads must divide {FIELD_WIDTH} with item_tower='concat', got {self.n_heads}")
        if self.item_tower == "mlp" and self.d_model % self.n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {self.d_model} and {self.n_heads}")
        if self.event_weights and self.event_column is None:
            given = f"event_weights={self.event_weights!r}"
            raise ValueError(f"{given} needs the column that names events: give event_column")

    def _tasks(self) -> dict[str, float]:
        """Give the levels whose category is a task, and the weights of their losses."""
        levels, given = list(self.categories), self.category_weight
        weights = list(given) if isinstance(given, Iterable) else [given] * len(levels)
        if len(weights) != len(levels):
            raise ValueError(
                f"category_weight has {len(weights)} weights, expected one per level of categories: {levels}"
            )
        return {level: weight for level, weight in zip(levels, weights, strict=True) if weight > 0}

    # training

    def _read_training_log(self, clicks: Any) -> pl.DataFrame:
        if not self.event_weights:
            return super()._read_training_log(clicks)
        assert self.event_column is not None
        log = read_log(clicks, replace(columns_of(vars(self)), event=self.event_column))
        log = weigh_events(log, self.event_weights, self.event_column)
        warn_of_absent(self.event_weights, log["event"].drop_nulls().unique().sort().to_list(), self.event_column)
        return log

    @contextmanager
    def _opened(self, clicks: Any, items: Any, clicks_val: Any, *, goes_on: bool = False) -> Iterator[Any]:
        if not is_source(clicks):
            with super()._opened(clicks, items, clicks_val, goes_on=goes_on) as opened:
                yield opened
            return
        columns = replace(columns_of(vars(self)), event=self.event_column if self.event_weights else None)
        with ExitStack() as stack:
            log = stack.enter_context(clicks.log(self, columns, self.event_weights or None))
            catalogue = counted_catalogue(log.count_clicks(), items, self.item_column)
            valid = None
            if is_source(clicks_val):
                log_val = stack.enter_context(clicks_val.log(self, columns_of(vars(self)), None))
                valid = log_val.sessions(catalogue.ids).sample
            elif clicks_val is not None:
                valid = read_sessions(clicks_val, columns_of(vars(self)), catalogue.ids, VALIDATION_LOG)
            if valid is not None and current().rank == 0:
                warn_of_unknown(valid)
            yield log.sessions(catalogue.ids), catalogue, valid, None

    def _learn(
        self, sessions: Any, catalogue: Catalogue, valid: Sessions | None, growth: Growth | None = None
    ) -> dict[str, Any]:
        if growth is None:
            return Fitting(sessions, catalogue, valid, self).run()
        return GoingOn(sessions, catalogue, valid, self, growth).run()

    # answers

    def _clicks_read(self, sessions: Sessions) -> Sessions:
        return sessions.last(self._fitted_params["max_length"])

    def _in_force(self) -> Self:
        return self  # its index has the parameters of fit

    def _column_of(self, name: str) -> ItemCategories:
        """Find a column of categories or tags of the item table by name."""
        check_column("column", name)
        if self._coder is None:
            raise ValueError("this model was fitted without an item table, so it knows no category: fit with items=")
        known = {column.name: column for column in self._categories}
        if name in known:
            return known[name]
        have = f"categories and tags are in {[*known]}"
        if name not in self._coder.features.names:
            raise ValueError(f"the item table of fit had no column {name!r}; its {have}{near(name, known)}")
        kind = self._coder.features.kind_of(name).replace("texts", "text")
        cure = "" if kind == "vectors" else "; if it holds categories, fit again and declare it 'category'"
        raise ValueError(f"column {name!r} of the item table was read as {kind}, not as categories; its {have}{cure}")

    def _cure_of_unknown(self) -> str:
        return super()._cure_of_unknown() if self._coder is None else "add_items adds them"

    def _scores(self, sessions: Sessions) -> np.ndarray:
        with self._searched() as index:
            return index.scores(sessions)

    @contextmanager
    def _searched(self) -> Iterator[ItemIndex]:
        """Give the index of all items, with the threads of ``n_jobs``."""
        network, device = self.fitted_network()
        with threads(self.n_jobs, network):
            yield self._fitted.index(device, self._repeats)
