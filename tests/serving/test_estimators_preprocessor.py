"""Preprocessors that no file of a served model holds."""

import pytest
from conformance import features, mixed_targets
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from tabmtl import SharedBottom, SharedTrees
from tabmtl.serving.mlflow import log_model
from tabmtl.serving.onnx import export


def test_an_onnx_file_holds_no_preprocessor():
    X = features()
    model = SharedBottom(preprocessor=FunctionTransformer(), epochs=1, random_state=0).fit(X, mixed_targets(X))
    with pytest.raises(ValueError, match="ONNX file holds no preprocessor"):
        export(model, "x.onnx")


def test_a_pipeline_is_not_logged():
    with pytest.raises(TypeError, match=r"pipeline\[-1\]\.set_params\(preprocessor=pipeline\[:-1\]\)"):
        log_model(make_pipeline(StandardScaler(), SharedTrees()))
