"""Hooks of a training: scikit-learn's callbacks (``set_callbacks``), fed by our ``on_epoch``.

A fit is a task, and every epoch of a network is a task in it, which a `GridSearchCV` shows below its own. A true answer
to the end of an epoch ends training, like one of ``on_epoch``. The fitted estimator that a callback gets for an epoch
predicts by that epoch's averaged weights, like ``val/score`` of ``history_``.

That part of scikit-learn is young, and the method that opens a fit has an underscore. If it is missing, estimators have
no ``set_callbacks``, and nothing else changes. For an estimator without callbacks nothing here runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:
    CallbackSupportMixin = with_callbacks = None

Record = dict[str, float | None]
OnEpoch = Callable[[Mapping[str, float | None]], bool | None]

SUPPORTED = hasattr(CallbackSupportMixin, "_init_callback_context")
#: Base of the estimators: gives ``set_callbacks``, where scikit-learn has it.
CallbackSupport: Any = CallbackSupportMixin if SUPPORTED else object


@dataclass(frozen=True, eq=False)
class FitTask:
    """A fit as callbacks see it: scikit-learn's context of its root, and the arguments of every call."""

    root: Any
    shown: dict[str, Any]


@contextmanager
def fit_as_task(estimator: Any, rows: Mapping[str, Any]) -> Iterator[FitTask | None]:
    """Show the begin and the end of a fit of rows X, y and sample_weight to callbacks, if the estimator has any."""
    if not (rows and SUPPORTED and getattr(estimator, "_skl_callbacks", None)):
        yield None
        return
    weight = rows["sample_weight"]
    metadata = None if weight is None else {"sample_weight": weight}
    shown = {"estimator": estimator, "X": rows["X"], "y": rows["y"], "metadata": metadata}
    try:
        root = estimator._init_callback_context(max_subtasks=getattr(estimator, "epochs", 0))
        root.call_on_fit_task_begin(**shown)
        yield FitTask(root, shown)
        root.call_on_fit_task_end(**shown, reconstruction_attributes={})
    finally:
        with_callbacks(_tear_down)(estimator)


def _tear_down(estimator: Any) -> None:
    """Do nothing: scikit-learn tears callbacks down after a method that it has decorated."""


@contextmanager
def epochs_as_tasks(
    task: FitTask | None, on_epoch: OnEpoch | None, attributes: Callable[[list[Record]], dict[str, Any]]
) -> Iterator[OnEpoch | None]:
    """Report the epochs of a fit to its callbacks.

    Parameters
    ----------
    task : FitTask or None
        The fit; None if it has no callbacks.
    on_epoch : callable or None
        The user's own hook.
    attributes : callable
        Fitted attributes as if training had ended by now, given the records of the epochs so far.

    Yields
    ------
    callable or None
        Call it after every epoch; it is ``on_epoch`` itself if there are no callbacks.
    """
    if task is None:
        yield on_epoch
        return
    from tabmtl.training.device import unseeded  # and with it torch

    with unseeded():
        epochs = _Epochs(task, on_epoch, attributes)
    yield epochs
    with unseeded():
        epochs.close()


@dataclass
class _Epochs:
    """Tasks of the epochs: one begins before the first epoch, and another when one has ended."""

    of_fit: FitTask
    on_epoch: OnEpoch | None
    attributes: Callable[[list[Record]], dict[str, Any]]

    def __post_init__(self) -> None:
        self._history: list[Record] = []
        self._begin()

    def _begin(self) -> None:
        self._task = self.of_fit.root.subcontext(task_name="epoch")
        self._task.call_on_fit_task_begin(**self.of_fit.shown)

    def __call__(self, record: Any) -> bool:
        """End the task of an epoch, and begin the next; return whether anyone asks to stop."""
        self._history.append(dict(record))
        now = partial(self.attributes, self._history)
        stop = self._task.call_on_fit_task_end(**self.of_fit.shown, reconstruction_attributes=now)
        self._task = None
        stop |= bool(self.on_epoch is not None and self.on_epoch(record))
        if not stop and len(self._history) < self.of_fit.root.max_subtasks:
            self._begin()
        return stop

    def close(self) -> None:
        """End the task of an epoch that never ran, because training had ended early."""
        if self._task is not None:
            self._task.call_on_fit_task_end(estimator=self.of_fit.shown["estimator"])
