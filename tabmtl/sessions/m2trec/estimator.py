"""M2TRec: a session recommender that knows items by their metadata, so that it recommends items it has never seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
import polars as pl
import torch
from sklearn.utils.validation import check_is_fitted

from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.trained import TrainedEstimator, TrainedState, load_weights, trained_attributes
from tabmtl.params import (
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
    check_names,
    is_number,
    near,
)
from tabmtl.sessions.catalogue import Catalogue, plain_names, read_items
from tabmtl.sessions.log import code_items
from tabmtl.sessions.m2trec.ceiling import describe_metadata, warn_of_ceiling
from tabmtl.sessions.m2trec.encoder import Pooling
from tabmtl.sessions.m2trec.index import ItemIndex, share_found, warn_of_misses
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.m2trec.tower import FIELD_WIDTH
from tabmtl.sessions.m2trec.training import ExampleMode, Examples, SessionLoop
from tabmtl.sessions.m2trec.validation import Validation
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.recommender import Recommender, SessionState
from tabmtl.sessions.repeats import RepeatWeights
from tabmtl.storage.atomic import write_file
from tabmtl.storage.stored import Stored
from tabmtl.training.device import find_device, seeded, threads
from tabmtl.training.epochs import Record, Snapshots

_CHECKED = 100  # sessions on which approximate search is compared with exact search
_LONGEST = 10_000  # clicks that a network may read: it keeps the distances of all pairs


def check_categorical(name: str, value: Any) -> None:
    """Raise a TypeError for a value that names no columns of categories."""
    if not isinstance(value, str):
        check_names(name, value)
    elif value != "from_dtype":
        expected = f"{name}, where it is not 'from_dtype', must be a sequence of columns"
        raise TypeError(f"{expected}, got {value!r}: put it in a list{near(value, ['from_dtype'])}")


def check_weights(name: str, value: Any) -> None:
    """Raise a ValueError for a value that is neither a weight nor a list of weights."""
    if isinstance(value, str | bytes | Mapping) or not (is_number(value) or isinstance(value, Iterable)):
        raise ValueError(f"{name} must be a number or a list of one a level of categories, got {value!r}")
    for weight in value if isinstance(value, Iterable) else [value]:
        check_at_least(name, weight, 0)


CategoricalColumns = Annotated[Literal["from_dtype"] | Sequence[str], check_categorical]


@dataclass(frozen=True, kw_only=True, eq=False)
class M2TRecState(TrainedState, SessionState):
    """Fitted attributes that a file keeps."""

    weights_: Annotated[dict[str, np.ndarray], Stored("f4")]
    _coder: ItemCoder | None
    _items: KnownItems
    n_distinct_metadata_: int | None
    oracle_ceiling_: dict[str, float] | None
    directed_strength_: float | None

    def __post_init__(self) -> None:
        if not ((self._coder is None) == (self._items.features is None) == (self._items.row is None)):
            raise ValueError("it has metadata of items, rows of it, or an encoding of it, but not all three")
        if self._coder is not None and self._items.features is not None:
            self._coder.check(self._items.features)


@dataclass(kw_only=True, eq=False, repr=False)
class M2TRec(TrainedEstimator, Recommender):
    """Metadata-aware multi-task transformer for sessions (M2TRec, arXiv 2209.11824).

    An item's vector is a function of its metadata, so items that were never clicked have one too. A transformer reads
    the items of a session, and one pass predicts the next item and, as further tasks, its category at every level of a
    hierarchy::

        E_i = tower(metadata_i) (+ own_i)        q, h = encoder(E of the clicks)
        loss = CE(q·E, next item) + sum_l a_l CE(W_l h, its category at level l)

    Only the abstract and the figure of the architecture of the paper were at hand: metadata in place of item ids, the
    average-pooled transformer, and next item, category and subcategories learned together (:meth:`paper`). All else is
    our reading: widths, positions, the form of the logits, losses and training. The
    equations are in :mod:`~tabmtl.sessions.m2trec.tower`, :mod:`~tabmtl.sessions.m2trec.encoder` and
    :mod:`~tabmtl.sessions.m2trec.softmax`.

    A fitted model answers as it was fitted: parameters that are set later wait for the next fit, except ``device`` and
    ``n_jobs``.

    Parameters
    ----------
    categories : sequence of str, default=()
        Columns of the item table with the levels of categories, coarse to fine. Each is a feature and a task.
    categorical_features : "from_dtype" or sequence of str, default="from_dtype"
        Columns of the item table that hold categories; by default those with text, categories or booleans. A list must
        name every such column that is not in ``text_features``. Columns of numbers that are not named are read as
        numbers, codes of categories too. Lists of text or whole numbers are tags, lists of floats are given vectors.
    text_features : sequence of str, default=()
        Columns of free text, read as hashed words and 3-grams of letters.
    id_mode : {"full", "delta", "none"}, default="full"
        Whether items that are clicked in training get a vector of their own in addition to that of their metadata.
        ``"full"``: a free vector, left out of some steps (``id_dropout``) so that metadata alone stays good for new
        items. ``"delta"``: a vector that starts at 0 and is at most ``delta_norm`` long. ``"none"``: no such vector, as
        in the paper. Items of equal metadata then share one place in the softmax, and are ranked by training clicks.
    id_dropout : float in [0, 1), default=0.1
        With ``id_mode="full"``, the share of the items whose own vector is left out of a step.
    delta_norm : float, default=0.5
        With ``id_mode="delta"``, the greatest length of own vectors; those of metadata are about 0.1 long at the start.
    item_tower : {"mlp", "concat"}, default="mlp"
        How metadata becomes a vector: by two layers over the embeddings of its fields, or, as in the paper, by these
        embeddings side by side, 32 numbers a field, whatever ``d_model`` is.
    d_model : int, default=128
        Width of vectors and queries.
    n_layers, n_heads : int, default=1, 2
        Layers of the transformer, and attention heads of each; ``d_model`` must be a multiple of ``n_heads``.
    pooling : {"items", "mean", "last", "mean+last"}, default="items"
        How the transformer's outputs become a query; ``"mean"`` is the paper's. See
        :class:`tabmtl.sessions.m2trec.encoder.SessionEncoder`.
    directed : bool, default=True
        With ``pooling="items"``, whose query lies between the clicked items, add a path that leads from there: what
        follows b need not be what b follows. It pays where items have many clicks, and costs where they have few, so
        its strength is chosen on the sessions that are set aside; without such sessions it is 1.
    temperature : float or None, default=0.07
        Scores are cosines of query and item, divided by the temperature; None takes inner products.
    dropout, item_dropout : float in [0, 1), default=0.2, 0.2
        Shares dropped in training: of hidden values and attention weights, and of the vectors of clicked items.
    unknown_rate : float in [0, 1), default=0.05
        Share of categories and tags that training replaces by unseen ones, so that these are learned.
    hierarchy : bool, default=False
        Feed the predicted categories back into the query, as HierSRec does (arXiv 2309.06533); needs ``categories``.
    popularity : bool, default=False
        Add the log of an item's training clicks to its score, times a number that depends on the session: better at the
        top of the list where few items are bought by all, and worse on rare items.
    category_weight : float or sequence of float, default=0.1
        Weights a_l of the category losses: one for all levels, or one for each; 0 trains the item task alone.
    min_frequency : int, default=1
        Levels of a category or tag that fewer items have count as unseen.
    training : {"per_session", "per_prefix"}, default="per_session"
        One pass over a session predicts every click after the first; or every prefix is an example of its own, whose
        clicks look at later ones too, as in the paper: slower by the length of a session.
    n_negatives : int or None, default=4096
        Negatives in the softmax of a step: its own clicks, filled up to this number with drawn items. None takes all
        items.
    batch_size : int or "auto", default="auto"
        Clicks that are predicted in a step; ``"auto"`` is about a 64th of those of an epoch, 256 to 2 048.
    early_stopping : bool, default=True
        Watch MRR@20 on the validation log, or else on the newest ``validation_fraction`` of the sessions, which are
        then not trained on. False trains all epochs and keeps the last weights; a validation log is then scored,
        chooses the strength of the directed path, and is used by ``repeats``, which without it learns nothing.
    validation_fraction : float in (0, 1), default=0.05
        Share of the sessions that early stopping sets aside if fit gets no ``clicks_val``. Fewer than 20 sessions are
        all trained on.
    precision : {"auto", "float32", "bf16"}, default="auto"
        ``"auto"`` computes the matrix products of training in bfloat16 on CPUs that multiply such matrices in hardware
        (AMX or AVX512-BF16), and in float32 elsewhere, also on GPUs; ``"bf16"`` does so everywhere. Name one where the
        same seed must give the same model on different machines. Answers are computed in float32.
    random_state : int, RandomState or None, default=None
        Seed of all randomness; the global generators stay untouched.
    max_length : int, default=50
        Newest clicks of a session that are read; at most 10 000, for the distances between them are kept.
    cold_prior : float, default=1.0
        Training clicks that an item without any is credited with. By its metadata such an item stands for the mean of
        all items like it; its score is lowered by the log of the prior to their mean number of clicks. Raise it, up to
        that mean, where new items are launched to sell. With ``id_mode="none"``, every item has these clicks in
        addition to its own when items of equal metadata are ranked. Without an item table, an item without clicks has
        these clicks where popularity answers.

    Attributes
    ----------
    item_ids_, item_counts_ : polars.Series, ndarray
        The catalogue, and the clicks of every item in the log of fit, including sessions that were set aside.
    n_distinct_metadata_ : int
        Number of distinct rows of metadata among the ``n_items_`` items of fit. Only where there was metadata.
    oracle_ceiling_ : dict of str to float
        Recall@20 and MRR@20 of an oracle that knows the metadata of the next item: the best that ``id_mode="none"`` can
        reach on the validation sessions, or if there are none, on the training sessions. Only where there was metadata.
    history_ : polars.DataFrame
        One row per epoch: ``epoch`` from 0, losses, and Recall@20 and MRR@20 on at most 3 000 validation clicks, among
        the items of the training and validation sessions, with the directed path or without it.
    directed_strength_ : float
        Strength of the directed path, 0, 0.5 or 1: that by which the clicks of the sessions that were set aside, or of
        ``clicks_val``, are most likely. Only with ``directed=True`` and ``pooling="items"``.
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
    categorical_features: CategoricalColumns = "from_dtype"
    text_features: Names = ()
    id_mode: Literal["full", "delta", "none"] = "full"
    id_dropout: Rate = 0.1
    delta_norm: Positive = 0.5
    item_tower: Literal["mlp", "concat"] = "mlp"
    d_model: Count = 128
    n_layers: Count = 1
    n_heads: Count = 2
    pooling: Pooling = "items"
    directed: bool = True
    temperature: Positive | None = 0.07
    dropout: Rate = 0.2
    item_dropout: Rate = 0.2
    unknown_rate: Rate = 0.05
    hierarchy: bool = False
    popularity: bool = False
    category_weight: Annotated[float | Sequence[float], check_weights] = 0.1
    min_frequency: Count = 1
    training: ExampleMode = "per_session"
    n_negatives: Count | None = 4096
    max_length: Annotated[int, partial(check_count, high=_LONGEST)] = 50
    cold_prior: Positive = 1.0
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
        "item_dropout": {"low": 0.0, "high": 0.5},
        "popularity": {"choices": (False, True)},
    }

    _log_scale: ClassVar[bool] = True
    _reads_metadata: ClassVar[bool] = True
    _stored: ClassVar[type] = M2TRecState

    @classmethod
    def paper(cls, *, categories: Sequence[str], **params: Any) -> Self:
        """Make an M2TRec of the form that its paper states.

        Items have no vectors of their own; the embeddings of their fields stand side by side; every prefix is read by a
        transformer without a causal mask, whose states are averaged; and next item and categories are learned together.
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

    def _set_fitted(self, catalogue: Catalogue, fitted: dict[str, Any]) -> None:
        super()._set_fitted(catalogue, fitted)
        self._coder: ItemCoder | None = fitted["_coder"]
        self._items: KnownItems = fitted["_items"]
        self._module: M2TRecNetwork | None = self._rebuild()  # a file whose weights do not fit is refused here
        self._index: ItemIndex | None = None

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

        Matrix kernels round otherwise for fewer than four sessions: their scores may differ in the last bits from
        those of the same sessions among others.

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
        index = self._fitted_index()
        with threads(self.n_jobs, index.network):
            found, scores = index.search(read, k, exclude_seen, self._repeats)
        self.approximate_recall_ = share_found(found[: len(some)], exact)
        warn_of_misses(self.approximate_recall_, k, len(some))
        return self._frame(read, found, {"score": scores}, sessions)

    def transform(self, sessions: Any) -> np.ndarray:
        """Compute queries of sessions; their inner products with `item_vectors` are the scores of unclicked items.

        Those of an item that the session holds lack ``repeat_weights_["seen"]``, and for the last click also
        ``repeat_weights_["last"]``.

        Parameters
        ----------
        sessions : frame
            A click log with the columns of fit; a log without a row has no query.

        Returns
        -------
        queries : ndarray of float32, shape (S, d_model + 2)
            Sessions in the order of their last clicks, those of equal time in that of their first rows, as `recommend`
            answers them. The last two columns are the weight of an item's popularity, and that of the term of its own.
        """
        check_is_fitted(self)
        index, read = self._fitted_index(), self._read(sessions)
        with threads(self.n_jobs, index.network):
            return index.queries(read).cpu().numpy() * np.float32(self._repeats.scale)

    def item_vectors(self) -> np.ndarray:
        """Give the vectors of all items in the order of ``item_ids_``.

        Returns
        -------
        vectors : ndarray of float32, shape (N, d_model + 2)
            The last two columns are the log of the item's clicks over their mean, and the term of the item's score in
            every session (see ``cold_prior``).
        """
        check_is_fitted(self)
        return self._fitted_index().vectors()

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
        extended = self._items.extended(*self._coder.encode(metadata))
        counts = np.concatenate([known.counts, np.zeros(len(names), dtype=np.int64)])
        # the wider of two types of whole numbers holds the items of both
        joined = pl.concat([known.ids.to_frame("item"), names.to_frame("item")], how="vertical_relaxed")
        catalogue = Catalogue(ids=plain_names(joined["item"]), counts=counts)
        index = self._fitted_index()
        units = extended.on(index.unit_vectors.device)
        self._index = ItemIndex(index.network, units, self._as_fitted(), index.unit_vectors)
        self._items = extended
        self._set_catalogue(catalogue)
        return self

    # parameters

    def _check_params(self) -> None:
        super()._check_params()
        if self.item_tower == "concat" and FIELD_WIDTH % self.n_heads:
            raise ValueError(f"n_heads must divide {FIELD_WIDTH} with item_tower='concat', got {self.n_heads}")
        if self.item_tower == "mlp" and self.d_model % self.n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {self.d_model} and {self.n_heads}")
        if self.hierarchy and not self._tasks():
            raise ValueError(
                "hierarchy=True feeds predicted categories back, but none is predicted: name columns in categories, "
                "with a category_weight above 0"
            )

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

    def _fit(self, sessions: Sessions, catalogue: Catalogue, valid: Sessions | None) -> dict[str, Any]:
        if valid is None and self.early_stopping:
            sessions, valid = sessions.set_newest_aside(self.validation_fraction)
        train = sessions.at_least(2)
        if not len(train):
            raise ValueError("no session of the click log has two clicks, so there is no next click to learn from")
        if valid is not None:
            valid = valid.at_least(2)
            if not len(valid):
                raise ValueError("no session of the validation log has two clicks; give a longer clicks_val")
        clicks = np.bincount(train.items, minlength=len(catalogue) + 1)[1:]
        coder = self._fit_coder(catalogue, clicks)
        features, row = None, None
        if coder is not None and catalogue.metadata is not None:
            features, row = coder.encode(catalogue.metadata)
        known = KnownItems(features=features, row=row, clicks=clicks, shared=self.id_mode == "none")
        if self.id_mode == "none":
            earlier, judged = train.set_newest_aside(self.validation_fraction) if valid is None else (train, valid)
            if judged is not None:
                warn_of_ceiling(known, earlier, judged)
        metadata_facts = describe_metadata(known, train if valid is None else valid, verbose=self.verbose)
        device = find_device(self.device)
        with seeded(draw_seed(self.random_state), device):
            network = self._network(coder, known).to(device)
            with threads(self.n_jobs, network):
                validation = None if valid is None else Validation(network, known, valid, self)
                history, snapshots = self._train(network, known, train, validation)
                strength = self._set_strength(network, validation)
        trained = trained_attributes(network, history, snapshots.best.epoch)
        return metadata_facts | trained | strength | {"_coder": coder, "_items": known}

    def _fit_coder(self, catalogue: Catalogue, clicks: np.ndarray) -> ItemCoder | None:
        """Learn the encoding of metadata on the items with clicks (N,); None without metadata."""
        if catalogue.metadata is not None and catalogue.metadata.width:
            return ItemCoder.fit(
                catalogue.metadata.filter(pl.Series(clicks > 0)),
                categories=self.categories,
                categorical=self.categorical_features,
                texts=self.text_features,
                min_frequency=self.min_frequency,
            )
        needs = [] if self.id_mode == "full" else [f"id_mode={self.id_mode!r}"]
        needs += [] if self.item_tower == "mlp" else [f"item_tower={self.item_tower!r}"]
        for name in ("categories", "categorical_features", "text_features"):
            columns = getattr(self, name)
            needs += [f"{name}={list(columns)}"] if len(columns) and not isinstance(columns, str) else []
        if needs:
            cure = "fit with items="
            if catalogue.metadata is not None:
                cure = f"the one given has no column but {self.item_column!r}"
            raise ValueError(f"an item table with metadata is needed for {' and '.join(needs)}: {cure}")
        return None

    def _network(self, coder: ItemCoder | None, known: KnownItems) -> M2TRecNetwork:
        """Build the untrained network."""
        return M2TRecNetwork(coder, known.n_own, self._tasks(), self)

    def _train(
        self, network: M2TRecNetwork, known: KnownItems, train: Sessions, validation: Validation | None
    ) -> tuple[list[Record], Snapshots]:
        """Train the network, in which the kept weights are left; see `run_epochs`."""
        device = next(network.parameters()).device
        examples = Examples.of(train, known.unit_of, self.max_length, self.training, device)
        loop = SessionLoop(network, known.on(device), examples, self._tasks(), self, validation)
        return self._run_epochs(
            network, loop, validated=validation is not None, describe=_describe, on_epoch=self.on_epoch
        )

    def _set_strength(self, network: M2TRecNetwork, validation: Validation | None) -> dict[str, float]:
        """Choose the strength of the directed path, and give the fitted attribute; none without such a path."""
        if network.encoder.direct is None:
            return {}
        strength = 1.0 if validation is None else validation.choose_strength()
        network.encoder.scale_direct(strength)
        return {"directed_strength_": strength}

    def _learn_repeats(
        self, sessions: Sessions, catalogue: Catalogue, valid: Sessions | None, fitted: dict[str, Any]
    ) -> RepeatWeights:
        if valid is None and self.early_stopping:
            _, valid = sessions.set_newest_aside(self.validation_fraction)
        return RepeatWeights() if valid is None else self._learn_repeats_on(valid, catalogue, fitted)

    # answers

    def _clicks_read(self, sessions: Sessions) -> Sessions:
        return sessions.last(self._fitted_params["max_length"])

    def _in_force(self) -> Self:
        return self  # its index has the parameters of fit

    def _cure_of_unknown(self) -> str:
        return super()._cure_of_unknown() if self._coder is None else "add_items adds them"

    def _scores(self, sessions: Sessions) -> np.ndarray:
        index = self._fitted_index()
        with threads(self.n_jobs, index.network):
            return index.scores(sessions)

    def _fitted_index(self) -> ItemIndex:
        """Give the network with the vectors of all items, computed on first use."""
        device = find_device(self.device)
        if self._index is None or self._index.unit_vectors.device.type != device.type:
            network, device = self._fitted_network()
            self._index = ItemIndex(network, self._items.on(device), self._as_fitted())
        return self._index

    def _rebuild(self) -> M2TRecNetwork:
        """Build the network with its weights; a RuntimeError if they do not fit parameters, encoding and items."""
        with seeded(0, torch.device("cpu")):
            network = self._as_fitted()._network(self._coder, self._items)
        load_weights(network, self.weights_)
        return network

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "_index" in state:
            state["_index"] = None  # computed again from the weights
        return state


def _describe(record: Mapping[str, float | None]) -> str:
    """Describe an epoch for `verbose=1`."""
    names = [name for name in ("train/loss", "val/recall@20", "val/mrr@20") if record.get(name) is not None]
    return "  ".join(f"{name} {record[name]:.4f}" for name in names)
