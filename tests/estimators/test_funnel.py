"""What all estimators of funnels do with a chain of tasks: labels, scores, files, and what they refuse."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone

from tabmtl import AITM, APEM, ESMM, TabmtlWarning, load
from tabmtl.synth import make_funnel
from tabmtl.targets import Task

CHAIN = ["click", "buy"]
FUNNELS = [ESMM, AITM, APEM]
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
def test_steps_may_be_text_whose_second_class_is_the_step_taken(cls):
    X, y = table()
    y = y.select(CHAIN)
    text = y.select(pl.col(CHAIN).replace_strict({0: "no", 1: "yes"}, return_dtype=pl.String))
    by_number, by_text = small(cls).fit(X, y), small(cls).fit(X, clicked_only(text.with_columns(y["click"])))
    assert by_text.tasks_[1].classes == ("no", "yes")
    assert equal(by_number.predict_proba(X), by_text.predict_proba(X))
    assert set(by_text.predict(X)["buy"]) <= {"no", "yes"}


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
def test_the_chain_is_saved(cls, tmp_path):
    X, y = table()
    y = y.select(CHAIN)
    model = small(cls).fit(X, y)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert list(again.task_chain) == CHAIN
    assert again.coder_.labels.chain == (0, 1)
    assert equal(model.predict_proba(X), again.predict_proba(X))
    assert again.score_tasks(X, clicked_only(y)) == model.score_tasks(X, y)


@every_funnel
def test_a_chain_changed_after_fit_changes_nothing(cls):
    X, y = table()
    model = small(cls, task_chain=["click", "cart", "buy"]).fit(X, y)
    before = model.predict_proba(X)
    model.set_params(task_chain=["cart", "click"])
    assert equal(before, model.predict_proba(X))
    assert clone(model).task_chain == ["cart", "click"]


@every_funnel
def test_row_weights_reach_the_settled_labels(cls):
    X, y = table()
    y = y.select(CHAIN)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(X))
    full = small(cls).fit(X, y, sample_weight=weight)
    assert equal(full.predict_proba(X), small(cls).fit(X, clicked_only(y), sample_weight=weight).predict_proba(X))
    assert not equal(full.predict_proba(X), small(cls).fit(X, y).predict_proba(X))


WRONG = {
    "unknown": (["click", "sale", "rent"], r"names tasks that y does not have: \['sale', 'rent'\]; the tasks are"),
    "twice": (["click", "buy", "click"], r"names tasks twice: \['click'\]; the tasks are \['click', 'cart',"),
    "one step": (["click"], r"task_chain must be a list of the names of two tasks or more, .* got \['click'\]"),
    "no step": ([], r"task_chain must be a list of the names of two tasks or more, .* got \[\]"),
    "text": ("click", r"task_chain must be a list of the names of two tasks or more, .* got 'click'"),
    "number": (5, r"task_chain must be a list of the names of two tasks or more, .* got 5"),
    "numbers": ([0, 1], r"task_chain must be a list of the names of two tasks or more, .* got \[0, 1\]"),
    "regression": (["click", "seconds"], r"must be binary tasks, got \{'seconds': 'regression'\}; leave them out"),
    "multiclass": (["click", "size"], r"must be binary tasks, got \{'size': 'multiclass'\}; leave them out"),
}


@pytest.mark.parametrize(("chain", "message"), WRONG.values(), ids=WRONG)
@every_funnel
def test_a_wrong_chain_is_named_and_leaves_the_estimator_as_it_was(cls, chain, message):
    X, y = table()
    model = small(cls).fit(X, y)
    said = model.predict_proba(X)
    model.set_params(task_chain=chain)
    before = dict(vars(model))
    if "size" in str(chain):
        y = y.with_columns(size=pl.Series(["s", "m", "l"]).gather(pl.int_range(len(y), eager=True) % 3))
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
    assert equal(said, model.predict_proba(X))


@every_funnel
def test_a_funnel_needs_all_labels_of_a_row_in_one_row(cls):
    X, _ = table()
    X = X.with_columns(step=pl.Series(CHAIN).gather(pl.int_range(len(X), eager=True) % 2))
    with pytest.raises(ValueError, match="task_chain needs all labels of a row in one row of y; leave out task_column"):
        small(cls, task_column="step").fit(X, pl.Series("label", [0, 1, 1, 0, 1] * 30))


@pytest.mark.parametrize("cls", [ESMM, AITM], ids=lambda cls: cls.__name__)
def test_towers_without_a_chain_say_that_they_need_one(cls):
    X, y = table()
    name = cls.__name__
    with pytest.raises(ValueError, match=rf"{name} needs task_chain, .* such as {name}\(task_chain=\['click', 'conv"):
        cls().fit(X, y)


@pytest.mark.parametrize("cls", [ESMM, AITM], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("params", [{"tower_hidden": ()}, {"tower_hidden": 8}, {"d_embedding": 0}], ids=str)
def test_sizes_of_towers_out_of_range_are_named(cls, params):
    X, y = table()
    with pytest.raises(ValueError, match=next(iter(params))):
        small(cls, **params).fit(X, y)


@pytest.mark.parametrize("cls", [ESMM, AITM, APEM])
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


def test_options_of_a_chain_without_one_are_refused():
    with pytest.raises(ValueError, match="name them by task_chain"):
        APEM(chain_loss="conditional").fit(np.zeros((4, 1)), np.array([0, 1, 0, 1]))
