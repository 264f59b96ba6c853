"""The torch half of the contract: training options, and from fitted weights to predictions."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from tabmtl.encode import TableCoder
from tabmtl.encode.features import NumericTransform
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.metrics.scores import score_tasks
from tabmtl.model_selection.folds import train_valid_split
from tabmtl.nn.embeddings import FeatureVector, NumericEmbedding
from tabmtl.onnx.export import export_onnx
from tabmtl.params import check_at_least, check_choice, check_count, check_positive, check_rate, check_share
from tabmtl.schema import Batch, Columns, TabmtlWarning, Task
from tabmtl.storage.persist import Saved
from tabmtl.training.balance.balancer import Balance, GradLevel, check_balance, make_balancer
from tabmtl.training.device import find_device, seeded, threads
from tabmtl.training.epochs import OnEpoch, Record
from tabmtl.training.hooks import describe_tasks, epochs_as_tasks, watching
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.predict import predict_scores, represent_rows
from tabmtl.training.table_loop import TrainOptions, settle_statistics, train

_ROWS_TO_SPLIT = 20  # fewer rows are all trained on: a validation part would hold next to nothing


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, MultiTaskEstimator):
    """Base of the estimators whose model is a torch network; a subclass gives `_network`.

    Parameters
    ----------
    epochs : int, default=30
        Passes over the training rows, at most.
    batch_size : int, default=512
        Rows of an optimiser step. On a CPU, micro-batches that fit its cache add up to the same step.
    learning_rate : float, default=2e-3
        Of AdamW at the start; it falls to zero over all epochs along half a cosine.
    weight_decay : float, default=1e-5
    average_decay : float, default=0.998
        Decay of the moving average of the weights that is validated and kept; 0 keeps the weights themselves.
    early_stopping : bool, default=True
        Watch the validation score, stop when it has not risen for ``patience`` epochs, and keep the best weights.
        Without X_val and y_val in fit, ``validation_fraction`` of the rows is set aside.
    validation_fraction : float, default=0.15
    patience : int, default=6
    monitor : str, default="mean"
        What early stopping watches: the mean of the tasks' validation scores, or the name of one task.
    numeric_transform : {"standardize", "quantile"}, default="standardize"
        How numeric columns are scaled; see :class:`tabmtl.encode.FeatureCoder`.
    min_frequency : int, default=5
        Levels of a categorical column seen less often share one embedding, which unseen levels use too.
    balance : str, sequence or mapping of weights, or TorchJD aggregator, default="sum"
        How the losses of the tasks become one step: ``"sum"``, weights in task order or by name, or by a method:
        ``"uncertainty"``, ``"imtl_l"``, ``"dwa"``, ``"gls"``, ``"famo"``, ``"gradnorm"``, ``"pcgrad"``, ``"mgda"``,
        ``"imtl_g"``; see :mod:`tabmtl.training.balance.balancer`. Any but ``"sum"`` takes whole batches, not micro-batches. An
        aggregator is not saved: a loaded estimator has ``"sum"``, and predicts the same.
    grad_level : {"auto", "representation", "parameters"}, default="auto"
        Where the last three and aggregators compare the tasks: in what networks mark as shared (`SharedBottom`: the
        trunk's output; mixtures: a row's vector and the experts' outputs; `APEM`: the patterns; `ESMM` and `AITM`: a
        row's vector), or in all shared parameters. ``"auto"`` is the first, but the second where nothing is marked
        (`MultiTabNet`), where a row has one task (``task_column``), and with ``flat``.
    normalize_gradients : bool, default=False
        Give the tasks' gradients one length before the last three or an aggregator join them.
    flat : bool, default=False
        Seek task-based flat regions (arXiv 2211.13723) with any balance, at all parameters: twice the gradients.
    rho : float, default=0.01
        How far ``flat`` looks: length of the moves towards a task's worst loss, one for the shared and one for the
        task's own parameters. Not used without ``flat``.
    precision : {"float32", "bf16"}, default="float32"
        ``"bf16"`` computes matrix products in bfloat16: faster on GPUs and on CPUs with AVX512-BF16 or AMX.
    device : str, default="auto"
        ``"auto"`` is a GPU if torch sees one, else the CPU.
    n_jobs : int, optional
        Threads, as scikit-learn counts them (-1 = all). None lets the size of the network decide: one thread for a
        small one, all for a large one.
    verbose : int, default=0
        1 shows progress with the current scores.
    on_epoch : callable, optional
        Called after every epoch with its row of ``history_`` as a dict; a true answer stops training. Not saved.

    Attributes
    ----------
    tasks_ : tuple of Task
    history_ : polars DataFrame
        One row an epoch: ``epoch``, ``train/loss``, ``train/score`` and per task ``train/<task>/loss`` and
        ``train/<task>/<metric>``; the same under ``val/``. Train scores are taken while the weights move, on up
        to 50 000 rows.
    best_iteration_ : int
        Number of epochs whose weights were kept.
    """

    epochs: int = 30
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    average_decay: float = 0.998
    early_stopping: bool = True
    validation_fraction: float = 0.15
    patience: int = 6
    monitor: str = "mean"
    numeric_transform: NumericTransform = "standardize"
    min_frequency: int = 5
    balance: Balance = "sum"
    grad_level: GradLevel = "auto"
    normalize_gradients: bool = False
    flat: bool = False
    rho: float = 0.01
    precision: Literal["float32", "bf16"] = "float32"
    device: str = "auto"
    n_jobs: int | None = None
    verbose: int = 0
    on_epoch: OnEpoch | None = None

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 5e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-6, "high": 3e-2, "log": True},
        "batch_size": {"choices": (128, 256, 512, 1024)},
        "average_decay": {"low": 0.98, "high": 0.999},
        "numeric_transform": {"choices": ("standardize", "quantile")},
        "balance": {"choices": ("sum", "uncertainty", "dwa", "famo")},
    }

    _training_code: ClassVar[tuple[str, ...]] = ("balance", "on_epoch")

    export_onnx = export_onnx

    @abstractmethod
    def _network(self, columns: Columns, tasks: Sequence[Task]) -> torch.nn.Module:
        """Build the untrained network; see `tabmtl.training.table_loop.Network`."""

    def transform(self, X: Any) -> np.ndarray:
        """What the tasks' heads read.

        Parameters
        ----------
        X : frame or array of shape (n, p)

        Returns
        -------
        representation : ndarray of float32, shape (n, r)
            What all heads read alike; of a network that gives every task its own, such as a mixture of experts, the
            features of all tasks side by side, in task order. In the long layout those of every row's own task.
        """
        check_is_fitted(self)
        self._check_columns(X)
        network, device = self._fitted_network()
        batch = _on_device(self._coder.read(X), device)
        with threads(self.n_jobs, network):
            size = self._fitted_params["batch_size"]
            return represent_rows(network, batch, self.precision, batch_size=size).cpu().numpy()

    def _check_params(self) -> None:
        for name in ("epochs", "batch_size", "patience", "min_frequency"):
            check_count(name, getattr(self, name))
        check_at_least("learning_rate", self.learning_rate, 0)
        check_at_least("weight_decay", self.weight_decay, 0)
        check_choice("numeric_transform", self.numeric_transform, ("standardize", "quantile"))
        check_balance(
            self.balance, grad_level=self.grad_level, flat=self.flat, normalize_gradients=self.normalize_gradients
        )
        check_positive("rho", self.rho)
        check_choice("precision", self.precision, ("float32", "bf16"))
        check_rate("average_decay", self.average_decay)
        check_share("validation_fraction", self.validation_fraction)

    def _encoding(self) -> dict[str, Any]:
        return {"transform": self.numeric_transform, "min_frequency": self.min_frequency}

    def _loss(self, tasks: Sequence[Task]) -> MultiTaskLoss:
        """What training minimises, and how the network's answers become scores of the tasks."""
        return MultiTaskLoss(tasks)

    def _inspect(self, network: torch.nn.Module, batch: Batch) -> dict[str, Any]:
        """More fitted attributes, from the trained network and (tensors of) the features of its training rows."""
        return {}

    def _fit(self, X: Any, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int) -> dict[str, Any]:
        tasks = coder.labels.tasks
        names = [task.name for task in tasks]
        if self.monitor not in ("mean", *names):
            raise ValueError(f"monitor must be 'mean' or a task, got {self.monitor!r}; tasks are {names}")
        if valid is not None and self.early_stopping:
            watched = valid.wide_labels(len(tasks))
            if self.monitor != "mean":
                watched = watched[:, names.index(self.monitor)]
            if np.isnan(watched).all():
                raise ValueError(
                    f"y_val has no label to stop on (monitor={self.monitor!r}); label some validation rows"
                )
        if valid is None and self.early_stopping and len(batch) >= _ROWS_TO_SPLIT:
            rng = np.random.default_rng(seed)
            kept, held_out = train_valid_split(batch.y, tasks, self.validation_fraction, rng, batch.task)
            batch, valid = batch.rows(kept), batch.rows(held_out)
        device = find_device(self.device)
        data = _tensors(batch, coder, device)
        with seeded(seed, device):
            network = self._network(coder.features.columns, coder.labels.tasks).to(device)
            with threads(self.n_jobs, network):
                trained = self._train(network, coder, data, None if valid is None else _tensors(valid, coder, device))
                return self._trained(network, data, *trained)

    def _trained(self, network: torch.nn.Module, data: Batch, history: list[Record], best: int) -> dict[str, Any]:
        """Fitted attributes, from a trained network and its training rows."""
        features = replace(data, y=None, weight=None)
        first = features.rows(torch.arange(1, device=data.x_num.device))
        return self._inspect(network, features) | {
            "history_": _history(history[0], history),
            "best_iteration_": best + 1,
            "weights_": {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()},
            "_n_features_out": represent_rows(network, first).shape[1],
            "_module": network.eval(),
        }

    def _trained_so_far(
        self, network: torch.nn.Module, coder: TableCoder, data: Batch, history: list[Record]
    ) -> dict[str, Any]:
        """Fitted attributes, as if training had ended with the last epoch of the history."""
        now, network = type(self)(**self.get_params(deep=False)), copy.deepcopy(network)
        settle_statistics(network, data, self.precision)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TabmtlWarning)  # of experts, which the end of training will tell
            now._set_fitted(coder, self._trained(network, data, history, len(history) - 1))
        return dict(vars(now))

    def _train(
        self, network: torch.nn.Module, coder: TableCoder, data: Batch, valid: Batch | None
    ) -> tuple[list[Record], int]:
        options = TrainOptions(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            average_decay=self.average_decay,
            patience=self.patience if self.early_stopping and valid is not None else None,
            monitor=self.monitor,
            precision=self.precision,
        )
        tasks = coder.labels.tasks
        loss = self._loss(tasks)
        balancer = None
        if self.flat or not (isinstance(self.balance, str) and self.balance == "sum"):
            balancer = make_balancer(
                self.balance,
                tasks,
                network,
                grad_level=self.grad_level,
                flat=self.flat,
                normalize_gradients=self.normalize_gradients,
                task_per_row=self.task_column is not None,
                rho=self.rho,
            )
        describe = partial(describe_tasks, tasks)
        so_far = partial(self._trained_so_far, network, coder, data)
        with (
            epochs_as_tasks(self, self.on_epoch, so_far) as hook,
            watching(self.epochs, describe, verbose=self.verbose, on_epoch=hook) as on_epoch,
        ):
            return train(
                network,
                loss,
                data,
                valid,
                options,
                balancer=balancer,
                evaluate=lambda scores, scored: _evaluate(coder, scores, scored),
                on_epoch=on_epoch,
            )

    def _outputs(self, X: Any, batch: Batch) -> list[np.ndarray]:
        network, device = self._fitted_network()
        with threads(self.n_jobs, network):
            size = self._fitted_params["batch_size"]
            scores = predict_scores(network, _on_device(batch, device), self.precision, batch_size=size)
        scores = self._as_fitted()._loss(self.tasks_).link(scores)
        return self._coder.labels.outputs([score.cpu().numpy() for score in scores])

    def _fitted_network(self) -> tuple[torch.nn.Module, torch.device]:
        """The network on the device of the parameters; a copy from pickle builds its own on first use."""
        device = find_device(self.device)
        if self._module is None:
            self._module: torch.nn.Module = self._as_fitted()._rebuild(self._coder, self.weights_)
        if next(self._module.parameters()).device != device:
            self._module.to(device)
        return self._module, device

    def _rebuild(self, coder: TableCoder, weights: dict[str, np.ndarray]) -> torch.nn.Module:
        with seeded(0, torch.device("cpu")):
            network = self._network(coder.features.columns, coder.labels.tasks)
        network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        return network.eval()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_module" in state:
            state["_module"] = None  # the weights say it all, as arrays
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # the representation is float32
        return tags

    def _state(self) -> Saved:
        facts = {
            "history": self.history_.to_dict(as_series=False),
            "best_iteration": self.best_iteration_,
            "n_features_out": self._n_features_out,
        }
        return Saved(facts=facts, arrays=self.weights_)

    def _fitted_from(self, coder: TableCoder, saved: Saved) -> dict[str, Any]:
        return {
            "history_": _history(saved.facts["history"], saved.facts["history"]),
            "best_iteration_": saved.facts["best_iteration"],
            "weights_": saved.arrays,
            "_n_features_out": saved.facts["n_features_out"],
            "_module": self._rebuild(coder, saved.arrays),
        }


