"""Answers of tasks with several levels, whose quantiles a column each holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sklearn.utils.metaestimators import available_if

from tabmtl.encode.write import write_targets

if TYPE_CHECKING:
    from tabmtl.encode import TableCoder
    from tabmtl.targets import Task


def check_levels(tasks: tuple[Task, ...]) -> None:
    """Raise a ValueError unless one of the tasks has several levels."""
    if not any(task.kind.levels for task in tasks):
        kinds = ", ".join(f"{task.name!r} is {task.kind}" for task in tasks[:5])
        raise ValueError(
            f"quantiles need a task with several levels, and {kinds}: declare one, such as "
            f"tasks={{{tasks[0].name!r}: 'quantiles:0.1:0.5:0.9'}}"
        )


def _has_levels(estimator: PredictsQuantiles) -> bool:
    if estimator._target_kind == "classification":
        return False
    if hasattr(estimator, "tasks_"):
        try:
            check_levels(estimator.tasks_)
        except ValueError as error:
            raise AttributeError(str(error)) from None
    return True


class PredictsQuantiles:
    """What an estimator answers besides its predictions, where a task has several levels."""

    if TYPE_CHECKING:
        _target_kind: ClassVar[Any]
        tasks_: tuple[Task, ...]
        coder_: TableCoder

        def answer(self, X: Any) -> list[Any]:
            """See `tabmtl.estimators.tables.MultiTaskEstimator`."""

    @available_if(_has_levels)
    def predict_quantiles(self, X: Any) -> Any:
        """Predict the quantiles of every level, for tasks of the kind "quantiles".

        Parameters
        ----------
        X : as in `predict`

        Returns
        -------
        quantiles : frame, or ndarray of shape (n, L)
            In the container of y in fit: a column ``<task>_q<level>`` for every level of these tasks, such as
            ``amount_q0.1``, in the order of the tasks. In a row, those of a task never fall. In the long layout, the
            columns have the name of the target.

        Raises
        ------
        AttributeError
            If no task has several levels.
        """
        quantiles, origin = self.coder_.labels.quantiles(self.answer(X))
        return write_targets(quantiles, origin, X.index if type(X).__module__.startswith("pandas") else None)
