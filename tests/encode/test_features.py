"""Features to arrays: kinds of columns, levels, missing values, and the same numbers by every way in."""

from __future__ import annotations

import pickle
from copy import deepcopy
from datetime import date

import numpy as np
import polars as pl
import pytest
from forging import through_file
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN, Batch, TabmtlWarning
from tabmtl.base.storage.stored import take_apart
from tabmtl.columns import Category, Features, Number, Sequence, Text, kind, number
from tabmtl.encode import FeatureCoder, features

TRANSFORMS = ("standardize", "quantile", "none")


def table(n: int = 400, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    present = pl.Series(rng.random(n) > 0.2)
    columns = {
        "float": pl.Series(rng.normal(size=n)),
        "tail": pl.Series(rng.standard_cauchy(n) * 1e9),
        "float32": pl.Series(rng.normal(size=n).astype(np.float32)),
        "int": pl.Series(rng.integers(-5, 5, n)),
        "uint8": pl.Series(rng.integers(0, 255, n).astype(np.uint8)),
        "text": pl.Series([f"level {i}" for i in rng.integers(0, 30, n)]),
        "category": pl.Series([f"c{i}" for i in rng.integers(0, 4, n)], dtype=pl.Categorical),
        "enum": pl.Series([f"e{i}" for i in rng.integers(0, 3, n)], dtype=pl.Enum([f"e{i}" for i in range(9)])),
        "bool": pl.Series(rng.random(n) > 0.5),
        "constant": pl.Series(np.full(n, 3.0)),
        "empty": pl.Series([None] * n),
    }
    nulls = pl.DataFrame(columns).with_columns(pl.when(present).then(pl.all()))
    return nulls.with_columns(pl.col("constant").fill_null(3.0))


def same(first: Features, second: Features) -> bool:
    pairs = zip((*first.bags, *first.sequences), (*second.bags, *second.sequences), strict=True)
    return (
        np.array_equal(first.numbers, second.numbers, equal_nan=True)
        and np.array_equal(first.codes, second.codes)
        and all(np.array_equal(a.codes, b.codes) and np.array_equal(a.offsets, b.offsets) for a, b in pairs)
    )


def test_kinds_of_columns_follow_their_types():
    coder = FeatureCoder.fit(table())
    assert coder.columns.numeric == ("float", "tail", "float32", "int", "uint8", "constant", "empty")
    assert coder.columns.categorical == ("text", "category", "enum", "bool")
    assert coder.columns.has_missing == (True,) * 5 + (False, True)
    assert coder.columns.levels[2:] == (("e0", "e1", "e2"), ("false", "true"))


def test_named_columns_are_categorical_whatever_their_type():
    frame = pl.DataFrame({"a": [3, 1, 3, None], "b": [0.5, 2.0, float("nan"), None], "c": [1.0, 2.0, 3.0, 4.0]})
    coder = FeatureCoder.fit(frame, columns={"b": Category(), "a": Category()})
    assert coder.columns.categorical == ("a", "b")
    assert coder.columns.levels == (("1", "3"), ("0.5", "2"))
    assert coder.encode(frame).codes.T.tolist() == [[3, 2, 3, MISSING], [2, 3, MISSING, MISSING]]
    # a column of whole numbers may come as text, or as floats because of a hole
    other = pl.DataFrame({"a": ["3", "1", "x", None], "b": [2, 0, None, 2], "c": [0, 0, 0, 0]})
    assert coder.encode(other).codes.T.tolist() == [[3, 2, UNSEEN, MISSING], [3, UNSEEN, MISSING, 3]]
    floats = other.with_columns(a=pl.Series([3.0, 1.0, 2.5, float("nan")]))
    assert coder.encode(floats).codes.T.tolist()[0] == [3, 2, UNSEEN, MISSING]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", "\0", "*", "^a$", "x" * 5000]
)


@given(st.lists(st.none() | TEXTS, min_size=1, max_size=40), st.lists(st.none() | TEXTS, max_size=10))
def test_codes_say_missing_unseen_or_which_level(known, new):
    frame = pl.DataFrame({"x": pl.Series(known, dtype=pl.String)})
    coder = FeatureCoder.fit(frame)
    (levels,) = coder.columns.levels
    assert levels == tuple(sorted({value for value in known if value is not None}))
    values = known + new
    codes = coder.encode(pl.DataFrame({"x": pl.Series(values, dtype=pl.String)})).codes[:, 0]
    expected = [MISSING if v is None else levels.index(v) + FIRST_LEVEL if v in levels else UNSEEN for v in values]
    assert codes.tolist() == expected


