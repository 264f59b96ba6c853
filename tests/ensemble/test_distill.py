"""distill: one network answers like its teacher, in the teacher's containers, and learned from no label."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
import torch
from conformance import CANDIDATES, answers, features, mixed_targets, same, tiny
from models_at_hand import fitted
from sklearn.base import clone

from tabmtl import (
    ESMM,
    MMoE,
    SharedBottom,
    SharedBottomClassifier,
    SharedBottomRegressor,
    SharedTrees,
    SharedTreesClassifier,
    SharedTreesRegressor,
    TabmtlWarning,
    distill,
)
from tabmtl.encode.labels import LabelCoder
from tabmtl.ensemble.distill import _default_network
from tabmtl.estimators.distillation import DistillationLoss, _targets
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.metrics.scores import mean_score


@pytest.fixture(scope="module")
def taught():
    """Fit a teacher, which is to be left as it is, and return its rows with it."""
    X = features()
    return tiny(SharedTrees).fit(X, mixed_targets(X)), X


def student_of(teacher, X, cls=SharedBottom, **params):
    return distill(teacher, X, network=tiny(cls, **params), random_state=0)


class Truth:
    """What answers for every row by its columns a and b."""

    def answer(self, rows, labels, how, X, places=None):
        a, b = X["a"].to_numpy(), X["b"].to_numpy()
        p = 1 / (1 + np.exp(-2 * a * b))
        three = np.exp(np.column_stack([a, b, -a - b]))
        return [50 + 9 * a * np.abs(b), np.column_stack([1 - p, p]), three / three.sum(axis=1, keepdims=True)]


class Constant:
    """What answers the same for all rows."""

    def __init__(self, *answers):
        self.answers = answers

    def answer(self, rows, labels, how, X, places=None):
        return [np.repeat(np.array([answer]), len(rows), axis=0) for answer in self.answers]


@dataclass(kw_only=True, eq=False, repr=False)
class Rule(MultiTaskEstimator):
    """Teacher that knows the truth."""

    def _fit(self, coder, rows, valid, seed):
        return {"_fitted": Truth()}


def drawn(n, seed):
    """Rows, and labels drawn by the answers of `Rule`."""
    rng = np.random.default_rng(seed)
    X = pl.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n)})
    value, two, three = Truth().answer(None, None, None, X)
    size = np.array([*"lms"])[(three.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)]
    return X, pl.DataFrame({"value": value + 9 * rng.normal(size=n), "late": rng.random(n) < two[:, 1], "size": size})


@pytest.mark.all_faces
def test_a_student_is_nearer_to_its_teacher_than_a_network_of_the_labels():
    X, y = drawn(300, 0)
    X_new, y_new = drawn(2_000, 1)
    teacher = Rule().fit(X, y)
    options = {"learning_rate": 1e-2, "patience": 4, "restarts": 0, "random_state": 0, "device": "cpu"}
    network = SharedBottom(hidden=(48, 24), head_hidden=8, **options)
    more, _ = drawn(900, 2)  # unlabelled
    student = distill(teacher, pl.concat([X, more]), network=network, random_state=0)
    models = teacher, student, network.fit(X, y), clone(CANDIDATES["alone"]).fit(X, y)
    best, found, of_labels, alone = (mean_score(one.score_tasks(X_new, y_new)) for one in models)
    trivial = (0 + 0.5 + 0.5) / 3
    assert found > best - 0.01
    assert found > max(of_labels, alone) + 0.01 > trivial + 0.1


def test_the_mean_answer_is_at_distance_one_and_the_teachers_own_at_zero():
    X, y = drawn(400, 0)
    labels = LabelCoder.fit(y)
    outputs = Truth().answer(None, None, None, X)
    labels = labels.scaled(outputs)
    targets = torch.from_numpy(_targets(labels, outputs))
    assert targets.shape == (400, 1 + 1 + 3)
    loss = DistillationLoss(labels, targets.numpy())
    own = [targets[:, :1], targets[:, 1:2].logit(), targets[:, 2:].log()]
    assert loss(own, targets).tolist() == pytest.approx([0, 0, 0], abs=1e-2)
    mean = [targets[:, :1].mean(), targets[:, 1:2].mean().logit(), targets[:, 2:].mean(dim=0).log()]
    constant = [part.expand(400, width) for part, width in zip(mean, (1, 1, 3), strict=True)]
    assert loss(constant, targets).tolist() == pytest.approx([400, 400, 400], rel=1e-3)
    members = [torch.stack([one, two], dim=1) for one, two in zip(own, constant, strict=True)]
    assert loss(members, targets).tolist() == pytest.approx([200, 200, 200], rel=1e-3)


@pytest.mark.parametrize("rate", [0.03, 0.0])
def test_constant_probabilities_are_learned_and_leave_the_losses_finite(rate):
    X, y = drawn(120, 0)
    teacher = Rule().fit(X, y)
    two, three = [0.8, 0.2], [0.6, 0.3, 0.1]
    teacher._model = replace(teacher._model, fitted=Constant(3.0, two, three))
    student = student_of(teacher, X, epochs=40 if rate else 2, learning_rate=rate, dropout=0.0, average_decay=0.9)
    assert student.history_["train/late/loss"].is_between(0, 1).all()
    assert student.predict(X)["value"].is_between(1, 5).all()
    if rate:
        found = student.predict_proba(X)
        assert found["late"].mean(axis=0) == pytest.approx(two, abs=0.03)
        assert found["size"].mean(axis=0) == pytest.approx(three, abs=0.03)


@pytest.mark.parametrize("container", ["polars", "pandas", "lazy"])
def test_answers_mirror_the_teacher(container):
    X = features()
    y = mixed_targets(X)
    given = {"polars": X, "pandas": X.to_pandas(), "lazy": X.lazy()}[container]
    teacher = tiny(SharedTrees).fit(given, y.to_pandas() if container == "pandas" else y)
    student = student_of(teacher, given)
    expected, found = teacher.predict(X), student.predict(X)
    assert type(found) is type(expected)
    assert list(found.columns) == list(expected.columns)
    assert list(found.dtypes) == list(expected.dtypes)
    assert student.tasks_ == teacher.tasks_
    assert student.score_tasks(X, y).keys() == teacher.score_tasks(X, y).keys()


def test_arrays_and_text_without_names_are_read():
    X = features().to_numpy().astype(object)
    y = np.random.default_rng(0).normal(size=(len(X), 2))
    student = student_of(tiny(SharedTrees).fit(X, y), X)
    assert student.predict(X).shape == y.shape
    assert not hasattr(student, "feature_names_in_")


def test_a_teacher_of_one_face_has_a_student_of_that_face():
    X = features()
    y = mixed_targets(X)
    classifier = tiny(SharedTreesClassifier).fit(X, y[["late", "size"]])
    student = _default_network(classifier)
    assert type(student) is SharedBottomClassifier
    assert (student.n_members, student.dropout) == (1, 0)
    assert type(_default_network(tiny(SharedTreesRegressor).fit(X, y[["delay"]]))) is SharedBottomRegressor
    found = student_of(classifier, X, SharedBottomClassifier).predict_proba(X)
    assert [p.shape for p in found] == [p.shape for p in classifier.predict_proba(X)]
    with pytest.raises(
        ValueError, match=r"SharedBottomRegressor, whose every task is a regression.*take SharedBottomCla"
    ):
        student_of(classifier, X, SharedBottomRegressor)


def test_a_long_table_is_distilled_by_the_tasks_of_its_rows():
    teacher, X, y = fitted(SharedTrees, "long")
    student = student_of(teacher, X, MMoE)
    assert student.task_column == "school"
    assert student.predict(X).shape == y.shape
    assert student.score_tasks(X, y).keys() == teacher.score_tasks(X, y).keys()


def test_the_network_shows_its_progress_and_ends_in_time(taught, capsys):
    with pytest.warns(TabmtlWarning, match=r"cut short the fit, which took .* seconds: epoch 1 of 9\."):
        student = student_of(*taught, epochs=9, verbose=1, time_limit=1e-3)
    assert student.history_.height == 1
    assert capsys.readouterr().out.startswith("SharedBottom  epoch 1/9  val loss ")


def test_the_seed_decides_and_teacher_and_network_stay_as_they_are(taught):
    teacher, X = taught
    network = tiny(SharedBottom)
    before = answers(teacher, X)
    one, two = (distill(teacher, X, network=network, random_state=3) for _ in range(2))
    assert same(answers(one, X), answers(two, X))
    assert same(answers(teacher, X), before)
    assert not hasattr(network, "weights_")
    other = distill(teacher, X, network=network, random_state=4)
    assert not np.array_equal(other.predict(X)["delay"], one.predict(X)["delay"])


def test_dropped_columns_and_roles_of_columns_are_the_teachers():
    X = features().with_columns(id=pl.int_range(pl.len()), code=pl.int_range(pl.len()) % 3)
    teacher = tiny(SharedTrees, columns={"id": "ignore", "text": "category", "code": "category"}).fit(
        X, mixed_targets(X)
    )
    student = student_of(teacher, X.drop("id"))
    assert student.columns["id"] == "ignore"
    assert student.coder_.features.columns.categorical == teacher.coder_.features.columns.categorical


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (SharedTrees(), TypeError, "network must be a network of this package.*SharedTrees"),
        (ESMM(task_chain=("late", "size")), ValueError, "ESMM has a loss of its own"),
        (SharedBottom(monitor="none"), ValueError, "monitor must be 'mean' or a task"),
        (SharedBottom(epochs=0), ValueError, "epochs"),
        (None, ValueError, "feature names"),
    ],
)
def test_networks_and_columns_that_do_not_fit_are_refused(taught, network, error, message):
    teacher, X = taught
    with pytest.raises(error, match=message):
        distill(teacher, X if network else X.rename({X.columns[0]: "other"}), network=network)
