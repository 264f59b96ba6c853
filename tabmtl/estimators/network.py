"""Estimators of networks: training options, and the way from fitted weights to predictions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import Count, Positive
from tabmtl.base.schema import Batch, Columns
from tabmtl.columns.number import NumericTransform
from tabmtl.columns.ragged import lists_of
from tabmtl.encode import TableCoder
from tabmtl.encode.new_tasks import Freeze
from tabmtl.estimators.added import Head
from tabmtl.estimators.asked import Together
from tabmtl.estimators.asked_network import NetworksTogether
from tabmtl.estimators.base import FromFitted, NotHere
from tabmtl.estimators.fitted_network import FittedNetwork
from tabmtl.estimators.learner import OF_NUMBERS, OF_THE_TABLE
from tabmtl.estimators.lineage import Lineage
from tabmtl.estimators.new_heads import with_new_heads
from tabmtl.estimators.rows import FitRows, FrameRows
from tabmtl.estimators.tables import MultiTaskEstimator, TableState
from tabmtl.estimators.trained import TrainedEstimator, TrainedState
from tabmtl.estimators.training import NetworkTraining
from tabmtl.nn.embeddings import FeatureVector
from tabmtl.nn.sequences import SequencePooling
from tabmtl.nn.units import Form
from tabmtl.targets import Task
from tabmtl.training.balance import Balance
from tabmtl.training.device import find_device, on_device
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.predict import represent_rows, weigh_sequences
from tabmtl.training.table_loop import settle_statistics


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkState(TrainedState, TableState):
    """Fitted attributes that the file of a network keeps."""

    _n_features_out: int
    batch_size_: int
    _lineage: Lineage | None = None
    _form: Form | None = None

    #: Fields that files of earlier releases lack.
    later_fields: ClassVar[tuple[str, ...]] = (*TableState.later_fields, "lineage", "form")
    rare_fields: ClassVar[tuple[str, ...]] = (*TableState.rare_fields, "form")
    #: Fields of earlier releases; a file may have them, if they hold nothing.
    gone_fields: ClassVar[tuple[str, ...]] = ("slimmed", "pruned", "task_weights", "task_snapshot", "optimizer")
    #: Fields of earlier releases that nothing reads.
    idle_fields: ClassVar[tuple[str, ...]] = ("importances",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size_ < 1:
            raise ValueError(f"batch_size_ is {self.batch_size_}, expected at least 1")
        most = sum(array.size for array in self.weights_.values())  # the heads weigh every feature
        if not 0 < self._n_features_out <= most:
            raise ValueError(f"the representation has {self._n_features_out} features, expected 1 to {most}")


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkEstimator(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    TrainedEstimator,
    MultiTaskEstimator,
):
    """Base of the estimators whose model is a torch network; a subclass gives `_network`.

    Parameters
    ----------
    epochs : int, default=100
        Passes over the training data, at most. A warning says so if the validation score still rises at the last one,
        unless there are fewer epochs than the default, or no more than ``patience``.
    clip_norm : float or None, default=1.0
        Largest length of a step's gradient, over all parameters except large tables of categories; None sets no bound.
    monitor : str, default="mean"
        Score that early stopping maximises: the mean of the tasks' validation scores, or the name of one task. The
        best epoch by it is kept; without validation rows, or with ``early_stopping=False``, the last one.
    numeric_transform : {"standardize", "quantile"}, default="standardize"
        Scaling of numeric columns: ``"standardize"`` to mean 0 and standard deviation 1, ``"quantile"`` to a normal
        distribution by their quantiles.
    min_frequency : int, default=5
        Rows that a level of a categorical column needs for an embedding of its own. Rarer levels share one embedding,
        which unseen levels use too.
    sequence_pooling : {"attention", "mean"}, default="attention"
        How networks read columns of sequences: by attention of the row's own item to the entries, as in
        DIN, or by their mean. See :class:`tabmtl.nn.sequences.PooledSequence`.
    balance : "sum", weights, or object, default="sum"
        Way to join the losses of the tasks to one step: their sum, weighted by numbers in task order or by task name if
        these are given, or what an object makes of them, such as those of TorchJD; see
        :class:`tabmtl.training.balance.BalanceMethod`. An object holds a whole batch in memory, and needs a fit in one
        process without checkpoint. It is not saved: a loaded estimator has ``"sum"``, and predicts the same.
    warm_start : bool, default=False
        Let `fit` begin at the weights of the last fit, in place of new ones: levels and classes that are new find a
        place, and columns, tasks and scales stay. Parameters that form the network must stay as they were.

    Attributes
    ----------
    history_ : polars DataFrame
        One row per epoch: ``epoch``, ``train/loss``, ``train/score`` and per task ``train/<task>/loss`` and
        ``train/<task>/<metric>``; the same under ``val/``. Train scores are measured while the weights move, on up to
        50 000 rows; those of networks that an ensemble trains as one are null.
    weights_ : dict of str to ndarray
        Weights of the network.
    batch_size_ : int
        Rows of an optimiser step.
    model_ : Model
        All that was fitted, as one frozen object.
    """

    clip_norm: Positive | None = 1.0
    monitor: str = "mean"
    numeric_transform: NumericTransform = "standardize"
    min_frequency: Count = 5
    sequence_pooling: SequencePooling = "attention"
    balance: Balance = "sum"
    warm_start: bool = False

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 5e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-6, "high": 3e-2, "log": True},
        "batch_size": {"choices": ("auto", 32, 64, 128, 256, 512, 1024)},
        "average_decay": {"low": 0.98, "high": 0.999},
        "numeric_transform": {"choices": ("standardize", "quantile")},
    }

    __training_code__: ClassVar[tuple[str, ...]] = ("balance", "on_epoch")
    __gone_params__: ClassVar[dict[str, Any]] = TrainedEstimator.__gone_params__ | {
        "slim": None,
        "keep": "mean",
        "grad_level": "auto",
        "normalize_gradients": False,
        "flat": False,
        "flat_radius": 0.01,
        "top_k": None,
    }
    _stored: ClassVar[type] = NetworkState
    _reads_windows: ClassVar[bool] = True
    #: Parameter of the width of a token, of a network whose tokens of all columns look at each other.
    _token_width: ClassVar[str | None] = None
    model_ = FromFitted(lambda model: model)
    batch_size_ = FromFitted("batch_size")
    _n_features_out = FromFitted("n_features_out")  # which scikit-learn reads
    _lineage = FromFitted("lineage")
    _form = FromFitted("removed_units")

    _together: ClassVar[type[Together]] = NetworksTogether
    _takes_heads: ClassVar[bool] = True
    _task_freezes: ClassVar[tuple[str | None, ...]] = ("shared", None)

    export_task = NotHere("it is a network, and LightGBM reads trees; write it as an ONNX file")

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> torch.nn.Module:
        """Build the untrained network; see `tabmtl.training.table_loop.Network`."""
        raise NotImplementedError(f"{type(self).__name__} must define _network(columns, tasks)")

    def transform(self, X: Any) -> np.ndarray:
        """Return the features that the tasks' heads read.

        Parameters
        ----------
        X : frame or array of shape (n, p)

        Returns
        -------
        representation : ndarray of float32, shape (n, r)
            Features that all heads share. A network that gives every task its own features, such as a mixture of
            experts, returns them side by side, in task order. In the long layout, a row has those of its own task.
        """
        check_is_fitted(self)
        batch = self._read_rows(self._preprocessed(X))
        if not len(batch):
            return np.empty((0, self._n_features_out), dtype=np.float32)
        return self._fitted.run(represent_rows, batch, self).cpu().numpy()

    def history_weights(self, X: Any) -> pl.DataFrame:
        """Return how much each entry of the columns of sequences counts for the row's own item.

        Parameters
        ----------
        X : frame or array of shape (n, p)

        Returns
        -------
        weights : polars.DataFrame of shape (n, n_sequences)
            For every column of sequences, lists of the weights of the entries that are read, in their order: the newest
            ``longest`` of its `tabmtl.columns.Sequence`. By attention, those of a row add up to less than 1, and to
            little where nothing bears on the item; ``sequence_pooling="mean"`` weighs all alike. A list is null where
            the sequence is missing.

        Raises
        ------
        ValueError
            If no column is a sequence.
        """
        check_is_fitted(self)
        sequences = self.coder_.features.columns.sequences
        if not sequences:
            raise ValueError(
                "no column of X is a sequence; declare some, as in columns={'history': 'sequence:item'}, and fit again"
            )
        batch = self._read_rows(self._preprocessed(X))
        found = self._fitted.run(weigh_sequences, batch, self)
        weights = zip(sequences, batch.x.sequences, found, strict=True)
        return pl.DataFrame([lists_of(column.name, entries, own.numpy()) for column, entries, own in weights])

    def with_weights(self, weights: Mapping[str, np.ndarray], X: Any = None, *, form: Form | None = None) -> Self:
        """Return a copy of the fitted network with other weights, which has learned no decisions.

        Parameters
        ----------
        weights : mapping of str to ndarray
            As in ``weights_``, of the same names and shapes.
        X : frame or array of shape (n, p), optional
            Rows that statistics of batch normalisation are settled on; by default the given ones stay.
        form : Form, optional
            Of a network that has lost units, whose weights they are.

        Returns
        -------
        copy : like self
            What fit has told, such as ``history_``, is that of self; `drift` tells of columns alone, since answers are
            others now.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> model = SharedBottom(epochs=2, random_state=0).fit(X, X)
        >>> weights = {**model.weights_, "heads.out.0.weight": -model.weights_["heads.out.0.weight"]}
        >>> turned = model.with_weights(weights)
        >>> bool(np.corrcoef(turned.predict(X)[:, 0], model.predict(X)[:, 0])[0, 1] < 0)
        True
        """
        check_is_fitted(self)
        fitted = self._fitted.with_weights(dict(weights), form)
        if X is not None:
            rows = self.encoded(X)
            settle_statistics(fitted.module(find_device(self.device)), rows, self.precision)
        model = self._model
        tasks = tuple(task.at(None) for task in model.tasks)
        coder = replace(model.coder, labels=replace(model.coder.labels, tasks=tasks, decisions=None))
        profile = model.profile and model.profile.of_tasks(())
        return self._with_model(replace(model, coder=coder, fitted=fitted.with_module_weights(), profile=profile))

    def encoded(self, X: Any) -> Batch:
        """Return rows as the fitted network reads them: tensors on its device.

        Parameters
        ----------
        X : frame or array of shape (n, p)

        Returns
        -------
        rows : Batch
        """
        return on_device(self._read_rows(self._preprocessed(X)), self.fitted_network()[1])

    def _encoding(self) -> dict[str, Any]:
        return {"transform": self.numeric_transform, "min_frequency": self.min_frequency, "flat": False}

    def _loss(self, tasks: Sequence[Task]) -> MultiTaskLoss:
        """Return the loss of training, which also turns the network's outputs into scores of the tasks."""
        return MultiTaskLoss(tasks)

    def _inspect(self, network: torch.nn.Module, batch: Batch) -> dict[str, Any]:
        """Return more fitted attributes, from the trained network and the features of its training rows (tensors)."""
        return {}

    def _fit(self, coder: TableCoder, rows: FitRows, valid: FitRows | None, seed: int) -> dict[str, Any]:
        before = self._fitted if self._is_warm else None
        return NetworkTraining(estimator=self, coder=coder, seed=seed, before=before).fit(rows, valid)

    def _go_on(self, coder: TableCoder, rows: FitRows, seed: int) -> dict[str, Any]:
        before = self._fitted if "_model" in vars(self) else None
        return NetworkTraining(estimator=self, coder=coder, seed=seed, before=before).go_on(rows)

    def _add_tasks(
        self, coder: TableCoder, batch: Batch, head: Head | None, freeze: Freeze, seed: int
    ) -> dict[str, Any]:
        fitted = with_new_heads(self._fitted, coder, batch, head, seed, self)
        found: dict[str, Any] = {"_fitted": fitted}
        if freeze is not None:
            return found
        now = copy.copy(self)
        now._model = replace(self._model, coder=coder, fitted=fitted)
        training = NetworkTraining(estimator=now, coder=coder, seed=seed, before=fitted)  # as a warm start does
        trained = training.fit(FrameRows(batch, coder.labels.tasks), None)
        del trained["answered"]  # by which a fit makes its profile; it is no attribute
        kept = {name: self._fitted_params[name] for name in (*OF_THE_TABLE, *OF_NUMBERS)}
        return found | trained | {"_fitted_params": self.get_params(deep=False) | kept}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # the representation is float32
        return tags

    def _fitted_of(self, coder: TableCoder, parts: dict[str, Any]) -> FittedNetwork:
        own = {"columns": coder.features.columns, "is_long": coder.task_column is not None}
        found = FittedNetwork(maker=replace(self), tasks=coder.labels.tasks, **(parts | own))
        # files hold no numbers without an axis, and weights that do not fit are refused
        return found.with_module_weights()


