"""Training contract of tables and sessions: its options, its history, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
import torch

from tabmtl.estimators.base import FromFitted, SavableEstimator
from tabmtl.params import BatchSize, Count, CountOrZero, Jobs, NonNegative, Positive, Rate, Share, check_callback
from tabmtl.processes.ranks import Ranks
from tabmtl.storage.stored import Stored
from tabmtl.training.device import Device, find_device, seeded
from tabmtl.training.hooks import OnEpoch, Record
from tabmtl.training.optimizer import MOMENTS, Optimizer

Weights = Mapping[str, np.ndarray]

#: Modules of trained networks, by the number of their weights. They live as long as these; no pickle has them.
_modules: WeakKeyDictionary[TrainedNetwork, dict[int, Any]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedNetwork:
    """Network as it was trained, frozen; pickles and deep copies hold its weights, and build its module anew.

    A module is built at the first answer, and moved where answers are computed.

    Attributes
    ----------
    maker : TrainedEstimator
        Unfitted, with the parameters of fit; it builds networks.
    weights : mapping of str to ndarray
    moments : mapping of str to ndarray
        What the optimiser has learned of gradients, as `moment_arrays` names it.
    """

    maker: Any
    weights: Weights
    moments: Weights = field(default_factory=dict)

    @classmethod
    def of(cls, network: torch.nn.Module, **facts: Any) -> Self:
        """Return a network that has just been trained, given what its weights do not tell."""
        return cls(weights=weight_arrays(network.state_dict()), **facts).holding(network)

    def holding(self, network: torch.nn.Module) -> Self:
        """Keep a module that has these weights; return self."""
        _modules[self] = {0: network.eval()}
        return self

    def module(self, device: torch.device | None = None, number: int = 0) -> Any:
        """Return the module, built once, on a device or where it is; ``number`` tells between several weights."""
        known = _modules.setdefault(self, {})
        if number not in known:
            with seeded(0, torch.device("cpu")):  # which one thread does at a time, a training among them
                if number not in known:
                    known[number] = self._rebuilt(number)
        network = known[number]
        return network if device in (None, next(network.parameters()).device) else network.to(device)

    def _rebuilt(self, number: int) -> Any:
        """Build the module of some of the weights, ready to predict; weights that do not fit are an error."""
        raise NotImplementedError


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
    clip_norm : float, optional
        Largest length of a step's gradient, over all parameters except large tables of categories.
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
    warm_start : bool, default=False
        Let `fit` begin at the weights of the last fit, in place of new ones: levels and classes that are new find a
        place, and columns, tasks and scales stay. Parameters that form the network must stay as they were.
    keep_optimizer : bool, default=False
        Keep what the optimiser has learned of gradients, with the model and in its file, which about triples their
        size; `partial_fit` and a warm start go on from it. By default, they begin anew from the weights.
    keep_on_interrupt : bool, default=False
        Keep the best weights, with a warning, if training is interrupted after its first epoch (Ctrl-C, or a notebook's
        stop). By default the interrupt is raised, and the estimator stays as it was. Several processes that fit
        together refuse this option, since each would be interrupted in another epoch.
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
    clip_norm: Positive | None = None
    early_stopping: bool = True
    validation_fraction: Share = 0.15
    patience: Count = 6
    restarts: CountOrZero = 1
    precision: Literal["float32", "bf16"] = "float32"
    device: Device = "auto"
    n_jobs: Jobs = None
    warm_start: bool = False
    keep_optimizer: bool = False
    keep_on_interrupt: bool = False
    on_epoch: Annotated[OnEpoch | None, check_callback] = None

    training_code: ClassVar[tuple[str, ...]] = ("on_epoch",)
    weights_ = FromFitted("weights")
    _optimizer = FromFitted("moments")

    def fitted_network(self) -> tuple[Any, torch.device]:
        """Return the module of the fitted network, and its device, that of the parameters."""
        device = find_device(self.device)
        return self._fitted.module(device), device

    def _check_interrupt(self, group: Ranks) -> None:
        """Raise a ValueError if several processes are to keep what an interrupt leaves."""
        if self.keep_on_interrupt and group.size > 1:
            raise ValueError(
                f"keep_on_interrupt=True is for one process, and this group has {group.size}, which an interrupt would "
                "end in different epochs; leave it out, or fit outside of joined()"
            )


def trained_attributes(history: list[Record], best: int) -> dict[str, Any]:
    """Return what a training that has just ended tells of its epochs."""
    # declared, for a score may be undefined in every epoch
    types = {name: pl.Int64 if name == "epoch" else pl.Float64 for name in history[0]}
    return {"history_": pl.DataFrame(history, types), "best_iteration_": best + 1}


def weight_arrays(weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the state of a network as arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}


def load_weights(network: torch.nn.Module, weights: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """Load copies of fitted weights into a network, and make it ready to predict."""
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return network.eval()


def moment_arrays(optimizer: Optimizer, network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the moments of an optimiser as arrays ``<kind>/<parameter>``, as a file has them."""
    return {
        f"{kind}/{name}": np.atleast_1d(array)
        for kind, own in optimizer.moments(network).items()
        for name, array in weight_arrays(own).items()
    }


def split_moments(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the moments of a training by their kinds and the parameters, given arrays ``<kind>/<parameter>``."""
    found: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in MOMENTS}
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        found[kind][name] = torch.tensor(array[0] if kind == "step" else array)
    return found


def check_moments(moments: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError for moments of a training that are not those of some weights."""
    for key, array in moments.items():
        kind, _, name = key.partition("/")
        if kind not in MOMENTS or name not in weights:
            raise ValueError(f"the optimizer has {key!r}, expected one of {MOMENTS} of a weight")
        shape = {"step": (1,), "square": weights[name].shape[:1]}.get(kind, weights[name].shape)
        if array.shape != shape or array.dtype.kind != "f" or (kind != "exp_avg" and (array < 0).any()):
            raise ValueError(
                f"the optimizer has {key!r} of shape {array.shape}, expected {shape}, and no number below 0"
            )
