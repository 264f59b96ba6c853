"""What tells rows from others: a checksum of their values."""

from __future__ import annotations

import hashlib

import polars as pl
import polars.selectors as cs

_SLICE = 50_000  # rows that are text at a time


def content_of(frame: pl.DataFrame) -> str:
    """A checksum of the values of a frame, row by row.

    It is that of their text, which is the same in every process and, unlike `polars.DataFrame.hash_rows`, for every
    release of polars.
    """
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    as_text = [pl.struct(cs.by_name(name)).struct.json_encode().alias(name) for name in nested]
    plain = frame.with_columns(*as_text, cs.binary().bin.encode("hex"))
    digest = hashlib.sha256()
    for rows in plain.iter_slices(_SLICE):
        digest.update(rows.write_csv(include_header=False).encode())
    return digest.hexdigest()[:16]
