"""Encoding of the rows of an exported network, and decoding of its outputs; needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.base.storage.named import ModelFileError, kinds_by_name
from tabmtl.base.storage.stored import Saved, put_together, take_apart
from tabmtl.columns.number import NumericScaler
from tabmtl.encode.table import TableCoder

#: Key of the text of `describe_encoding` in the metadata of an ONNX file.
METADATA = "tabmtl"
FORMAT = 2
_DECISIONS = "labels.decisions."  # in the names of their arrays


def describe_encoding(class_name: str, coder: TableCoder) -> str:
    """Describe features, tasks and their order as JSON, for `OnnxCoder` and for services without this package.

    ========================  =====================================================================================
    key                       value
    ========================  =====================================================================================
    ``format``, ``tabmtl``    2, and the version that wrote the file
    ``class``                 name of the estimator
    ``names``                 columns of X in the order of fit
    ``features``              in ``coders``, ``numbers`` and ``categories``: ``names`` of the columns of the inputs
                              ``x_num`` and ``x_cat``, in order; ``levels``: for each of the categories its levels.
                              Behind these, ``dates``, ``times`` and ``durations`` have the same for their parts.
                              ``tags``: ``names`` and ``levels``. ``sequences``: of every one its name, the column of
                              its ``items`` (its own if it has none) and the lists beside it (``sides``); the levels
                              of items and of lists of text (``categories``), the lists of ``numbers``, and
                              ``longest``, entries read. ``texts``: ``names``. ``vectors``: ``names``, ``widths``
    ``arrays``                numbers of ``decisions``, such as the knots of calibrators, by their place among the keys
    ``task_column``           long layout: the column of X that names a row's task; else null
    ``labels``                ``tasks``: name, kind, classes and thresholds of every task; ``names``: the outputs, in
                              order; ``decisions``: what calibrates the outputs, see `tabmtl.targets.decisions`;
                              ``task_levels``: long layout, the tasks in the order of their codes; and the facts that
                              turn answers back into a frame like y
    ========================  =====================================================================================
    """
    labels = coder.labels
    if labels.decisions is not None:  # of which a coder takes those of labels, and makes no intervals
        labels = replace(labels, decisions=replace(labels.decisions, conformal=None))
    raw = replace(coder, features=coder.features.raw(), labels=labels)
    about = {"format": FORMAT, "tabmtl": version("tabmtl"), "class": class_name}
    taken = take_apart(raw)
    arrays = {name: array.tolist() for name, array in taken.arrays.items() if name.startswith(_DECISIONS)}
    return json.dumps(about | {"arrays": arrays} | taken.facts, allow_nan=False)


class OnnxCoder:
    """Coder between rows of a frame and the inputs of an exported network, and from its outputs to predictions.

    Neither torch nor the estimator is needed, only the file that `tabmtl.serving.onnx.export` wrote::

        session = onnxruntime.InferenceSession("model.onnx")
        coder = OnnxCoder(session)
        outputs = session.run(None, coder.encode(X))    # as predict_proba, predict_quantiles, and predict of others
        y = coder.decode(outputs)                       # as predict

    Outputs are those in front of calibrators, and `answers` puts them behind. A file holds nothing of intervals.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Of an exported network.
    kinds : sequence of type, default=()
        Classes of the kinds of targets that are not of this package.

    Attributes
    ----------
    facts : dict
        Description of the encoding in the file, see :func:`describe_encoding`.

    Raises
    ------
    ValueError
        If the file was not written by `tabmtl.serving.onnx.export`, was edited, or comes from a later release with
        another encoding.
    """

    def __init__(self, session: Any, *, kinds: Sequence[Any] = ()) -> None:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA)
        if text is None:
            raise ValueError(
                f"the ONNX model has no metadata {METADATA!r}: it was not written by tabmtl.serving.onnx.export"
            )
        given = kinds_by_name(kinds)
        with _read():
            self.facts: dict[str, Any] = json.loads(text)
            found, release = self.facts["format"], self.facts["tabmtl"]
        if found != FORMAT:
            raise ValueError(
                f"the ONNX model has format {found}, written by tabmtl {release}; this release reads format {FORMAT}: "
                "export it again"
            )
        with _read():
            facts = {name: fact for name, fact in self.facts.items() if name not in ("format", "tabmtl", "class")}
            # the network scales its inputs, and answers in own units
            n = len(facts["labels"]["names"])
            arrays = {name: np.array(values, dtype=np.float64) for name, values in facts.pop("arrays", {}).items()}
            arrays |= {"labels.center": np.zeros(n), "labels.scale": np.ones(n)} | _arrays_of_raw(facts)
            self._coder = put_together(TableCoder, Saved(facts=facts, arrays=arrays, kinds=given))

    def encode(self, X: Any) -> dict[str, np.ndarray]:
        """Encode rows.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            With the columns of fit.

        Returns
        -------
        inputs : dict of str to ndarray
            As ``session.run`` takes them, those that the network has: see :mod:`tabmtl.serving.onnx.exporting`.

        Raises
        ------
        TypeError, ValueError
            If a column is missing or holds another kind of value than in fit, or a task is unknown.
        """
        return name_inputs(self._coder, self._coder.read(X))

    def answers(
        self, outputs: Sequence[np.ndarray], inputs: Mapping[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Return calibrated probabilities, or values, of the result of ``session.run(None, inputs)``.

        Parameters
        ----------
        outputs : sequence of ndarray
        inputs : mapping of str to ndarray, optional
            Long layout: what `encode` gave, where the model was calibrated.
        """
        return self._coder.labels.decided(outputs, None if inputs is None else inputs.get("task"))

    def decode(self, outputs: Sequence[np.ndarray], inputs: Mapping[str, np.ndarray] | None = None) -> Any:
        """Return predictions from the result of ``session.run(None, inputs)``, in the container of y in fit.

        The parameters are those of `answers`; thresholds need the inputs of a long table too.
        """
        return self._coder.labels.decode(self.answers(outputs, inputs))


