"""What `benchmarks.stored_answers` stores of verbs that not all models have: those of networks, and of trees.

Networks of several members, or at all their balances, go on as the families do. They are cut, merged, distilled, given
other weights, and take new levels, classes and tasks. Trees are exported as plain LightGBM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import StandardScaler

import tabmtl
from benchmarks.stored_forms import FUNNELS, Arrays, Case, estimators, folder_of, joined, loaded, told
from benchmarks.stored_verbs import FAMILIES, Subject, answered, learned, verbs_of
from tabmtl.extras import merge, merge_front, prune
from tabmtl.testing import answers

#: Forms of models that are more than a family: their classes and parameters.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "SharedBottom of members": ("SharedBottom", {"n_members": 3}),
    "SharedTrees behind a preprocessor": (
        "SharedTrees",
        {"preprocessor": make_column_transformer((StandardScaler(), ["plain", "count"]), remainder="passthrough")},
    ),
    "IndependentTasks of LightGBM": ("IndependentTasks", {"families": ("lightgbm",)}),
}
CUT = ("SharedBottom", "MMoE", "PLE")


def begins_warm(name: str) -> Arrays:
    """Fit again from what the last fit has learned."""
    subject = Subject(name, params={"warm_start": True})
    model = loaded(folder_of(subject.fitted)).set_params(warm_start=True)
    return answered(model.fit(*subject.rows(200, 1)), subject) | told(model)


def goes_on_from_a_file(name: str) -> Arrays:
    """Go on from a file."""
    subject = Subject(name)
    model = loaded(folder_of(subject.fitted)).partial_fit(*subject.rows(200, 1))
    return answered(model, subject) | told(model)


def widens(name: str) -> Arrays:
    """Go on with new levels, new classes and weights of rows."""
    subject = Subject(name, "varied")
    X, y = subject.rows(200, 1)
    is_new = pl.Series(np.arange(200) % 5 == 0)
    X = X.with_columns(text=pl.when(is_new).then(pl.lit("violet")).otherwise("text"), item=pl.col("item") + is_new)
    y = y.with_columns(size=pl.when(is_new).then(pl.lit("huge")).otherwise("size"))
    model = subject.copy().partial_fit(X, y, sample_weight=np.linspace(0.5, 1.5, 200))
    return joined(answers=answers(model, subject.rows(150, 3)[0]), new=answers(model, X))


def takes_tasks(name: str) -> Arrays:
    """Add tasks, and train on all; part with one, and go on."""
    subject, found = Subject(name), Arrays()
    X, y = subject.new_task()
    model = subject.copy().add_task(X, y)
    found |= joined(head=answered(model, subject) | told(model))
    model = subject.copy().add_task(X, y.with_columns(delay=X["plain"]), freeze=None)
    found |= joined(thawed=answered(model, subject))
    model = subject.copy().add_task(X, y).remove_task("price")
    more, labels = subject.rows(100, 4)
    model.partial_fit(more, labels.with_columns(dear=more["plain"] > 0))
    return found | joined(onward=answered(model, subject), history=model.history_)


def is_pruned(name: str) -> Arrays:
    """Prune a network, go on with what is left, and save it."""
    subject = Subject(name)
    smaller = prune(subject.fitted, *subject.rows(200, 1), keep=0.6, floor=0.05)
    found = joined(pruned=answered(smaller, subject) | told(smaller))
    onward = loaded(folder_of(smaller)).partial_fit(*subject.rows(100, 2))
    return found | joined(onward=answered(onward, subject))


def is_merged(name: str) -> Arrays:
    """Merge networks that were tuned on from one, each for some tasks, and search the front of such."""
    subject = Subject(name)
    base, (X, y) = subject.fitted, subject.rows(200, 1)
    tuned = []
    for i, task in enumerate(("delay", "size")):
        labels = y.with_columns(pl.lit(None, dtype=y[own].dtype).alias(own) for own in y.columns if own != task)
        tuned.append(subject.copy().set_params(warm_start=True, random_state=i).fit(X, labels))
    other, labels = subject.rows(150, 3)
    ways: dict[str, dict[str, Any]] = {"average": {}, "arithmetic": {"method": "task_arithmetic", "scale": [0.5, 0.3]}}
    found = {way: answered(merge(base, tuned, X=X, **options), subject) for way, options in ways.items()}
    front = merge_front(base, tuned, other, labels, n_points=8, n_front=2, random_state=0)
    return joined(**found, front=front)


def is_distilled(name: str) -> Arrays:
    """Distil a model to a network, which then goes on and is saved; a long table's too."""
    found: Arrays = {}
    for table in ("wide", "long"):
        subject = Subject(name, table)
        X, _ = subject.rows(300, 1)
        network = Subject("SharedBottom", table).fresh()
        student = tabmtl.distill(subject.fitted, X, network=network, random_state=0)
        onward = loaded(folder_of(student)).partial_fit(*subject.rows(100, 2))
        found |= joined(**{table: answered(student, subject) | told(student) | joined(on=answered(onward, subject))})
    return found


