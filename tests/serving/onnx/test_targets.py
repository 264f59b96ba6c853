"""Exported networks of every kind of targets, and the decisions that their files hold."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from exported import exported
from scipy.special import expit

from tabmtl import SharedBottom, SharedTrees, Task
from tabmtl.serving.onnx import OnnxCoder
from tabmtl.serving.onnx.coder import describe_encoding
from tabmtl.targets.poisson import Poisson
from tabmtl.testing import features, mixed_targets, same

pytest.importorskip("onnxscript")


@dataclass(frozen=True)
class Rate(Poisson):
    """A kind of somebody else."""

    name = "rate"


rng = np.random.default_rng(0)
N = 600
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N), "c": rng.integers(0, 3, N)})
RATE = np.exp(0.5 + 0.8 * X["a"].to_numpy())
GRADES = ("poor", "fair", "good", "great")
GRADE = (rng.random((N, 1)) < expit(2 * X["a"].to_numpy()[:, None] - [-1.5, 0.0, 2.0])).sum(axis=1)
DELAY = 2 * X["a"] + np.exp(0.3 * X["b"].to_numpy()) * rng.normal(size=N)
Y = pl.DataFrame(
    {
        "visits": rng.poisson(RATE),
        "claim": rng.gamma(4.0, RATE / 4),
        "spend": rng.poisson(RATE) * rng.gamma(4.0, 1 / 4, N),
        "height": 2 * X["a"] + np.where(rng.random(N) < 0.05, 40, 0.5) * rng.normal(size=N),
        "delay": DELAY,
        "levels": DELAY,
    }
)
NUMBERS = {"visits": "poisson", "claim": "gamma", "spend": "tweedie:1.6", "height": "huber:0.2"}
NUMBERS |= {"delay": "quantile:0.8", "levels": "quantiles:0.2:0.8"}


def outputs_of(model, path, kinds=()):
    """Return what ONNX Runtime answers, and as predictions."""
    session = exported(model, path / "model.onnx")
    coder = OnnxCoder(session, kinds=kinds)
    found = session.run(None, coder.encode(X))
    return found, coder.decode(found)


@pytest.mark.all_faces
def test_numbers_are_exported(tmp_path):
    model = tiny(SharedBottom, tasks=NUMBERS, n_members=2).fit(X, Y)
    outputs, found = outputs_of(model, tmp_path)
    np.testing.assert_allclose(outputs[-1], model.predict_quantiles(X), rtol=1e-4, atol=1e-4)
    for task in Y.columns[:-1]:
        np.testing.assert_allclose(found[task], model.predict(X)[task], rtol=1e-4, atol=1e-4)


@pytest.mark.all_faces
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("ordinal", pl.Series("grade", np.array(GRADES)[GRADE], dtype=pl.Enum(GRADES))),
        ("focal:2.0", pl.Series("late", GRADE > 1)),
    ],
)
def test_classes_are_exported(kind, labels, tmp_path):
    y = pl.DataFrame([labels, Y["delay"]])
    model = tiny(SharedBottom, tasks={labels.name: kind}, n_members=2).fit(X, y)
    outputs, found = outputs_of(model, tmp_path)
    np.testing.assert_allclose(outputs[0], model.predict_proba(X)[labels.name], atol=1e-5)
    assert found[labels.name].equals(model.predict(X)[labels.name])


@pytest.mark.all_faces
def test_a_kind_of_ones_own_is_exported(tmp_path):
    model = tiny(SharedBottom, tasks=[Task(name="visits", kind=Rate())]).fit(X, Y)
    _, found = outputs_of(model, tmp_path, [Rate])
    np.testing.assert_allclose(found["visits"], model.predict(X)["visits"], rtol=1e-4)


def coder_of(model):
    """Return the coder of the file that a network with the same coder would export."""
    text = describe_encoding("SharedBottom", model.coder_)
    return OnnxCoder(SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={"tabmtl": text})))


def test_the_metadata_of_an_exported_network_hold_the_decisions():
    X, new = features(), features(200, seed=1)
    trees = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0)
    model, new_y = trees.fit(X, mixed_targets(X)), mixed_targets(new)
    costs = {("late", "on time"): 1.0, ("on time", "late"): 30.0}
    model.calibrate(new, new_y, tasks="late").tune_thresholds(new, new_y, costs=costs, tasks="late")
    model.conformalize(new, new_y)
    raw = model._model.answer(model._read_rows(X), model, X)
    assert not all(map(same, raw, model.__answers__(X)))
    assert all(map(same, coder_of(model).answers(raw), model.__answers__(X)))
    assert coder_of(model).decode(raw).equals(model.predict(X))


def test_so_do_those_of_a_long_table():
    X = features(900).with_columns(school=np.array(["east", "north", "west"])[rng.integers(0, 3, 900)])
    y = pl.Series("passed", np.where(X["plain"].to_numpy() + rng.normal(size=900) > 0, "yes", "no"))
    model = SharedTrees(n_estimators=5, n_estimators_task=5, task_column="school", random_state=0).fit(X[:450], y[:450])
    plain = model.__answers__(X)[0]
    model.calibrate(X[450:], y[450:], tasks=["north", "west"])
    model.tune_thresholds(X[450:], y[450:], costs={"west": {("yes", "no"): 30.0, ("no", "yes"): 1.0}})
    inputs = {"task": model._read_rows(X).task}
    assert coder_of(model).decode([plain], inputs).equals(model.predict(X))
    with pytest.raises(ValueError, match="decisions of 'passed' differ by task"):
        coder_of(model).decode([plain])
