"""Estimators of funnels: the parameter that names the steps, its check, and towers on one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from tabmtl.base.params import Rate, Widths, check_known
from tabmtl.encode.tasks import declared_tasks
from tabmtl.estimators.network import NetworkEstimator, VectorEstimator
from tabmtl.nn.layers import Towers
from tabmtl.targets import Task

#: Classes of text whose sorted order is beyond doubt.
_NO_YES = {("no", "yes"), ("n", "y"), ("false", "true"), ("f", "t"), ("0", "1")}


def check_chain(name: str, value: Any) -> None:
    """Raise a ValueError for a value that does not name the steps of a funnel."""
    is_list = isinstance(value, list | tuple) and all(isinstance(task, str) for task in value)
    if value is not None and not (is_list and len(value) > 1):
        raise ValueError(
            f"{name} must be a list of the names of two tasks or more, such as ['click', 'conversion'], got {value!r}"
        )


@dataclass(kw_only=True, eq=False, repr=False)
class FunnelEstimator(NetworkEstimator):
    """Base of the estimators that model a funnel, such as impression, click, conversion.

    Parameters
    ----------
    task_chain : sequence of str, optional
        Names of binary tasks in the order of their steps, such as ``["click", "conversion"]``. A label or probability
        of a step means that the row took this step and all steps before it. It is over all rows: all impressions, not
        only the clicked ones. After a step labelled 0, the labels of later steps count as 0. A missing label there
        needs no warning; a 1 causes one that counts the rows. Any other missing label is left out. The second class of
        a task means that the step was taken. Declare text classes in ``tasks``, unless they are no and yes, or false
        and true.
    """

    task_chain: Annotated[Sequence[str] | None, check_chain] = None

    def _chain(self, tasks: Sequence[Task]) -> tuple[int, ...]:
        if self.task_chain is None:
            return ()
        chain = list(self.task_chain)
        index = {task.name: t for t, task in enumerate(tasks)}
        check_known(f"task_chain {chain} names tasks", chain, index, "y")
        twice = [name for name in index if chain.count(name) > 1]
        if twice:
            raise ValueError(f"task_chain {chain} names tasks twice: {twice}; the tasks are {list(index)}")
        steps = {name: tasks[index[name]] for name in chain}
        # products of probabilities are made of log odds
        others = {name: str(t.kind) for name, t in steps.items() if not (t.is_binary and t.kind.takes_curves)}
        if others:
            raise ValueError(f"the steps of task_chain must be binary tasks, got {others}; leave them out of the chain")
        if self.task_column is not None:
            raise ValueError("task_chain needs all labels of a row in one row of y; leave out task_column")
        self._check_order_of_text([tasks[index[name]] for name in chain], tasks)
        return tuple(index[name] for name in chain)

    def _check_order_of_text(self, steps: Sequence[Task], tasks: Sequence[Task]) -> None:
        """Refuse text classes without a declared order: sorting is right for "no" and "yes", else a guess."""
        declared = declared_tasks(self.tasks, [task.name for task in tasks])
        for step in steps:
            classes = step.classes or ()
            said = declared.get(step.name)
            if (said is not None and said.classes) or not all(isinstance(name, str) for name in classes):
                continue
            if tuple(str(name).lower() for name in classes) not in _NO_YES:
                raise ValueError(
                    f"task_chain cannot tell which of {list(classes)} means that the step {step.name!r} was taken; "
                    f"declare it: tasks={{{step.name!r}: Task(name={step.name!r}, kind='binary', classes=(<not taken>, "
                    "<taken>))}"
                )


@dataclass(kw_only=True, eq=False, repr=False)
class TowerEstimator(FunnelEstimator, VectorEstimator):
    """Base of the funnel estimators with a tower per task on the row's vector.

    Parameters
    ----------
    task_chain : sequence of str
        As in :class:`FunnelEstimator`; needed.
    tower_hidden : sequence of int, default=(128, 64)
        Widths of a tower's layers, below the linear one that gives the score.
    dropout : float in [0, 1), default=0.1
        Share of hidden values dropped in training.
    """

    tower_hidden: Widths = (128, 64)
    dropout: Rate = 0.1

    search_space: ClassVar[dict[str, Any]] = VectorEstimator.search_space | {
        "tower_hidden": {"choices": ((64,), (128, 64), (256, 128))},
        "dropout": {"low": 0.0, "high": 0.5},
    }

    def __check_params__(self) -> None:
        super().__check_params__()
        if self.task_chain is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} needs task_chain, the binary tasks in the order of their steps, such as "
                f"{name}(task_chain=['click', 'conversion'])"
            )

    def _heads(self, d_in: int, tasks: Sequence[Task]) -> Towers:
        """Return a linear layer per task."""
        return Towers(d_in, [task.width for task in tasks], hidden=None, n_members=self.n_members)