def _history(names: Iterable[str], records: Any) -> pl.DataFrame:
    # declared, for a score may be undefined in every epoch
    return pl.DataFrame(records, schema={name: pl.Int64 if name == "epoch" else pl.Float64 for name in names})


def _tensors(batch: Batch, coder: TableCoder, device: torch.device) -> Batch:
    """A batch for training: standardised float32 labels, on the device."""
    weight = None if batch.weight is None else batch.weight.astype(np.float32)
    batch = replace(batch, y=coder.labels.standardize(batch.y), weight=weight)
    return _on_device(batch, device)


def _on_device(batch: Batch, device: torch.device) -> Batch:
    return batch.map(lambda array: torch.from_numpy(array).to(device))


def _evaluate(coder: TableCoder, scores: Sequence[torch.Tensor], batch: Batch) -> dict[str, float | None]:
    """Scores of raw scores on training-unit labels, in own units; undefined ones are None."""
    labels = coder.labels
    outputs = labels.outputs([score.float().cpu().numpy() for score in scores])
    arrays = Batch(**{name: part.cpu().numpy() if part is not None else None for name, part in vars(batch).items()})
    own = replace(arrays, y=arrays.y.astype(np.float64) * labels.scale + labels.center)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TabmtlWarning)
        return score_tasks(labels.tasks, own.y, outputs, own.weight, own.task)


