"""What a user says of columns: its text and its object are the same, and what is wrong is told with the cure."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.columns import Category, Date, Number, Sequence, Text
from tabmtl.columns.declared import DECLARED, declare, encoder_of, find_declared

NAMES = st.text("abz_ =:", min_size=1, max_size=6)
SAID = st.one_of(
    st.sampled_from([*(own() for own in DECLARED.values()), Number(",")]),
    st.lists(st.text("SMLxy ", min_size=1), min_size=2, max_size=4, unique=True).map(lambda own: Category(tuple(own))),
    st.sampled_from(["%m/%d/%Y", "%d.%m.%Y %H:%M", "%H:%M"]).map(Date),
    NAMES.map(lambda name: Sequence(of=name)),
)


@given(SAID)
def test_a_kind_is_the_same_by_its_text(kind):
    assert find_declared(str(kind)) == kind
    assert declare({"a": str(kind), "b": kind}) == {"a": kind, "b": kind}


def test_every_name_alone_is_the_kind_without_options():
    assert [find_declared(name) for name in DECLARED] == [own() for own in DECLARED.values()]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("categry", r"columns\['a'\]: .*near is 'category'"),
        ("tags:x", r"columns\['a'\]: 'tags' takes nothing behind a colon"),
        ("number:;", r"columns\['a'\]: decimal must be"),
        ("category:S", r"columns\['a'\]: order must have two or more levels"),
        ("category:S<M<S", "all different"),
        ("date:day", r"columns\['a'\]: format must tell a date or a time in the signs of strftime"),
        ("date:%d.%m", "format must tell a date or a time"),
        (Number, r"columns\['a'\] must be a kind .*; write Number\(\)"),
        (["S", "M"], r"columns\['a'\] must be a kind of tabmtl.columns, .*got \['S', 'M'\]"),
    ],
)
def test_what_is_no_kind_is_told_with_its_column(said, message):
    with pytest.raises((ValueError, TypeError), match=message):
        declare({"a": said})


def test_columns_map_names_to_kinds():
    assert declare(None) == {}
    for wrong in (["a"], "a", {0: "category"}):
        with pytest.raises(TypeError, match="columns must map names of columns to kinds"):
            declare(wrong)


def test_all_texts_have_one_encoder():
    assert encoder_of({"a": "text", "b": Text(len), "c": Text(len), "d": "number"}) is len
    with pytest.raises(ValueError, match=re.escape("the columns ['b', 'd'] have two encoders of text")):
        encoder_of({"a": "text", "b": Text(len), "d": Text(max)})
    for wrong in ("model", str, 3):
        with pytest.raises(TypeError, match="encoder must be a function"):
            Text(wrong)
