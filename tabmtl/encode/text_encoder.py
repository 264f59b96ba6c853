"""Encoders of a user from text to vectors, in front of a coder: it sees vectors where X has free text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import polars as pl
import polars.selectors as cs
from scipy.sparse import issparse

from tabmtl.base.forks import check_pool
from tabmtl.base.schema import in_command
from tabmtl.base.storage.stored import Stored
from tabmtl.columns.cures import by_column
from tabmtl.columns.declared import Declared, Text, Vector, encoder_of, function_of
from tabmtl.columns.kind import TEXT
from tabmtl.encode.features import find_kinds

_CHUNK_TEXTS = 4_096  # that an encoder gets at a time
_SHOWN = 60  # letters of a text in errors


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
            raise ValueError(f"the columns {empty} hold no text to encode: say {by_column(empty, 'ignore')}")
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
                found = function_of(self.encoder)(chunk)
            except Exception as error:
                error.add_note(f"in the encoder of text, which got a list of {len(chunk)} texts of the column {name!r}")
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
                f"an encoder of text must give an array (n, d) of numbers, and gave {type(found).__name__} {given}: "
                f"{error}"
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
            raise ValueError(
                f"an encoder of text must give an array (n, d), a vector for each of n texts, and gave the shape "
                f"{vectors.shape} {given}"
            )
        if self.width and vectors.shape[1] != self.width:
            raise ValueError(
                f"an encoder of text must give vectors of the length of fit, {self.width}, and gave {vectors.shape[1]} "
                f"numbers a text {given}: set the encoder of fit, or fit again"
            )
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"an encoder of text gave a vector with a number that is missing or not finite, for the text "
                f"{texts[wrong[0]][:_SHOWN]!r} of the column {name!r}; expected finite numbers"
            )
        return vectors

    def _describe_lack(self) -> str:
        set_it = ".set_params(columns={..., " + f"{self.names[0]!r}: Text(encoder=...)" + "})"
        cure = f"predict in Python, by tabmtl.load(path){set_it}" if in_command.get() else f"set it by model{set_it}"
        return (
            f"the model reads vectors of the text in {[*self.names]}, by an encoder of fit, which is code and in no "
            f"file; {cure}"
        )


def encoded_columns(columns: Mapping[str, Declared]) -> list[str]:
    """Return the columns of free text that have an encoder."""
    return [name for name, own in columns.items() if isinstance(own, Text) and own.encoder is not None]


def learn_vectors(
    frame: pl.DataFrame | pl.LazyFrame, columns: Mapping[str, Declared]
) -> tuple[TextVectors | None, pl.DataFrame | pl.LazyFrame, dict[str, Declared]]:
    """Return the columns of text with an encoder, the frame with their vectors, and what is declared of it.

    Raises
    ------
    ValueError, TypeError
        If a declared column does not fit; and as `TextVectors.learn` does.
    """
    names = encoded_columns(columns)
    if not names:
        return None, frame, dict(columns)
    frame = frame.lazy().collect()
    find_kinds(frame.select(cs.by_name(*names, require_all=False)).schema, {name: columns[name] for name in names})
    found, frame = TextVectors.learn(frame, names, encoder_of(columns))
    return found, frame, {**columns, **dict.fromkeys(names, Vector())}


def _read_texts(column: pl.Series) -> pl.Series:
    """Return a column as text, by the name "text"."""
    if column.dtype in TEXT or column.dtype == pl.Null:
        return column.alias("text").cast(pl.String)
    values = column.fill_nan(None) if column.dtype.is_float() else column
    if values.null_count() == len(values):  # whose type its library has only guessed
        return pl.Series("text", [None] * len(values), dtype=pl.String)
    raise TypeError(f"column {column.name!r} held text in fit and is now {column.dtype}; cast it to text, or fit again")
