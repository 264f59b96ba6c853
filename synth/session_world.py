"""Draw of a world of click sessions: items, their metadata and categories, and the sessions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from tabmtl.synth.checks import check_count
from tabmtl.synth.session_truth import MICROSECONDS, SessionTruth, blocks_of

_BEGIN = datetime(2024, 1, 1)
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
_COMPANIONS = ((1, 0.6), (2, 0.3))
_PRICE_SPAN = 8.0
_MAX_TAGS = 3
_FILLERS = 30
_SECOND = 1_000_000
_MEAN_GAP = 60.0
_ROUNDS = 30

#: The less common arguments of ``make_sessions``.
_DEFAULTS: dict[str, Any] = {
    "test_share": 0.2,
    "mean_length": 5.0,
    "n_days": 30.0,
    "n_categories": 10,
    "n_subcategories": 4,
    "n_brands": 20,
    "n_tags": 24,
    "stickiness": 0.7,
    "skew": 1.0,
    "brand_affinity": 1.5,
    "first_affinity": 1.0,
    "subcategory_affinity": 1.0,
    "price_affinity": 2.0,
}
_RANGES = {
    "cold_share": (0, 1),
    "repeat_rate": (0, 1),
    "idiosyncratic": (0, 5),
    "metadata_noise": (0, 1),
    "missing": (0, 1),
    "test_share": (0.001, 0.999),
    "mean_length": (2, 100),
    "n_days": (0.01, 10_000),
    "stickiness": (0, 1),
    "skew": (0, 5),
    "brand_affinity": (0, 5),
    "first_affinity": (0, 5),
    "subcategory_affinity": (0, 5),
    "price_affinity": (0, 10),
}
_COUNTS = {"n_categories": 1_000, "n_subcategories": 100, "n_brands": 10_000, "n_tags": 10_000}


def checked_law(n_items: int, law: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of `make_sessions` except the number of sessions, or raise an error for a bad one."""
    if unknown := law.keys() - _DEFAULTS.keys() - _RANGES.keys():
        raise TypeError(f"make_sessions has no argument {', '.join(sorted(unknown))}")
    law = {**_DEFAULTS, **law}
    check_count("n_items", n_items)
    for name, most in _COUNTS.items():
        check_count(name, law[name])
        if law[name] > most:
            raise ValueError(f"{name} must be at most {most}, got {law[name]}")
    for name, (low, high) in _RANGES.items():
        if not low <= law[name] <= high:
            raise ValueError(f"{name} must lie in [{low}, {high}], got {law[name]!r}")
    if law["n_categories"] > n_items:
        raise ValueError(f"n_categories must be at most n_items={n_items}, got {law['n_categories']}")
    if round(law["cold_share"] * n_items) > n_items - law["n_categories"]:
        raise ValueError(
            f"cold_share must leave an item of each of the {law['n_categories']} categories: at most "
            f"{1 - law['n_categories'] / n_items:.3g} of n_items={n_items}, got {law['cold_share']!r}"
        )
    return law


def draw_world(n_items: int, law: Mapping[str, Any], rng: np.random.Generator) -> SessionTruth:
    """Draw items and their law from the checked arguments of `make_sessions`."""
    sizes = [law["n_categories"], law["n_categories"] * law["n_subcategories"], law["n_brands"], law["n_tags"]]
    vocabularies = np.split(_words(sum(sizes) + _FILLERS, rng), np.cumsum(sizes))
    transitions, start = _dynamics(law["n_categories"], law["stickiness"], rng)
    category = np.append(np.arange(len(start)), rng.choice(len(start), n_items - len(start), p=start))
    category = category[rng.permutation(n_items)]
    codes = {
        "category": category,
        "subcategory": category * law["n_subcategories"] + rng.integers(law["n_subcategories"], size=n_items),
        "brand": rng.integers(law["n_brands"], size=n_items),
    }
    level, bottoms = rng.random(n_items), np.exp(3 + rng.standard_normal(len(start)))
    tags, counted = _tags(n_items, law["n_tags"], rng)
    appeals = [rng.standard_normal(size) for size in sizes[1:]]
    told = np.sqrt(0.4) * appeals[1][codes["brand"]] + np.sqrt(0.2) * appeals[0][codes["subcategory"]]
    told += np.sqrt(0.2) * (appeals[2][tags] * counted).sum(1) / np.sqrt(counted.sum(1))
    told = law["skew"] * (told + np.sqrt(0.2 * 12) * (0.5 - level))
    prices = np.round(bottoms[category] * _PRICE_SPAN**level, 2)
    span = timedelta(days=law["n_days"])
    cut = _BEGIN + (1 - law["test_share"]) * span
    return SessionTruth(
        items=_items(codes, prices, (tags, counted), vocabularies, rng),
        births=_births(category, law["cold_share"], (cut, law["test_share"] * span), rng),
        begin=_BEGIN,
        cut=cut,
        end=_BEGIN + span,
        categories=tuple(vocabularies[0]),
        transitions=transitions,
        start=start,
        codes=codes,
        level=level,
        told=np.exp(told),
        attraction=np.exp(told + law["idiosyncratic"] * rng.standard_normal(n_items)),
        affinities={name: law[f"{name}_affinity"] for name in ("brand", "first", "subcategory", "price")},
        repeat_rate=law["repeat_rate"],
        mean_length=law["mean_length"],
    )


