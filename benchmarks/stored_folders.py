"""What `benchmarks.stored_answers` stores of files: folders of models, which a later check loads again.

The bytes of every file of a folder are stored beside what the model answers that is loaded from it. A check writes them
out, loads them, and asks the same: whether a model that was saved before a change is loaded after it, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from benchmarks import stored_sessions, stored_verbs
from benchmarks.stored_forms import FILES, FUNNELS, Arrays, folder_of, joined, loaded, recommenders, told
from benchmarks.stored_networks import FORMS
from benchmarks.stored_verbs import FAMILIES
from tabmtl import distill
from tabmtl.extras import prune
from tabmtl.testing import answers


@dataclass(frozen=True, eq=False)
class Folder:
    """A model whose folder is stored, and what it is asked when it is loaded."""

    model: Callable[[], Any]
    ask: Callable[[Any], Arrays]

    def __call__(self) -> Arrays:
        """Save the model, and return the files of its folder, and what the loaded one answers."""
        files = folder_of(self.model())
        kept = {FILES + name: np.frombuffer(content, dtype=np.uint8) for name, content in files.items()}
        return kept | self.ask(loaded(files))

    def again(self, stored: Mapping[str, np.ndarray]) -> Arrays:
        """Load stored files, and return them with what the model answers now."""
        files = {name: content for name, content in stored.items() if name.startswith(FILES)}
        return files | self.ask(loaded({name.removeprefix(FILES): content for name, content in files.items()}))


def table_answers(subject: stored_verbs.Subject, model: Any) -> Arrays:
    """Ask a model of tables for many rows and for one, what it has told, and what it answers after it has gone on."""
    X, y = subject.rows(150, 3)
    y = grown_labels(X, y) if "price" in [task.name for task in model.tasks_] else y
    found = joined(answers=answers(model, X), single=answers(model, X[:1]), scores=model.score_tasks(X, y))
    found |= told(model) | joined(drift=model.drift(X))
    if hasattr(model, "partial_fit"):
        found |= joined(onward=answers(model.partial_fit(X, y), X))
    return found


def decided_answers(subject: stored_verbs.Subject, model: Any) -> Arrays:
    """Ask a model that has learned decisions for its intervals too."""
    X, _ = subject.rows(150, 3)
    found = joined(intervals=model.predict_interval(X, level=0.8), joint=model.predict_interval(X, joint=True))
    return found | table_answers(subject, model)


def list_answers(model: Any) -> Arrays:
    """Ask a recommender for its lists, what it has told, and what it lists after it has gone on."""
    found = stored_sessions.lists(model) | told(model)
    return found | joined(onward=stored_sessions.lists(model.partial_fit(stored_sessions.log().new)))


def grown_labels(X: pl.DataFrame, y: pl.DataFrame) -> pl.DataFrame:
    """Return labels of the tasks that a model has which has grown."""
    return y.drop("size").with_columns(price=X["plain"] + X["count"], dear=X["count"] > 30)


def grown(subject: stored_verbs.Subject) -> Any:
    """Return a model that has taken tasks, has parted with one, and has gone on."""
    model = subject.copy().add_task(*subject.new_task()).remove_task("size")
    X, y = subject.rows(100, 1)
    return model.partial_fit(X, grown_labels(X, y))


def pruned(subject: stored_verbs.Subject) -> Any:
    """Return a model without some of its units."""
    return prune(subject.fitted, *subject.rows(200, 1), keep=0.6, floor=0.05)


def decided(subject: stored_verbs.Subject) -> Any:
    """Return a model that has learned calibrators, thresholds and intervals."""
    X, y = subject.rows(200, 1)
    return subject.copy().calibrate(X, y, method="isotonic").tune_thresholds(X, y).conformalize(X, y)


def student(subject: stored_verbs.Subject) -> Any:
    """Return a network that has learned the answers of trees."""
    teacher = stored_verbs.Subject("SharedTrees", subject.table)
    return distill(teacher.fitted, subject.rows(300, 1)[0], network=subject.fresh(), random_state=0)


def cases() -> Iterator[tuple[str, Folder]]:
    """Yield the folders of all models by name."""
    tables: dict[str, tuple[str, str, dict[str, Any]]] = {name: (name, "wide", {}) for name in FAMILIES}
    tables |= {form: (name, "wide", params) for form, (name, params) in FORMS.items()}
    tables |= {f"{name} of a long table": (name, "long", {}) for name in FAMILIES[:4]}
    tables |= {f"{name} of a funnel": (name, "funnel", {}) for name in FUNNELS}
    tables |= {f"{name} of dates and lists": (name, "varied", {}) for name in ("SharedBottom", "SharedTrees")}
    for form, options in tables.items():
        subject = stored_verbs.Subject(*options)
        yield f"folder: {form}", Folder(subject.copy, partial(table_answers, subject))
    network = stored_verbs.Subject("SharedBottom")
    yield "folder: SharedBottom that has grown", Folder(partial(grown, network), partial(table_answers, network))
    yield "folder: SharedBottom that was pruned", Folder(partial(pruned, network), partial(table_answers, network))
    yield "folder: SharedBottom that was distilled", Folder(partial(student, network), partial(table_answers, network))
    for name in ("SharedBottom", "SharedTrees", "IndependentTasks"):
        subject = stored_verbs.Subject(name)
        yield f"folder: {name} with decisions", Folder(partial(decided, subject), partial(decided_answers, subject))
    for name in recommenders():
        yield f"folder: {name}", Folder(stored_sessions.Subject(name).copy, list_answers)
