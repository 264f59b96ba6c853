"""A verb from outside of the package: a function from a model to a model, for every family, in one file."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from conformance import features, mixed_targets, tiny

import tabmtl
from tabmtl import RMTGB, IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.estimators.model import Over


@dataclass(frozen=True, eq=False)
class Tempered(Over):
    """Draws probabilities towards equal ones, and values towards the mean of the labels."""

    name: ClassVar[str] = "tempered"
    factor: float

    def change(self, answers, labels, task):
        found = []
        for task, answer, center in zip(labels.column_tasks, answers, labels.center, strict=True):
            if task.is_classification:
                powers = answer**self.factor
                found.append(powers / powers.sum(axis=1, keepdims=True))
            else:
                found.append(center + self.factor * (answer - center))
        return found


def tempered(model, factor):
    """Return a model whose answers are nearer to the start."""
    return replace(model, over=(*model.over, Tempered(factor)))


X, NEW = features(), features(80, seed=3)
Y, NEW_Y = mixed_targets(X), mixed_targets(NEW)


def close(one, other):
    """Whether answers are the same but for the rounding of a network of fewer tasks."""
    return all(np.allclose(*pair, rtol=1e-5) for pair in zip(one, other, strict=True))


def spread(answer):
    return np.std(answer if answer.ndim == 1 else np.log(answer[:, 0] / answer[:, 1]))


@pytest.mark.usefixtures("three_folds")
@pytest.mark.parametrize("cls", [SharedBottom, SharedTrees, RMTGB, IndependentTasks, MultiTaskEnsemble])
def test_a_verb_of_the_user_is_part_of_the_model_from_then_on(cls, tmp_path):
    plain = tiny(cls).fit(X, Y)
    whole = plain.__answers__(X)
    found = plain._with_model(tempered(plain._model, 0.5))
    half = found.__answers__(X)
    assert [spread(answer) for answer in half] == pytest.approx([spread(answer) / 2 for answer in whole], rel=1e-3)
    assert close(plain.__answers__(X), whole)
    assert close(found.__answers__(X, ["delay"]), half[2:])
    found.save(tmp_path / "model")
    with pytest.raises(tabmtl.ModelFileError, match="tempered"):
        tabmtl.load(tmp_path / "model")
    loaded = tabmtl.load(tmp_path / "model", kinds=[Tempered])
    assert close(loaded.__answers__(X), half)
    if hasattr(loaded, "remove_task"):
        loaded.remove_task("size")
        assert close(loaded.__answers__(X), [half[0], half[2]])
    if hasattr(found, "add_task"):
        found.add_task(NEW, NEW_Y[["late"]].rename({"late": "again"}))
        assert close(found.__answers__(X)[:3], half)
    if hasattr(plain, "partial_fit"):
        again = tiny(cls).fit(X, Y)
        again = again._with_model(tempered(again._model, 0.5)).partial_fit(NEW, NEW_Y)
        plain.partial_fit(NEW, NEW_Y)
        pairs = zip(again.__answers__(X), plain.__answers__(X), strict=True)
        assert all(spread(one) == pytest.approx(spread(other) / 2, rel=1e-3) for one, other in pairs)


def test_a_kind_of_targets_stands_over_no_model():
    saved = tiny(SharedTrees).fit(X, Y).__saved__()
    with pytest.raises(ValueError, match=r"over.0 holds 'poisson', expected a Over"):
        SharedTrees.__from_saved__(replace(saved, facts=saved.facts | {"over": ["poisson"]}))


def test_what_stands_over_a_model_is_no_drift_and_its_trees_are_not_exported():
    plain = tiny(SharedTrees).fit(X, Y)
    found = plain._with_model(tempered(plain._model, 0.1))
    assert found.drift(NEW).equals(plain.drift(NEW))
    with pytest.raises(ValueError, match=r"the answers of the method, which 'tempered' of this model changes"):
        found.export_task("delay")