def test_rare_levels_share_the_code_of_unseen_ones():
    frame = pl.DataFrame({"x": ["a"] * 5 + ["b"] * 2 + ["c"] + [None] * 4})
    coder = FeatureCoder.fit(frame, min_frequency=2)
    assert coder.columns.levels == (("a", "b"),)
    assert coder.encode(frame).codes[[0, 5, 7, 8], 0].tolist() == [2, 3, UNSEEN, MISSING]
    assert FeatureCoder.fit(frame, min_frequency=6).columns.levels == ((),)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_missing_values_are_nan_however_they_come(transform):
    frame = table()
    coder = FeatureCoder.fit(frame, transform=transform)
    x = coder.encode(frame)
    assert x.numbers.dtype == np.float32
    assert x.codes.dtype == np.int32
    missing = frame.select(coder.columns.numeric).select(pl.all().is_null()).to_numpy()
    np.testing.assert_array_equal(np.isnan(x.numbers), missing)
    assert (x.numbers[:, coder.columns.numeric.index("constant")] == (3 if transform == "none" else 0)).all()
    nan = frame.with_columns(pl.col("float", "tail", "float32").fill_null(float("nan")))
    assert same(coder.encode(nan), x)
    again = FeatureCoder.fit(nan, transform=transform)
    assert take_apart(again).facts == take_apart(coder).facts


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_lazy_frames_slices_and_single_rows_give_the_same(transform, monkeypatch):
    frame = table()
    coder = FeatureCoder.fit(frame, transform=transform)
    whole = coder.encode(frame)
    rows = [coder.encode(frame[i]) for i in range(0, 400, 37)]
    assert same(whole, coder.encode(frame.lazy()))
    assert same(Batch.join([Batch(x=row) for row in rows]).x, whole.map(lambda part: part[::37]))
    shuffled = np.random.default_rng(0).permutation(400)
    assert same(coder.encode(frame[shuffled]), whole.map(lambda part: part[shuffled]))
    monkeypatch.setattr(features, "SLICE_ROWS", 64)
    monkeypatch.setattr(number, "CHUNK_ROWS", 5)
    for source in (frame, frame.lazy(), pl.concat([frame[:30], frame[30:]], rechunk=False)):
        again = FeatureCoder.fit(source, transform=transform)
        assert take_apart(again).facts == take_apart(coder).facts
        assert same(again.encode(source), whole)


def test_levels_are_counted_anew_after_many_blocks(monkeypatch):
    frame, merged = table(), []

    def merge(several, kept):
        merged.append(len(several))
        return kind.merge(several, kept)

    monkeypatch.setattr(features, "merge", merge)
    monkeypatch.setattr(features, "SLICE_ROWS", 5)
    coder = FeatureCoder.fit(frame.lazy())
    assert take_apart(coder).facts == take_apart(FeatureCoder.fit(frame)).facts
    assert len(merged) == 3, "of 80 blocks"


def test_a_parquet_scan_keeps_its_order(tmp_path):
    frame = table(5000).with_columns(row=pl.int_range(5000))
    frame.write_parquet(tmp_path / "table.parquet", row_group_size=300)
    scan = pl.scan_parquet(tmp_path / "table.parquet")
    coder = FeatureCoder.fit(scan, transform="none")
    assert same(coder.encode(scan), coder.encode(frame))
    assert coder.encode(scan).numbers[:, -1].tolist() == list(range(5000))


def test_large_tables_are_summed_up_from_a_seeded_sample(monkeypatch):
    frame = pl.DataFrame({"x": np.arange(20_000.0), "rare": [None] * 19_999 + [1.0]})
    exact = FeatureCoder.fit(frame)
    monkeypatch.setattr(features, "SAMPLE_ROWS", 2_000)
    monkeypatch.setattr(features, "SLICE_ROWS", 999)
    sampled = FeatureCoder.fit(frame)
    assert take_apart(sampled).facts == take_apart(FeatureCoder.fit(frame.lazy())).facts
    np.testing.assert_allclose(
        sampled.scalers["numbers"][0].center[0], exact.scalers["numbers"][0].center[0], rtol=0.05
    )
    np.testing.assert_allclose(sampled.scalers["numbers"][0].scale[0], exact.scalers["numbers"][0].scale[0], rtol=0.05)
    # what is exact stays exact
    assert sampled.columns.has_missing == (False, True)


@pytest.mark.parametrize("name", ["*", "^.*$", "^a$", "count", "level", "len", "\0row", "", "rows", "a b"])
def test_column_names_are_only_names(name):
    frame = pl.DataFrame({"a": [1.0, 2.0, 3.0], name: ["u", "v", None], f"{name} ": [4.0, None, 6.0]})
    coder = FeatureCoder.fit(frame)
    x = coder.encode(frame)
    assert x.numbers.shape == (3, 2)
    assert x.codes.T.tolist() == [[2, 3, MISSING]]
    numbers = frame.with_columns(pl.Series(name, [1.0, 2.0, 3.0]))
    assert same(FeatureCoder.fit(numbers).encode(numbers.lazy()), FeatureCoder.fit(numbers).encode(numbers))


