"""Own verbs."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from conformance import features, mixed_targets, tiny

from tabmtl import SharedBottom, SharedTrees
from tabmtl.estimators.model import Over
from tabmtl.serving.onnx import export


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


@pytest.mark.parametrize("cls", [SharedBottom, SharedTrees])
def test_what_stands_over_a_model_is_no_drift_and_is_not_exported(cls, tmp_path):
    plain = tiny(cls).fit(X, Y)
    found = plain._with_model(tempered(plain._model, 0.1))
    assert found.drift(NEW).equals(plain.drift(NEW))
    with pytest.raises(ValueError, match=r"the answers of the method, which 'tempered' of this model changes"):
        export(found, tmp_path / "m.onnx") if cls is SharedBottom else found.export_task("delay")
