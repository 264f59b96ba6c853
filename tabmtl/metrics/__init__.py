"""Null-aware scores per task, their intervals, and the gain over a reference."""

from tabmtl.metrics.gain import MultitaskGain, multitask_gain
from tabmtl.metrics.intervals import score_intervals
from tabmtl.metrics.own import TaskMetric, make_task_metric
from tabmtl.metrics.scores import check_metric, mean_score, score_tasks

__all__ = [
    "MultitaskGain",
    "TaskMetric",
    "check_metric",
    "make_task_metric",
    "mean_score",
    "multitask_gain",
    "score_intervals",
    "score_tasks",
]
