"""Few rows are read to the same bits as many, whatever the types, and refused with the same words."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from tabmtl.encode.features import MOST_ROWS, FeatureCoder

N = 40
NUMBERS = {
    "int8": pl.Int8,
    "int64": pl.Int64,
    "uint64": pl.UInt64,
    "int128": pl.Int128,
    "float32": pl.Float32,
    "float64": pl.Float64,
    "boolean": pl.Boolean,
}


def numbers() -> pl.DataFrame:
    """Numbers of every type, some missing, some with more digits than a float has."""
    rng = np.random.default_rng(0)
    large = (rng.integers(2**62, 2**63, size=N, dtype=np.int64)).tolist()
    columns = {
        "int8": rng.integers(-100, 100, size=N).tolist(),
        "int64": large,
        "uint64": [2 * value + 1 for value in large],
        "int128": [value**2 - 3 for value in large],
        "float32": rng.normal(size=N).astype(np.float32).tolist(),
        "float64": [float("nan") if i % 7 == 0 else value for i, value in enumerate(rng.normal(size=N).tolist())],
        "boolean": (rng.random(N) < 0.5).tolist(),
    }
    holes = rng.random((N, len(columns))) < 0.2
    return pl.DataFrame(
        {
            name: pl.Series([None if holes[i, j] else value for i, value in enumerate(values)], dtype=NUMBERS[name])
            for j, (name, values) in enumerate(columns.items())
        }
    ).with_columns(nothing=None, half=pl.col("int8") / 2)


def levels() -> pl.DataFrame:
    """Categories of every type, with missing ones, and in the last rows such as fit does not see."""
    text = (["red", "green", None, "None", "true", ""] * N)[:N]
    return pl.DataFrame(
        {
            "text": text,
            "category": pl.Series(text, dtype=pl.Categorical),
            "enum": pl.Series(text, dtype=pl.Enum(["red", "green", "None", "true", ""])),
            "flag": ([True, None, False] * N)[:N],
            "whole": ([1, -20, None, 2**40] * N)[:N],
        }
    )


def check(coder: FeatureCoder, frame: pl.DataFrame, *, few: bool = True) -> None:
    assert all(own.reads_rows(frame.schema) for own in coder.coders.values()) == few
    x = coder.encode(frame)
    for n in (1, 2, MOST_ROWS):
        for start in range(0, len(frame) - n, 3):
            own = coder.encode(frame[start : start + n])
            for found, expected in zip(own.arrays().values(), x.arrays().values(), strict=True):
                assert found.dtype == expected.dtype
                assert found.tobytes() == expected[start : start + n].tobytes()


@pytest.mark.parametrize("transform", ["standardize", "quantile", "none"])
def test_numbers_have_the_same_bits(transform):
    check(FeatureCoder.fit(numbers(), transform=transform), numbers())


def test_levels_have_the_same_codes():
    coder = FeatureCoder.fit(levels(), categorical=levels().columns)
    check(coder, levels())
    check(coder, levels().with_columns(pl.lit("violet").alias("text"), whole=pl.lit(7), flag=pl.lit(None)))


def test_both_together_and_in_another_order_of_columns():
    frame = pl.concat([numbers(), levels()], how="horizontal")
    coder = FeatureCoder.fit(frame, categorical=levels().columns)
    check(coder, frame)
    twin = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [9.0, 7.0, 5.0]})
    coder = FeatureCoder.fit(twin)
    first = coder.encode(twin[:1]).numbers
    assert np.array_equal(coder.encode(twin[:1].select("b", "a")).numbers, first)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("x", [1.5, 2.0, None, float("nan"), 1e-7, 1e20] * 7),
        pl.Series("x", [Decimal("1.50"), Decimal("2"), None] * 14),
    ],
    ids=["float", "decimal"],
)
def test_what_polars_alone_makes_text_of_goes_through_polars(column):
    check(FeatureCoder.fit(column.to_frame(), categorical=["x"]), column.to_frame(), few=False)


def test_decimals_go_through_polars():
    frame = pl.DataFrame({"x": [Decimal("0.1"), Decimal("0.3"), None] * 14})
    check(FeatureCoder.fit(frame), frame, few=False)


def test_errors_are_the_same():
    frame = pl.concat([numbers(), levels()], how="horizontal")
    coder = FeatureCoder.fit(frame, categorical=levels().columns)
    with pytest.raises(ValueError, match="column 'float64' holds an infinite value"):
        coder.encode(frame[:1].with_columns(float64=pl.lit(float("inf"))))
    with pytest.raises(TypeError, match="column 'int8' was numeric in fit and is now String"):
        coder.encode(frame[:1].with_columns(int8=pl.lit("one")))
