"""A recommender's funnel: impressions, clicks, conversions and watch times whose probabilities are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict, Unpack, get_args

import numpy as np
import polars as pl

from tabmtl.synth.checks import check_choice, check_count
from tabmtl.synth.funnel_truth import GROUPS, TASKS, WATCH_NOISE, FunnelTruth, roc_auc, watch_r2
from tabmtl.synth.funnel_world import make_world
from tabmtl.synth.multitab_truth import TaskKind

Unclicked = Literal["zero", "null"]
Seed = int | np.random.SeedSequence | np.random.Generator | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Funnel:
    """Impressions with their labels, and the truth behind them.

    Parameters
    ----------
    X : polars.DataFrame of shape (n_rows, 13)
        Text: ``user``, ``item``. Enum: ``category``, ``brand``, ``device``. Int8: ``hour`` (0 to 23), ``position`` (0
        to 9). Float32: ``user_x0``, ``user_x1``, ``item_x0``, ``item_x1``, and with nulls ``idle_hours`` (since the
        user's last visit) and ``discount`` (0 to 0.5).
    y : polars.DataFrame of shape (n_rows, 5)
        Int8 0/1: ``click``, ``conversion``, ``like``, ``long_view``. Float64: ``watch_time``, in seconds. No label is
        null, except ``conversion`` without a click if ``unclicked`` is "null".
    expected : polars.DataFrame of shape (n_rows, 6)
        Mean of every label given its row of X, named as the tasks: the probability of a 1 among impressions (of
        ``conversion``: of click and conversion), and the mean of ``watch_time``. Last comes ``cvr``, P(conversion |
        click). No model can know more about the labels of a row.
    truth : FunnelTruth
        Users, items and the law: ``truth.expected`` works on any rows, not only on those drawn.
    unclicked : {"zero", "null"}
        Label of ``conversion`` without a click.
    """

    X: pl.DataFrame
    y: pl.DataFrame
    expected: pl.DataFrame = field(repr=False)
    truth: FunnelTruth
    unclicked: Unclicked

    @property
    def tasks(self) -> dict[str, TaskKind]:
        """Kind of every task, "binary" or "regression"."""
        return dict(TASKS)

    @property
    def task_groups(self) -> dict[str, list[str]]:
        """Tasks of the groups "interact" and "watch"."""
        return {group: list(tasks) for group, tasks in GROUPS.items()}

    @property
    def task_chain(self) -> list[str]:
        """The tasks that follow each other: click, then conversion."""
        return ["click", "conversion"]

    @property
    def probabilities(self) -> pl.DataFrame:
        """``expected`` of the binary tasks, and ``cvr``: shape (n_rows, 5)."""
        return self.expected.drop("watch_time")

    def ceiling(self, labels: Literal["drawn", "expected"] = "drawn") -> dict[str, float]:
        """Return the scores of the truth itself, which a model beats only by luck.

        It knows the hidden vectors of all users and items, so that a model nears it only with many rows of each.

        Parameters
        ----------
        labels : {"drawn", "expected"}, default="drawn"
            "drawn" scores against ``y``: compare a model's score on the same rows with it. "expected" weighs every row
            by its chance of either label instead, which leaves out the luck of the draw.

        Returns
        -------
        dict of str to float
            ROC AUC of each binary task (of ``conversion`` among all impressions), R² of ``watch_time``, and as ``cvr``
            the ROC AUC of P(conversion | click) among clicked rows. NaN where a class is missing.

        Raises
        ------
        ValueError
            If ``labels`` is something else.
        """
        check_choice("labels", labels, ("drawn", "expected"))
        mean = self.expected.to_dict()
        y = mean if labels == "expected" else self.y.fill_null(0).to_dict()
        binary = [name for name, kind in TASKS.items() if kind == "binary"]
        scores = {name: roc_auc(mean[name], y[name], 1 - y[name]) for name in binary}
        scores["watch_time"] = watch_r2(mean["watch_time"], None if labels == "expected" else y["watch_time"])
        scores["cvr"] = roc_auc(mean["cvr"], y["conversion"], y["click"] - y["conversion"])
        return scores

    def draw(self, n_rows: int, *, random_state: Seed = None) -> Funnel:
        """Draw fresh impressions of the same users and items.

        Parameters
        ----------
        n_rows : int
            Number of rows.
        random_state : int, SeedSequence, Generator or None, default=None
            Seed of the rows. The seed that drew the first rows draws others here, so test never equals train.

        Returns
        -------
        Funnel
            New rows, the same ``truth``.

        Raises
        ------
        ValueError
            If ``n_rows`` is no integer >= 1.
        """
        check_count("n_rows", n_rows)
        return _rows(self.truth, n_rows, self.unclicked, np.random.default_rng(random_state).spawn(3)[2])


class FunnelOptions(TypedDict, total=False):
    """The less common arguments of `make_funnel`, described there."""

    group_correlation: float
    selection: float | None
    like_rate: float
    long_view_rate: float
    spread: float
    interaction: float
    position_bias: float
    skew: float
    n_categories: int
    n_brands: int
    missing: float


def make_funnel(
    n_rows: int = 100_000,
    *,
    n_users: int = 10_000,
    n_items: int = 1_000,
    click_rate: float = 0.1,
    conversion_rate: float = 0.01,
    unclicked: Unclicked = "zero",
    shared: float = 0.6,
    random_state: Seed = None,
    **options: Unpack[FunnelOptions],
) -> Funnel:
    """Draw impressions of items to users, with clicks, conversions, likes, long views and watch times.

    User u and item i have hidden normal vectors a and b of 8 numbers; φ holds hour, device, idle time and discount as 7
    numbers of variance 1. The logit of task t is bias_t + ``spread`` · s_t, where

    s_t = √.8 · (√m (v_t·a + w_t·b) + √``interaction`` aᵀM_t b) + √.2 (c_t·φ),  m = (1 - ``interaction``) / 2,

    and a click loses ``position_bias`` · log10(1 + position). The s_t have variance 1, and correlate by ``shared`` in a
    group and by ``shared`` · ``group_correlation`` across: v, w, M and c are drawn so. Click, like and long view follow
    their logits; a conversion follows its own where there is a click, and else is none. The logarithm of
    ``watch_time`` has the mean log(15) + s_t · ``spread`` / 2 and a standard deviation of 0.6.

    The b of an item is the sum of its category's (variance 0.3), its brand's (0.2) and its own. The numeric columns of
    users and items are the first two numbers of a and b, with as much noise. A null counts as its mean in s_t. X thus
    holds all information; click and conversion have no hidden common cause.

    Parameters
    ----------
    n_rows : int, default=100_000
        Number of impressions.
    n_users, n_items : int
        Number of users and items; a million each takes seconds. Their numbers order them by popularity, from ``u0...0``
        on, and nothing else depends on the numbers.
    click_rate, conversion_rate : float, default=0.1 and 0.01
        Expected share of all impressions with a click, and with a conversion: ``conversion_rate < click_rate``, and of
        the clicks a share of ``conversion_rate / click_rate`` converts. Expected over all draws of rows from this
        world, to about 1 %.
    unclicked : {"zero", "null"}, default="zero"
        Label of ``conversion`` without a click: 0, or null as in logs that begin with the click.
    shared : float, default=0.6
        Correlation of the logits of two tasks in one group, from 0 to 1: the share of a logit's variance that is the
        factor of its group ("interact": click, conversion, like; "watch": long_view, watch_time).
    random_state : int, SeedSequence, Generator or None, default=None
        Seed of all randomness; no global generator is touched. A seed gives one world, for any ``n_rows`` and
        ``unclicked``.

    Other Parameters
    ----------------
    group_correlation : float, default=0.3
        Correlation of the factors of the two groups, from -1 (clicked items are not watched) to 1 (one group).
    selection : float or None, default=None
        Correlation of the logits of click and of conversion given a click. None takes ``shared``. If positive, clicked
        rows convert better than the others would, and a model of conversions from clicked rows alone is biased.
    like_rate, long_view_rate : float, default=0.03 and 0.3
        Expected share of all impressions.
    spread : float, default=1.2
        Standard deviation of the logits, from 0 (nothing to learn) to 10; it sets the ceilings.
    interaction : float, default=0.5
        Share of the joint effect of user and item in a logit, from 0 (each alone) to 1.
    position_bias : float, default=0.5
        Loss of the logit of a click from the first position to the last, from 0 to 10.
    skew : float, default=0.8
        a in p(k) ∝ 1/(k + 1)^a, the probability of the k-th user and the k-th item, from 0 (all alike) to 10.
    n_categories, n_brands : int, default=20 and 100
        Levels of ``category`` and ``brand``, spread evenly over the items; ``n_items`` if that is less.
    missing : float, default=0.1
        Share of nulls in ``idle_hours`` and in ``discount``, at random.

    Returns
    -------
    Funnel
        Frames ``X``, ``y`` and ``expected``, and the ``truth``.

    Raises
    ------
    ValueError
        If a value is out of its range; the message names the argument.
    TypeError
        If an argument is unknown.

    Notes
    -----
    Users and items are text, not Enum: the schema of an Enum of a million levels prints all of them, and a parquet file
    of it takes seconds to read.

    Examples
    --------
    >>> from tabmtl.synth import make_funnel
    >>> train = make_funnel(20_000, random_state=0)
    >>> test = train.draw(10_000, random_state=1)
    >>> train.task_groups
    {'interact': ['click', 'conversion', 'like'], 'watch': ['long_view', 'watch_time']}
    >>> bool((train.y["conversion"] <= train.y["click"]).all())
    True
    >>> {task: round(score, 2) for task, score in test.ceiling("expected").items()}
    {'click': 0.79, 'conversion': 0.89, 'like': 0.79, 'long_view': 0.76, 'watch_time': 0.43, 'cvr': 0.76}
    """
    for name, count in (("n_rows", n_rows), ("n_users", n_users), ("n_items", n_items)):
        check_count(name, count)
    check_choice("unclicked", unclicked, get_args(Unclicked))
    # Three streams: a seed gives one world for any n_rows, and fresh rows never repeat the first ones.
    design, first, _ = np.random.default_rng(random_state).spawn(3)
    rates = {"click_rate": click_rate, "conversion_rate": conversion_rate}
    truth = make_world((n_users, n_items), rates, {"shared": shared, **options}, design)
    return _rows(truth, n_rows, unclicked, first)


def _rows(truth: FunnelTruth, n_rows: int, unclicked: Unclicked, rng: np.random.Generator) -> Funnel:
    X = truth.draw_rows(n_rows, rng)
    expected = truth.expected(X)
    chances = expected.select("click", "cvr", "like", "long_view")
    click, bought, like, long_view = (rng.random(n_rows) < chance.to_numpy() for chance in chances)
    noise = np.exp(WATCH_NOISE * rng.standard_normal(n_rows) - WATCH_NOISE**2 / 2)
    hits = (hit.astype(np.int8) for hit in (click, click & bought, like, long_view))
    y = pl.DataFrame(dict(zip(TASKS, (*hits, expected["watch_time"].to_numpy() * noise), strict=True)))
    if unclicked == "null":
        y = y.with_columns(pl.when(pl.col("click") == 1).then("conversion"))
    return Funnel(X=X, y=y, expected=expected, truth=truth, unclicked=unclicked)