@dataclass(kw_only=True, eq=False, repr=False)
class VectorEstimator(NetworkEstimator):
    """Base of the estimators whose network reads a row as one vector.

    Parameters
    ----------
    d_embedding : int, default=16
        Width of a column's embedding.
    numeric_embedding : {"none", "linear", "piecewise", "periodic"}, default="piecewise"
        How a number becomes an embedding; ``"none"`` takes it as it is.
    """

    d_embedding: int = 16
    numeric_embedding: NumericEmbedding | Literal["none"] = "piecewise"

    search_space: ClassVar[dict[str, Any]] = NetworkEstimator.search_space | {
        "d_embedding": {"choices": (8, 16, 32)},
        "numeric_embedding": {"choices": ("linear", "piecewise", "periodic")},
    }

    _embedding_std: ClassVar[float | None] = None

    def _check_params(self) -> None:
        super()._check_params()
        check_count("d_embedding", self.d_embedding)
        check_choice("numeric_embedding", self.numeric_embedding, ("none", "linear", "piecewise", "periodic"))

    def _vector(self, columns: Columns) -> FeatureVector:
        """A row as one vector, with the options of this estimator."""
        kind, std = self.numeric_embedding, self._embedding_std
        return FeatureVector(columns, self.d_embedding, numeric_embedding=kind, std=std)
