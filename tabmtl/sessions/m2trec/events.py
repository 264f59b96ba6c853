"""Events of clicks, such as views and purchases: what a click to predict weighs by its event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tabmtl.params import check_at_least
from tabmtl.schema import warn_user


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


def event_names(events: pl.Series, column: str) -> pl.Series:
    """Name the events of clicks by text; null where missing.

    Parameters
    ----------
    events : polars.Series of length n
        Text, categories, whole numbers or booleans.
    column : str
        Column of the log that holds them, for messages.

    Raises
    ------
    TypeError
        If the column holds something else.
    """
    if events.dtype.is_float() or events.dtype.is_nested() or events.dtype.is_temporal():
        raise TypeError(f"the column {column!r} must name events by text or whole numbers, got {events.dtype}: cast it")
    return events.cast(pl.String)


def warn_of_absent(weights: Mapping[str, float], known: Sequence[str], column: str) -> None:
    """Warn if weights name events that are not among the known ones of a log, sorted names."""
    absent = [event for event in weights if event not in known]
    if absent:
        warn_user(
            f"weights names the events {absent}, which no click in {column!r} has; some that are there are "
            f"{list(known[:10])}"
        )


def weigh_events(events: pl.Series, weights: Mapping[str, float]) -> pl.Series:
    """Look up the weights of clicks by the names of their events; missing ones, and those without a weight, have 1.

    Parameters
    ----------
    events : polars.Series of String, length n
    weights : mapping of str to float
        Weights by the name of the event.

    Returns
    -------
    weights : polars.Series of Float32, length n
    """
    by_name = {event: float(weight) for event, weight in weights.items()}
    return events.replace_strict(by_name, default=1.0, return_dtype=pl.Float32)
