"""All that a model learns after its fit, by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tabmtl.decisions.calibrators import Calibrator
from tabmtl.targets import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
    """What a model has learned of answers to rows that its fit has not seen.

    A field holds one item per task, in their order; None where a task has learned nothing.

    Attributes
    ----------
    calibrators : tuple of Calibrator or None
    """

    calibrators: tuple[Calibrator | None, ...]

    @classmethod
    def none(cls, n_tasks: int) -> Self:
        """Return the decisions of a model that has learned none."""
        return cls(calibrators=(None,) * n_tasks)

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise a ValueError unless the items fit the tasks; files are held against it."""
        if len(self.calibrators) != len(tasks):
            raise ValueError(f"there are calibrators of {len(self.calibrators)} tasks, expected {len(tasks)}")
        for task, calibrator in zip(tasks, self.calibrators, strict=True):
            if calibrator is not None:
                if not task.is_classification:
                    raise ValueError(f"task {task.name!r} is {task.kind}, and has a calibrator of probabilities")
                calibrator.check(len(task.classes or ()))
