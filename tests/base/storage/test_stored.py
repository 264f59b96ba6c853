"""What a dataclass declares is what its file holds: it comes back as it was, and nothing else is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from forging import check_damaged_facts, through_file
from models_at_hand import fitted

from tabmtl import PLE, RMTGB, MultiTabNet
from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.base.storage.stored import POSITIVE, Saved, Stored, put_together, take_apart


def trees(n_features: int = 2, rounds: int = 3) -> TreeText:
    x = np.random.default_rng(0).normal(size=(100, n_features))
    params = {"verbosity": -1, "num_threads": 1, "objective": "regression", "min_data_in_leaf": 5}
    return TreeText(lgb.train(params, lgb.Dataset(x, x[:, 0]), rounds).model_to_string())


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    own: Annotated[np.ndarray, Stored("i4", "m", low=0, below="T")]
    offsets: Annotated[np.ndarray, Stored("i8", "G+1", offsets="m")]


@dataclass(frozen=True, kw_only=True, eq=False)
class Whole:
    names: Annotated[tuple[str, ...], Stored(shape="T", distinct=True)]
    theta: Annotated[np.ndarray, Stored("f8", "T")]
    _scale: Annotated[np.ndarray, Stored("f8", "2 T", low=POSITIVE)]
    holes: Annotated[np.ndarray, Stored("f", "T+2", missing=True)] | None
    flags: Annotated[np.ndarray, Stored("b", "T")]
    weights: Annotated[dict[str, np.ndarray], Stored("f4")]
    parts: tuple[Part, ...]
    part: Part | None
    kind: Literal["one", "other"]
    share: float
    count: int
    is_own: bool
    label: str | None
    labels: tuple
    levels: dict[str, Annotated[tuple[str, ...], Stored(distinct=True)]]
    frame: pl.DataFrame
    ids: Annotated[pl.Series, Stored(shape="N", distinct=True)]
    dtypes: tuple[pl.DataType, ...]
    text: Annotated[TreeText, Stored(shape="F 1 R P")]

    def __post_init__(self) -> None:
        if self.count > 10:
            raise ValueError(f"count is {self.count}, expected at most 10")


def part(codes: list[int], offsets: list[int]) -> Part:
    return Part(own=np.array(codes, "i4"), offsets=np.array(offsets))


FRAME = pl.DataFrame(
    {
        "epoch": [1, 2, 3],
        "a.b": [0.1, None, 1e-300],
        "none": pl.Series([None, None, None], dtype=pl.Float64),
        "text": ["\U0001f600", None, ""],
        "flag": [True, None, False],
        "small": pl.Series([1.5, 2.5, 3.5], dtype=pl.Float32),
        "kind": pl.Series(["u", "v", None], dtype=pl.Enum(["v", "u"])),
    }
)
WHOLE = Whole(
    names=("a", "b", ""),
    theta=np.array([-1e300, 0.1, POSITIVE]),
    _scale=np.full((2, 3), 0.1),
    holes=np.array([np.nan, 1, 2, 3, 4], dtype=np.float32),
    flags=np.array([True, False, True]),
    weights={"layers.0.weight": np.ones((2, 2), "f4"), "bias": np.zeros(0, "f4")},
    parts=(part([0, 2], [0, 1, 1, 2]), part([], [0]), part([1, 1, 1], [0, 3])),
    part=None,
    kind="other",
    share=0.1,
    count=3,
    is_own=True,
    label=None,
    labels=("u", 1, 2.5, False),
    levels={"x": ("u", "v"), "y": ()},
    frame=FRAME,
    ids=pl.Series("item", [7, 8, 9], dtype=pl.UInt32),
    dtypes=(pl.Int8(), pl.Enum(["b", "a"]), pl.Categorical(), pl.String()),
    text=trees(),
)


def lists_of(part: Part) -> list[list[int]]:
    return [part.own.tolist(), part.offsets.tolist()]


def test_what_is_taken_apart_comes_back_as_it_was():
    again = through_file(WHOLE)
    for name, value in vars(WHOLE).items():
        found = getattr(again, name)
        assert type(found) is type(value), name
        if isinstance(value, np.ndarray):
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
        elif isinstance(value, pl.DataFrame | pl.Series):
            assert found.equals(value, null_equal=True)
        elif name == "weights":
            assert all(np.array_equal(found[key], array) for key, array in value.items())
            assert found.keys() == value.keys()
        elif name == "parts":
            assert [lists_of(own) for own in found] == [lists_of(own) for own in value]
        else:
            assert found == value, name
    assert again.frame.schema == FRAME.schema
    assert (again.ids.name, again.ids.dtype) == ("item", pl.UInt32)


def test_nothing_may_be_missing_and_optional_parts_may_be_there():
    other = replace(WHOLE, holes=None, part=part([1], [0, 1]), label="x", ids=pl.Series("item", ["p", "q"]))
    again = through_file(other)
    assert (again.holes, again.label, again.ids.to_list()) == (None, "x", ["p", "q"])
    assert again.part.own.tolist() == [1]


def test_files_have_plain_names():
    saved = take_apart(WHOLE)
    assert saved.facts.keys() == {name.strip("_") for name in vars(WHOLE)} - {"theta", "scale", "holes", "flags"}
    assert {
        "theta",
        "scale",
        "holes",
        "weights.layers.0.weight",
        "parts.2.offsets",
        "ids.values",
    } <= saved.arrays.keys()
    assert saved.texts == {"trees0": WHOLE.text}


def refused(saved: Saved, *words: str) -> None:
    with pytest.raises((ValueError, TypeError, LookupError, pl.exceptions.PolarsError)) as caught:
        put_together(Whole, saved)
    for word in words:
        assert word in str(caught.value), caught.value


ARRAYS = {
    "theta": [
        (np.zeros(4), "the array theta has type float64 and shape (4,), expected 64-bit numbers of shape (3)"),
        (np.zeros(3, "f4"), "has type float32 and shape (3,), expected 64-bit numbers"),
        (np.zeros((3, 1)), "shape (3, 1)"),
        (np.array([0, np.nan, 0]), "theta has a value that is not finite"),
        (np.array([0, np.inf, 0]), "theta has a value that is not finite"),
    ],
    "scale": [(np.zeros((2, 3)), "not in 5e-324 to inf"), (np.ones((3, 2)), "expected 64-bit numbers of shape (2, 3)")],
    "holes": [(np.zeros(4, "f4"), "expected numbers of shape (T+2)"), (np.full(5, np.inf), "not finite")],
    "flags": [(np.zeros(3, "i1"), "expected booleans")],
    "weights.bias": [(np.array([np.nan], "f4"), "weights.bias has a value"), (np.zeros(1), "expected 32-bit numbers")],
    "parts.0.own": [
        (np.array([0, 3], "i4"), "the array parts.0.own has a value that is not finite, or not in 0 to 2"),
        (np.array([-1, 0], "i4"), "not in 0 to 2"),
        (np.array([0], "i4"), "parts.0.offsets does not divide 1 values"),
    ],
    "parts.0.offsets": [
        *((np.array(offsets), "does not divide 2 values") for offsets in ([0, 1], [1, 2], [0, 2, 1, 2], [0, 3, 2])),
        (np.array([0, 2**62, -(2**62), 2]), "does not divide"),
        (np.zeros(0, "i8"), "index"),
    ],
    "ids.values": [
        (np.array([7, 7, 9], "u4"), "ids holds"),
        (np.array([7, 8, 9], "i4"), "ids holds Int32, expected UInt32"),
        (np.zeros((3, 1), "u4"), "of shape (n)"),
    ],
    "frame.0.values": [(np.array([1, 2]), "height"), (np.array([1.5, 2, 3]), "expected Int64")],
}


@pytest.mark.parametrize(
    ("name", "array", "words"), [(name, *case) for name, cases in ARRAYS.items() for case in cases]
)
def test_arrays_are_what_is_declared(name, array, words):
    saved = take_apart(WHOLE)
    refused(replace(saved, arrays=saved.arrays | {name: array}), words)


def test_every_array_and_text_is_asked_for_once():
    saved = take_apart(WHOLE)
    for name in saved.arrays:
        if not name.startswith("weights"):
            left = {other: array for other, array in saved.arrays.items() if other != name}
            refused(replace(saved, arrays=left), f"the array {name} is missing")
    refused(replace(saved, arrays=saved.arrays | {"more": np.zeros(1)}), "the model declares no more")
    refused(replace(saved, texts={}), "text holds 'trees0', expected the name of a text")
    refused(replace(saved, texts=saved.texts | {"trees1": WHOLE.text}), "the model declares no trees1")
    refused(replace(saved, texts={"trees0": "tree\nversion=v5\n"}), "text is no model of LightGBM: line 2")
    refused(
        replace(saved, facts=saved.facts | {"parts": saved.facts["parts"][:2]}), "the model declares no parts.2.own"
    )


FACTS: dict[str, list[tuple[Any, str]]] = {
    "names": [
        (["a", "b", "a"], "names holds ('a', 'b', 'a'), expected nothing twice"),
        (["a", "b"], "the array theta has type float64 and shape (3,), expected 64-bit numbers of shape (2)"),
        ("abc", "names holds 'abc', expected a list"),
        (["a", 1, "b"], "names holds ['a', 1, 'b'], expected a list of <class 'str'>"),
        (None, "names holds None"),
        ({}, "expected a list"),
    ],
    "theta": [(None, "theta holds None, expected an array"), ([1.0, 2.0, 3.0], "expected an array")],
    "weights": [(None, "expected arrays"), ({"x": 1}, "expected arrays")],
    "parts": [([{}, {}, 3], "parts.2 holds 3, expected an object"), ([{}, {}, {"x": 1}], "expected nothing but")],
    "part": [({}, "the array part.own is missing"), (False, "part holds False, expected an object")],
    "kind": [(value, "kind holds") for value in ("none", None, 1, ["one"], {})],
    "share": [(value, "share holds") for value in (True, "0.1", None, [0.1])],
    "count": [(value, "count holds") for value in (True, 3.0, "3", None)] + [(11, "expected at most 10")],
    "is_own": [(value, "is_own holds") for value in (1, "yes", None)],
    "label": [(value, "label holds") for value in (1, ["a"], False)],
    "labels": [(value, "labels holds") for value in ([None], [["a"]], [{}], "ab", 3)],
    "levels": [({"x": ["u", "u"]}, "levels.x holds ('u', 'u'), expected nothing twice"), ([], "expected an object")],
    "ids": [({"name": "item", "dtype": ["String", None], "values": ["a", None, "b"]}, "nothing twice"), ([], "object")],
    "dtypes": [
        ([["read_csv", None]], "polars has no type 'read_csv'"),
        ([["Object", None]], "cannot be of type Object"),
        ([["List", None]], "cannot be of type List"),
        ([["Enum", [1]]], ""),
        ([3], ""),
    ],
    "frame": [({}, "expected a list"), ([3], "frame.0 holds 3"), ([{"name": "x"}], "dtype")],
    "text": [("trees9", "expected the name of a text"), (3, "expected the name of a text")],
}


@pytest.mark.parametrize(("name", "fact", "words"), [(name, *case) for name, cases in FACTS.items() for case in cases])
def test_facts_are_what_is_declared(name, fact, words):
    saved = take_apart(WHOLE)
    refused(replace(saved, facts=saved.facts | {name: fact}), words)


def test_all_facts_are_there_and_no_others():
    saved = take_apart(WHOLE)
    for name in saved.facts:
        left = {other: fact for other, fact in saved.facts.items() if other != name}
        refused(replace(saved, facts=left), name)
    refused(replace(saved, facts=saved.facts | {"more": 1}), "the model holds {'more': 1}, expected nothing but")
    refused(replace(saved, facts=saved.facts | {"_scale": 1}), "expected nothing but")


def test_trees_have_the_declared_outputs():
    refused(take_apart(replace(WHOLE, text=TreeText(str(WHOLE.text).replace("v4", "v3")))), "is no model of LightGBM")
    wide = replace(WHOLE, text=trees(5))
    assert through_file(wide).text.shape.n_features == 5
    with pytest.raises(ValueError, match=r"text has columns, .* expected \(2, 2, R, P\)"):
        put_together(TwoOutputs, replace(take_apart(WHOLE), facts={"text": "trees0"}, arrays={}))


@dataclass(frozen=True, kw_only=True)
class TwoOutputs:
    text: Annotated[TreeText, Stored(shape="F 2 R P")]


def test_a_long_lie_makes_a_short_message():
    saved = take_apart(WHOLE)
    with pytest.raises(ValueError, match="names holds") as caught:
        put_together(Whole, replace(saved, facts=saved.facts | {"names": "x" * 10**6}))
    assert len(str(caught.value)) < 200


# whatever is done to the facts of a model, the answer is a model or one kind of error


@pytest.mark.parametrize("cls", [RMTGB, PLE, MultiTabNet])
def test_damaged_facts_are_a_model_or_one_kind_of_error(cls, tmp_path):
    check_damaged_facts(fitted(cls)[0], tmp_path / "model")