def _words(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw different words of three syllables."""
    base = len(_SYLLABLES)
    numbers = rng.choice(base**3, count, replace=False)
    syllables = np.array(_SYLLABLES, dtype=object)
    return syllables[numbers // base**2] + syllables[numbers // base % base] + syllables[numbers % base]


def _dynamics(n_categories: int, stickiness: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the transition matrix of the categories, and the shares of first clicks and of items."""
    start = rng.permutation(1 / np.sqrt(np.arange(1, n_categories + 1)))
    start /= start.sum()
    circle = rng.permutation(n_categories)
    moves = np.tile((1 - sum(share for _, share in _COMPANIONS)) * start, (n_categories, 1))
    for step, share in _COMPANIONS:
        moves[circle, np.roll(circle, -step)] += share
    return stickiness * np.eye(n_categories) + (1 - stickiness) * moves, start


def _tags(n_items: int, n_tags: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw different tags of every item, (n_items, 3 at most), and a mask of those that count: at least the first."""
    most = min(_MAX_TAGS, n_tags)
    drawn = rng.integers(np.arange(n_tags, n_tags - most, -1), size=(n_items, most))
    # Drawn among those that are left, then moved past those taken before, lowest first.
    for place in range(1, most):
        for taken in np.sort(drawn[:, :place], axis=1).T:
            drawn[:, place] += drawn[:, place] >= taken
    return drawn, np.arange(most) < rng.integers(1, most + 1, size=n_items)[:, None]


def _items(
    codes: Mapping[str, np.ndarray],
    prices: np.ndarray,
    tags: tuple[np.ndarray, np.ndarray],
    vocabularies: list[np.ndarray],
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Draw the true metadata. A name says brand, category or subcategory, and a word that means nothing."""
    categories, subcategories, brands, tag_words, fillers = (pl.Series(list(words)) for words in vocabularies)
    n_items = len(prices)
    brand = brands.gather(codes["brand"])
    category, subcategory = categories.gather(codes["category"]), subcategories.gather(codes["subcategory"])
    kind = category.zip_with(pl.Series(rng.random(n_items) < 0.5), subcategory)
    drawn, counted = tags
    owners = pl.DataFrame({"item": np.nonzero(counted)[0], "tags": tag_words.gather(drawn[counted])})
    return pl.DataFrame(
        {
            "item_id": "i" + pl.int_range(n_items, eager=True).cast(pl.String).str.zfill(len(str(n_items - 1))),
            "category": category,
            "subcategory": subcategory,
            "brand": brand,
            "price": prices,
            "tags": owners.group_by("item", maintain_order=True).agg("tags")["tags"],
            "name": brand + " " + kind + " " + fillers.gather(rng.integers(_FILLERS, size=n_items)),
        }
    )


def _births(
    category: np.ndarray, cold_share: float, late: tuple[datetime, timedelta], rng: np.random.Generator
) -> pl.Series:
    """Draw births of the items: cold ones in the first half of the last part, all others at the beginning."""
    begin, cut = pl.Series([_BEGIN, late[0]], dtype=MICROSECONDS).to_physical()
    births = np.full(len(category), begin)
    # Every category keeps an item from the beginning on: there is always something to click.
    order = rng.permutation(len(category))
    founders = order[np.unique(category[order], return_index=True)[1]]
    others = order[~np.isin(order, founders)]
    cold = others[: round(cold_share * len(category))]
    births[cold] = cut + (rng.random(len(cold)) * (late[1] / timedelta(microseconds=2))).astype(np.int64)
    return pl.Series("birth", births).cast(MICROSECONDS)


class Walk:
    """Draw of clicks exactly by the law, without a look at all items for every click.

    A proposal falls on an item of the wanted category in proportion to its weight without price and subcategory: items
    lie sorted by category and brand, so that it needs sums over ranges only. Price and subcategory then decide whether
    it is accepted.
    """

    def __init__(self, truth: SessionTruth) -> None:
        self.truth = truth
        n_brands = int(truth.codes["brand"].max()) + 1
        cell = truth.codes["category"] * n_brands + truth.codes["brand"]
        self.order = np.argsort(cell, kind="stable")
        # Shares of the category: sums over everything would drown the items of a category where all weigh little.
        shares = truth.attraction / np.bincount(truth.codes["category"], truth.attraction)[truth.codes["category"]]
        self.sums = np.append(0, np.cumsum(shares[self.order]))
        self.edges = np.searchsorted(cell[self.order], np.arange(len(truth.categories) * n_brands + 1))
        self.n_brands = n_brands
        self.births = truth.births.to_physical().to_numpy()
        self.chances = np.cumsum(np.vstack([truth.transitions, truth.start]), axis=1)[:, :-1]

    def log(self, n_sessions: int, rng: np.random.Generator) -> pl.DataFrame:
        """Draw sessions in order of time: ``session_id``, ``item_id``, ``time``; numbered in order of their start."""
        truth = self.truth
        lengths = 1 + rng.geometric(1 / (truth.mean_length - 1), n_sessions)
        starts = np.cumsum(lengths) - lengths
        low, high = pl.Series([truth.begin, truth.end], dtype=MICROSECONDS).to_physical()
        times = (_SECOND * (1 + rng.exponential(_MEAN_GAP - 1, lengths.sum()))).astype(np.int64)
        times[starts] = np.sort(rng.integers(low, high, n_sessions))
        items = np.full(len(times), -1)
        for place in range(lengths.max()):
            first = starts[lengths > place]
            if place:
                times[first + place] += times[first + place - 1]
            items[first + place] = self._next(items, first, place, times[first + place], rng)
        order = np.argsort(times, kind="stable")
        columns = {
            "session_id": np.repeat(np.arange(n_sessions), lengths)[order],
            "item_id": truth.items["item_id"].gather(items[order]),
            "time": pl.Series(times[order]).cast(MICROSECONDS),
        }
        return pl.DataFrame(columns)

    def _next(
        self, items: np.ndarray, starts: np.ndarray, place: int, moments: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw the click at one place of sessions that start at ``starts`` of ``items``."""
        if place:
            chosen = items[starts + rng.integers(place, size=len(starts))]
            moves = np.flatnonzero(rng.random(len(starts)) >= self.truth.repeat_rate)
            last, first = items[starts[moves] + place - 1], items[starts[moves]]
        else:
            chosen, moves = np.full(len(starts), -1), np.arange(len(starts))
            last = first = chosen
        row = np.where(last < 0, -1, self.truth.codes["category"][last])
        category = (self.chances[row] <= rng.random((len(moves), 1))).sum(1)
        chosen[moves] = self._among(category, last, first, moments[moves], rng)
        return chosen

    def _among(
        self, category: np.ndarray, last: np.ndarray, first: np.ndarray, moments: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw an item of each category, (B,)."""
        items, left = np.empty(len(category), dtype=np.int64), np.arange(len(category))
        for _ in range(_ROUNDS):
            state = (category[left], last[left], first[left], moments[left])
            items[left] = self._propose(*state[:3], rng)
            left = left[~self._accept(items[left], *state[:2], state[3], rng)]
        # The few that nearly all proposals fail look at all items.
        for block in blocks_of(len(left), len(self.order)):
            rest = left[block]
            weights = self.truth.weights(last[rest], first[rest], moments[rest])
            weights *= self.truth.codes["category"] == category[rest][:, None]
            sums = np.cumsum(weights, axis=1)
            items[rest] = (sums <= (rng.random(len(rest)) * sums[:, -1])[:, None]).sum(1)
        return items

    def _propose(
        self, category: np.ndarray, last: np.ndarray, first: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw items by attraction and brands: from the category, and more from the brands of last and first click."""
        brand, affinities = self.truth.codes["brand"], self.truth.affinities
        same = brand[last] == brand[first]
        gains = [np.expm1(affinities["brand"] + affinities["first"] * same), np.expm1(affinities["first"]) * ~same]
        base = category * self.n_brands
        lows, highs = [self.edges[base]], [self.edges[base + self.n_brands]]
        for item in (last, first):
            lows.append(self.edges[base + brand[item]])
            highs.append(self.edges[base + brand[item] + 1])
        factors = np.stack([np.ones(len(base)), *(gain * (last >= 0) for gain in gains)])
        low, high = np.stack(lows), np.stack(highs)
        masses = np.cumsum(factors * (self.sums[high] - self.sums[low]), axis=0)
        part = (masses[:-1] <= rng.random(len(base)) * masses[-1]).sum(0), np.arange(len(base))
        bottom, top = self.sums[low[part]], self.sums[high[part]]
        places = np.searchsorted(self.sums, bottom + rng.random(len(base)) * (top - bottom), side="right") - 1
        return self.order[np.clip(places, low[part], high[part] - 1)]

    def _accept(
        self, items: np.ndarray, category: np.ndarray, last: np.ndarray, moments: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return which proposals are accepted, by birth, price and subcategory, (B,)."""
        truth, subcategory = self.truth, self.truth.codes["subcategory"]
        loss = truth.affinities["price"] * np.abs(truth.level[items] - truth.level[last])
        other = (truth.codes["category"][last] == category) & (subcategory[items] != subcategory[last])
        loss += truth.affinities["subcategory"] * other
        return (self.births[items] <= moments) & (rng.random(len(items)) < np.exp(-loss * (last >= 0)))
