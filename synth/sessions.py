"""Click sessions over a catalogue with metadata and cold items, with known probabilities of the next click."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypedDict, Unpack

import numpy as np
import polars as pl

from tabmtl.synth.checks import check_count
from tabmtl.synth.session_truth import SessionTruth
from tabmtl.synth.session_world import Walk, checked_law, draw_world

Seed = int | np.random.SeedSequence | np.random.Generator | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SessionLog:
    """Clicks, the catalogue as recorded, and the truth behind them.

    Parameters
    ----------
    clicks : polars.DataFrame of shape (n_clicks, 3)
        Int64 ``session_id``, numbered in order of the first click; String ``item_id``; Datetime ``time``. Sorted by
        time, so that sessions interleave. Every session has two clicks or more.
    items : polars.DataFrame of shape (n_items, 7)
        String ``item_id``, and with nulls the recorded metadata: String ``category``, ``subcategory``, ``brand``,
        Float64 ``price``, List(String) ``tags`` (one to three) and String ``name`` (three words: the brand, the
        category or the subcategory, and one that means nothing). ``truth.items`` holds the true metadata.
    births : polars.DataFrame of shape (n_items, 2)
        ``item_id``, and Datetime ``birth``: no click on the item is earlier.
    truth : SessionTruth
        Items and the law: ``truth.next_probabilities`` answers for any sessions, ``truth.ceiling`` scores the law
        itself.
    """

    clicks: pl.DataFrame
    items: pl.DataFrame = field(repr=False)
    births: pl.DataFrame = field(repr=False)
    truth: SessionTruth

    @property
    def cut(self) -> datetime:
        """Beginning of the last part of the log; no cold item is born before."""
        return self.truth.cut

    @property
    def cold(self) -> pl.Series:
        """Names of the items that are born after the cut."""
        return self.births.filter(pl.col("birth") >= self.cut)["item_id"]

    def split(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return train and test: the sessions whose last click is before ``cut``, and all others.

        ``tabmtl.sessions.temporal_split`` cuts by the same rule at any time.
        """
        early = pl.col("time").max().over("session_id") < self.cut
        return self.clicks.filter(early), self.clicks.filter(~early)

    def draw(self, n_sessions: int, *, random_state: Seed = None) -> SessionLog:
        """Draw fresh sessions of the same world over the same span of time.

        Parameters
        ----------
        n_sessions : int
            Number of sessions; their ids count from 0 again.
        random_state : int, SeedSequence, Generator or None, default=None
            Seed of the sessions. The seed that drew the first ones draws others here, so test never equals train.

        Returns
        -------
        SessionLog
            New ``clicks``; the same ``items``, ``births`` and ``truth``.

        Raises
        ------
        ValueError
            If ``n_sessions`` is no integer >= 1.
        """
        check_count("n_sessions", n_sessions)
        clicks = Walk(self.truth).log(n_sessions, np.random.default_rng(random_state).spawn(4)[3])
        return SessionLog(clicks=clicks, items=self.items, births=self.births, truth=self.truth)


class SessionOptions(TypedDict, total=False):
    """The less common arguments of `make_sessions`, described there."""

    test_share: float
    mean_length: float
    n_days: float
    n_categories: int
    n_subcategories: int
    n_brands: int
    n_tags: int
    stickiness: float
    skew: float
    brand_affinity: float
    first_affinity: float
    subcategory_affinity: float
    price_affinity: float