@dataclass(kw_only=True, eq=False, repr=False)
class MemberEstimator(NetworkEstimator):
    """Base of the estimators whose network can hold several members, which share its weights.

    Parameters
    ----------
    n_members : int, default=1
        Members of the network, an ensemble (TabM, arXiv 2410.24210). Members share all weights except two: each has its
        own factors of the columns' embeddings, and its own last layer of every head. Losses are means over the members
        in training and validation; predictions and scores take the mean of their probabilities or values, `transform`
        the mean of their features. A step of 8 members takes about 5 times as long as a step of one, a step of 32 about
        20 times.
    """

    n_members: Count = 1


@dataclass(kw_only=True, eq=False, repr=False)
class VectorEstimator(MemberEstimator):
    """Base of the estimators whose network reads a row as one vector.

    Parameters
    ----------
    d_embedding : int, default=16
        Width of a column's embedding.
    numeric_embedding : {"none", "linear", "piecewise", "periodic"}, default="piecewise"
        Embedding of a number: ``"linear"`` scales one vector, ``"piecewise"`` joins straight pieces between quantiles,
        ``"periodic"`` takes learned sines and cosines, and ``"none"`` uses the number itself.
    """

    d_embedding: Count = 16
    numeric_embedding: Literal["none", "linear", "piecewise", "periodic"] = "piecewise"

    search_space: ClassVar[dict[str, Any]] = NetworkEstimator.search_space | {
        "d_embedding": {"choices": (8, 16, 32)},
        "numeric_embedding": {"choices": ("linear", "piecewise", "periodic")},
    }

    _embedding_std: ClassVar[float | None] = None

    def _vector(self, columns: Columns) -> FeatureVector:
        """Return the module that reads a row as one vector, with the options of this estimator."""
        kind, std = self.numeric_embedding, self._embedding_std
        return FeatureVector(
            columns,
            self.d_embedding,
            numeric_embedding=kind,
            std=std,
            n_members=self.n_members,
            sequence_pooling=self.sequence_pooling,
        )
