"""Training contract of tables and sessions: its options, and what an estimator tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
import torch

from tabmtl.base.params import BatchSize, Count, CountOrZero, Jobs, NonNegative, Rate, Share, check_callback
from tabmtl.base.storage.stored import Stored
from tabmtl.estimators.base import FromFitted, SavableEstimator
from tabmtl.training.device import Device, find_device
from tabmtl.training.hooks import OnEpoch


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedState:
    """Fitted attributes of a training that a file keeps."""

    history_: pl.DataFrame
    best_iteration_: int
    weights_: Annotated[dict[str, np.ndarray], Stored()]


@dataclass(kw_only=True, eq=False, repr=False)
class TrainedEstimator(SavableEstimator):
    """Base of the estimators whose network learns in epochs.

    Parameters
    ----------
    epochs : int, default=100
        Passes over the training data, at most.
    batch_size : int or "auto", default="auto"
        Rows of an optimiser step. ``"auto"`` takes about a 64th of the training rows, at least 32 and at most 512. On a
        CPU, a step may be split into micro-batches that fit the cache; their gradients add up to the same step.
    learning_rate : float, default=2e-3
        Learning rate of AdamW at the start. It falls to zero over ``epochs`` along half a cosine.
    weight_decay : float, default=1e-5
        Weight decay of AdamW.
    average_decay : float in [0, 1), default=0.998
        Decay of the moving average of the weights. Validation and prediction use the average; 0 uses the weights.
    early_stopping : bool, default=True
        Stop when the validation score has not risen for ``patience`` epochs (see ``restarts``), and keep the best
        weights. Without X_val and y_val, fit sets ``validation_fraction`` of the rows aside.
    validation_fraction : float in (0, 1), default=0.15
        Share of the rows that early stopping sets aside.
    patience : int, default=6
        Number of epochs without a better validation score after which training stops, or restarts.
    restarts : int, default=1
        Number of times that training does not stop but returns to its best weights and goes on with a third of the
        learning rate.
    precision : {"float32", "bf16"}, default="float32"
        ``"bf16"`` computes matrix products in bfloat16: faster on GPUs and on CPUs with AVX512-BF16 or AMX.
    device : str, default="auto"
        ``"auto"`` is a GPU if torch sees one, else the CPU.
    n_jobs : int, optional
        Threads, as scikit-learn counts them (-1 = all). None lets the size of the network decide: one thread for a
        small one, all for a large one. Another number of threads rounds sums differently.
    on_epoch : callable, optional
        Function that is called after every epoch with the row of ``history_`` as a dict. A true result stops training.
        It is not saved.

    Attributes
    ----------
    history_ : polars DataFrame
        One row per epoch: ``epoch`` from 0, and losses and scores of training and validation.
    best_iteration_ : int
        Number of epochs whose weights were kept.
    weights_ : dict of str to ndarray
        Weights of the network.
    """

    epochs: Count = 100
    batch_size: BatchSize = "auto"
    learning_rate: NonNegative = 2e-3
    weight_decay: NonNegative = 1e-5
    average_decay: Rate = 0.998
    early_stopping: bool = True
    validation_fraction: Share = 0.15
    patience: Count = 6
    restarts: CountOrZero = 1
    precision: Literal["float32", "bf16"] = "float32"
    device: Device = "auto"
    n_jobs: Jobs = None
    on_epoch: Annotated[OnEpoch | None, check_callback] = None

    __training_code__: ClassVar[tuple[str, ...]] = ("on_epoch",)
    #: Parameters of earlier releases, with their defaults; a file may have them, if they have these.
    __gone_params__: ClassVar[dict[str, Any]] = {"keep_optimizer": False, "keep_on_interrupt": False}
    weights_ = FromFitted("weights")

    def fitted_network(self) -> tuple[Any, torch.device]:
        """Return the module of the fitted network, and its device, that of the parameters."""
        device = find_device(self.device)
        return self._fitted.module(device), device
