"""Scores of items without training clicks: how far they are raised or lowered, measured after training.

A new item has the vector of its metadata alone, and training never made it compete with the others. So with x, the
score by that vector, and rho, the clicks that a new item gets in relation to the mean clicked item, its score is

    a x + d,    d = d_0 + log rho.

a and d_0 say how much vectors of metadata tell, and need no new item: take the own vectors of a tenth of the clicked
items away, and maximise the likelihood of the next clicks of set-aside sessions. The probability of that tenth is then,
on average, its share of the clicks. Ten tenths have the same two numbers.

rho is learned of the items that were born in the log. It is that of items that join after fit, and of those that the
table of fit lists and nobody clicked: a table cannot tell dead stock from launches, and who is never shown is never
clicked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
from scipy.optimize import brentq
from scipy.special import expit

from tabmtl.base.params import check_positive, near
from tabmtl.base.schema import warn_user
from tabmtl.base.storage.stored import Stored
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.ragged import AnySessions, Sessions, spread
from tabmtl.sessions.ranking import by_blocks, top_k
from tabmtl.sessions.repeats import MOST_TARGETS, read_targets

Scores = Callable[[Sessions], np.ndarray]
#: Gives the scores with terms and factors (N,) of items, and perhaps the items (N,) that lose their own vectors.
ScoresBy = Callable[..., Scores]

#: Clicks that a new item gets in relation to the mean clicked item, where the log tells nothing: chosen on two
#: generated logs and Diginetica with items taken out (docs/lab.md, "New items"), where 1/3 costs .002 of recall.
LAUNCH = 2 / 3
_BORN = 0.5  # of the log: items that are first clicked later may be births
_BIRTHS = 20  # more than by chance, which are enough to tell
_PERIOD = 0.1  # of the log: time in which the clicks of an item that is born are counted
_PARTS = 10  # of the clicked items, each once without their own vectors
_STEP = 5  # every fifth next click is looked at without the own vectors of one part
_SCALES = tuple((2.0 ** (np.arange(-6, 7) / 6)).tolist())  # from which a is taken
_RIDGE = 25.0  # of log a: its square times this is taken off the log likelihood
_TOP = 20  # places of a list
_KEPT, _CLICKS_KEPT = 500, 50  # sessions, and their newest clicks, that are kept to see the places of later items
_FAR = 50.0  # no offset is further from 0
_ROUNDING = 1e-4  # of scores in float32


def check_new_item_share(name: str, value: Any) -> None:
    """Raise a ValueError unless a value is "auto" or a finite number above 0."""
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f"{name} must be 'auto' or a number above 0, got {value!r}{near(value, ['auto'])}")
    else:
        check_positive(name, value)


@dataclass(frozen=True, kw_only=True, eq=False)
class NewItems:
    """Worth of new items, and sessions to measure it on.

    Attributes
    ----------
    base, scale : float
        d_0 and a.
    share : float
        rho; 0 hides new items.
    cut : float
        Taken off the scores of all new items, so that they get few enough places.
    offsets, clicks : ndarray of int64 and int32, shape (P + 1,) and (m,)
        Clicks of session s are ``offsets[s]`` up to ``offsets[s + 1]``, as codes of items.
    """

    base: float
    scale: float
    share: float
    cut: float
    offsets: Annotated[np.ndarray, Stored("i8", "P+1", offsets="p")]
    clicks: Annotated[np.ndarray, Stored("i4", "p", low=0, below="N+1")]

    def __post_init__(self) -> None:
        numbers = (self.base, self.scale, self.share, self.cut)
        if not all(map(math.isfinite, numbers)) or min(numbers[1:]) < 0:
            raise ValueError(f"the worth of new items must be finite, and shares not below 0, got {numbers}")

    @classmethod
    def hidden(cls) -> NewItems:
        """Make those before anything is measured: nobody sees a new item."""
        offsets, clicks = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32)
        return cls(base=0.0, scale=1.0, share=0.0, cut=0.0, offsets=offsets, clicks=clicks)

    @staticmethod
    def of_before(facts: dict[str, Any]) -> dict[str, Any]:
        """Take the facts of an earlier release, where items of the table of fit had a share of their own."""
        if "listed" not in facts:
            return facts
        if facts["listed"] != facts["added"]:
            raise ValueError("new items of its table have another share than those added later: fit it again")
        return {name: facts[name] for name in ("base", "scale", "cut")} | {"share": facts["added"]}

    def values(self, known: KnownItems) -> tuple[np.ndarray, np.ndarray]:
        """Compute what is added to the scores of items, (N,), after their vectors are multiplied by a number, (N,)."""
        cold = known.clicks == 0
        return known.bias(self.share, self.base) - self.cut * cold, np.where(cold, self.scale, 1.0)

    @property
    def sessions(self) -> Sessions:
        """The sessions that are kept."""
        ids = pl.Series(np.arange(len(self.offsets) - 1))
        return Sessions(ids=ids, offsets=self.offsets, items=self.clicks, times=None)

    def capped(self, scores_by: ScoresBy, known: KnownItems, most: float | None) -> NewItems:
        """Lower new items so far that they have at most a share of the first 20 places; None lowers nothing."""
        free = replace(self, cut=0.0)
        if most is None:
            return free
        rivals = Rivals.of(scores_by(*free.values(known)), known.clicks == 0, self.sessions)
        return replace(free, cut=rivals.cut(most))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rivals:
    """New items beside the others, for m sessions, by a number that is added to all their scores.

    Attributes
    ----------
    odds : ndarray of float64, shape (m,)
        Log odds that the next click is on a new item.
    entries : ndarray of float64, shape (m, 20)
        Number from which on they have one more of the first 20 places.
    """

    odds: np.ndarray
    entries: np.ndarray

    @classmethod
    def of(cls, scores_of: Scores, new: np.ndarray, sessions: Sessions) -> Rivals:
        """Score sessions; ``new`` (N,) marks the new items."""

        def compare(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            own, others = _part(scores_of(sessions.take(block)), new)
            least, own_best = _best(others)[:, ::-1], _best(own)
            none = np.full(own_best.shape, np.inf, dtype=own_best.dtype)
            entries = np.subtract(np.maximum(least, own_best - _FAR), own_best, out=none, where=~np.isneginf(own_best))
            return _log_sum(own) - _log_sum(others), entries

        odds, entries = by_blocks(compare, len(sessions), len(new))
        return cls(odds=odds, entries=entries)

    def mass(self, shift: float = 0.0) -> float:
        """Compute the mean probability of new items."""
        return float(expit(self.odds + shift).mean())

    def places(self, shift: float = 0.0) -> float:
        """Compute their share of the first 20 places."""
        return float((self.entries <= shift).mean())

    def cut(self, share: float) -> float:
        """Find the least number to take off their scores, at least 0, so that their share of the places is no more."""
        entries = np.sort(self.entries, axis=None)
        first_too_many = entries[int(share * len(entries)) :][:1]
        return max(0.0, float(_ROUNDING - first_too_many.min(initial=_FAR)))


def measure_new_items(
    scores_by: ScoresBy, known: KnownItems, judged: Sessions, share: float
) -> tuple[NewItems, pl.DataFrame]:
    """Measure what new items are worth on sessions of at least two clicks.

    Where vectors have no part of their own, d_0 is 0 and a is 1. Where there is no metadata, nothing tells a new item
    from others, and it counts as one with one click.

    Parameters
    ----------
    scores_by : callable
    known : KnownItems
    judged : Sessions
    share : float
        rho.

    Returns
    -------
    NewItems
    report : polars.DataFrame
        The part of what `report_new_items` gives that stays.
    """
    clicked, bare = known.clicks > 0, Bare()
    if known.features is None:
        share = 1 / known.clicks[clicked].mean()
    elif not known.shared:
        bare = measure_bare(scores_by, known, judged)
    prefixes, targets, _ = read_targets(judged)
    kept = prefixes.take(spread(len(prefixes), _KEPT)).last(_CLICKS_KEPT)
    new = NewItems(
        base=bare.base, scale=bare.scale, share=float(share), cut=0.0, offsets=kept.offsets, clicks=kept.items
    )
    facts = {"clicks": np.mean(~clicked[targets]), "recall@20": bare.recall}
    return new, pl.DataFrame([facts], {"clicks": pl.Float64, "recall@20": pl.Float64})


def report_new_items(scores_by: ScoresBy, known: KnownItems, new: NewItems, before: pl.DataFrame) -> pl.DataFrame:
    """Write the report of M2TRec anew, with the facts that `measure_new_items` found before."""
    cold = known.clicks == 0
    rivals = Rivals.of(scores_by(*new.values(known)), cold, new.sessions)
    offset = new.base + math.log(new.share) - new.cut
    facts = {"n_items": int(cold.sum()), "share": new.share, "offset": offset}
    return pl.DataFrame([facts | {"mass": rivals.mass(), "places": rivals.places()}]).hstack(
        before.select(pl.col("clicks", "recall@20").max())
    )


def warn_of_equals(known: KnownItems, new: np.ndarray, how: str) -> None:
    """Warn if most of the new items (N,), which ``how`` names, have more equals in metadata than a list has places."""
    if known.row is None or not new.any():
        return
    equals = np.bincount(known.row[new])[known.row[new]]
    if np.mean(equals > _TOP) > 1 / 2:
        warn_user(
            f"metadata hardly tells the {len(equals)} items without clicks apart that were {how}: half of them are "
            f"equal to {int(np.median(equals)) - 1} others or more, and equal items have equal scores: give more "
            "columns of metadata, or name candidates when you recommend"
        )


@dataclass(frozen=True, kw_only=True)
class Bare:
    """d_0 and a of vectors of metadata alone, and Recall@20 of items that had to do with them."""

    base: float = 0.0
    scale: float = 1.0
    recall: float | None = None


def measure_bare(scores_by: ScoresBy, known: KnownItems, judged: Sessions) -> Bare:
    """Take away own vectors of clicked items, a tenth at a time, and see how the next clicks find them.

    At most 3 000 next clicks are looked at, evenly spread, each with two of the ten tenths.
    """
    clicked, found = known.clicks > 0, []
    part = np.full(len(clicked), -1)
    part[clicked] = np.random.default_rng(0).permutation(np.count_nonzero(clicked)) % _PARTS
    bias = known.bias(0.0, 0.0)
    chosen = spread(judged.count_prefixes(), MOST_TARGETS)
    for number in range(_PARTS):
        prefixes, targets = judged.prefixes(chosen=chosen[number % _STEP :: _STEP])
        kept = np.flatnonzero((targets > 0) & clicked[targets - 1])
        bare = part == number
        if len(kept) and bare.any():
            scores_of = scores_by(bias, np.ones(len(clicked)), bare)
            found.append(_Tenth.of(scores_of, bare, prefixes.take(kept), targets[kept] - 1))
    return _Tenth.joined(found).measure() if found else Bare()


@dataclass(frozen=True, eq=False)
class _Tenth:
    """Next clicks by a tenth of the items, scored without own vectors, beside all others.

    Attributes
    ----------
    rest : ndarray of float64, shape (m,)
        Log sum of exp over the others.
    sums : ndarray of float64, shape (m, G)
        The same over the tenth, by each scale of ``_SCALES``.
    target : ndarray of float32, shape (m,)
        Score of the clicked item.
    inside : ndarray of bool, shape (m,)
        Whether it is one of the tenth.
    ahead : ndarray of int64, shape (m,)
        Items of the tenth that score as much.
    best : ndarray of float64, shape (m, 20)
        Greatest scores of the others.
    """

    rest: np.ndarray
    sums: np.ndarray
    target: np.ndarray
    inside: np.ndarray
    ahead: np.ndarray
    best: np.ndarray

    @classmethod
    def of(cls, scores_of: Scores, bare: np.ndarray, prefixes: Sessions, targets: np.ndarray) -> _Tenth:
        """Score sessions whose next items stand at places (m,); ``bare`` (N,) marks the tenth."""

        def score(block: np.ndarray) -> tuple[np.ndarray, ...]:
            scores = scores_of(prefixes.take(block))
            own, others = _part(scores, bare)
            target = scores[np.arange(len(block)), targets[block]]
            sums = np.stack([_log_sum(own * np.float32(scale)) for scale in _SCALES], axis=1)
            ahead = np.count_nonzero(own >= target[:, None], axis=1)
            return _log_sum(others), sums, target, bare[targets[block]], ahead, _best(others)

        return cls(*by_blocks(score, len(targets), len(bare)))

    @classmethod
    def joined(cls, parts: Sequence[_Tenth]) -> _Tenth:
        """Put the clicks of several together."""
        return cls(*(np.concatenate(each) for each in zip(*(vars(part).values() for part in parts), strict=True)))

    def measure(self) -> Bare:
        """Maximise the likelihood, with a small ridge on log a."""
        found = []
        for number, scale in enumerate(_SCALES):
            sums = self.sums[:, number]
            base = _likely_shift(sums - self.rest, int(np.count_nonzero(self.inside)))
            utility = np.where(self.inside, scale * self.target + base, self.target)
            likelihood = (utility - np.logaddexp(self.rest, sums + base)).sum() - _RIDGE * math.log(scale) ** 2
            found.append((likelihood, base, scale))
        _, base, scale = max(found)
        target = (scale * self.target + base)[self.inside, None]
        ranks = self.ahead[self.inside] + np.count_nonzero(self.best[self.inside] >= target, axis=1)
        return Bare(base=base, scale=scale, recall=float((ranks <= _TOP).mean()) if len(ranks) else None)


def share_of_births(sessions: AnySessions, n_items: int) -> float:
    """Estimate the clicks that an item gets in the tenth of the log after its first session, relative to all items.

    A birth is a first session in the second half of the log, with a tenth behind it. Items that are only rare look like
    births too. In sessions of random order, the first of n sessions would lie between the shares a and b of the log
    with probability (1 - a)^n - (1 - b)^n. Unless there are clearly more births than that, by 20 and by three standard
    errors, and times that tell the order, the share is ``LAUNCH``. Clicks on an item count once a session.
    """
    last, group = 1 - _PERIOD, sessions.group
    held, first = np.zeros(1 + n_items, dtype=np.int64), np.full(1 + n_items, np.inf)
    for item, place in _holdings(sessions):
        held += np.bincount(item, minlength=1 + n_items)
        np.minimum.at(first, item, place)
    held, first = np.sum(group.gather(held), axis=0), np.min(group.gather(first), axis=0)
    born, known = (first >= _BORN) & (first < last), held[held > 0]
    n_births, by_chance = int(np.count_nonzero(born)), float((_BORN**known - _PERIOD**known).sum())
    clicks = 0
    for item, place in _holdings(sessions):
        since = first[item]
        clicks += int(np.count_nonzero(born[item] & (place > since) & (place <= since + _PERIOD)))
    clicks = sum(group.gather(clicks))
    if not sessions.has_times or n_births - by_chance < max(_BIRTHS, 3 * math.sqrt(by_chance)):
        return LAUNCH
    return max(clicks, 1) / n_births / (_PERIOD * int(known.sum()) / len(known))


def _holdings(sessions: AnySessions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read, in blocks, the items that sessions hold, each once a session, and the places of these in the log."""
    for block, place in sessions.placed():
        if len(block):
            n = len(block)
            pairs = block.items.astype(np.int64) * n + np.repeat(np.arange(n), block.lengths)
            item, owner = np.divmod(np.unique(pairs), n)
            yield item, place[owner]


