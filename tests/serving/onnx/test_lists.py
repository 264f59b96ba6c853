"""An exported network reads tags, sequences, free text and vectors as the estimator does, lists of any length."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from conformance import FUNNELS, NETWORKS, targets_for, tiny
from exported import check_answers, exported, few_experts, session_of
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn
from torch.nn import functional as F

from tabmtl import STEM, SharedBottom
from tabmtl.columns import Sequence
from tabmtl.serving.onnx import OnnxCoder, export
from tabmtl.serving.onnx.operators import ListOperators

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

WORDS = ["red", "blue", "green", "old", "new"]
READ = {
    "columns": {
        "history": Sequence(of="item", longest=8),
        **dict.fromkeys(["ago", "shop"], "sequence:history"),
        "seen": Sequence(longest=4),
        "remark": "text",
    }
}


def lists(draw, lengths, missing, dtype):
    values = [None if gone else draw(n).tolist() for n, gone in zip(lengths, missing, strict=True)]
    return pl.Series(values, dtype=pl.List(dtype))


def table(n=150, seed=0):
    """A column of each kind that has lists or vectors; of each, some are missing and some empty."""
    rng = np.random.default_rng(seed)
    lengths, (gone, untagged, unseen, mute) = rng.integers(8, size=n), rng.random((4, n)) < 0.15
    X = pl.DataFrame(
        {
            "plain": rng.normal(size=n),
            "item": rng.integers(9, size=n).astype(str),
            "history": lists(lambda m: rng.integers(9, size=m).astype(str), lengths, gone, pl.String),
            "ago": lists(lambda m: rng.gamma(2, size=m), lengths, gone, pl.Float64),
            "shop": lists(lambda m: rng.choice(WORDS, m), lengths, gone, pl.String),
            "tags": lists(lambda m: rng.choice(WORDS, m), rng.integers(4, size=n), untagged, pl.String),
            "seen": lists(lambda m: rng.integers(5, size=m), rng.integers(4, size=n), unseen, pl.Int64),
            "vector": lists(lambda m: rng.normal(3, 2, size=m), [3] * n, mute, pl.Float32),
            "remark": [" ".join(rng.choice(WORDS, m)) for m in rng.integers(6, size=n)],
        }
    )
    halves = pl.element().replace_strict({}, default=None, return_dtype=pl.Float64)
    return X.with_columns(
        pl.when(pl.int_range(n) % 9 > 0).then("remark").alias("remark"),
        pl.when(pl.int_range(n) % 5 > 0).then("ago").otherwise(pl.col("ago").list.eval(halves)).alias("ago"),
    )


TABLE = table()
#: Of few rows, all lists empty, all missing, and with nothing in them that fit saw.
EMPTY = TABLE[:3].with_columns(
    *(pl.lit([], TABLE.schema[name]).alias(name) for name in ("history", "ago", "shop", "tags", "seen")),
    remark=pl.lit(""),
)
MISSING = TABLE[:3].with_columns(
    pl.lit(None, TABLE.schema[name]).alias(name) for name in TABLE.columns if name not in ("plain", "item")
)
UNSEEN = TABLE[:3].with_columns(
    pl.lit(["new to all"] * 12).alias("history"),
    ago=None,
    shop=None,
    tags=["unheard"],
    seen=[77],
    remark=pl.lit("Ünseen"),
)


def check_lists(estimator, session, X=TABLE):
    check_answers(estimator, session, X, sizes=(1, 7, len(X)))
    for rows in (EMPTY, MISSING, UNSEEN):
        check_answers(estimator, session, rows.with_columns(*X[:3].select(pl.exclude(rows.columns))), sizes=(1, 3))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An estimator, and the path of its file."""
    estimator = tiny(SharedBottom, numeric_transform="quantile", **READ).fit(TABLE, targets_for(SharedBottom, TABLE))
    path = tmp_path_factory.mktemp("lists") / "model.onnx"
    exported(estimator, path)
    return estimator, path


def test_a_network_that_reads_lists_answers_as_in_torch(model):
    estimator, path = model
    check_lists(estimator, session_of(path))
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert operators.isdisjoint({"Loop", "ScatterND"})  # slow, and wrong on several threads


@pytest.mark.all_faces
@pytest.mark.parametrize("cls", [*NETWORKS, *FUNNELS])
def test_every_network_reads_lists(cls, tmp_path):
    pooling = "mean" if cls in NETWORKS[::2] else "attention"
    estimator = tiny(cls, **READ, **few_experts(cls), sequence_pooling=pooling).fit(TABLE, targets_for(cls, TABLE))
    check_lists(estimator, exported(estimator, tmp_path / "model.onnx"))


@pytest.mark.all_faces
@pytest.mark.parametrize("params", [{"n_members": 2}, {"numeric_embedding": "none"}], ids=str)
def test_members_and_plain_numbers_beside_lists(params, tmp_path):
    estimator = tiny(SharedBottom, **READ, **params).fit(TABLE, targets_for(SharedBottom, TABLE))
    check_lists(estimator, exported(estimator, tmp_path / "model.onnx"))


