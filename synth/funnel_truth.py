"""Law of a funnel: the probability of each label of an impression, and the draw of impressions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tabmtl.synth.multitab_truth import TaskKind

#: Tasks in the order of the columns of y, with their kinds.
TASKS: dict[str, TaskKind] = {
    "click": "binary",
    "conversion": "binary",
    "like": "binary",
    "long_view": "binary",
    "watch_time": "regression",
}

#: Which tasks share a factor.
GROUPS = {"interact": ("click", "conversion", "like"), "watch": ("long_view", "watch_time")}

#: Standard deviation of the logarithm of a watch time around its mean.
WATCH_NOISE = 0.6

#: Numbers of the context: hour (2), device (3), idle time and discount.
N_CONTEXT = 7

_WATCH_SECONDS = 15.0
_POSITIONS = 10
_HOURS = 2 * np.pi * np.arange(24) / 24
_HOUR_SHARES = (1.2 - np.cos(_HOURS - _HOURS[3])) / 28.8
_DEVICE = pl.Enum(["phone", "desktop", "tablet", "tv"])
_DEVICE_SHARES = np.array([0.6, 0.25, 0.1, 0.05])
_BLOCK = 2**14
_BALANCE_ROWS = 2**18
_HALVINGS = 30


@dataclass(frozen=True, kw_only=True, eq=False)
class FunnelTruth:
    """Users, items and the law by which they click, buy, like and watch.

    Parameters
    ----------
    users : polars.DataFrame of shape (n_users, 3)
        The columns of X that a user determines: ``user``, ``user_x0``, ``user_x1``. The most active user comes first.
    items : polars.DataFrame of shape (n_items, 5)
        The columns of X that an item determines: ``item``, ``category``, ``brand``, ``item_x0``, ``item_x1``. The item
        shown most comes first.
    user_vectors, item_vectors : ndarray of shape (n_users, 9) and (n_items, 9), float32
        A one, then the hidden vector.
    affinity : ndarray of shape (n_tasks, 9, 9), float32
        Per task, the bilinear form of a user's and an item's vector.
    context : ndarray of shape (n_tasks, 7)
        Per task, the weights of hour (2), device (3), idle time and discount.
    bias : ndarray of shape (n_tasks,)
        Constant of the logit; of ``watch_time``, of the logarithm of the mean.
    position_bias : float
        Loss of the logit of a click from the first position to the last.
    skew : float
        Exponent of the popularity of users and items.
    missing : float
        Share of nulls in ``idle_hours`` and in ``discount``.
    """

    users: pl.DataFrame = field(repr=False)
    items: pl.DataFrame = field(repr=False)
    user_vectors: np.ndarray = field(repr=False)
    item_vectors: np.ndarray = field(repr=False)
    affinity: np.ndarray = field(repr=False)
    context: np.ndarray = field(repr=False)
    bias: np.ndarray = field(default_factory=lambda: np.zeros(len(TASKS)), repr=False)
    position_bias: float
    skew: float
    missing: float

    def logits(self, X: pl.DataFrame) -> np.ndarray:
        """Return the logits of click, conversion given a click, like and long view, and the log of the mean watch time.

        Parameters
        ----------
        X : polars.DataFrame
            Impressions with the columns of a funnel's ``X``, of any users and items of this world. The other columns
            of users and items are not read: the ids stand for them.

        Returns
        -------
        ndarray of shape (n, n_tasks)

        Raises
        ------
        ValueError
            If a user or an item is not of this world.
        """
        users, items = _positions(X["user"], self.users["user"]), _positions(X["item"], self.items["item"])
        logits = _context_features(X) @ self.context.T + self.bias
        logits[:, 0] -= self.position_bias * np.log1p(X["position"].to_numpy()) / np.log(_POSITIONS)
        n_tasks, width, _ = self.affinity.shape
        forms = self.affinity.transpose(1, 0, 2).reshape(width, n_tasks * width)
        for start in range(0, X.height, _BLOCK):
            block = slice(start, start + _BLOCK)
            wanted = (self.user_vectors[users[block]] @ forms).reshape(-1, n_tasks, width)
            logits[block] += np.einsum("ntj,nj->nt", wanted, self.item_vectors[items[block]])
        return logits

    def expected(self, X: pl.DataFrame) -> pl.DataFrame:
        """Return the mean of every label given its row; for a binary task it is the probability of a 1.

        Parameters
        ----------
        X : polars.DataFrame
            Impressions, as :meth:`logits` takes them.

        Returns
        -------
        polars.DataFrame of shape (n, n_tasks + 1)
            Float64 columns named as the tasks; ``conversion`` is P(click and conversion), over all impressions. Last
            comes ``cvr``, P(conversion | click).

        Raises
        ------
        ValueError
            If a user or an item is not of this world.
        """
        *binary, watch_time = self.logits(X).T
        click, cvr, like, long_view = map(_sigmoid, binary)
        values = (click, click * cvr, like, long_view, np.exp(watch_time), cvr)
        return pl.DataFrame(dict(zip([*TASKS, "cvr"], values, strict=True)))

    def draw_rows(self, n_rows: int, rng: np.random.Generator) -> pl.DataFrame:
        """Draw impressions: a user and an item by their popularity and a context, all independent.

        Parameters
        ----------
        n_rows : int
            Number of rows.
        rng : numpy.random.Generator
            Source of the rows.

        Returns
        -------
        polars.DataFrame of shape (n_rows, 13)
        """
        users, items = (
            table[_choose(np.arange(1.0, table.height + 1) ** -self.skew, n_rows, rng)]
            for table in (self.users, self.items)
        )
        devices = pl.Series(_DEVICE.categories, dtype=_DEVICE)
        context = pl.DataFrame(
            {
                "hour": _choose(_HOUR_SHARES, n_rows, rng).astype(np.int8),
                "device": devices.gather(_choose(_DEVICE_SHARES, n_rows, rng)),
                "position": rng.integers(_POSITIONS, size=n_rows, dtype=np.int8),
                "idle_hours": np.exp(1 + rng.standard_normal(n_rows, dtype=np.float32)),
                "discount": rng.random(n_rows, dtype=np.float32) / 2,
            }
        )
        shown = [pl.Series(rng.random(n_rows) >= self.missing) for _ in range(2)]
        numeric = [pl.when(mask).then(name) for mask, name in zip(shown, ("idle_hours", "discount"), strict=True)]
        return pl.concat([users, items, context.with_columns(numeric)], how="horizontal")

    def balanced(self, rates: Sequence[float], rng: np.random.Generator) -> FunnelTruth:
        """Return the same world with the biases that give the binary tasks their rates.

        Parameters
        ----------
        rates : sequence of float
            Expected shares of 1 among impressions: click, conversion, like, long view.
        rng : numpy.random.Generator
            Source of the 2^18 impressions that the expectation is taken over.

        Returns
        -------
        FunnelTruth
        """
        logits = self.logits(self.draw_rows(_BALANCE_ROWS, rng)).T
        everywhere = np.ones(_BALANCE_ROWS)
        click = _solve_bias(logits[0], everywhere, rates[0])
        conversion = _solve_bias(logits[1], _sigmoid(logits[0] + click), rates[1] / rates[0])
        like, long_view = (_solve_bias(logits[t], everywhere, rates[t]) for t in (2, 3))
        watch_time = np.log(_WATCH_SECONDS) + WATCH_NOISE**2 / 2
        return dataclasses.replace(self, bias=np.array([click, conversion, like, long_view, watch_time]))


def roc_auc(rank: pl.Series, positive: pl.Series, negative: pl.Series) -> float:
    """Return P(a positive ranks above a negative) from the mass of both in every row; equal ranks count half.

    NaN if there is no positive or no negative.
    """
    _, place = np.unique(rank.to_numpy(), return_inverse=True)
    above, below = np.bincount(place, positive.to_numpy()), np.bincount(place, negative.to_numpy())
    pairs = above.sum() * below.sum()
    return float(above @ (np.cumsum(below) - below / 2) / pairs) if pairs else float("nan")


def watch_r2(mean: pl.Series, watch_time: pl.Series | None = None) -> float:
    """Return R² of the mean watch times, on given watch times or in expectation; NaN for a single row."""
    m = mean.to_numpy()
    error = np.expm1(WATCH_NOISE**2) * np.mean(m**2)
    variance = np.var(m) + error
    if watch_time is not None:
        error, variance = np.mean((watch_time.to_numpy() - m) ** 2), np.var(watch_time.to_numpy())
    return float(1 - error / variance) if len(m) > 1 else float("nan")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.maximum(x, -700)))


def _solve_bias(logits: np.ndarray, weight: np.ndarray, share: float) -> float:
    """Find the b at which σ(b + logit) has a weighted mean of ``share``, by bisection."""
    middle = np.log(share / (1 - share))
    low, high = middle - logits.max(), middle - logits.min()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if weight @ _sigmoid(middle + logits) < share * weight.sum():
            low = middle
        else:
            high = middle
    return middle


def _positions(ids: pl.Series, known: pl.Series) -> np.ndarray:
    """Return the positions of ids such as "u017" among the known ones, by their numbers."""
    numbers = ids.cast(pl.String).str.strip_prefix(known[0][0]).cast(pl.UInt32, strict=False)
    strange = ids.filter((numbers >= len(known)).fill_null(True))
    if len(strange):
        raise ValueError(f"X: {known.name} must be one of {known[0]} to {known[-1]}, got {strange[0]!r}")
    return numbers.to_numpy()


def _choose(weights: np.ndarray, n_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Draw positions in proportion to weights."""
    below = np.cumsum(weights)
    return np.searchsorted(below[:-1] / below[-1], rng.random(n_rows), side="right")


def _context_features(X: pl.DataFrame) -> np.ndarray:
    """Return hour, device, idle time and discount as seven uncorrelated numbers (mean 0, variance 1; null is 0)."""
    hour = _contrasts(_HOUR_SHARES, np.column_stack([np.cos(_HOURS), np.sin(_HOURS)]))
    device = _contrasts(_DEVICE_SHARES, np.eye(len(_DEVICE_SHARES))[:, 1:])
    numeric = X.select(
        (pl.col("idle_hours").cast(pl.Float64).log() - 1).fill_null(0),
        ((pl.col("discount").cast(pl.Float64) - 0.25) * np.sqrt(48)).fill_null(0),
    )
    devices = X["device"].cast(_DEVICE).to_physical()
    return np.column_stack([hour[X["hour"].to_numpy()], device[devices.to_numpy()], numeric.to_numpy()])


def _contrasts(shares: np.ndarray, functions: np.ndarray) -> np.ndarray:
    """Return functions of a level, uncorrelated, of mean 0 and of variance 1 under the shares of the levels."""
    weight = np.sqrt(shares)[:, None]
    q, _ = np.linalg.qr(weight * np.column_stack([np.ones(len(shares)), functions]))
    return q[:, 1:] / weight
