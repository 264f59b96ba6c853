"""M2TRec: a session recommender that knows items by their metadata, so that it recommends items it has never seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from tabmtl.estimators.base import draw_seed
from tabmtl.params import (
    check_at_least,
    check_choice,
    check_count,
    check_names,
    check_positive,
    check_rate,
    check_share,
    is_number,
)
from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.m2trec.ceiling import say_what_metadata_tells
from tabmtl.sessions.m2trec.encoder import Pooling
from tabmtl.sessions.m2trec.fitting import fit_coder, history_frame, newest_apart, split_sessions, train_network
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork, make_network
from tabmtl.sessions.m2trec.training import Training
from tabmtl.sessions.m2trec.vectors import VectorRecommender
from tabmtl.sessions.ragged import Sessions
from tabmtl.training.device import find_device, seeded, threads
from tabmtl.training.epochs import OnEpoch

IdMode = Literal["none", "delta", "full"]


@dataclass(kw_only=True, eq=False, repr=False)
class M2TRec(VectorRecommender):
    """Metadata-aware multi-task transformer for sessions (M2TRec, arXiv 2209.11824).

    Items are what their metadata says of them, so items that were never clicked have a vector too. A session is a
    transformer's reading of its items, and one pass answers for the next item and, as further tasks, for its category
    at every level of a hierarchy::

        E_i = tower(metadata_i) (+ own_i)        q, h = encoder(E of the clicks)
        loss = CE(q·E, next item) + sum_l a_l CE(W_l h, its category at level l)

    Of the paper, the abstract and the figure of the architecture were at hand: metadata in place of item ids, the
    average-pooled transformer, and next item, category and subcategories learned together (``id_mode="none"``,
    ``pooling="mean"``). All else is our reading: widths, positions, the form of the logits, losses and training. The
    equations are in :mod:`~tabmtl.sessions.m2trec.tower`, :mod:`~tabmtl.sessions.m2trec.encoder` and
    :mod:`~tabmtl.sessions.m2trec.softmax`.

    A fitted model answers as it was fitted: parameters that are set later wait for the next fit, but for ``device`` and
    ``n_jobs``.

    Parameters
    ----------
    categories : sequence of str, default=()
        Columns of the item table that hold the levels of the items' categories, coarse to fine. Each is a feature and a
        task.
    categorical_features : "from_dtype" or sequence of str, default="from_dtype"
        Columns of the item table that hold categories; by default those with text, categories or booleans. A list must
        name every such column, but for those in ``text_features``. Numbers are numbers, codes of categories too if they
        are not named; lists of text or whole numbers are tags, lists of floats are given vectors.
    text_features : sequence of str, default=()
        Columns of free text, read as hashed words and 3-grams of letters.
    id_mode : {"full", "delta", "none"}, default="full"
        Whether items that are clicked in training have a vector of their own beside that of their metadata.
        ``"full"``: a free one, left out of some steps (``id_dropout``) so that metadata alone stays good for new items.
        ``"delta"``: one that starts at 0 and is at most ``delta_norm`` long. ``"none"``: the paper's, where items of
        equal metadata cannot be told apart; they share one place in the softmax and are then ranked by training clicks.
    id_dropout : float, default=0.1
        Share of the items whose own vector is left out of a step, of ``"full"``.
    delta_norm : float, default=0.5
        Greatest length of own vectors, of ``"delta"``; those of metadata are about 0.1 long at the start.
    d_model : int, default=128
        Width of vectors and queries.
    n_layers, n_heads : int, default=1, 2
        Of the transformer.
    pooling : {"items", "items+linear", "mean", "last", "mean+last"}, default="items"
        From the transformer's outputs to a query; ``"mean"`` is the paper's. See
        :class:`tabmtl.sessions.m2trec.encoder.SessionEncoder`.
    temperature : float or None, default=0.07
        Scores are cosines of query and item, divided by it; None takes inner products.
    dropout, item_dropout : float, default=0.2, 0.2
        Of hidden values and attention weights, and of the vectors of clicked items.
    unknown_rate : float, default=0.05
        Share of categories and tags that are taken for unseen in training.
    hierarchy : bool, default=False
        Feed the predicted categories, of which there must be some, back into the query (as HierSRec, arXiv 2309.06533).
    popularity : bool, default=False
        Add the log of an item's training clicks to its score, times a number that the session decides: better at the
        top of the list where few items are bought by all, and worse on rare items.
    repeats : bool, default=False
        Learn how much more, or less, likely than by their vectors alone the items that a session has clicked are
        clicked again. For baskets, where nothing is put twice; where people come back to what they looked at, vectors
        alone did better (docs/design.md).
    category_weight : float or sequence of float, default=0.1
        Weights a_l of the category losses, one for all levels or one each; 0 trains the item task alone.
    min_frequency : int, default=1
        Levels of a category that fewer items have count as unseen.
    training : {"per_session", "per_prefix"}, default="per_session"
        One pass over a session that predicts every click after the first, or an example of every prefix.
    n_negatives : int or None, default=4096
        Negatives of a step's softmax: its own clicks, and drawn items up to so many in all; None takes all items.
    epochs, patience : int, default=10, 2
    batch_size : int, default=2048
        Clicks that are predicted in a step.
    learning_rate, weight_decay, average_decay : float, default=2e-3, 1e-5, 0.998
        Of AdamW, and of the moving average of the weights that is validated and kept.
    early_stopping : bool, default=True
        Watch MRR@20 on the validation log, or else on the newest ``validation_fraction`` of the sessions, which are
        then not trained on. False trains all epochs and keeps the last; a validation log is then only scored.
    validation_fraction : float, default=0.05
        Share of the sessions that early stopping sets aside where fit gets no ``clicks_val``; none of fewer than 20.
    precision : {"float32", "bf16"}, default="float32"
        ``"bf16"`` trains with matrix products in bfloat16: faster on GPUs, and on CPUs with AVX512-BF16 or AMX.
    random_state : int, RandomState or None, default=None
        Rules all randomness; the global generators stay untouched.
    verbose : int, default=0
        1 shows what metadata can tell (``oracle_ceiling_``) and the epochs.
    on_epoch : callable, optional
        Called after every epoch with its row of ``history_`` as a dict; a true answer stops training. Not saved.
    max_length : int, default=50
        Clicks of a session that are read, the newest.
    cold_prior : float, default=1.0
        Training clicks that an item without any is credited with; see
        :class:`tabmtl.sessions.m2trec.vectors.VectorRecommender`.
    device : str, default="auto"
        ``"auto"`` is a GPU if torch sees one, else the CPU.
    n_jobs : int, optional
        Threads, as scikit-learn counts them (-1 = all); None lets the size of the network decide.
    session_column, item_column, time_column, order_column : str, default="session_id", "item_id", "time", None
        Columns of the click log; see :class:`tabmtl.sessions.recommender.Recommender`.

    Attributes
    ----------
    item_ids_, item_counts_ : polars.Series, ndarray
        The catalogue, and the clicks of every item in the log of fit, sessions that were set aside among them.
    n_distinct_metadata_ : int
        Number of different rows of metadata among the items of fit, where there was metadata; ``n_items_`` is that of
        all items.
    oracle_ceiling_ : dict of str to float
        Recall@20 and MRR@20 of an oracle that knows the metadata of the next item: the best that ``id_mode="none"`` can
        reach, on validation sessions, or training sessions without any. Only where there was metadata.
    history_ : polars.DataFrame
        One row an epoch: ``epoch`` from 0, losses, and Recall@20 and MRR@20 on at most 20 000 validation clicks.
    best_iteration_ : int
        The epoch, from 1, whose weights were kept.
    weights_ : dict of str to ndarray
        Of the network.

    Examples
    --------
    >>> from tabmtl.sessions import M2TRec
    >>> from tabmtl.synth import make_sessions
    >>> log = make_sessions(300, 50, random_state=0)
    >>> model = M2TRec(categories=["category"], epochs=1, random_state=0).fit(log.clicks, items=log.items)
    >>> model.recommend(log.clicks.head(4), k=3).columns
    ['session_id', 'rank', 'item_id', 'score']
    """

    categories: Sequence[str] = ()
    categorical_features: Literal["from_dtype"] | Sequence[str] = "from_dtype"
    text_features: Sequence[str] = ()
    id_mode: IdMode = "full"
    id_dropout: float = 0.1
    delta_norm: float = 0.5
    d_model: int = 128
    n_layers: int = 1
    n_heads: int = 2
    pooling: Pooling = "items"
    temperature: float | None = 0.07
    dropout: float = 0.2
    item_dropout: float = 0.2
    unknown_rate: float = 0.05
    hierarchy: bool = False
    popularity: bool = False
    repeats: bool = False
    category_weight: float | Sequence[float] = 0.1
    min_frequency: int = 1
    training: Training = "per_session"
    n_negatives: int | None = 4096
    epochs: int = 10
    batch_size: int = 2048
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    average_decay: float = 0.998
    early_stopping: bool = True
    validation_fraction: float = 0.05
    patience: int = 2
    precision: Literal["float32", "bf16"] = "float32"
    random_state: int | np.random.RandomState | None = None
    verbose: int = 0
    on_epoch: OnEpoch | None = None

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 5e-4, "high": 1e-2, "log": True},
        "d_model": {"choices": (64, 128, 256)},
        "pooling": {"choices": get_args(Pooling)},
        "temperature": {"low": 0.03, "high": 0.2, "log": True},
        "id_dropout": {"low": 0.0, "high": 0.5},
        "dropout": {"low": 0.0, "high": 0.5},
        "item_dropout": {"low": 0.0, "high": 0.5},
        "popularity": {"choices": (False, True)},
        "repeats": {"choices": (False, True)},
    }

    _training_code: ClassVar[tuple[str, ...]] = ("on_epoch",)

    def _check_params(self) -> None:
        super()._check_params()
        check_choice("id_mode", self.id_mode, ("full", "delta", "none"))
        check_choice("pooling", self.pooling, get_args(Pooling))
        check_choice("training", self.training, ("per_session", "per_prefix"))
        check_choice("precision", self.precision, ("float32", "bf16"))
        for name in ("d_model", "n_layers", "n_heads", "min_frequency", "epochs", "batch_size", "patience"):
            check_count(name, getattr(self, name))
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {self.d_model} and {self.n_heads}")
        if self.n_negatives is not None:
            check_count("n_negatives", self.n_negatives)
        for name in ("delta_norm", "learning_rate"):
            check_positive(name, getattr(self, name))
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        for name in ("id_dropout", "unknown_rate", "dropout", "item_dropout", "average_decay"):
            check_rate(name, getattr(self, name))
        check_at_least("weight_decay", self.weight_decay, 0)
        check_share("validation_fraction", self.validation_fraction)
        if self.on_epoch is not None and not callable(self.on_epoch):
            raise TypeError(f"on_epoch must be a function of the record of an epoch, or None, got {self.on_epoch!r}")
        self._check_columns()

    def _check_columns(self) -> None:
        for name in ("categories", "text_features"):
            check_names(name, getattr(self, name))
        if not isinstance(self.categorical_features, str) or self.categorical_features != "from_dtype":
            check_names("categorical_features, where it is not 'from_dtype',", self.categorical_features)
        tasks = self._tasks()
        if self.hierarchy and not tasks:
            raise ValueError(
                "hierarchy=True feeds predicted categories back, but none is predicted: name columns in categories, "
                "with a category_weight above 0"
            )

    def _level_weights(self) -> dict[str, float]:
        """Levels whose task is learned, and its weight."""
        levels, given = list(self.categories), self.category_weight
        if isinstance(given, str | bytes | Mapping) or not (is_number(given) or isinstance(given, Iterable)):
            raise ValueError(f"category_weight must be a number or a list of one a level of categories, got {given!r}")
        weights = list(given) if isinstance(given, Iterable) else [given] * len(levels)
        if len(weights) != len(levels):
            raise ValueError(
                f"category_weight has {len(weights)} weights, expected one per level of categories: {levels}"
            )
        for weight in weights:
            check_at_least("category_weight", weight, 0)
        return dict(zip(levels, weights, strict=True))

    def _fit(self, sessions: Sessions, catalogue: Catalogue, valid: Sessions | None) -> dict[str, Any]:
        train, valid = split_sessions(self, sessions, valid)
        counts = np.bincount(train.items, minlength=len(catalogue) + 1)[1:]
        coder = fit_coder(self, catalogue, counts)
        features = None if coder is None or catalogue.metadata is None else coder.encode(catalogue.metadata)
        items = KnownItems(features=features, clicks=counts, shared=self.id_mode == "none")
        apart = None
        if self.id_mode == "none":
            apart = newest_apart(train, self.validation_fraction) if valid is None else (train, valid)
        told = say_what_metadata_tells(items, train if valid is None else valid, apart, verbose=self.verbose)
        device = find_device(self.device)
        with seeded(draw_seed(self.random_state), device):
            network = self._network(coder, int(items.own.max(initial=0))).to(device)
            units = self._units(coder, items, device)
            with threads(self.n_jobs, network):
                history, best = train_network(self, network, units, items, train, valid)
        return told | {
            "history_": history_frame(history),
            "best_iteration_": best + 1,
            "weights_": {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()},
            "_coder": coder,
            "_items": items,
        }

    def _network(self, coder: ItemCoder | None, n_own: int) -> M2TRecNetwork:
        return make_network(self, coder, n_own, self._tasks())

    def _tasks(self) -> dict[str, float]:
        return {name: weight for name, weight in self._level_weights().items() if weight > 0}