@pytest.mark.all_faces
@pytest.mark.parametrize("cls", [STEM, SharedBottom])
def test_lists_in_the_long_layout(cls, tmp_path):
    X = TABLE.with_columns(school=pl.Series(np.random.default_rng(1).choice(["east", "west"], len(TABLE))))
    estimator = tiny(cls, **READ, task_column="school").fit(X, X["plain"].alias("y"))
    check_lists(estimator, exported(estimator, tmp_path / "model.onnx"), X)


@pytest.mark.all_faces
def test_lists_alone(tmp_path):
    X = TABLE.select("tags")
    estimator = tiny(SharedBottom).fit(X, targets_for(SharedBottom, TABLE))
    session = exported(estimator, tmp_path / "model.onnx")
    assert [given.name for given in session.get_inputs()] == ["tags: lengths", "tags: codes", "tags: weights"]
    check_answers(estimator, session, X, sizes=(1, len(X)))


@pytest.mark.all_faces
def test_a_service_without_the_package_can_encode_lists(model):
    session = session_of(model[1])
    coders = json.loads(session.get_modelmeta().custom_metadata_map["tabmtl"])["features"]["coders"]
    found, rows = OnnxCoder(session).encode(TABLE), TABLE.to_dicts()
    assert [given.name for given in session.get_inputs()] == [*found]

    tags = coders["tags"]
    assert tags["names"] == ["tags"]
    bags = [
        [0] if row["tags"] is None else sorted(2 + tags["levels"][0].index(tag) for tag in row["tags"]) for row in rows
    ]
    assert found["tags: codes"].tolist() == [code for bag in bags for code in bag]
    assert found["tags: lengths"].tolist() == [len(bag) for bag in bags]
    np.testing.assert_allclose(found["tags: weights"], [1 / len(bag) for bag in bags for _ in bag], rtol=1e-6)

    own = coders["sequences"]
    assert (own["sequences"], own["items"], own["sides"]) == (
        ["history", "seen"],
        ["item", "seen"],
        [["ago", "shop"], []],
    )
    levels = dict(zip(own["categories"]["names"], own["categories"]["levels"], strict=True))
    entries = [
        [(0, None, 0)]
        if row["history"] is None
        else [
            (2 + levels["item"].index(item), ago, 2 + levels["shop"].index(shop))
            for item, ago, shop in zip(row["history"], row["ago"], row["shop"], strict=True)
        ][-own["longest"][0] :]
        for row in rows
    ]
    codes, ago, shop = zip(*(entry for each in entries for entry in each), strict=True)
    assert found["history: lengths"].tolist() == [len(each) for each in entries]
    assert found["history: codes"].tolist() == [*codes]
    np.testing.assert_array_equal(found["history: numbers"][:, 0], np.array(ago, dtype=float))
    assert found["history: labels"][:, 0].tolist() == [*shop]

    assert coders["texts"]["names"] == ["remark"]
    texts = TABLE["remark"].drop_nulls()[:1].to_list()
    words = HashingVectorizer(n_features=2**14, norm=None, alternate_sign=False).transform(texts).indices
    assert {2 + code for code in words} <= set(found["remark: codes"].tolist())
    np.testing.assert_array_equal(found["x_vec"][:, 0], TABLE["vector"].list.first().to_numpy())


def test_a_target_with_the_name_of_an_input_is_refused_before_any_work(tmp_path):
    X, y = TABLE.select("tags"), pl.DataFrame({"tags: codes": TABLE["plain"]})
    with pytest.raises(ValueError, match=r"the targets \['tags: codes'\] have names of inputs \(tags: lengths, "):
        export(tiny(SharedBottom).fit(X, y), tmp_path / "model.onnx")


def test_operators_in_place_of_others_agree_with_them():
    lengths, table = torch.tensor([0, 3, 0, 1, 2, 0]), nn.Embedding(7, 4).weight
    starts, codes, weights = lengths.cumsum(0) - lengths, torch.tensor([1, 6, 1, 0, 2, 2]), torch.rand(6)

    def sums(codes, weights):
        own = starts if len(codes) else torch.zeros_like(starts)
        return F.embedding_bag(codes, table, own, mode="sum", per_sample_weights=weights)

    def calls():
        row = torch.arange(6).repeat_interleave(lengths, output_size=6)
        yield row
        yield torch.eye(2, 6).repeat_interleave(lengths.int(), dim=1, output_size=6)
        yield sums(codes, weights)
        yield sums(codes[:0], weights[:0])
        yield torch.zeros(6).index_add(0, row, weights)
        yield torch.zeros(6, 4).index_add(0, row, table[codes])
        yield torch.zeros(6, 2).index_add(1, torch.tensor([1, 0]), torch.ones(6, 2))

    expected = [*calls()]
    with ListOperators():
        found = [*calls()]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
