"""What all estimators of funnels do with a chain of tasks: labels, scores, files, and what they refuse."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone

from tabmtl import AITM, APEM, ESMM, TabmtlWarning
from tabmtl.synth import make_funnel
from tabmtl.targets import Task

CHAIN = ["click", "buy"]
TOWERS = [ESMM, AITM]
FUNNELS = [*TOWERS, APEM]
every_funnel = pytest.mark.parametrize("cls", FUNNELS, ids=lambda cls: cls.__name__)


def small(cls, **params):
    """A tiny estimator of a funnel."""
    sizes = {"d_pattern": 8, "n_groups": 2} if cls is APEM else {"tower_hidden": (8, 4)}
    common = {"task_chain": CHAIN, "epochs": 2, "batch_size": 64, "d_embedding": 4, "device": "cpu"}
    return cls(**(sizes | common | {"n_jobs": 1, "random_state": 0} | params))


def table(n: int = 150, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features, and click, cart and buy (each only after the one before) and the seconds of a visit."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    taken = (x[:, :1] + rng.normal(size=(n, 3)) > [-0.3, -1, -1]).cumprod(axis=1)
    X = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "device": pl.Series(["phone", "web"]).gather(rng.integers(0, 2, n))})
    y = {name: taken[:, k].astype(np.int8) for k, name in enumerate(["click", "cart", "buy"])}
    return X, pl.DataFrame(y | {"seconds": rng.gamma(2, 5, n)})


def clicked_only(y: pl.DataFrame) -> pl.DataFrame:
    """The same labels as a log that follows clicks alone has them."""
    return y.with_columns(pl.when(pl.col("click") == 1).then("buy"))


def equal(first, second) -> bool:
    """Whether probabilities of all tasks are equal bit for bit."""
    return all(np.array_equal(first[name], second[name]) for name in first)


@every_funnel
def test_a_conversion_missing_without_click_is_a_0_in_fit_and_scores(cls):
    (X, y), (X_val, y_val) = table(), table(seed=1)
    y, y_val = y.select(CHAIN), y_val.select(CHAIN)
    full = small(cls).fit(X, y, X_val=X_val, y_val=y_val)
    partly = small(cls).fit(X, clicked_only(y), X_val=X_val, y_val=clicked_only(y_val))
    assert equal(full.predict_proba(X_val), partly.predict_proba(X_val))
    assert full.history_.equals(partly.history_)
    assert full.score_tasks(X_val, y_val) == partly.score_tasks(X_val, clicked_only(y_val))
    assert partly.score_intervals(X_val, clicked_only(y_val))["n_labelled"].to_list() == [len(X_val)] * 2
    assert partly.predict(X).schema == clicked_only(y).schema


@every_funnel
def test_rows_against_the_order_are_said_in_fit_and_in_scores(cls):
    X, y = table()
    y = y.select(CHAIN)
    wrong = y.with_columns(buy=pl.when(pl.int_range(len(y)) < 40).then(1).otherwise("buy").cast(pl.Int8))
    n = int(((wrong["click"] == 0) & (wrong["buy"] == 1)).sum())
    with pytest.warns(TabmtlWarning, match=f"{n} of 150 rows have buy=1 although click=0"):
        model = small(cls).fit(X, wrong)
    with pytest.warns(TabmtlWarning, match=f"{n} of 150 rows"):
        scores = model.score_tasks(X, wrong)
    mended = wrong.with_columns(pl.col("buy") * pl.col("click"))
    assert scores == model.score_tasks(X, mended)
    assert equal(model.predict_proba(X), small(cls).fit(X, mended).predict_proba(X))


@every_funnel
def test_a_log_of_conversions_alone_needs_declared_classes(cls):
    X, y = table()
    ones = y.select("click", pl.when(pl.col("buy") == 1).then("buy"))
    with pytest.raises(ValueError, match=r"task 'buy' has only one class, 1, .* declare its classes"):
        small(cls).fit(X, ones)
    model = small(cls, tasks={"buy": Task(name="buy", kind="binary", classes=(0, 1))}).fit(X, ones)
    assert model.predict_proba(X)["buy"].shape == (150, 2)


@every_funnel
def test_a_chain_of_three_in_any_order_of_columns(cls):
    X, y = table()
    y = y.select("buy", "seconds", "cart", "click")
    model = small(cls, task_chain=["click", "cart", "buy"]).fit(X, y)
    assert model.coder_.labels.chain == (3, 2, 0)
    proba = model.predict_proba(X)
    assert list(proba) == ["buy", "cart", "click"]
    if cls is not AITM:
        assert (proba["buy"][:, 1] <= proba["cart"][:, 1]).all()
        assert (proba["cart"][:, 1] <= proba["click"][:, 1]).all()
    assert model.predict(X)["seconds"].dtype == pl.Float64


@every_funnel
def test_a_chain_changed_after_fit_changes_nothing(cls):
    X, y = table()
    model = small(cls, task_chain=["click", "cart", "buy"]).fit(X, y)
    before = model.predict_proba(X)
    model.set_params(task_chain=["cart", "click"])
    assert equal(before, model.predict_proba(X))
    assert clone(model).task_chain == ["cart", "click"]


FEW = "task_chain must be a list of the names of two tasks or more, .* got "
WRONG = [
    (FUNNELS, {"task_chain": ["click", "sale", "rent"]}, r"y does not have: \['sale', 'rent'\]; y has"),
    (FUNNELS, {"task_chain": ["click", "buy", "click"]}, r"tasks twice: \['click'\]; the tasks are \['click', 'cart',"),
    (FUNNELS, {"task_chain": ["click", "seconds"]}, r"binary tasks, got \{'seconds': 'regression'\}; leave them out"),
    (FUNNELS, {"task_chain": ["click", "size"]}, r"binary tasks, got \{'size': 'multiclass'\}; leave them out"),
    *((FUNNELS, {"task_chain": chain}, FEW + re.escape(repr(chain))) for chain in (["click"], [], "click", 5, [0, 1])),
    (FUNNELS, {"task_column": "device", "task_chain": ["phone", "web"]}, "one row of y; leave out task_column"),
    (
        TOWERS,
        {"task_chain": None},
        r"(ESMM|AITM) needs task_chain, .* such as \1\(task_chain=\['click', 'conv",
    ),
    *((TOWERS, {name: value}, name) for name, value in (("tower_hidden", ()), ("tower_hidden", 8), ("d_embedding", 0))),
    ([APEM], {"task_chain": None, "chain_loss": "conditional"}, "name them by task_chain"),
]


@pytest.mark.parametrize(("classes", "params", "message"), WRONG)
def test_wrong_parameters_of_a_funnel_are_named(classes, params, message):
    X, y = table()
    y = y.with_columns(size=pl.Series(["s", "m", "l"]).gather(pl.int_range(len(y), eager=True) % 3))
    for cls in classes:
        with pytest.raises(ValueError, match=message):
            small(cls, **params).fit(X, y["click"] if "task_column" in params else y)


@every_funnel
def test_text_classes_that_nobody_ordered_are_refused(cls):
    log = make_funnel(300, click_rate=0.3, conversion_rate=0.1, random_state=0)
    words = log.y["conversion"].replace_strict({0: "none", 1: "bought"}, return_dtype=pl.String)
    y = log.y.select("click", conversion=words)
    with pytest.raises(ValueError, match=r"which of \['bought', 'none'\] means that the step 'conversion' was taken"):
        cls(task_chain=["click", "conversion"], epochs=1).fit(log.X, y)
    declared = Task(name="conversion", kind="binary", classes=("none", "bought"))
    model = cls(task_chain=["click", "conversion"], tasks={"conversion": declared}, epochs=1, random_state=0)
    numbers = cls(task_chain=["click", "conversion"], epochs=1, random_state=0).fit(log.X, log.y.select(y.columns))
    assert equal(model.fit(log.X, y).predict_proba(log.X), numbers.predict_proba(log.X))
