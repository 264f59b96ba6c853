"""Exported networks in ONNX Runtime, and the comparison of their answers with the estimator's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tabmtl import HoME
from tabmtl.serving.onnx import OnnxCoder, export

onnxruntime = pytest.importorskip("onnxruntime")


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(path, options)


def exported(estimator, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(estimator, path)
    return session_of(path)


def few_experts(cls):
    """Parameters that keep a graph short, because the exporter takes time for every node."""
    shared = (1, 1) if cls is HoME else 1
    return {"n_experts": 2, "n_groups": 2, "n_shared_experts": shared, "n_group_experts": (1, 1), "n_task_experts": 1}


def check_answers(estimator, session, X, sizes=(1, 7, 300)):
    """Outputs are probabilities and values, and decoded they are what `predict` says."""
    coder, labels = OnnxCoder(session), estimator.coder_.labels
    assert [output.name for output in session.get_outputs()] == list(labels.names)
    for n in sizes:
        rows = X[:n]
        outputs = session.run(None, coder.encode(rows))
        for found, expected, scale in zip(outputs, estimator.__answers__(rows), labels.scale, strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
        decoded, predicted = coder.decode(outputs), estimator.predict(rows)
        assert type(decoded) is type(predicted)
        for task, one, other in zip(labels.column_tasks, *map(by_column, (decoded, predicted)), strict=True):
            assert np.array_equal(one, other) if task.is_classification else np.allclose(one, other, rtol=1e-4)


def by_column(predicted):
    return [predicted[:, j] for j in range(predicted.shape[1])] if len(predicted.shape) == 2 else [predicted]
