"""Checks of the promises of every estimator of tables."""

from __future__ import annotations

from collections.abc import Callable

from tabmtl.estimators.network import NetworkEstimator
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.testing.added import Growing
from tabmtl.testing.containers import Containers
from tabmtl.testing.documents import Documents
from tabmtl.testing.errors import Errors
from tabmtl.testing.long import Long
from tabmtl.testing.onward import Onward
from tabmtl.testing.promises import named_checks
from tabmtl.testing.rows import Rows
from tabmtl.testing.storage import Storage
from tabmtl.testing.targets import Classifying, Free, Mixed, Network, Regressing


def check_multitask_estimator(estimator: MultiTaskEstimator) -> None:
    """Check that an estimator keeps the promises of `multitask_checks`.

    Parameters
    ----------
    estimator : MultiTaskEstimator
        As for `multitask_checks`.

    Raises
    ------
    AssertionError
        At the first promise that is not kept, with the name of the check.
    """
    for check in multitask_checks(estimator):
        check()


def multitask_checks(estimator: MultiTaskEstimator) -> list[Callable[[], None]]:
    """Checks that apply to an estimator, for ``pytest.mark.parametrize``.

    Parameters
    ----------
    estimator : MultiTaskEstimator
        Not fitted, with small options: the checks fit copies of it dozens of times. They set the columns, tasks and
        seed. For a funnel, give any ``task_chain``; the checks name their own steps.

    Returns
    -------
    checks : list of callables without arguments
        Each has a ``__name__`` that states the promise, and raises an AssertionError if it is broken.
    """
    every = _Every(estimator)
    free = not every.is_funnel
    applies = {
        _Every: True,
        Onward: hasattr(estimator, "partial_fit"),
        Growing: hasattr(estimator, "add_task"),
        Free: free,
        Classifying: free and every.takes_classes,
        Regressing: free and every.takes_numbers,
        Mixed: every.is_mixed,
        Network: every.is_mixed and isinstance(estimator, NetworkEstimator),
        Long: every.is_mixed,
    }
    groups = [group(estimator) for group, is_promised in applies.items() if is_promised]
    return named_checks(groups, type(estimator).__name__)


class _Every(Documents, Storage, Errors, Rows, Containers):
    """Promises of every estimator, with one fit for them all."""
