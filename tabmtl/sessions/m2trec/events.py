"""Events of clicks, such as views and purchases: what a click to predict weighs by its event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tabmtl.base.params import check_at_least
from tabmtl.base.schema import warn_user

_HELD = np.finfo(np.float32)  # weights of clicks are of this type


def check_event_weights(name: str, value: Any) -> None:
    """Raise a TypeError or ValueError for a value that maps no events to weights."""
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(event, str) for event in value):
        raise TypeError(f"{name} must map names of events, as text, to weights, such as {{'buy': 3}}, got {value!r}")
    for event, weight in value.items():
        check_at_least(f"{name}[{event!r}]", weight, 0)
        if not np.isfinite(weight):
            raise ValueError(f"{name}[{event!r}] must be a finite number, got {weight!r}")
        if weight > float(_HELD.max) or 0 < weight < float(_HELD.tiny):
            raise ValueError(
                f"{name}[{event!r}] must be 0, or from 1.2e-38 to 3.4e38, got {weight!r}; events without one weigh 1"
            )


def warn_of_absent(weights: Mapping[str, float], known: Sequence[str], column: str) -> None:
    """Warn if weights name events that are not among the known ones of a log, sorted names."""
    absent = [event for event in weights if event not in known]
    if absent:
        warn_user(
            f"event_weights names the events {absent}, which no click in {column!r} has; some that are there are "
            f"{list(known[:10])}"
        )


def weigh_events(log: pl.DataFrame, weights: Mapping[str, float], column: str) -> pl.DataFrame:
    """Name the events of clicks by text, and look up their weights.

    Missing events, and those without a weight, have the weight 1.

    Parameters
    ----------
    log : polars.DataFrame
        With a column ``event`` of text, categories, whole numbers or booleans.
    weights : mapping of str to float
        Weights by the name of the event.
    column : str
        Name of that column where the log comes from, for messages.

    Returns
    -------
    log : polars.DataFrame
        With a column ``weight`` of Float32.

    Raises
    ------
    TypeError
        If the column holds something else.
    """
    dtype = log["event"].dtype
    if dtype.is_float() or dtype.is_nested() or dtype.is_temporal():
        raise TypeError(f"the column {column!r} must name events by text or whole numbers, got {dtype}: cast it")
    by_name, names = {event: float(weight) for event, weight in weights.items()}, log["event"].cast(pl.String)
    return log.with_columns(event=names, weight=names.replace_strict(by_name, default=1.0, return_dtype=pl.Float32))