@pytest.mark.parametrize("name", ["*", "^.*$", "^a$", "lists", "level", "text"])
@pytest.mark.parametrize("flat", [False, True])
def test_names_of_lists_and_text_are_only_names(name, flat):
    values = {"past": ["j", "i"], "tags": ["u"], "hours": [2.0, 1.0], "of": ["x", "y"], "vector": [0.5, 1.5]}
    plain = pl.DataFrame({own: [value, None, value] for own, value in values.items()}).with_columns(
        remark=pl.lit("a b")
    )
    columns = {"past": Sequence(), "hours": Sequence("past"), "of": Sequence("past"), "remark": Text()}
    whole = FeatureCoder.fit(plain, flat=flat, columns=columns).encode(plain)
    for own in plain.columns:
        frame = plain.rename({own: name})
        here = {name if key == own else key: kind for key, kind in columns.items()}
        if own == "past":
            here |= {"hours": Sequence(name), "of": Sequence(name)}
        coder = FeatureCoder.fit(frame, flat=flat, columns=here)
        assert same(coder.encode(frame), whole)
        assert same(coder.encode(frame.lazy()), whole)


@pytest.mark.parametrize(
    "dtype", [pl.Int8, pl.UInt64, pl.Int128, pl.Float32, pl.Decimal(10, 2), pl.Boolean, pl.Float64]
)
def test_numbers_of_any_type_are_the_same_numbers(dtype):
    values = pl.Series("x", [0, 1, 1, None, 0, 1], dtype=pl.Int64)
    coder = FeatureCoder.fit(values.to_frame(), columns={"x": Number()})
    typed = values.cast(dtype).to_frame()
    assert same(coder.encode(typed), coder.encode(values.to_frame()))
    assert take_apart(FeatureCoder.fit(typed, columns={"x": Number()})).facts == take_apart(coder).facts


def test_what_is_kept_between_calls_follows_the_types():
    frame = pl.DataFrame({"n": [1, 2, 3], "c": ["1", "2", None]})
    coder = FeatureCoder.fit(frame)
    first = coder.encode(frame)
    assert (
        coder.encode(pl.DataFrame({"n": [1.0, 2.0, 3.0], "c": [1.0, 2.0, float("nan")]})).codes.tolist()
        == first.codes.tolist()
    )
    enum = frame.with_columns(pl.col("c").cast(pl.Enum(["2", "1", "unused"])))
    assert same(coder.encode(enum), first)
    assert same(coder.encode(frame), first)
    for copied in (deepcopy(coder), pickle.loads(pickle.dumps(coder))):
        assert set(vars(copied)) == {"names", "coders", "readings"}
        assert same(copied.encode(frame), first)


@pytest.mark.parametrize("flat", [False, True])
def test_levels_are_prepared_once_beside_lists_too(flat, monkeypatch):
    rows = {"c": ["a", "b"], "tags": [["u"], ["u", "v"]], "item": ["i", "j"], "past": [["j"], ["i", "i"]]}
    frame = pl.DataFrame(rows | {"of": [["x"], ["y", "x"]]})
    coder = FeatureCoder.fit(frame, flat=flat, columns={"past": Sequence("item"), "of": Sequence("past")})
    first = coder.encode(frame)
    monkeypatch.setattr(pl, "Enum", None)  # with many levels, making one takes a hundred times longer than a row
    assert same(coder.encode(frame), first)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_state_goes_through_json(transform):
    frame = table()
    coder = FeatureCoder.fit(frame, transform=transform)
    copied = through_file(coder)
    assert copied.columns == coder.columns
    assert take_apart(copied).facts == take_apart(coder).facts
    arrays = take_apart(copied).arrays
    assert all(np.array_equal(arrays[name], array) for name, array in take_apart(coder).arrays.items())
    assert same(copied.encode(frame), coder.encode(frame))


def test_numbers_that_are_text_are_told():
    numbers = [f"{i / 4}" for i in range(60)]
    with pytest.warns(TabmtlWarning, match=r"column 'size' is text, so each of its 60 values .* yet they are numbers;"):
        FeatureCoder.fit(pl.DataFrame({"size": numbers, "town": ["Ulm", "Bonn"] * 30}))
    with pytest.warns(
        TabmtlWarning,
        match=r"61 values .* numbers, except '\?' and the like; replace those .* say columns=\{'size': 'number'\}",
    ):
        FeatureCoder.fit(pl.DataFrame({"size": [*numbers, "?", None]}), min_frequency=5)