def make_sessions(
    n_sessions: int = 20_000,
    n_items: int = 1_000,
    *,
    cold_share: float = 0.1,
    repeat_rate: float = 0.1,
    idiosyncratic: float = 0.5,
    metadata_noise: float = 0.0,
    missing: float = 0.02,
    random_state: Seed = None,
    **options: Unpack[SessionOptions],
) -> SessionLog:
    """Draw click sessions in which the metadata of items, also of cold ones, predict the next click.

    After the clicks i_1, ..., i_n, the next one is item j of category c(j) with probability

    p(j) = ρ · #{m : i_m = j} / n + (1 - ρ) · T[c(i_n), c(j)] · w(j) / Σ_l w(l),  l over the items of c(j),

    with ρ = ``repeat_rate``; the first one with S[c(j)] · w(j) / Σ_l w(l). An item not yet born has w(j) = 0; else

    log w(j) = a(j) + β [b(j) = b(i_n)] + φ [b(j) = b(i_1)] + σ [s(j) = s(i_n)] - π |z(j) - z(i_n)|,

    where b is the brand, s the subcategory, z the price on the logarithmic scale of its category from 0 to 1, and the
    weights are ``brand_affinity``, ``first_affinity``, ``subcategory_affinity`` and ``price_affinity``; a first click
    has only the term a(j). Metadata determine this attraction, except for a part of the item's own:

    a(j) = ``skew`` · (√.4 q_b + √.2 q_s + √.2 Σ q_tag / √#tags + √2.4 (1/2 - z)) + ``idiosyncratic`` · ε_j

    with normal q and ε. The k-th largest category has a share S ∝ 1/√k of first clicks and of items. T is
    ``stickiness`` · I + (1 - ``stickiness``) · M: the categories lie on a circle, and M moves on to the next one
    (60 %), to the one behind it (30 %) or anywhere by S (10 %). A cold item follows the same law from its birth on.

    Parameters
    ----------
    n_sessions : int, default=20_000
        Number of sessions; 100,000 over 10,000 items take seconds.
    n_items : int, default=1_000
        Number of items; their names ``i000``, ... tell nothing.
    cold_share : float, default=0.1
        Share of the items that are cold: born in the first half of the last part of the log, all others at its
        beginning. Every category keeps an item that is not cold.
    repeat_rate : float, default=0.1
        Chance that a click after the first repeats a click of its session, each with equal chance.
    idiosyncratic : float, default=0.5
        Standard deviation of the own part of an item's attraction, from 0 (metadata determine all) to 5.
    metadata_noise : float, default=0.0
        Share of recorded metadata cells that are taken from an item drawn at random.
    missing : float, default=0.02
        Share of recorded metadata cells that are null.
    random_state : int, SeedSequence, Generator or None, default=None
        Seed of all randomness; no global generator is touched. A seed gives one world, for any ``n_sessions``,
        ``metadata_noise`` and ``missing``.

    Other Parameters
    ----------------
    test_share : float, default=0.2
        Length of the last part of the log, behind ``cut``, as a share of all time.
    mean_length : float, default=5.0
        Mean number of clicks of a session, from 2 to 100: one and a geometric number, independent of all else. Clicks
        are a minute apart on average.
    n_days : float, default=30.0
        Time over which sessions start, evenly, from 2024-01-01 on.
    n_categories, n_subcategories, n_brands, n_tags : int, default=10, 4, 20 and 24
        Levels; subcategories are counted per category, brands and tags are found in all categories.
    stickiness : float, default=0.7
        Chance to stay in the category, apart from returns by M, from 0 to 1.
    skew : float, default=1.0
        Standard deviation of a(j) by metadata, about; from 0 (all alike) to 5.
    brand_affinity, first_affinity, subcategory_affinity : float, default=1.5, 1.0 and 1.0
        Gain of log w by the brand of the last click, the brand of the first click, and the subcategory of the last
        click, from 0 to 5.
    price_affinity : float, default=2.0
        Loss of log w from the same price to the other end of the category's prices, from 0 to 10.

    Returns
    -------
    SessionLog
        Frames ``clicks``, ``items`` and ``births``, and the ``truth``.

    Raises
    ------
    ValueError
        If a value is out of its range; the message names the argument.
    TypeError
        If an argument is unknown.

    Examples
    --------
    >>> from tabmtl.synth import make_sessions
    >>> log = make_sessions(2_000, 300, random_state=0)
    >>> train, test = log.split()
    >>> bool(train["item_id"].is_in(log.cold.to_list()).any())
    False
    >>> p = log.truth.next_probabilities([["i000", "i017"]], log.cut)
    >>> p.shape, round(float(p.sum()), 6)
    ((1, 300), 1.0)
    >>> {name: round(score, 2) for name, score in log.truth.ceiling(test, labels="expected").items()}
    {'recall@20': 0.83, 'mrr@20': 0.51}
    """
    check_count("n_sessions", n_sessions)
    law = {"cold_share": cold_share, "repeat_rate": repeat_rate, "idiosyncratic": idiosyncratic, **options}
    law = checked_law(n_items, {"metadata_noise": metadata_noise, "missing": missing, **law})
    # A stream each: a seed gives one world for any record of it, and fresh sessions never repeat the first ones.
    design, records, first, _ = np.random.default_rng(random_state).spawn(4)
    truth = draw_world(n_items, law, design)
    return SessionLog(
        clicks=Walk(truth).log(n_sessions, first),
        items=_recorded(truth.items, metadata_noise, missing, records),
        births=pl.DataFrame([truth.items["item_id"], truth.births]),
        truth=truth,
    )


def _recorded(items: pl.DataFrame, noise: float, missing: float, rng: np.random.Generator) -> pl.DataFrame:
    """Return metadata with wrong and with missing cells."""
    columns = [items["item_id"]]
    for column in items.drop("item_id"):
        others = column.gather(rng.integers(len(column), size=len(column)))
        wrong, known = (pl.Series(rng.random(len(column)) < share) for share in (noise, 1 - missing))
        chosen = pl.when(wrong).then(others).otherwise(column)
        columns.append(pl.select(pl.when(known).then(chosen).alias(column.name)).to_series())
    return pl.DataFrame(columns)