def arrays_by_input(coder: TableCoder, rows: Batch) -> dict[str, str]:
    """Return the name in `Batch.arrays` of every input of a network, by its own; one without columns is left out."""
    names, columns = {"numbers": "x_num", "codes": "x_cat", "vectors": "x_vec", "task": "task"}, coder.features
    found = {}
    for name, array in rows.unlabelled().arrays().items():
        form, _, place = name.partition("-")
        if place:  # an array of lists
            number, part = place.split("-")
            found[f"{columns.origins_by_form[form][int(number)]}: {part}"] = name  # type: ignore[index]
        elif array is not None and 0 not in array.shape[1:]:
            found[names[name]] = name
    return found


def name_inputs(coder: TableCoder, rows: Batch) -> dict[str, Any]:
    """Return the inputs of a network for encoded rows, by name."""
    arrays = rows.arrays()
    return {name: arrays[own] for name, own in arrays_by_input(coder, rows).items()}


def _arrays_of_raw(facts: dict[str, Any], path: str = "") -> dict[str, np.ndarray]:
    """Return the arrays, of no column, of all scales in a description, by their place."""
    if facts.get("transform") == "raw":
        raw = NumericScaler.raw()
        return {f"{path}{name}": getattr(raw, name) for name in ("center", "scale", "knots")}
    found: dict[str, np.ndarray] = {}
    for name, own in facts.items():
        if isinstance(own, dict):
            found |= _arrays_of_raw(own, f"{path}{name}.")
    return found


@contextmanager
def _read() -> Iterator[None]:
    """Turn any error that foreign metadata cause into one kind of error."""
    try:
        yield
    except ModelFileError:
        raise  # a kind of targets whose class was not given
    except Exception as error:
        raise ValueError(
            f"the metadata {METADATA!r} of the ONNX model differ from those of tabmtl.serving.onnx.export, see "
            f"tabmtl.serving.onnx.coder.describe_encoding; they were edited, or are of something else: export it again "
            f"({error!r})"
        ) from error
