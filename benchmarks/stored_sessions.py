"""What `benchmarks.stored_answers` stores of recommenders' verbs: what each does after its fit.

Logs go on, items come, some candidates or one session are asked, similar items and probabilities are told, files are
written and read. Clicks have events, which a form of M2TRec reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from benchmarks.stored_forms import Arrays, Case, folder_of, joined, loaded, made, names_of, recommenders, told
from tabmtl.scale import Shards
from tabmtl.sessions import STAN, temporal_split
from tabmtl.synth import make_sessions

OPTIONS: dict[str, Any] = {"categories": ("category", "subcategory"), "columns": {"name": "text"}}
#: Further forms of M2TRec: their parameters.
FORMS: dict[str, dict[str, Any]] = {
    "M2TRec of events": {"event_column": "event", "event_weights": {"buy": 3.0}},
    "M2TRec of last clicks": {"pooling": "last", "popularity": True},
    "M2TRec of prefixes": {"id_mode": "none", "item_tower": "concat", "pooling": "mean", "training": "per_prefix"},
    "M2TRec of few negatives": {"n_negatives": 16, "max_new_share": 0.1, "temperature": None},
}


@dataclass(frozen=True, eq=False)
class Log:
    """Clicks on items: those of the fit, later ones, and those that are asked; some items come later."""

    old: pl.DataFrame
    new: pl.DataFrame
    asked: pl.DataFrame
    items: pl.DataFrame
    later: pl.DataFrame


@cache
def log() -> Log:
    """Draw the log of all cases; later clicks hold some on items that come later."""
    drawn = make_sessions(400, 60, n_categories=5, n_subcategories=2, random_state=0)
    event = pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.lit("buy")).otherwise(pl.lit("view"))
    clicks = drawn.clicks.with_columns(event=event)
    train, asked = temporal_split(clicks, drawn.cut)
    old, new = temporal_split(train, test_size=0.25)
    later = drawn.items[::9].with_columns(("later " + pl.col("item_id")).alias("item_id"))
    some = new.filter(pl.col("item_id").is_in(drawn.items["item_id"][::9].implode()))
    more = some.with_columns(("later " + pl.col("item_id")).alias("item_id"))
    return Log(old, pl.concat([new, more]).sort("time", "session_id", "item_id"), asked, drawn.items, later)


@dataclass(frozen=True, eq=False)
class Subject:
    """A form of a recommender."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)

    def fresh(self, **params: Any) -> Any:
        """Return an unfitted recommender."""
        parts = [made("M2TRec", random_state=None, categories=OPTIONS["categories"]), STAN()]
        own = {"models": parts, "validation_fraction": 0.1} if self.name == "Blend" else {}
        return made(self.name, **OPTIONS | own | self.params | params)

    @cached_property
    def fitted(self) -> Any:
        """A recommender that is fitted once for all verbs, and not to be changed."""
        return self.fresh().fit(log().old, items=log().items)

    def copy(self) -> Any:
        """Return a copy of the fitted recommender, which a verb may change."""
        return deepcopy(self.fitted)


def lists(model: Any) -> Arrays:
    """Return what a recommender lists for sessions that it has not seen."""
    return joined(lists=model.recommend(log().asked, k=10), similar=model.similar("i07", 5))


def goes_on(subject: Subject) -> Arrays:
    """Go on with later clicks, which hold new items, and with some again."""
    model = subject.copy().partial_fit(log().new, items=pl.concat([log().items, log().later]))
    found = lists(model) | told(model)
    return found | joined(again=lists(model.partial_fit(log().asked.head(200))))


def asked(subject: Subject) -> Arrays:
    """Ask for some candidates, for items that are no session's own, for one session, and for scores."""
    model, some = subject.fitted, log().asked
    found = joined(
        candidates=model.recommend(some, k=5, candidates=log().items["item_id"][::2]),
        others=model.recommend(some, k=5, exclude_seen=True),
        items=model.recommend(["i07", "i03", "never"], k=5),
        single=[model.recommend(own, k=5) for own in some.partition_by("session_id", maintain_order=True)[:5]],
        similar=[model.similar(item, 5) for item in ("i01", "i59")],
        ranks=model.rank(some).ranks,
        top=model.rank(some, k=5, exclude_seen=True).top,
        metrics=model.evaluate(some, k=[1, 5, 20]),
        score=model.score(some),
    )
    if "probability" in signature(model.recommend).parameters:
        found |= joined(probabilities=model.recommend(some, k=5, probability=True))
    if hasattr(model, "transform"):
        categories = model.predict_categories(some, "category", k=2)
        by_category = model.evaluate(some, categories="category")
        vectors = {"sessions": model.transform(some), "items": model.item_vectors()}
        found |= joined(categories=categories, by_category=by_category, vectors=vectors)
    return found


def takes_items(subject: Subject) -> Arrays:
    """Add items by their metadata, and go on from there with clicks on them."""
    model = subject.copy().add_items(log().later)
    found = lists(model) | told(model)
    return found | joined(onward=lists(model.partial_fit(log().new)))


def learned(subject: Subject) -> Arrays:
    """Return what a fit tells beside its lists, and the names of the files of the recommender."""
    files = folder_of(subject.fitted)
    return told(subject.fitted) | joined(folder=names_of(files, subject.fitted)) | lists(loaded(files))


def stored(subject: Subject) -> Arrays:
    """Fit a log of files."""
    with TemporaryDirectory() as folder:
        for i, rows in enumerate(log().old.iter_slices(500)):
            rows.write_parquet(Path(folder, f"{i}.parquet"))
        model = subject.fresh().fit(Shards(f"{folder}/*.parquet"), items=log().items)
    return lists(model) | told(model)


#: What is done to a subject, by name.
VERBS: dict[str, Callable[[Subject], Arrays]] = {
    "goes on": goes_on,
    "takes items": takes_items,
    "asked": asked,
    "learned": learned,
}


def cases() -> Iterator[tuple[str, Case]]:
    """Yield the cases of all recommenders by name."""
    subjects = {name: Subject(name) for name in recommenders()}
    subjects |= {form: Subject("M2TRec", params) for form, params in FORMS.items()}
    for form, subject in subjects.items():
        for verb, do in VERBS.items():
            if verb != "takes items" or hasattr(subject.fresh(), "add_items"):
                yield f"sessions: {form} {verb}", partial(do, subject)
    yield "sessions: M2TRec of files", partial(stored, Subject("M2TRec"))