def has_other_weights(name: str) -> Arrays:
    """Take other weights, with and without rows that settle statistics."""
    subject = Subject(name)
    model, X = subject.fitted, subject.rows(100, 1)[0]
    weights = {key: (own * 0.9).astype(own.dtype) for key, own in model.weights_.items()}
    return joined(
        plain=answered(model.with_weights(weights), subject), settled=answered(model.with_weights(weights, X), subject)
    )


def weighs_history(name: str) -> Arrays:
    """Return the weights of the entries of histories, read by attention and by their mean, and go on with them."""
    found: Arrays = {}
    for pooling in ("attention", "mean"):
        subject = Subject(name, "varied", {"sequence_pooling": pooling})
        model = subject.copy()
        found |= joined(**{pooling: model.history_weights(subject.rows(100, 1)[0])})
        found |= joined(**{f"{pooling} onward": answered(model.partial_fit(*subject.rows(100, 2)), subject)})
    return found


def is_exported(name: str) -> Arrays:
    """Export the trees of every task as LightGBM's text, and encode rows for them; a long table's too."""
    found: Arrays = {}
    for table in ("wide", "long"):
        subject = Subject(name, table)
        model, (X, _) = subject.fitted, subject.rows(100, 1)
        boosters = {task.name: model.export_task(task.name) for task in model.tasks_}
        found |= joined(**{f"{table} rows": model.encode(X)})
        for task, booster in boosters.items():
            text, said = booster.model_to_string().encode(), booster.predict(model.encode(X), num_threads=1)
            found |= joined(**{f"{table} {task}": {"text": text, "answers": said}})
    return found


def lends_boosters() -> Arrays:
    """Return the text of the trees that IndependentTasks has of each task, and what they answer."""
    subject = Subject("IndependentTasks", params={"families": ("lightgbm",)})
    model = subject.fitted
    rows = model.encode(subject.rows(100, 1)[0])
    texts = {task: own.model_to_string().encode() for task, own in model.estimators_.items()}
    said = {task: own.predict(rows, num_threads=1) for task, own in model.estimators_.items()}
    return joined(texts=texts, answers=said, rows=rows)


def is_inspected(name: str) -> Arrays:
    """Return the importances of features, by shuffled rows."""
    subject = Subject(name)
    X, y = subject.rows(150, 1)
    return joined(of=tabmtl.permutation_importances(subject.fitted, X, y, n_repeats=2, random_state=0))


def is_balanced(**params: Any) -> Arrays:
    """Join the losses of tasks in another way, and go on."""
    subject = Subject("MMoE", params=params)
    model = deepcopy(subject.fitted)
    found = told(model)
    return found | joined(onward=answered(model.partial_fit(*subject.rows(100, 1)), subject))


#: Cases of a model by what is done, and the models.
OF_MODELS: dict[Callable[[str], Arrays], tuple[str, ...]] = {
    begins_warm: ("SharedBottom", "MMoE"),
    goes_on_from_a_file: ("SharedBottom", "MultiTabNet"),
    widens: ("SharedBottom", "MMoE", "MultiTabNet"),
    takes_tasks: ("SharedBottom", "MMoE"),
    is_pruned: CUT,
    is_merged: ("SharedBottom", "MMoE"),
    is_distilled: ("SharedTrees",),
    has_other_weights: ("SharedBottom", "HoME"),
    weighs_history: ("SharedBottom", "MMoE"),
    is_exported: ("SharedTrees", "RMTGB"),
    is_inspected: ("SharedBottom", "RMTGB"),
}


def cases() -> Iterator[tuple[str, Case]]:
    """Yield the cases of networks and of trees by name."""
    for name in estimators():
        if name not in (*FAMILIES, *FUNNELS):
            some = verbs_of(Subject(name), ("goes on", "tasks", "asked", "learned"))
            yield from ((f"network: {name} {verb}", case) for verb, case in some.items())
    for form, (name, params) in FORMS.items():
        some = verbs_of(Subject(name, params=params), ("goes on", "tasks", "decides", "asked", "learned"))
        yield from ((f"form: {form} {verb}", case) for verb, case in some.items())
    for do, names in OF_MODELS.items():
        yield from ((f"verb: {name} {do.__name__.replace('_', ' ')}", partial(do, name)) for name in names)
    yield "verb: IndependentTasks lends boosters", lends_boosters
    yield "balance: weights", partial(is_balanced, balance=(1.0, 2.0, 0.5))
    yield "learned: APEM on a wide table", partial(learned, Subject("APEM"))