def _part(scores: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Part scores (m, N) in those of the chosen items (N,) and those of all others, each in one block of memory."""
    columns = torch.from_numpy(scores)
    own, others = (columns.index_select(1, torch.from_numpy(np.flatnonzero(part))) for part in (chosen, ~chosen))
    return own.numpy(), others.numpy()


def _log_sum(scores: np.ndarray) -> np.ndarray:
    """Compute the log sum of exp of every row (m, n); minus infinity without a column."""
    return torch.logsumexp(torch.from_numpy(scores), dim=1).numpy().astype(np.float64)


def _best(scores: np.ndarray) -> np.ndarray:
    """Find the 20 greatest scores of every row (m, n), the greatest first; minus infinity where there are fewer."""
    lacking = _TOP - scores.shape[1]
    if lacking > 0:
        scores = np.pad(scores, ((0, 0), (0, lacking)), constant_values=-np.inf)
    return top_k(scores, _TOP)[1].astype(np.float64)


def _likely_shift(odds: np.ndarray, clicks: float) -> float:
    """Find the number to add to log odds (m,), so that the probabilities sum to ``clicks``.

    It is drawn towards 0 as much as by one click more, where one is expected: no click does not mean never.
    """

    def rising(shift: float) -> float:
        return expit(odds + shift).sum() + math.exp(shift) - clicks - 1

    if rising(_FAR) <= 0:
        return _FAR
    return -_FAR if rising(-_FAR) >= 0 else float(brentq(rising, -_FAR, _FAR))