def test_text_that_is_no_number_is_silent(recwarn):
    numbers = [f"{i / 4}" for i in range(60)]
    FeatureCoder.fit(pl.DataFrame({"size": numbers}), columns={"size": Category()})
    FeatureCoder.fit(pl.DataFrame({"size": numbers}, schema={"size": pl.Categorical}))
    FeatureCoder.fit(pl.DataFrame({"code": [f"{i:05}" for i in range(60)] * 2, "few": numbers[:20] * 6}))
    FeatureCoder.fit(pl.DataFrame({"mixed": (numbers[:52] + [f"A{i}" for i in range(8)]) * 2}))
    assert not recwarn.list


@pytest.mark.parametrize("values", [[[[1]]], [{"a": 1}], [b"x"], [object()]])
def test_other_types_are_rejected_by_name(values):
    with pytest.raises(TypeError, match=r"'odd' has type .*: .*, or say columns=\{'odd': 'ignore'\}"):
        FeatureCoder.fit(pl.DataFrame({"odd": values}))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_infinite_values_are_named(transform, dtype):
    fine = pl.DataFrame({"a": [1.0, 2.0], "b": [3.0, None]}, schema_overrides={"b": dtype})
    bad = pl.DataFrame({"a": [1.0, 2.0], "b": [3.0, -np.inf]}, schema_overrides={"b": dtype})
    with pytest.raises(ValueError, match="column 'b' holds an infinite value; replace it"):
        FeatureCoder.fit(bad, transform=transform)
    coder = FeatureCoder.fit(fine, transform=transform)
    with pytest.raises(ValueError, match="column 'b' holds an infinite value; replace it"):
        coder.encode(bad)


def test_a_column_that_changed_its_kind_is_named():
    coder = FeatureCoder.fit(pl.DataFrame({"n": [1.0, 2.0], "c": ["x", "y"]}))
    with pytest.raises(TypeError, match="column 'n' was numeric in fit and is now String"):
        coder.encode(pl.DataFrame({"n": ["1"], "c": ["x"]}))
    with pytest.raises(TypeError, match="column 'c' was categorical in fit and is now Date"):
        coder.encode(pl.DataFrame({"n": [1.0], "c": [date(2020, 1, 1)]}))
    x = coder.encode(pl.DataFrame({"n": [None], "c": [None]}))
    assert np.isnan(x.numbers).all()
    assert x.codes.tolist() == [[MISSING]]


@pytest.mark.parametrize("flat", [False, True])
def test_a_column_without_any_value_may_have_any_type(flat):
    frame = pl.DataFrame(
        {
            "n": [1.0, 2.0],
            "town": ["Ulm", "Bonn"],
            "opens": [date(2026, 1, 1), date(2027, 2, 2)],
            "tags": [["a"], ["b"]],
            "vector": [[0.5, 1.0], [1.5, 2.0]],
            "seen": [["Ulm"], ["Bonn", "Ulm"]],
        }
    ).with_columns(zoned=pl.col("opens").cast(pl.Datetime("us", "UTC")), took=pl.duration(seconds=pl.col("n")))
    coder = FeatureCoder.fit(frame, columns={"seen": Sequence("town")}, flat=flat)
    for name in frame.columns:
        expected = coder.encode(frame.with_columns(pl.lit(None).alias(name))).arrays()
        for nothing in (pl.lit(float("nan")), pl.lit(None, pl.Datetime("ns")), pl.lit(None, pl.String)):
            found = coder.encode(frame.with_columns(nothing.alias(name))).arrays()
            assert {*found} == {*expected}
            for each in expected:
                np.testing.assert_array_equal(found[each], expected[each])
    with pytest.raises(TypeError, match="'opens' held dates in fit"):
        coder.encode(frame.with_columns(opens=pl.Series([1.0, None])))


def test_wrong_names_and_empty_tables():
    frame = pl.DataFrame({"n": [1.0], "c": ["x"]})
    with pytest.raises(ValueError, match=r"columns that X does not have: \['d'\]"):
        FeatureCoder.fit(frame, columns={"c": Category(), "d": Category()})
    for source in (frame[:0], frame[:0].lazy()):
        with pytest.raises(ValueError, match="0 sample"):
            FeatureCoder.fit(source)
    with pytest.raises(ValueError, match="0 feature"):
        FeatureCoder.fit(pl.DataFrame())
    assert [part.shape for part in FeatureCoder.fit(frame).encode(frame[:0]).arrays().values()] == [(0, 1), (0, 1)]
