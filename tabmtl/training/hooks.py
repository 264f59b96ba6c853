"""Hooks of a training: scikit-learn's callbacks (``set_callbacks``), fed by our ``on_epoch``.

A fit is a task, and every epoch of a network is a task in it, which a `GridSearchCV` shows below its own. A true answer
to the end of an epoch ends training, like one of ``on_epoch``. The fitted estimator that a callback gets for an epoch
predicts by that epoch's averaged weights, like ``val/score`` of ``history_``.

That part of scikit-learn is young, and the method that opens a fit has an underscore. If it is missing, estimators have
no ``set_callbacks``, and nothing else changes. For an estimator without callbacks nothing here runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from tabmtl.training.device import unseeded
from tabmtl.training.epochs import OnEpoch, Record

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:
    CallbackSupportMixin = with_callbacks = None

SUPPORTED = hasattr(CallbackSupportMixin, "_init_callback_context")
#: Base of the estimators: gives ``set_callbacks``, where scikit-learn has it.
CallbackSupport: Any = CallbackSupportMixin if SUPPORTED else object

Fit = TypeVar("Fit", bound=Callable[..., Any])


def watched_fit(fit: Fit) -> Fit:
    """Decorate a method ``fit(X, y, *, sample_weight, ...)``, so that callbacks see its begin and its end."""

    @wraps(fit)
    def watched(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        if not (SUPPORTED and getattr(estimator, "_skl_callbacks", None)):
            return fit(estimator, *args, **kwargs)
        return with_callbacks(_fit_as_task)(estimator, fit, *args, **kwargs)

    return cast(Fit, watched)


def _fit_as_task(estimator: Any, fit: Callable[..., Any], X: Any, y: Any, **options: Any) -> Any:
    estimator._check_params()  # before a bar counts the epochs
    weight = options.get("sample_weight")
    shown = {"estimator": estimator, "X": X, "y": y, "metadata": None if weight is None else {"sample_weight": weight}}
    root = estimator._init_callback_context(max_subtasks=getattr(estimator, "epochs", 0))
    root.call_on_fit_task_begin(**shown)
    estimator._fit_task = root, shown
    try:
        fit(estimator, X, y, **options)
    finally:
        del estimator._fit_task
    root.call_on_fit_task_end(**shown, reconstruction_attributes={})
    return estimator


@contextmanager
def epochs_as_tasks(
    estimator: Any, on_epoch: OnEpoch | None, attributes: Callable[[list[Record]], dict[str, Any]]
) -> Iterator[OnEpoch | None]:
    """Report the epochs of an estimator to its callbacks.

    Parameters
    ----------
    estimator : MultiTaskEstimator
        In its fit.
    on_epoch : callable or None
        The user's own hook.
    attributes : callable
        Fitted attributes as if training had ended by now, given the records of the epochs so far.

    Yields
    ------
    callable or None
        Call it after every epoch; it is ``on_epoch`` itself if there are no callbacks.
    """
    task = getattr(estimator, "_fit_task", None)
    if task is None:
        yield on_epoch
        return
    root, shown = task
    with unseeded():
        epochs = _Epochs(root, shown, on_epoch, attributes)
    yield epochs
    with unseeded():
        epochs.close()


@dataclass
class _Epochs:
    """Tasks of the epochs: one begins before the first epoch, and another when one has ended."""

    root: Any
    shown: dict[str, Any]
    on_epoch: OnEpoch | None
    attributes: Callable[[list[Record]], dict[str, Any]]

    def __post_init__(self) -> None:
        self._history: list[Record] = []
        self._begin()

    def _begin(self) -> None:
        self._task = self.root.subcontext(task_name="epoch")
        self._task.call_on_fit_task_begin(**self.shown)

    def __call__(self, record: Any) -> bool:
        """End the task of an epoch, and begin the next; return whether anyone asks to stop."""
        self._history.append(dict(record))
        stop = self._task.call_on_fit_task_end(**self.shown, reconstruction_attributes=self._now)
        self._task = None
        stop |= bool(self.on_epoch is not None and self.on_epoch(record))
        if not stop and len(self._history) < self.root.max_subtasks:
            self._begin()
        return stop

    def _now(self) -> dict[str, Any]:
        return self.attributes(self._history) | {"_fit_task": None}  # a copy that somebody keeps holds no data

    def close(self) -> None:
        """End the task of an epoch that never ran, because training had ended early."""
        if self._task is not None:
            self._task.call_on_fit_task_end(estimator=self.shown["estimator"])
