"""A comparison as HTML: tables for notebooks, and a page that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from tabmtl.inspection.plots.comparison import verdict

_MOST_CELLS = 400  # tasks times models that a notebook shows


class Figure(NamedTuple):
    """A picture of the page: its heading, what it says, and the SVG."""

    heading: str
    caption: str
    svg: str


def plain(value: float | None) -> str:
    """Write a number with 4 places, or 1 if it is large.

    Examples
    --------
    >>> plain(0.81239), plain(-1234.56), plain(None)
    ('0.8124', '-1,234.6', '-')
    """
    if value is None:
        return "-"
    text = f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def signed(value: float | None) -> str:
    """Write a number as `plain` does, with its sign unless it is 0.

    Examples
    --------
    >>> signed(0.01), signed(-0.00001)
    ('+0.0100', '0.0000')
    """
    text = plain(value)
    return f"+{text}" if value is not None and value > 0 and float(text.replace(",", "")) else text


def tables(comparison: Any) -> str:
    """Make the tables of a comparison, as notebooks show them."""
    small = comparison.frame.height <= _MOST_CELLS
    return _environment().get_template("notebook.html").render(_facts(comparison) | {"has_tasks": small})


def report(comparison: Any, figures: Sequence[Figure]) -> str:
    """Make the page of a comparison."""
    facts = _facts(comparison) | {
        "figures": figures,
        "rows": comparison.frame.rows(named=True),
        "when": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "version": version("tabmtl"),
    }
    return _environment().get_template("report.html").render(facts)


def _facts(comparison: Any) -> dict[str, Any]:
    """Return what the templates show."""
    by_cell = {(row["model"], row["task"]): row for row in comparison.frame.iter_rows(named=True)}
    models = comparison.summary.rows(named=True)
    shown = comparison.shown_metrics
    further = comparison.further.sort("task", "metric", maintain_order=True).rows(named=True)
    lines = []
    for task in comparison.tasks:
        cells = [by_cell[row["model"], task.name] for row in models]
        best = max((cell["score"] for cell in cells if cell["score"] is not None), default=None)
        labelled = next((cell["n_labelled"] for cell in cells if cell["n_labelled"] is not None), None)
        metric = shown[task.name, task.metric]
        lines.append({"task": task, "metric": metric, "n_labelled": labelled, "cells": cells, "best": best})
    return {
        "title": comparison.title,
        "heading": comparison.heading,
        "verdict": comparison.verdict,
        "further": [row | {"metric": shown[row["task"], row["metric"]]} for row in further],
        "models": models,
        "lines": lines,
        "reference": comparison.reference,
        "labels": comparison.labels,
        "seeds": comparison.seeds,
        "refitted": comparison.refitted,
        "side": verdict,
    }


@cache
def _environment() -> Environment:
    """Read the templates; every text in them is escaped."""
    found = Environment(
        loader=PackageLoader("tabmtl.inspection.comparison"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.filters |= {"plain": plain, "signed": signed}
    return found
