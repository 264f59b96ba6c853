"""The gain of learning tasks together over a reference, per task and on average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from tabmtl.base.schema import html_table, text_table, warn_user

#: A relative gain over a reference closer to zero than this says nothing: it is null.
SMALLEST_REFERENCE = 0.01

_HEADER, _SPECS = ("task", "score", "reference", "gain %", "difference"), ("z.4f", "z.4f", "+z.2f", "+z.4f")


@dataclass(frozen=True, eq=False)
class MultitaskGain:
    """Gain of multi-task learning, per task and on average; print it to read it.

    Parameters
    ----------
    table : polars.DataFrame
        One row per task: "task", "score", "reference", "gain_percent" = 100 (score - reference) / |reference|
        and "difference" = score - reference. Undefined values are null.
    """

    table: pl.DataFrame

    @property
    def delta_m(self) -> float:
        """Δm, the mean of the defined gains in percent; NaN where none is defined."""
        gains = self.table["gain_percent"].drop_nulls()
        return float(np.mean(gains.to_numpy())) if len(gains) else math.nan

    @property
    def n_defined(self) -> int:
        """Number of tasks with a defined gain."""
        return self.table["gain_percent"].count()

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return self.table.height

    def __str__(self) -> str:
        """Lay the table out in plain text, columns aligned right, Δm below."""
        return f"{text_table(_HEADER, self._rows())}\n{self.summary}"

    def _repr_html_(self) -> str:
        return html_table(_HEADER, self._rows(), self.summary)

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the table as text."""
        return [(task, *map(_cell, numbers, _SPECS)) for task, *numbers in self.table.iter_rows()]

    @property
    def summary(self) -> str:
        """Δm, and over how many tasks, in words."""
        delta_m = f"{self.delta_m:+z.2f} %" if self.n_defined else "undefined"
        return f"Δm = {delta_m} over {self.n_defined} of {self.n_tasks} tasks"


def multitask_gain(scores: Mapping[str, float | None], reference: Mapping[str, float | None]) -> MultitaskGain:
    """Compare per-task scores with those of a reference, such as independent single-task models.

    The mean gain is Δm of Maninis et al., "Attentive Single-Tasking of Multiple Tasks" (CVPR 2019). Higher scores must
    be better.

    Parameters
    ----------
    scores, reference : mapping of str to float or None
        Task name to score, both with the same names, from the same metrics on the same rows.

    Returns
    -------
    MultitaskGain
        The table, in the order of ``scores``, and its mean. A gain is null with a TabmtlWarning where a score
        is missing or ``|reference| < 0.01``; the difference is null where a score is missing.

    Raises
    ------
    ValueError
        If the two do not hold the same tasks.
    TypeError
        If one of them is no mapping, such as the mean that ``score`` returns.

    Examples
    --------
    >>> print(multitask_gain({"late": 0.82, "delay": 0.38}, {"late": 0.80, "delay": 0.40}))
     task   score  reference  gain %  difference
     late  0.8200     0.8000   +2.50     +0.0200
    delay  0.3800     0.4000   -5.00     -0.0200
    Δm = -1.25 % over 2 of 2 tasks
    """
    for name, given in (("scores", scores), ("reference", reference)):
        if not isinstance(given, Mapping):
            cure = "as score_tasks(X, y) gives them"
            cure = f"give {name}=model.score_tasks(X, y)" if hasattr(given, "score_tasks") else cure
            raise TypeError(f"{name} must map tasks to their scores, {cure}, got {given!r}")
    if scores.keys() != reference.keys():
        raise ValueError(
            "expected the same tasks in scores and reference, got "
            f"{sorted(scores.keys() - reference.keys())} in scores only and "
            f"{sorted(reference.keys() - scores.keys())} in reference only"
        )
    rows = [(task, score, reference[task]) for task, score in scores.items()]
    types = {"task": pl.String, "score": pl.Float64, "reference": pl.Float64}
    difference, size = pl.col("score") - pl.col("reference"), pl.col("reference").abs()
    gain = pl.when(size >= SMALLEST_REFERENCE).then(100 * difference / size)
    table = (
        pl.DataFrame(rows, types, orient="row").fill_nan(None).with_columns(gain_percent=gain, difference=difference)
    )
    for row in table.filter(pl.col("gain_percent").is_null()).iter_rows(named=True):
        reason = "no gain, a score is missing"
        if row["difference"] is not None:
            near = f"the reference {row['reference']:.4f} is too close to 0"
            reason = f"no gain in percent, {near}; read the difference instead"
        warn_user(f"task {row['task']!r}: {reason}")
    return MultitaskGain(table)


def _cell(number: float | None, spec: str) -> str:
    return "-" if number is None else format(number, spec)
