"""Transformers of scikit-learn in a file, by skops: names of types and arrays, no pickle and no code."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from zipfile import ZIP_STORED, ZipFile

import numpy as np

# What skops leaves to its callers to trust, and transformers of scikit-learn hold: types of numpy, and a rule by which
# columns are chosen. Trees and splines are left out: their compiled code takes indices from the file unchecked.
_TRUSTED = (
    *("numpy.dtype", "numpy.number", "numpy.integer", "numpy.floating", "numpy.object_", "numpy.bool_"),
    "sklearn.compose._column_transformer.make_column_selector",
)


@dataclass(frozen=True, eq=False)
class Transformer:
    """A fitted transformer that a file keeps.

    Parameters
    ----------
    fitted : transformer of scikit-learn
    """

    fitted: Any

    def to_array(self) -> np.ndarray:
        """Return the transformer as bytes, an array (n,) of uint8.

        Raises
        ------
        TypeError
            If it holds anything that cannot be written without pickle, or that `from_array` would refuse; the message
            names the type or the function.
        """
        from skops.io import dumps, get_untrusted_types

        _refuse_files(self.fitted)
        try:
            content = dumps(self.fitted)
            strange = [name for name in get_untrusted_types(data=content) if name not in _TRUSTED]
        except Exception as error:  # any error of foreign code that describes itself
            raise TypeError(f"the preprocessor {self.fitted!r:.200} cannot be saved without pickle: {error}") from error
        if strange:
            raise TypeError(
                f"the preprocessor holds {', '.join(strange[:5])}, which cannot be saved without pickle: a file keeps "
                "transformers of scikit-learn and functions of numpy; functions and classes of your own are code, and "
                "compiled trees and splines trust their file. Apply such a step to X before fit, or leave it out"
            )
        return np.frombuffer(content, dtype=np.uint8)

    @classmethod
    def from_array(cls, content: np.ndarray) -> Self:
        """Return the transformer that `to_array` wrote; nothing is built before all its types are known to be trusted.

        Raises
        ------
        ValueError, TypeError, LookupError
            If the content is anything else. Of a type that is not trusted, the message has the name.
        """
        from skops.io import loads
        from skops.io.exceptions import UntrustedTypesFoundException

        data = content.tobytes()
        with ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            # packed or overlapping entries could fill the memory
            if any(e.compress_type != ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > len(data):
                raise ValueError("the preprocessor is packed, as no save writes it")
        try:
            fitted = loads(data, trusted=[*_TRUSTED])
        except UntrustedTypesFoundException as error:
            raise ValueError(
                f"the preprocessor holds types that no save writes, and nothing of it was run: {error}; load a folder "
                "that model.save wrote"
            ) from error
        _refuse_files(fitted)
        return cls(fitted)


def _refuse_files(transformer: Any) -> None:
    """Raise a TypeError for a step that opens files: of a cache of joblib, which unpickles them, or those of its rows.

    All objects are looked at, since a fitted step may have other parameters than the one that it was cloned from.
    """
    for part in _parts(transformer):
        memory, given = part.get("memory"), part.get("input")
        if memory is not None:
            raise TypeError(
                f"the preprocessor has a cache of pickles, memory={memory!r:.50}, which no saved model may name; "
                "fit it with memory=None"
            )
        if isinstance(given, str) and given in ("filename", "file"):
            raise TypeError(
                f"the preprocessor has a step with input={given!r}, which opens the files that rows name, as no saved "
                "model may: read the texts into a column before fit, with input='content'"
            )


def _parts(transformer: Any) -> Iterator[dict[str, Any]]:
    """Yield the attributes of an object, and of all objects in it."""
    seen: dict[int, Any] = {}
    left = [transformer]
    while left:
        value = left.pop()
        if id(value) in seen or isinstance(value, str | bytes | type):
            continue
        seen[id(value)] = value
        if isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            left += value
        elif isinstance(value, np.ndarray):
            left += value.ravel().tolist() if value.dtype == object else []
        elif hasattr(value, "__dict__"):
            yield vars(value)
            left += vars(value).values()
