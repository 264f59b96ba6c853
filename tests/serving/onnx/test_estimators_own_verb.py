"""What stands over a model is in no exported network."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from conformance import features, mixed_targets, tiny

from tabmtl import SharedBottom
from tabmtl.estimators.model import Over
from tabmtl.serving.onnx import export


@dataclass(frozen=True, eq=False)
class Same(Over):
    """Changes nothing."""

    name: ClassVar[str] = "same"

    def change(self, answers, labels, task):
        return answers


def test_what_stands_over_a_model_is_not_exported(tmp_path):
    plain = tiny(SharedBottom).fit(features(), mixed_targets(features()))
    found = plain._with_model(replace(plain._model, over=(Same(),)))
    with pytest.raises(ValueError, match=r"the answers of the method, which 'same' of this model changes"):
        export(found, tmp_path / "m.onnx")
