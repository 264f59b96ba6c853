"""The order of the examples: a story a line, from the first minutes to production."""

from __future__ import annotations

from pathlib import Path

ORDER = (
    "plot_start.py",
    "plot_few_labels.py",
    "plot_new_task.py",
    "plot_missing_labels.py",
    "plot_dates.py",
    "plot_day_by_day.py",
    "plot_text.py",
    "plot_histories.py",
    "plot_counts.py",
    "plot_rare_events.py",
    "plot_intervals.py",
    "plot_when_not.py",
    "plot_ordered_classes.py",
    "plot_ensemble.py",
    "plot_long_table.py",
    "plot_outlier_tasks.py",
    "plot_funnel.py",
    "plot_by_user.py",
    "plot_experts.py",
    "plot_merging.py",
    "plot_own_network.py",
    "plot_sessions.py",
    "plot_sweep.py",
    "plot_importances.py",
    "plot_shap.py",
    "plot_files.py",
    "plot_onnx.py",
    "plot_sizes.py",
    "plot_mlflow.py",
)


def place(file: str) -> int:
    """Return the place of an example in the gallery; one that is not listed is an error."""
    return ORDER.index(Path(file).name)
