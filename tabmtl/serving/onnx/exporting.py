"""Fitted networks as ONNX files, for services that answer single rows quickly, in any language, without torch.

The file holds the whole way from raw values to answers: scaling of numbers, network, links, and units of the targets.

========  =====================  ============================================================================
input     type and shape         holds
========  =====================  ============================================================================
x_num     float64, (n, Fn)       numeric columns as they are in the table; NaN = missing, true = 1, false = 0;
                                 behind them the parts of dates that are numbers, see `tabmtl.columns.date`
x_cat     int32, (n, Fc)         codes of categorical columns: 0 missing, 1 an unseen level,
                                 k + 2 the level k of the metadata; the level of a whole number is its
                                 decimal text, that of a boolean ``"true"`` or ``"false"``;
                                 behind them the items of sequences, and the parts of dates that are categories
x_vec     float32, (n, V)        all vectors side by side, as they are in the table; NaN = missing
task      int64, (n,)            long layout only: index of the row's own task among those of the metadata
========  =====================  ============================================================================

An input without columns is left out. Columns of lists and of free text are ragged: the m entries of all n lists lie one
after the other, and each column has inputs of its own, which begin with its name:

===================  ===============  ========================================================================
input                type and shape   holds
===================  ===============  ========================================================================
``COLUMN: lengths``  int64, (n,)      entries of every row; 0 of an empty list, 1 of a missing one
``COLUMN: codes``    int32, (m,)      codes of tags, of the items of a sequence (at most ``longest`` of a row,
                                      the newest, which is the last one), or of the hashed words and 3-grams of a
                                      text; a missing list has the code 0 alone
``COLUMN: weights``  float32, (m,)    tags and text: 1 over the row's number of tags; occurrences of a word or a
                                      3-gram over those of all in the row; a missing list has 1
``COLUMN: numbers``  float64, (m, s)  sequences with lists of numbers beside them: these as they are in the table,
                                      NaN where missing, and in place of a missing sequence
``COLUMN: labels``   int32, (m, t)    sequences with lists of text beside them: their codes; 0 in place of a
                                      missing sequence
===================  ===============  ========================================================================

A text is hashed as `tabmtl.columns.text.encode_texts` does it: words have the codes from 2 on, 3-grams those from
16386.

There is one output for every column of y, named like it: float64 probabilities (n, K), classes in the order of the
metadata, or values (n,) in the target's own units, or (n, L) of several levels. They equal the results of
``predict_proba``, ``predict`` and ``predict_quantiles`` in float32. The n rows are one batch, which matters
only for ``row_layer="batch_attention"`` of `MultiTabNet`. JSON in the metadata of the file, under the key
"tabmtl", lists columns, levels, tasks and classes in their order, see
:func:`tabmtl.serving.onnx.coder.describe_encoding`;
:class:`tabmtl.serving.onnx.OnnxCoder` reads it, encodes frames and decodes answers to frames.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from tabmtl.base.schema import Batch
from tabmtl.base.storage.atomic import write_file
from tabmtl.columns import KINDS, Features
from tabmtl.columns.number import CLIP, FAR, NumericScaler
from tabmtl.encode import TableCoder
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.nn.embeddings import fill_missing
from tabmtl.serving.onnx.coder import METADATA, arrays_by_input, describe_encoding, name_inputs
from tabmtl.serving.onnx.drawn import draw_rows
from tabmtl.serving.onnx.operators import ListOperators
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.predict import predict_scores

_TOLERANCE = 1e-5  # of an answer, in units of the target's scale or of the farthest drawn answer
_CHECKED_ROWS = (1, 2, 11)
_COARSE = 16  # of the 256 knots of a column, the first of as many equal parts
_CHATTY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def export(model: Any, path: str | Path) -> None:
    """Write a fitted network as an ONNX file, from raw values to probabilities, quantiles and other answers.

    See :mod:`tabmtl.serving.onnx.exporting` for the inputs and outputs of the file; frames are encoded for it by
    :class:`tabmtl.serving.onnx.OnnxCoder`. The file computes in float32 under any ``precision``.

    If onnxruntime is installed, the answers of the file are compared with the network's on a few drawn rows before it
    is written. No probability may differ by more than 1e-5. No value may differ by more than 1e-5 of the target's
    standard deviation, or of the distance from the mean to the farthest drawn answer if that is larger, since float32
    has no more digits.

    Parameters
    ----------
    model : estimator
        A fitted network.
    path : str or Path
        The file, such as ``"model.onnx"``. It is replaced in one step: a reader sees the old file or the new one.

    Raises
    ------
    ImportError
        If onnx or onnxscript is missing: ``pip install 'tabmtl[onnx]'``.
    TypeError
        If the model is no network.
    ValueError
        If a target has the name of an input, or the network cannot be exported, or is larger than the 2 GB that an ONNX
        file may have. No file is written.
    RuntimeError
        If the file would give other answers than the network; no file is written.
    """
    if not isinstance(model, NetworkEstimator):
        raise TypeError(
            f"an ONNX file holds a network, got {type(model).__name__}; say distill(model, X), which gives a network, "
            "or model.export_task(task) of boosted trees"
        )
    check_is_fitted(model)
    fitted, coder = model.model_.fitted, model.coder_
    model.model_.check_plain("export writes")
    check_coder(coder)
    if not (folder := Path(path).absolute().parent).is_dir():
        raise FileNotFoundError(f"the folder {folder} of the ONNX file does not exist; make it first")
    network = copy.deepcopy(model.fitted_network()[0]).cpu().float().eval()
    answers = _Answers(network, coder, fitted.loss()).eval()
    taken = [target for target in coder.labels.names if target in answers.inputs]
    if taken:
        raise ValueError(
            f"the targets {taken} have names of inputs ({', '.join(answers.inputs)}); rename them, and fit again"
        )
    name = type(model).__name__
    written = _translate(answers, name)
    written.metadata_props.add(key=METADATA, value=describe_encoding(name, coder))
    content = written.SerializeToString()
    _check(content, answers)
    write_file(Path(path), content)


def check_coder(coder: TableCoder) -> None:
    """Raise an error unless the libraries are there and an ONNX file can hold the coding of all columns."""
    try:
        for module in ("onnx", "onnxscript"):
            import_module(module)
    except ImportError as error:
        raise ImportError(
            f"tabmtl.serving.onnx.export needs onnx, onnxscript: pip install 'tabmtl[onnx]' ({error})"
        ) from error
    if coder.preprocessing is not None:
        raise ValueError(
            "an ONNX file holds no preprocessor of scikit-learn; fit the network without one, on the columns that "
            "model.preprocessor_.transform(X) gives"
        )
    if coder.text_vectors is not None:
        raise ValueError(
            f"an ONNX file holds no encoder of text, which makes vectors of {[*coder.text_vectors.names]}; fit the "
            "network without one, on a column of these vectors, or serve the model by save and load"
        )
    if coder.features.readings:
        raise ValueError(
            f"an ONNX file reads no text as {[*map(str, coder.features.readings.values())]}, which the columns "
            f"{[*coder.features.readings]} are declared; read them before fit, and fit again"
        )
    other = {own.name: own.names for own in coder.features.coders.values() if type(own) not in KINDS}
    if other:
        raise ValueError(
            f"an ONNX file reads the kinds of columns of tabmtl, and none of your own, {other}; ignore these columns "
            "and fit again, or serve the model by save and load"
        )


class _Scaling(nn.Module):
    """`NumericScaler` as a network: from raw values (B, Fn) in float64 to network inputs in float32."""

    def __init__(self, scaler: NumericScaler) -> None:
        super().__init__()
        self.quantile = scaler.transform == "quantile"
        if not self.quantile:
            self.center, self.scale = torch.from_numpy(scaler.center), torch.from_numpy(scaler.scale)
            return
        first, last, *tables = scaler.lines
        self.first, self.last = torch.from_numpy(first[:, 0]), torch.from_numpy(last[:, 0])
        self.knots, self.positions, self.slopes = (torch.from_numpy(table) for table in tables)
        self.parts = self.knots.view(-1, _COARSE)  # (Fn * 16, 16)
        self.coarse = self.parts[:, 0].reshape(-1, _COARSE)  # (Fn, 16)
        self.start = torch.arange(len(first)) * _COARSE

    def forward(self, x: Tensor) -> Tensor:
        """Scale values; NaN stays NaN."""
        missing = x.isnan()
        x = x.masked_fill(missing, 0.0)
        x = self._interpolate(x) if self.quantile else self._standardize(x)
        return x.masked_fill(missing, torch.nan).float()

    def _standardize(self, x: Tensor) -> Tensor:
        z = ((x - self.center) / self.scale).clamp(-FAR, FAR)
        return z / ((z / CLIP).square() + 1).sqrt()

    def _interpolate(self, x: Tensor) -> Tensor:
        x = torch.minimum(torch.maximum(x, self.first), self.last)
        part = self.start + (self.coarse <= x[:, :, None]).sum(dim=2) - 1  # (B, Fn)
        index = part * _COARSE + (self.parts[part] <= x[:, :, None]).sum(dim=2) - 1
        return (x - self.knots[index]) * self.slopes[index] + self.positions[index]


class _Answers(nn.Module):
    """Network from raw values and codes to the results of `LabelCoder.outputs`.

    Parameters
    ----------
    network : torch.nn.Module
    coder : TableCoder
    loss : MultiTaskLoss
        With the link of the scores.
    """

    def __init__(self, network: nn.Module, coder: TableCoder, loss: MultiTaskLoss) -> None:
        super().__init__()
        self.network, self.coder, self.loss = network, coder, loss
        self.rows = draw_rows(coder, _CHECKED_ROWS[-1])
        self.inputs = arrays_by_input(coder, self.rows)
        scalers = coder.features.scalers.items()
        self.scaling = nn.ModuleDict({form: nn.ModuleList(map(_scaling, own)) for form, own in scalers})
        # tensors, because the exporter rounds numbers to float32
        self.units = list(zip(torch.from_numpy(coder.labels.center), torch.from_numpy(coder.labels.scale), strict=True))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return predictions, given the inputs that the model has."""
        n = inputs[0].shape[0]  # the first one has an entry for each row, whichever columns there are
        empty = {"numbers": torch.zeros(n, 0), "codes": torch.zeros(n, 0, dtype=torch.int32)}
        rows = self.rows.like(empty | dict(zip(self.inputs.values(), inputs, strict=True)))
        with ListOperators():
            scores = self.loss.link(self.network(_scaled(rows.x, self.scaling), rows.task))
        tasks = zip(scores, self.coder.labels.column_tasks, self.units, strict=True)
        return tuple(task.kind.answers(score.double(), *units, torch) for score, task, units in tasks)

    def expected(self, batch: Batch) -> list[np.ndarray]:
        """Return predictions as the estimator computes them, in float32."""
        scales = {
            form: [partial(_scale, own) for own in several] for form, several in self.coder.features.scalers.items()
        }
        tensors = batch.map(torch.from_numpy)
        scores = self.loss.link_rows(predict_scores(self.network, replace(tensors, x=_scaled(tensors.x, scales))))
        return self.coder.labels.outputs([score.numpy() for score in scores])


