"""Write where learning together has lost, and how often, from the records of `benchmarks.evidence`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks import evidence
from benchmarks.evidence_compare import OF_TARGET, Comparison, compare, flatten, of_models
from benchmarks.evidence_models import SINGLE, of_kind
from benchmarks.evidence_report import table

if TYPE_CHECKING:
    from sphinx.application import Sphinx

RECORDS, FILE = Path("evidence"), Path("_generated/losses.md")
#: What is compared on its own in each part: a target at a number of labels, or the mean of a set.
SETTINGS = {"labels": OF_TARGET, "full": ("set",)}


def comparisons_of(frame: pl.DataFrame, model: str) -> list[Comparison]:
    """Compare a model of several targets with the best single-task model, in all settings with two draws or more."""
    own = of_models(frame, *SINGLE, model)
    found = [each for part, keys in SETTINGS.items() for each in compare(own.filter(part=part), keys, model=model)]
    return [each for each in found if each.error is not None]


def count_row(model: str, found: list[Comparison]) -> dict[str, Any]:
    """Return how often a model is ahead and behind beyond chance."""
    ahead, behind = sum(each.is_ahead for each in found), sum(each.is_behind for each in found)
    row = {"model": model, "cases": len(found), "ahead": ahead, "behind": behind}
    in_mean = sum((each.gain or 0.0) < 0 for each in found)
    return row | {"neither, beyond chance": len(found) - ahead - behind, "behind in the mean": in_mean}


def loss_row(model: str, each: Comparison) -> dict[str, Any]:
    """Return a lost case as a row."""
    amount = each.facts.get("amount")
    return {
        "set": each.facts["set"],
        "target": each.facts.get("task", "mean of all"),
        "labels": "all" if amount is None else amount,
        "model": model,
        "its score": f"{each.means[model]:.4f}",
        "best single-task model": f"{each.rival}, {each.means[each.rival or '']:.4f}",
        "difference": each.difference,
    }


def page(frame: pl.DataFrame) -> str:
    """Return the counts and the lost cases, as Markdown."""
    known = {*frame.filter(pl.col("part").is_in([*SETTINGS]))["model"]}
    models = [name for name in of_kind("joint") if name in known]
    found = {model: comparisons_of(frame, model) for model in models}
    lost = [(model, each) for model in models for each in found[model] if each.is_behind]
    lost.sort(key=lambda pair: pair[1].gain or 0.0)
    counts = table([count_row(model, own) for model, own in found.items()])
    losses = table([loss_row(model, each) for model, each in lost]) if lost else "None so far.\n"
    return f"{counts}\n### The cases that were lost\n\n{losses}"


def write_losses(app: Sphinx) -> None:
    """Write the tables where the page includes them."""
    file, folder = Path(app.srcdir, FILE), Path(app.srcdir, RECORDS)
    file.parent.mkdir(exist_ok=True)
    file.write_text(page(flatten(chain(*evidence.to_show(evidence.read(folder), folder)))))


def setup(app: Sphinx) -> dict[str, Any]:
    """Read the records before the pages are read."""
    app.connect("builder-inited", write_losses, priority=120)
    return {"parallel_read_safe": True}
