"""Task-per-row tables of smooth random functions, with some known outliers among the tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import polars as pl

from tabmtl.synth.checks import check_count
from tabmtl.synth.outlier_functions import OutlierKind, TaskFunction, add_functions, draw_rows, draw_tasks, mix

TargetKind = Literal["regression", "classification"]
Seed = int | np.random.SeedSequence | np.random.Generator | None

_LABEL_NOISE = 2.0
_RAREST = 0.1
_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class OutlierTasks:
    """Train and test rows of many tasks, and the truth behind them.

    Parameters
    ----------
    X, X_test : polars.DataFrame of shape (n, n_features + 1)
        Float64 columns ``x0``, ``x1``, ..., and last a String column ``task`` with names ``t0``, ``t1``, ...,
        padded with zeros so that they sort as numbers do. Train rows are shuffled, test rows ordered by task.
    y, y_test : polars.Series of shape (n,)
        Named ``y``: Float64, or Int8 0/1 for classification.
    outliers : tuple of str
        Names of the outlier tasks.
    functions : mapping of str to TaskFunction
        For every task, in order, its labels without noise; a class is 1 where the value is positive.
    target : {"regression", "classification"}
        Kind of ``y``.
    noise : float
        Standard deviation of the noise on all values, before classes are cut.
    """

    X: pl.DataFrame
    y: pl.Series
    X_test: pl.DataFrame
    y_test: pl.Series
    outliers: tuple[str, ...]
    functions: Mapping[str, TaskFunction] = field(repr=False)
    target: TargetKind
    noise: float

    @property
    def is_outlier(self) -> np.ndarray:
        """Whether each task is an outlier: bool of shape (n_tasks,), in the order of the names."""
        return np.array([name in self.outliers for name in self.functions])

    def signal(self, X: pl.DataFrame) -> np.ndarray:
        """Return values without noise, before classes are cut; without noise these are the labels ``y_test``.

        The kinds "shuffled" and "noisy" damage train labels only; the signal leaves their damage out.

        Parameters
        ----------
        X : polars.DataFrame of shape (n, n_features + 1)
            Rows such as ``X``, ``X_test`` or those of :meth:`draw`, in any order.

        Returns
        -------
        ndarray of shape (n,)

        Raises
        ------
        ValueError
            If a task is not one of these.
        """
        features = [name for name in self.X.columns if name != "task"]
        values = np.empty(X.height)
        rows = X.select(*features, "task").with_row_index("row")
        for (name,), part in rows.group_by("task"):
            if name not in self.functions:
                raise ValueError(f"X: a task must be one of {', '.join(self.functions)}, got {name!r}")
            values[part["row"].to_numpy()] = self.functions[str(name)](part.select(features).to_numpy())
        return values

    def draw(self, n_samples: int, *, random_state: Seed = None) -> tuple[pl.DataFrame, pl.Series]:
        """Draw fresh rows by the law of the test rows.

        Parameters
        ----------
        n_samples : int
            Rows per task.
        random_state : int, SeedSequence, Generator or None, default=None
            Seed of the rows. The seed that drew the first rows draws others here, so new never equals old.

        Returns
        -------
        X : polars.DataFrame of shape (n_samples * n_tasks, n_features + 1)
        y : polars.Series of shape (n_samples * n_tasks,)

        Raises
        ------
        ValueError
            If ``n_samples`` is no integer >= 1.
        """
        check_count("n_samples", n_samples, 1)
        rng = np.random.default_rng(random_state).spawn(2)[1]
        shape = (n_samples, self.X.width - 1)
        x, values = map(np.stack, zip(*(draw_rows(shape, self.noise, rng) for _ in self.functions), strict=True))
        add_functions(self.functions.values(), x, values)
        return _table(x, values, tuple(self.functions), self.target, slice(None))


class OutlierOptions(TypedDict, total=False):
    """The less common arguments of `make_outlier_tasks`, described there."""

    strength: float
    common: float
    noise: float


def make_outlier_tasks(
    n_train: int = 300,
    n_test: int = 1000,
    n_features: int = 5,
    n_tasks: int = 10,
    *,
    n_outliers: int = 2,
    outlier_kind: OutlierKind = "shared",
    target: TargetKind = "regression",
    random_state: Seed = None,
    **options: Unpack[OutlierOptions],
) -> OutlierTasks:
    """Draw tasks that follow one smooth function, except for a few outliers.

    x ~ U(-1, 1)^d. A task's label is ``common`` · f_common(x) + (1 - ``common``) · f_t(x); for an outlier, another
    function stands for f_common. Functions are sums of 500 random cosines of length scale d/4, with variance 1 over
    draws of functions; inside one task labels vary less, the less the more features there are (standard deviation 0.7
    at 5, 0.3 at 50). The defaults are the setting of the R-MTGB paper (its scenario 4). ``n_outliers=0`` gives its
    other scenarios: ``common=1`` gives all tasks one function (1), ``common=0`` makes them independent (2), and values
    between mix the two (3).

    Parameters
    ----------
    n_train, n_test : int
        Rows per task. ``n_test`` may be 0.
    n_features, n_tasks : int
        Number of features d, and of tasks.
    n_outliers : int, default=2
        Number of outlier tasks, the last ones: 0 to ``n_tasks`` - 1.
    outlier_kind : str, default="shared"
        Form of an outlier with ``strength`` s:

        - "shared": √(1 - s²) f_common + s f_out stands for f_common, with one f_out for all outliers.
        - "own": the same, with another f_out for each.
        - "flipped": (1 - 2s) f_common stands for f_common.
        - "shuffled": a random part s of its train labels is permuted.
        - "shifted": 2s is added to its labels, test labels too. Regression only.
        - "noisy": normal noise of standard deviation 2s is added to its train labels. Regression only.
    target : {"regression", "classification"}, default="regression"
        Classification gives class 1 to positive values, else 0, and draws everything anew until the rarer class
        of every task has 10 % of its rows.
    random_state : int, SeedSequence, Generator or None, default=None
        Seed of all randomness; no global generator is touched. Under one seed, the kind, the strength and the number of
        outliers change only the labels of outliers; classification may draw anew, and then all labels change.

    Other Parameters
    ----------------
    strength : float, default=1.0
        s, from 0 (no outliers at all) to 1.
    common : float, default=0.9
        Weight of the common function, from 0 to 1.
    noise : float, default=0.0
        Standard deviation of the normal noise on all values, train and test, before classes are cut.

    Returns
    -------
    OutlierTasks
        Train and test rows, the names of the outliers, and the functions.

    Raises
    ------
    ValueError
        If a value is out of its range, a kind of outlier does not fit the target, or no draw out of 1000 has
        balanced classes; the message names the argument.

    References ---------- R-MTGB, arXiv 2507.11411: its synthetic setting. All kinds of outliers except the first, and
    the strength, are ours.

    Examples
    --------
    >>> from tabmtl.synth import make_outlier_tasks
    >>> data = make_outlier_tasks(random_state=0)
    >>> data.X.shape, data.X_test.shape, data.outliers
    ((3000, 6), (10000, 6), ('t8', 't9'))
    >>> X_val, y_val = data.draw(100, random_state=1)
    >>> bool((abs(data.signal(X_val) - y_val) < 1e-9).all())
    True
    """
    for name, value in (("n_train", n_train), ("n_features", n_features), ("n_tasks", n_tasks)):
        check_count(name, value, 1)
    check_count("n_test", n_test, 0)
    _check_outliers(n_outliers, n_tasks, outlier_kind, target)
    strength, common, noise = _numbers(**options)
    rng = np.random.default_rng(random_state)
    # Draws for some kinds of outliers only have their own stream: the rest is the same for every kind.
    extra = rng.spawn(2)[0]
    first = n_tasks - n_outliers
    mixes = [mix(outlier_kind, strength * (t >= first), common) for t in range(n_tasks)]
    rarest = _RAREST if target == "classification" else 0.0
    functions, x, values = _draw(partial(draw_tasks, mixes, (n_train + n_test, n_features), noise, rng, extra), rarest)
    for labels in values[first:, :n_train]:
        _damage(labels, outlier_kind, strength, extra)
    names = tuple(f"t{t:0{len(str(n_tasks - 1))}}" for t in range(n_tasks))
    X, y = _table(x[:, :n_train], values[:, :n_train], names, target, rng.permutation(n_tasks * n_train))
    X_test, y_test = _table(x[:, n_train:], values[:, n_train:], names, target, slice(None))
    return OutlierTasks(
        X=X,
        y=y,
        X_test=X_test,
        y_test=y_test,
        outliers=names[first:],
        functions=dict(zip(names, functions, strict=True)),
        target=target,
        noise=noise,
    )


def _draw(draw: Callable[[], Any], rarest: float) -> Any:
    """Draw tasks until the rarer class of each has a share of its rows: functions, features and values."""
    for _ in range(_ATTEMPTS):
        functions, x, values = draw()
        if add_functions(functions, x, values, rarest=rarest):
            return functions, x, values
    raise ValueError(
        f"target='classification': none of {_ATTEMPTS} draws gave both classes 10 % of the rows of every task; "
        "ask for fewer tasks, fewer features or more rows"
    )


def _check_outliers(n_outliers: int, n_tasks: int, outlier_kind: str, target: str) -> None:
    check_count("n_outliers", n_outliers, 0)
    if n_outliers >= n_tasks:
        raise ValueError(f"n_outliers must be below n_tasks={n_tasks}, got {n_outliers}")
    for name, value, known in (
        ("outlier_kind", outlier_kind, get_args(OutlierKind)),
        ("target", target, get_args(TargetKind)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if target == "classification" and outlier_kind in ("shifted", "noisy"):
        raise ValueError(f"outlier_kind={outlier_kind!r} is defined for target='regression' only")


def _numbers(*, strength: float = 1.0, common: float = 0.9, noise: float = 0.0) -> tuple[float, float, float]:
    for name, value in (("strength", strength), ("common", common)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a finite number >= 0, got {noise!r}")
    return strength, common, noise


def _damage(labels: np.ndarray, outlier_kind: OutlierKind, strength: float, rng: np.random.Generator) -> None:
    """Spoil the train labels of an outlier, in place, if its kind says so."""
    if outlier_kind == "noisy":
        labels += _LABEL_NOISE * strength * rng.standard_normal(len(labels))
    elif outlier_kind == "shuffled":
        moved = rng.permutation(len(labels))[: round(strength * len(labels))]
        labels[moved] = labels[rng.permutation(moved)]


def _table(
    x: np.ndarray, values: np.ndarray, names: tuple[str, ...], target: TargetKind, order: np.ndarray | slice
) -> tuple[pl.DataFrame, pl.Series]:
    tasks = np.repeat(np.arange(len(names)), values.shape[1])[order]
    columns = {f"x{j}": x[..., j].ravel()[order] for j in range(x.shape[2])}
    X = pl.DataFrame(columns).with_columns(pl.Series("task", names).gather(tasks))
    labels = values.ravel()[order]
    return X, pl.Series("y", labels if target == "regression" else (labels > 0).astype(np.int8))