def _scaled(x: Features, scales: Any) -> Features:
    """Scale raw values of rows, given by form what scales numbers, vectors, and the numbers of each sequence."""
    sequences = zip(x.sequences, scales["sequences"], strict=True)
    return replace(
        x,
        numbers=scales["numbers"][0](x.numbers),
        sequences=tuple(
            entries if entries.numbers is None else replace(entries, numbers=fill_missing(scale(entries.numbers))[0])
            for entries, scale in sequences
        ),
        vectors=None if x.vectors is None else scales["vectors"][0](x.vectors.double()),
    )


def _scaling(scaler: NumericScaler) -> nn.Module:
    return _Scaling(scaler) if len(scaler.center) else nn.Identity()


def _scale(scaler: NumericScaler, numbers: Tensor) -> Tensor:
    block = numbers.T.numpy().copy()
    scaler.apply(block)
    return torch.from_numpy(block.T).float()


def _translate(answers: _Answers, name: str) -> Any:
    """Translate the network to an ONNX model with any number of rows."""
    rows = name_inputs(answers.coder, answers.rows.map(torch.from_numpy))
    free = {0: torch.export.Dim.DYNAMIC}
    try:
        with _quiet():
            program = torch.export.export(
                answers, tuple(rows.values()), dynamic_shapes=((free,) * len(rows),), strict=False
            )
            translated = torch.onnx.export(program, (), dynamo=True, external_data=False, verbose=False)
    except Exception as error:
        raise ValueError(
            f"the network of {name} cannot be exported; it must treat any number of rows alike (x.shape[0], not len(x))"
            f", without a branch on values: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    model = translated.model_proto  # type: ignore[union-attr]
    _rename(model.graph, [*answers.inputs], answers.coder.labels.names)
    return model


def _rename(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name inputs and outputs, number all else so that no target's name meets it, and drop where a node's code lay."""
    names: dict[str, str] = {"": ""}
    for value, name in zip([*graph.input, *graph.output], [*inputs, *outputs], strict=True):
        names[value.name] = value.name = name
    prefix = "_" * (1 + max(map(len, names.values())))
    for initializer in graph.initializer:
        initializer.name = names.setdefault(initializer.name, f"{prefix}{len(names)}")
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.setdefault(value, f"{prefix}{len(names)}") for value in values]
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.value_info[:]


def _check(content: bytes, answers: _Answers) -> None:
    """Raise a RuntimeError if onnxruntime and the network disagree; pass if onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    labels = answers.coder.labels
    for n in _CHECKED_ROWS:
        rows = answers.rows.rows(slice(n))
        found = session.run(None, name_inputs(answers.coder, rows))
        facts = zip(labels.names, labels.center, labels.scale, strict=True)
        for own, expected, (name, center, scale) in zip(found, answers.expected(rows), facts, strict=True):
            most = _TOLERANCE * max(scale, np.abs(expected - center).max())
            gap = np.abs(own - expected).max() if own.shape == expected.shape else np.inf
            if not gap <= most:
                raise RuntimeError(
                    f"the exported network differs from torch on task {name!r}, for {n} rows by {gap:.1e}, expected "
                    f"at most {most:.1e}; nothing was written. Please report it, with the parameters of the estimator"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and the log of the exporter inside."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(action="ignore"):
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
