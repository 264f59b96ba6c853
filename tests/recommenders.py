"""Every recommender the package lists, in a tiny form, and a log to fit it on."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import tabmtl.sessions
from tabmtl.base.params import describe_params
from tabmtl.columns.ragged import offsets_of
from tabmtl.sessions.m2trec.index import ItemIndex
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.recommender import Recommender
from tabmtl.synth import make_sessions

#: Given to a recommender where it has the parameter: small and quick, with dropout and early stopping still on.
TINY: dict[str, Any] = {
    "categories": ("category", "subcategory"),
    "columns": {"name": "text"},
    "d_model": 16,
    "n_heads": 2,
    "epochs": 2,
    "batch_size": 128,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}

LOG = make_sessions(400, 60, n_categories=5, n_subcategories=2, random_state=0)
TRAIN, TEST = LOG.split()
ITEMS = LOG.items

_EXPORTED = [getattr(tabmtl.sessions, name) for name in tabmtl.sessions.__all__]
#: All recommenders that the package exports.
RECOMMENDERS = [cls for cls in _EXPORTED if isinstance(cls, type) and issubclass(cls, Recommender)]
#: Name to class and parameters: every recommender, and forms of one that differ in more than numbers.
FORMS: dict[str, tuple[type[Recommender], dict[str, Any]]] = {cls.__name__: (cls, {}) for cls in RECOMMENDERS} | {
    "Blend": (
        tabmtl.sessions.Blend,
        {
            "models": [
                tabmtl.sessions.M2TRec(**{name: TINY[name] for name in TINY if name != "random_state"}),
                tabmtl.sessions.STAN(),
            ],
            "validation_fraction": 0.05,
        },
    ),
    "M2TRec of the paper": (
        tabmtl.sessions.M2TRec,
        {"id_mode": "none", "item_tower": "concat", "pooling": "mean", "training": "per_prefix", "n_layers": 2},
    ),
    "M2TRec of last clicks": (tabmtl.sessions.M2TRec, {"pooling": "last", "popularity": True}),
}


def form_marks(form: str) -> Any:
    """Mark the other forms of M2TRec, which share nearly all of its code: `make test-all` asks them too."""
    return pytest.mark.all_faces if form.startswith("M2TRec ") else ()


M2TREC_FORMS = tuple(form for form in FORMS if form.startswith("M2TRec"))
every_m2trec = pytest.mark.parametrize("form", M2TREC_FORMS)
every_form = pytest.mark.parametrize("form", [pytest.param(form, marks=form_marks(form)) for form in FORMS])


def tiny(form: str, **params: Any) -> Any:
    """A recommender in its tiny form; parameters it does not have are left out."""
    cls, own = FORMS[form]
    known = cls._get_param_names()
    return cls(**{name: value for name, value in (TINY | own | params).items() if name in known})


@cache
def fitted(form: str) -> Any:
    """A tiny fitted recommender; not to be changed."""
    return tiny(form).fit(TRAIN, items=ITEMS)


def again(form: str) -> Any:
    """A copy of a fitted recommender, to be changed."""
    return pickle.loads(pickle.dumps(fitted(form)))


def renamed(items: pl.DataFrame, prefix: str = "new ") -> pl.DataFrame:
    """Other items of the same metadata."""
    return items.with_columns(item_id=prefix + pl.col("item_id"))


def sessions_of(*sessions: list[int], times: np.ndarray | None = None) -> Sessions:
    """Sessions of item codes, named by their number."""
    items = np.array([item for session in sessions for item in session], dtype=np.int32)
    offsets = offsets_of(np.array([len(session) for session in sessions]))
    return Sessions(ids=pl.Series(range(len(sessions)), dtype=pl.Int64), offsets=offsets, items=items, times=times)


def lists(sessions: Sessions) -> list[tuple[Any, list[int]]]:
    """Name and item codes of every session."""
    ends = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    return [(name, sessions.items[a:b].tolist()) for name, (a, b) in zip(sessions.ids, ends, strict=True)]


def log(sessions: dict[str, Any], times: dict[str, float] | None = None) -> pl.DataFrame:
    """A click log of items by session; ``times`` of all clicks of each, else one second after the other."""
    rows = [(name, item) for name, items in sessions.items() for item in items]
    when = range(len(rows)) if times is None else [times[name] for name, _ in rows]
    return pl.DataFrame(rows, ["session_id", "item_id"], orient="row").with_columns(time=pl.Series(when))


def params_of(model: Any) -> dict[str, Any]:
    """Parameters as a file has them: those of the parts of a blend can be compared, which the parts cannot."""
    return describe_params(model.get_params(deep=False))


def own_terms(scores: pl.DataFrame, clicks: pl.DataFrame) -> np.ndarray:
    """Of every score: 2 for an item that the session has clicked, 1 for its last click, else 0."""
    each = clicks.with_columns(term=2.0 - (pl.col("time") == pl.col("time").max().over("session_id")))
    clicked = each.group_by("session_id", "item_id").agg(pl.col("term").min())
    joined = scores.join(clicked, how="left", on=["session_id", "item_id"], maintain_order="left")
    return joined["term"].fill_null(0).to_numpy()


def index_of(model: Any) -> ItemIndex:
    """Return the vectors of all items of a fitted M2TRec."""
    return model._fitted.index(model.fitted_network()[1], model._repeats)


def all_scores(model: Any, sessions: pl.DataFrame) -> pl.DataFrame:
    """Scores of all items, sorted by session and item."""
    found = model.recommend(sessions, k=model.n_items_)
    return found.sort(model.session_column, model.item_column).drop("rank")
