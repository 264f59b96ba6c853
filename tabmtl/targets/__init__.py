"""Targets: a task, and the kinds of its values, one file each."""

from tabmtl.targets.kind import Kind
from tabmtl.targets.task import KINDS, Task, Tasks, find_kind, kind_blocks

__all__ = ["KINDS", "Kind", "Task", "Tasks", "find_kind", "kind_blocks"]
