"""Impressions of items to users whose histories tell what they will do, and how much a history is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

from tabmtl.synth.checks import check_choice, check_count
from tabmtl.synth.funnel_truth import roc_auc
from tabmtl.synth.multitab_truth import TaskKind

Seed = int | np.random.SeedSequence | np.random.Generator | None

#: Tasks in the order of the columns of y, with their kinds.
TASKS: dict[str, TaskKind] = {"click": "binary", "like": "binary", "rating": "regression"}
#: What a history counts in the logit of each task, in units of ``strength``; for ``rating`` it is of no use.
USES = np.array([1.0, 0.5, 0.0])

_BIAS = np.array([-1.5, -1.0, 0.0])
_SHARED = 0.6  # share of an item's effect that all tasks have
_SLOPE = -0.1  # of the position of an impression, in the logit of a click
_POSITIONS = 10
_FOCUS = 0.8  # share of a user's entries that are of the groups that the user likes
_LIKED = 0.2  # share of the groups that a user likes
_GAP_HOURS = 12.0
_ROWS_PER_USER = 4
_MEAN_ROWS = 2**15


@dataclass(frozen=True, kw_only=True)
class Law:
    """Numbers of the law by which histories are drawn and used.

    Parameters
    ----------
    n_groups : int
    strength, half_life, mean_length, missing : float
        See `make_histories`.
    """

    n_groups: int
    strength: float
    half_life: float
    mean_length: float
    missing: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """Impressions of users with histories, their labels, and the truth behind them.

    Parameters
    ----------
    X : polars.DataFrame of shape (n_rows, 4)
        String ``item``. Int8 ``position`` of the impression (0 to 9). List(String) ``history``: the items of the user
        before the impression, the newest last; empty for a new user, null for an unknown one. List(Float32)
        ``history_hours``: how long ago each of them was, of the same lengths.
    y : polars.DataFrame of shape (n_rows, 3)
        Int8 0/1 ``click`` and ``like``, and Float64 ``rating``, for which the history is of no use.
    expected : polars.DataFrame of shape (n_rows, 3)
        Mean of every label given its row of X.
    expected_without : polars.DataFrame of shape (n_rows, 3)
        Mean of every label given ``item`` and ``position`` alone.
    interest : polars.Series of shape (n_rows,)
        Float64 from 0 to 1: what the history tells of a row, see :func:`make_histories`.
    matches : polars.Series of shape (n_rows,)
        List(Boolean): which entries of ``history`` are of the group of the row's item. All others tell nothing.
    users : polars.Series of shape (n_rows,)
        Int64, the user of every row: groups for a split. No feature, since it would tell what a history tells.
    items : polars.DataFrame of shape (n_items, 5)
        String ``item``, Int64 ``group``, which no column of X tells, and the effects ``click``, ``like`` and
        ``rating``.
    law : Law
        The numbers by which histories are drawn and used.
    """

    X: pl.DataFrame
    y: pl.DataFrame
    expected: pl.DataFrame = field(repr=False)
    expected_without: pl.DataFrame = field(repr=False)
    interest: pl.Series = field(repr=False)
    matches: pl.Series = field(repr=False)
    users: pl.Series = field(repr=False)
    items: pl.DataFrame = field(repr=False)
    law: Law = field(repr=False)

    @property
    def tasks(self) -> dict[str, TaskKind]:
        """Kind of every task, "binary" or "regression"."""
        return dict(TASKS)

    def ceiling(self, labels: Literal["drawn", "expected"] = "drawn", *, history: bool = True) -> dict[str, float]:
        """Return the scores of the truth itself, which a model beats only by luck.

        Parameters
        ----------
        labels : {"drawn", "expected"}, default="drawn"
            "drawn" scores against ``y``: compare a model's score on the same rows with it. "expected" weighs every row
            by its chance of either label instead, which leaves out the luck of the draw.
        history : bool, default=True
            Whether the truth reads the histories. The difference between both is what they are worth.

        Returns
        -------
        dict of str to float
            ROC AUC of ``click`` and of ``like``, R² of ``rating``. NaN where a class is missing.

        Raises
        ------
        ValueError
            If ``labels`` is something else.
        """
        check_choice("labels", labels, ("drawn", "expected"))
        known = self.expected if history else self.expected_without
        y = self.y if labels == "drawn" else self.expected
        scores = {name: roc_auc(known[name], y[name], 1 - y[name]) for name in ("click", "like")}
        error, variance = 1.0, float(np.var(self.expected["rating"].to_numpy())) + 1.0
        if labels == "drawn":
            drawn = y["rating"].to_numpy()
            error, variance = np.mean((drawn - known["rating"].to_numpy()) ** 2), np.var(drawn)
        scores["rating"] = float(1 - error / variance) if variance else math.nan
        return scores

    def draw(self, n_rows: int, *, random_state: Seed = None) -> Histories:
        """Draw fresh impressions of the same items to other users.

        Parameters
        ----------
        n_rows : int
            Number of rows.
        random_state : int, SeedSequence, Generator or None, default=None
            Seed of the rows. The seed that drew the first rows draws others here, so test never equals train.

        Returns
        -------
        Histories
            New rows, the same ``items``.

        Raises
        ------
        ValueError
            If ``n_rows`` is no integer >= 1.
        """
        check_count("n_rows", n_rows)
        return _rows(self.law, self.items, n_rows, np.random.default_rng(random_state).spawn(3)[2])


def make_histories(
    n_rows: int = 20_000,
    *,
    n_items: int = 100,
    n_groups: int = 10,
    mean_length: float = 10.0,
    strength: float = 3.0,
    half_life: float = 48.0,
    missing: float = 0.05,
    random_state: Seed = None,
) -> Histories:
    """Draw impressions of items to users, whose histories tell whether they will click.

    Every item is of one group, and every user likes a fifth of the groups: 80 % of the entries of a history are of
    these. The entries of a user come every 12 hours in the mean (a Poisson process), and the impressions, about four a
    user, at random times between them. An entry of h hours ago that is of the group of the row's item is alive with
    probability 2^(-h / ``half_life``), and the interest m of a row is the probability that one at least is alive:

    m = 1 - Π (1 - 2^(-h / ``half_life``)) over the entries that match.

    The logit of task t is bias_t + (effect of the item on t) - 0.1 · position (click only) + ``strength`` · use_t · m,
    with the use 1 for ``click``, .5 for ``like`` and 0 for ``rating``, which is this sum with normal noise of variance
    1. The effects of an item have variance 1, of which tasks share 0.6. An unknown user has m = 0.

    A row's item is drawn regardless of its user, and all groups are alike, so m does not depend on ``item`` and
    ``position``. Ranks by ``expected_without`` are therefore exact: without the history, nothing ranks rows better.

    Parameters
    ----------
    n_rows : int, default=20_000
        Number of impressions.
    n_items : int, default=100
        Number of items.
    n_groups : int, default=10
        Number of groups, at most ``n_items``; the last gives every item a group of its own, so that an entry matches
        only if it is the row's item.
    mean_length : float, default=10.0
        Mean length of the histories that are known, from 0 to 1000. Lengths are geometric, with some empty ones.
    strength : float, default=3.0
        What a living interest adds to the logit of a click, from 0 (histories are worth nothing) to 10.
    half_life : float, default=48.0
        Hours in which half of the interest goes; ``math.inf`` leaves no use to order and time.
    missing : float, default=0.05
        Share of rows of unknown users, whose history is null.
    random_state : int, SeedSequence, Generator or None, default=None
        Seed of all randomness; no global generator is touched. A seed gives the same items for any ``n_rows``.

    Returns
    -------
    Histories
        Frames ``X`` and ``y``, and the truth.

    Raises
    ------
    ValueError
        If a value is out of its range; the message names the argument.

    Examples
    --------
    >>> from tabmtl.synth import make_histories
    >>> train = make_histories(20_000, random_state=0)
    >>> test = train.draw(10_000, random_state=1)
    >>> row = train.X[4]
    >>> row["item"].item(), row["history"].item().to_list(), train.matches[4].to_list()
    ('i36', ['i58', 'i76'], [True, False])
    >>> {task: round(score, 2) for task, score in test.ceiling("expected").items()}
    {'click': 0.81, 'like': 0.76, 'rating': 0.52}
    >>> {task: round(score, 2) for task, score in test.ceiling("expected", history=False).items()}
    {'click': 0.69, 'like': 0.73, 'rating': 0.52}
    """
    for name, count in (("n_rows", n_rows), ("n_items", n_items), ("n_groups", n_groups)):
        check_count(name, count)
    if n_groups > n_items:
        raise ValueError(f"n_groups must be at most n_items={n_items}, got {n_groups}")
    law = {"mean_length": mean_length, "strength": strength, "half_life": half_life, "missing": missing}
    ranges = {"mean_length": (0, 1000), "strength": (0, 10), "half_life": (0, math.inf), "missing": (0, 1)}
    for name, (low, high) in ranges.items():
        if not low <= law[name] <= high:
            raise ValueError(f"{name} must lie in [{low}, {high}], got {law[name]!r}")
    # Three streams: a seed gives one world for any n_rows, and fresh rows never repeat the first ones.
    design, first, _ = np.random.default_rng(random_state).spawn(3)
    return _rows(Law(n_groups=n_groups, **law), _draw_items(n_items, n_groups, design), n_rows, first)


def _draw_items(n_items: int, n_groups: int, rng: np.random.Generator) -> pl.DataFrame:
    common = rng.standard_normal((n_items, 1))
    effects = math.sqrt(_SHARED) * common + math.sqrt(1 - _SHARED) * rng.standard_normal((n_items, len(TASKS)))
    names = [f"i{k:0{len(str(n_items - 1))}}" for k in range(n_items)]
    # each group at least once, and as often as the others, give or take one
    groups = rng.permutation(np.arange(n_items) % n_groups)
    return pl.DataFrame({"item": names, "group": groups, **dict(zip(TASKS, effects.T, strict=True))})


def _rows(law: Law, items: pl.DataFrame, n_rows: int, rng: np.random.Generator) -> Histories:
    items_of = [np.flatnonzero(own) for own in items["group"].to_numpy() == np.arange(law.n_groups)[:, None]]
    users, group, entries, ends, hours = _draw_histories(law, n_rows, rng)
    interest, matches = _interest(law, group, entries, ends, hours)
    # unknown users have a history too, which nobody knows and which does not count
    unknown = rng.random(n_rows) < law.missing
    interest = np.where(unknown, 0.0, interest)
    item, position = _of_groups(items_of, group, rng), rng.integers(_POSITIONS, size=n_rows, dtype=np.int8)
    known = pl.Series(~unknown)
    lists = {
        "history": _ragged(items["item"].gather(_of_groups(items_of, entries, rng)), ends),
        "history_hours": _ragged(pl.Series(hours, dtype=pl.Float32), ends),
        "matches": _ragged(pl.Series(matches), ends),
    }
    shown = {name: pl.select(pl.when(known).then(own)).to_series().alias(name) for name, own in lists.items()}
    # the rest of a logit, by item and position
    slopes = _SLOPE * np.arange(_POSITIONS)[:, None] * np.array([1.0, 0.0, 0.0])
    base = (_BIAS + items.select(*TASKS).to_numpy()[:, None] + slopes).reshape(-1, len(TASKS))
    shown_as = _POSITIONS * item + position
    expected = _means(base[shown_as], interest[:, None], law)
    y = {name: (rng.random(n_rows) < expected[name].to_numpy()).astype(np.int8) for name in ("click", "like")}
    return Histories(
        X=pl.DataFrame([items["item"].gather(item), pl.Series("position", position)]).with_columns(
            shown["history"], shown["history_hours"]
        ),
        y=pl.DataFrame({**y, "rating": expected["rating"].to_numpy() + rng.standard_normal(n_rows)}),
        expected=expected,
        expected_without=_means(base, _interests(law), law)[shown_as],
        interest=pl.Series("interest", interest),
        matches=shown["matches"],
        users=pl.Series("user", users),
        items=items,
        law=law,
    )


def _draw_histories(law: Law, n_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw user and group of each row (n,), the groups of its entries (m,), their ends (n,) and hours ago (m,)."""
    users = np.sort(rng.integers(max(n_rows // _ROWS_PER_USER, 1), size=n_rows))
    n_users = int(users[-1]) + 1
    n_liked = max(round(_LIKED * law.n_groups), 1)
    liked = rng.permuted(np.tile(np.arange(law.n_groups), (n_users, 1)), axis=1)[:, :n_liked]
    # a row's history is a part of its user's whole one, whose mean is twice as long
    whole = rng.geometric(1 / (2 * law.mean_length + 1), size=n_users) - 1
    starts = np.cumsum(whole) - whole
    owner = np.repeat(np.arange(n_users), whole)
    groups = np.where(
        rng.random(len(owner)) < _FOCUS,
        liked[owner, rng.integers(n_liked, size=len(owner))],
        rng.integers(law.n_groups, size=len(owner)),
    )
    times = np.cumsum(rng.exponential(_GAP_HOURS, size=len(owner)))
    lengths = rng.integers(whole[users] + 1)
    ends = np.cumsum(lengths)
    entry = np.arange(lengths.sum()) + np.repeat(starts[users] - ends + lengths, lengths)
    # the process has no memory: the time since the newest entry is drawn as any gap
    last = np.append(times, 0.0)[starts[users] + lengths - 1] + rng.exponential(_GAP_HOURS, size=n_rows)
    return users, rng.integers(law.n_groups, size=n_rows), groups[entry], ends, np.repeat(last, lengths) - times[entry]


def _interest(
    law: Law, group: np.ndarray, entries: np.ndarray, ends: np.ndarray, hours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the interest of every row (n,) and which entries match (m,)."""
    row = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    matches = entries == group[row]
    # in logarithms, since a product over a row's entries is a sum then
    alive = np.where(matches, np.exp2(-hours / law.half_life), 0.0)
    dead = np.bincount(row, np.log1p(-np.minimum(alive, 1 - 1e-12)), minlength=len(ends))
    return 0.0 - np.expm1(dead), matches


def _interests(law: Law) -> np.ndarray:
    """Return interests of many rows, with those of unknown users, to take means over: means of 64 parts, in order."""
    rng = np.random.default_rng(0)
    _, group, entries, ends, hours = _draw_histories(law, _MEAN_ROWS, rng)
    interest, _ = _interest(law, group, entries, ends, hours)
    interest[rng.random(_MEAN_ROWS) < law.missing] = 0.0
    return np.sort(interest).reshape(64, -1).mean(axis=1)


def _means(base: np.ndarray, interests: np.ndarray, law: Law) -> pl.DataFrame:
    """Return the mean label of every row and task, over the interests (n, 1) of the row or (k,) of any row."""
    means = {}
    for t, (name, kind) in enumerate(TASKS.items()):
        scores = base[:, t, None] + law.strength * USES[t] * interests
        means[name] = (1 / (1 + np.exp(-scores)) if kind == "binary" else scores).mean(axis=1)
    return pl.DataFrame(means)


def _of_groups(items_of: list[np.ndarray], groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw an item of each group."""
    sizes, flat = np.array([len(own) for own in items_of]), np.concatenate(items_of)
    return flat[(np.cumsum(sizes) - sizes)[groups] + rng.integers(sizes[groups])]


def _ragged(values: pl.Series, ends: np.ndarray) -> pl.Series:
    """Return lists of the values, given where each ends."""
    lengths = np.diff(ends, prepend=0)
    rows = pl.DataFrame({"row": np.repeat(np.arange(len(ends)), lengths), "value": values})
    lists = rows.group_by("row", maintain_order=True).agg("value")
    found = pl.DataFrame({"row": np.arange(len(ends))}).join(lists, on="row", how="left", maintain_order="left")
    return found["value"].fill_null([])
