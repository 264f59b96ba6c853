"""Encoders of a user from text to vectors, in front of a coder: it sees vectors where X has free text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from scipy.sparse import issparse

from tabmtl.base.forks import check_pool
from tabmtl.base.schema import in_command
from tabmtl.base.storage.stored import Stored
from tabmtl.columns.cures import Library, by_drop
from tabmtl.columns.kind import TEXT
from tabmtl.columns.text import Texts
from tabmtl.encode.features import find_kinds, texts_of

_CHUNK_TEXTS = 4_096  # that an encoder gets at a time
_SHOWN = 60  # letters of a text in errors


def check_text_encoder(name: str, value: Any) -> None:
    """Raise a TypeError unless a value is None, a function, or an object with a method ``encode``."""
    if value is None or (not isinstance(value, str | bytes | type) and _function_of(value) is not None):
        return
    cure = ""
    if isinstance(value, type):
        cure = f"; that is the class, make an object of it: {value.__name__}(...)"
    elif isinstance(value, str):
        cure = f"; load the encoder of this name, as in SentenceTransformer({value!r})"
    elif hasattr(value, "transform"):
        cure = "; give its method: encoder.transform"
    raise TypeError(
        f"{name} must be a function from a list of n texts to an array (n, d), an object with such a method encode, or "
        f"None, got {value!r:.200}{cure}"
    )


def _function_of(encoder: Any) -> Any:
    encode = getattr(encoder, "encode", None)
    if callable(encode):
        return encode
    return encoder if callable(encoder) else None


@dataclass(kw_only=True, eq=False)
class TextVectors:
    """Columns of free text whose vectors an encoder of the user makes.

    Each distinct text of the rows that are encoded together is given to the encoder once, in lists of at most 4 096,
    and not again with the next rows, if these hold it too.

    Attributes
    ----------
    names : tuple of str
        The columns.
    width : int
        Length of the vectors.
    encoder : callable or object with ``encode``, optional
        It is code, so no file keeps it.
    """

    names: Annotated[tuple[str, ...], Stored(distinct=True)]
    width: int

    def __post_init__(self) -> None:
        # no fields, which files keep
        self.encoder: Any = None
        self._known: pl.DataFrame | None = None  # texts of the last rows with their vectors

    @classmethod
    def learn(cls, frame: pl.DataFrame, names: Sequence[str], encoder: Any) -> tuple[TextVectors, pl.DataFrame]:
        """Return the columns of text of a frame, and the frame with their vectors.

        Raises
        ------
        ValueError, TypeError
            If a column holds no text, or the encoder gives no array (n, d) of finite numbers.
        """
        empty = [name for name in names if frame[name].null_count() == frame.height]
        if empty:
            raise ValueError(f"the columns {empty} hold no text that text_encoder could encode: say {by_drop(empty)}")
        found = cls(names=tuple(names), width=0)
        return found, found.apply(frame, encoder)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_known": None}

    def apply(self, frame: pl.DataFrame, encoder: Any = None) -> pl.DataFrame:
        """Return a frame with vectors in place of text, null where there is none.

        Parameters
        ----------
        frame : polars DataFrame
        encoder : callable or object with ``encode``, optional
            In place of the last one, such as that of fit, if it is given.

        Raises
        ------
        ValueError
            If there is no encoder, or it does not give an array (n, d) of finite numbers, with the d of fit.
        TypeError
            If a column holds no text, or the encoder gives no numbers.
        """
        check_pool()
        if encoder is not None and encoder is not self.encoder:
            self.encoder, self._known = encoder, None
        if self.encoder is None:
            raise ValueError(self._describe_lack())
        known, vectors = self._known, []
        texts = [_read_texts(frame[name]) for name in self.names]
        for name, own in zip(self.names, texts, strict=True):
            new = own.drop_nulls().unique(maintain_order=True).to_frame()
            new = new if known is None else new.join(known, on="text", how="anti", maintain_order="left")
            if new.height:
                found = self._encode(new["text"], name)
                known = found if known is None else pl.concat([known, found])
            vectors.append(self._look_up(own, known).alias(name))
        if known is not None:
            self._known = known.join(pl.concat(texts).to_frame(), on="text", how="semi")
        return frame.with_columns(vectors)

    def forget(self) -> None:
        """Forget the vectors of the last rows, which take memory."""
        self._known = None

    def _look_up(self, texts: pl.Series, known: pl.DataFrame | None) -> pl.Series:
        if known is None:
            return pl.Series([None] * len(texts), dtype=pl.Array(pl.Float32, self.width))
        return texts.to_frame().join(known, on="text", how="left", maintain_order="left")["vector"]

    def _encode(self, texts: pl.Series, name: str) -> pl.DataFrame:
        """Return distinct texts of a column with their vectors."""
        parts = []
        for start in range(0, len(texts), _CHUNK_TEXTS):
            chunk = texts[start : start + _CHUNK_TEXTS].to_list()
            try:
                found = _function_of(self.encoder)(chunk)
            except Exception as error:
                error.add_note(f"in text_encoder, which got a list of {len(chunk)} texts of the column {name!r}")
                raise
            parts.append(self._check(found, chunk, name))
            self.width = parts[0].shape[1]
        vectors = pl.Series(np.concatenate(parts), dtype=pl.Array(pl.Float32, self.width))
        return pl.DataFrame({"text": texts, "vector": vectors})

    def _check(self, found: Any, texts: Sequence[str], name: str) -> np.ndarray:
        """Return what an encoder gave for texts of a column as an array (n, d)."""
        given = f"for {len(texts)} texts of the column {name!r}"
        try:
            with np.errstate(over="ignore"):
                vectors = np.asarray(found.toarray() if issparse(found) else found, dtype=np.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"text_encoder must give an array (n, d) of numbers, and gave {type(found).__name__} {given}: {error}"
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
            raise ValueError(
                f"text_encoder must give an array (n, d), a vector for each of n texts, and gave the shape "
                f"{vectors.shape} {given}"
            )
        if self.width and vectors.shape[1] != self.width:
            raise ValueError(
                f"text_encoder must give vectors of the length of fit, {self.width}, and gave {vectors.shape[1]} "
                f"numbers a text {given}: set the encoder of fit, or fit again"
            )
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"text_encoder gave a vector with a number that is missing or not finite, for the text "
                f"{texts[wrong[0]][:_SHOWN]!r} of the column {name!r}; expected finite numbers"
            )
        return vectors

    def _describe_lack(self) -> str:
        cure = "set it by model.set_params(text_encoder=...)"
        if in_command.get():
            cure = "predict in Python, by tabmtl.load(path).set_params(text_encoder=...)"
        return (
            f"the model reads vectors of the text in {[*self.names]}, by a text_encoder of fit, which is code and in "
            f"no file; {cure}"
        )


def learn_vectors(
    frame: pl.DataFrame,
    encoder: Any,
    categorical: Literal["from_dtype"] | Sequence[str],
    library: Library,
    texts: Literal["from_values"] | Sequence[str],
    sequences: Mapping[str, str | None],
) -> tuple[TextVectors, pl.DataFrame]:
    """Find the free text in a frame; return its columns, and the frame with their vectors.

    Raises
    ------
    ValueError, TypeError
        If there is none, or a parameter names a column that does not fit; and as `TextVectors.learn` does.
    """
    texts = texts_of(frame, categorical, library, texts, sequences)
    names = find_kinds(frame.schema, categorical, library, texts, sequences=sequences).get(Texts, ())
    return TextVectors.learn(frame, check_found(names), encoder)


def check_found(names: Sequence[str]) -> Sequence[str]:
    """Return the columns of free text; raise a ValueError if there is none."""
    if not names:
        raise ValueError(
            "text_encoder encodes free text, and no column is found to be some: name them by text_features=[...], or "
            "leave out text_encoder"
        )
    return names


def _read_texts(column: pl.Series) -> pl.Series:
    """Return a column as text, by the name "text"."""
    if column.dtype in TEXT or column.dtype == pl.Null:
        return column.alias("text").cast(pl.String)
    values = column.fill_nan(None) if column.dtype.is_float() else column
    if values.null_count() == len(values):  # whose type its library has only guessed
        return pl.Series("text", [None] * len(values), dtype=pl.String)
    raise TypeError(f"column {column.name!r} held text in fit and is now {column.dtype}; cast it to text, or fit again")
