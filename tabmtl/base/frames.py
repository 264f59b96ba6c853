"""Frames about a model, which are small."""

from __future__ import annotations

import polars as pl


class Whole(pl.DataFrame):
    """A frame that prints all its columns, and up to 60 rows; what is made of it prints as polars does."""

    def __str__(self) -> str:
        with pl.Config(
            tbl_cols=-1,
            tbl_rows=60,
            tbl_width_chars=-1,
            tbl_hide_column_data_types=True,
            tbl_hide_dataframe_shape=True,
            fmt_str_lengths=100,
            float_precision=4,
        ):
            return super().__str__()
