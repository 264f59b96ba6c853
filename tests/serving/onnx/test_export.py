"""An exported network answers in ONNX Runtime as the estimator does, for any number of rows."""

import json
import subprocess
import sys
from datetime import datetime

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
import torch
from cases import quick
from conformance import FUNNELS, NETWORKS, features, long_table, mixed_targets, targets_for, tiny
from exported import check_answers, exported, few_experts, session_of
from sklearn.exceptions import NotFittedError

from tabmtl import (
    PLE,
    STEM,
    AdaTT,
    HoME,
    MultiTabNet,
    MultiTabNetClassifier,
    SharedBottom,
    SharedBottomRegressor,
    SharedTrees,
    load,
)
from tabmtl.models.shared_bottom import SharedBottomNetwork
from tabmtl.serving.onnx import OnnxCoder, export, exporting

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

#: What changes the graph: every value of a parameter in one of them.
VARIANTS = {
    "many layers": (
        MultiTabNet,
        {"row_layer": "inducing_attention", "n_points": 5, "multi_token": False, "n_blocks": 2, "mask": "FxT_TxT"},
    ),
    "rows meet": (
        MultiTabNet,
        {"row_layer": "batch_attention", "batch_size": 300, "mask": "FxT", "numeric_embedding": "periodic"},
    ),
    "row alone": (MultiTabNet, {"row_layer": "none", "mask": "none", "numeric_embedding": "piecewise"}),
    "plain": (SharedBottom, {"numeric_embedding": "none", "hidden": (), "head_hidden": 0}),
    "groups": (
        HoME,
        {
            "task_groups": {"a": ["late", "delay"], "b": ["size"]},
            "feature_gate": "none",
            "self_gate": False,
            "hierarchy_mask": False,
            "expert_norm": "layer",
        },
    ),
    "members of experts": (PLE, {"n_members": 2}),
    "members": (SharedBottom, {"n_members": 3}),
    "members of tokens": (MultiTabNet, {"n_members": 2}),
    "members of embeddings": (STEM, {"n_members": 2}),
    "shared unit": (AdaTT, {"n_shared_experts": 2, "expert_norm": "none", "activation": "silu"}),
}


def new_rows(n=300):
    """Rows that fit did not see, with a level that it did not see, and a value far out."""
    X = features(n, seed=5)
    text = X["text"].scatter([0, 2, 5], "violet")
    return X.with_columns(text, plain=X["plain"].scatter([1, 3], [1e9, None]))


@pytest.mark.all_faces
@pytest.mark.parametrize("cls", [*NETWORKS, *FUNNELS])
def test_every_network_answers_as_in_torch(cls, tmp_path, capfd):
    X = features()
    transform = "quantile" if cls in NETWORKS[::2] else "standardize"
    estimator = tiny(cls, numeric_transform=transform, **few_experts(cls)).fit(X, targets_for(cls, X))
    session = exported(estimator, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    check_answers(estimator, session, new_rows())
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    content = (tmp_path / "model.onnx").read_bytes()
    assert b"/tabmtl/" not in content  # no path of this machine travels with it


@pytest.mark.all_faces
@pytest.mark.parametrize(
    "holed",
    [
        pytest.param(("plain", "count"), id="all"),
        pytest.param(("count",), id="one", marks=pytest.mark.all_faces),
        pytest.param((), id="none", marks=pytest.mark.all_faces),
    ],
)
@pytest.mark.parametrize("cls", quick([*NETWORKS, *FUNNELS], "SharedBottom"))
def test_columns_that_had_missing_values(cls, holed, tmp_path):
    names = ["plain", "count", "text"]
    X = features().select(
        pl.when(pl.int_range(pl.len()) % 9 > 0 if name in holed else True).then(name) for name in names
    )
    estimator = tiny(cls, **few_experts(cls)).fit(X, targets_for(cls, features()))
    rows = new_rows(40).select(pl.when(pl.int_range(pl.len()) % 5 > 0).then(name) for name in names)
    check_answers(estimator, exported(estimator, tmp_path / "model.onnx"), rows, sizes=(1, 40))


@pytest.mark.all_faces
@pytest.mark.parametrize("cls", NETWORKS)
def test_all_columns_had_missing_values_in_the_long_layout(cls, tmp_path):
    X, y = long_table()
    holed = X.with_columns(pl.when(pl.int_range(pl.len()) % 9 > 0).then(cs.numeric()).name.keep())
    estimator = tiny(cls, task_column="school").fit(holed, y)
    check_answers(estimator, exported(estimator, tmp_path / "model.onnx"), holed, sizes=(1, 100))


@pytest.mark.all_faces
@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_that_change_the_graph(name, tmp_path):
    cls, params = VARIANTS[name]
    X = features()
    estimator = tiny(cls, **params).fit(X, mixed_targets(X))
    check_answers(estimator, exported(estimator, tmp_path / "model.onnx"), new_rows())


@pytest.mark.all_faces
@pytest.mark.parametrize("cls", NETWORKS)
def test_in_the_long_layout_the_row_says_its_task(cls, tmp_path):
    X, y = long_table()
    n_members = 2 if cls in NETWORKS[1::2] else 1
    estimator = tiny(cls, task_column="school", n_members=n_members).fit(X, y)
    session = exported(estimator, tmp_path / "model.onnx")
    assert [given.name for given in session.get_inputs()] == ["x_num", "x_cat", "task"]
    rows = long_table(300, seed=3)[0]
    check_answers(estimator, session, rows)
    facts = OnnxCoder(session).facts
    assert facts["labels"]["task_levels"] == ["east", "north", "west"]
    with pytest.raises(ValueError, match="the task 'south' was not seen in fit"):
        OnnxCoder(session).encode(rows.with_columns(school=pl.lit("south")))


@pytest.mark.all_faces
def test_arrays_of_numbers_have_no_codes(tmp_path):
    rng = np.random.default_rng(0)
    X = 1e9 + rng.normal(size=(100, 3))  # more digits than float32 has
    y = 5e6 + X[:, 0] - 1e9
    estimator = tiny(SharedBottomRegressor).fit(X, y)
    session = exported(estimator, tmp_path / "model.onnx")
    assert [given.name for given in session.get_inputs()] == ["x_num"]
    check_answers(estimator, session, X, sizes=(1, 100))


@pytest.mark.all_faces
@pytest.mark.parametrize("transform", ["standardize", "quantile"])
def test_dates_are_numbers_and_codes_of_the_coder(transform, tmp_path):
    when = pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 6, 1), "29h", eager=True, time_zone="Europe/Berlin")
    X = pl.DataFrame({"when": when, "at": when.dt.time(), "took": when - when[0], "x": when.dt.ordinal_day()})
    y = when.dt.weekday().alias("y") + pl.Series(np.linspace(0, 1, len(X)))
    estimator = tiny(SharedBottomRegressor, numeric_transform=transform).fit(X, y)
    session = exported(estimator, tmp_path / "model.onnx")
    check_answers(estimator, session, pl.concat([X, X.clear(3)]))


@pytest.mark.all_faces  # ten seconds
def test_codes_alone_need_no_numbers(tmp_path):
    X = features().select("text", "flag")
    estimator = tiny(MultiTabNetClassifier).fit(X, mixed_targets(features()).select("size", "late"))
    session = exported(estimator, tmp_path / "model.onnx")
    assert [given.name for given in session.get_inputs()] == ["x_cat"]
    check_answers(estimator, session, new_rows().select("text", "flag"))


@pytest.mark.all_faces
def test_a_loaded_network_with_a_large_table_that_computes_in_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr("tabmtl.nn.embeddings.DENSE_ROWS", 1)
    X = features()
    tiny(SharedBottom, precision="bf16").fit(X, mixed_targets(X)).save(tmp_path / "model")
    estimator = load(tmp_path / "model")
    assert estimator.fitted_network()[0].vector.tokenizer.categorical.table.sparse
    session = exported(estimator, str(tmp_path / "model.onnx"))
    check_answers(estimator.set_params(precision="float32"), session, new_rows())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An estimator, the file of its network, and what the exporter made of it."""
    X = features()
    # names that the graph has, or could have, for its own values
    y = mixed_targets(X).rename({"late": "softmax", "size": "/", "delay": "val_1"})
    estimator = tiny(SharedBottom).fit(X, y)
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        translate = exporting._translate
        patch.setattr(exporting, "_translate", lambda *args: kept.append(translate(*args)) or kept[0])
        path = tmp_path_factory.mktemp("export") / "model.onnx"
        export(estimator, path)
    del kept[0].metadata_props[:]
    return estimator, path, kept[0]


def test_targets_may_have_any_name(model):
    estimator, path, _ = model
    check_answers(estimator, session_of(path), new_rows(), sizes=(4,))
    assert b"/tabmtl/" not in path.read_bytes()


def test_a_service_without_the_package_can_encode(model):
    estimator, path, _ = model
    session = session_of(path)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["tabmtl"])
    assert (facts["format"], facts["class"], facts["task_column"]) == (2, "SharedBottom", None)
    assert [task["kind"] for task in facts["labels"]["tasks"]] == ["binary", "multiclass", "regression"]
    assert facts["labels"]["tasks"][1]["classes"] == ["large", "medium", "small"]
    rows, columns = new_rows(20).to_dicts(), facts["features"]["coders"]
    numbers = [[row[name] for name in columns["numbers"]["names"]] for row in rows]
    codes = []
    for row in rows:
        own = []
        for name, levels in zip(columns["categories"]["names"], columns["categories"]["levels"], strict=True):
            text = {True: "true", False: "false"}.get(row[name], row[name])
            own.append(0 if text is None else 2 + levels.index(text) if text in levels else 1)
        codes.append(own)
    assert {code for row in codes for code in row} == {0, 1, 2, 3, 4}
    feed = {"x_num": np.array(numbers, dtype=np.float64), "x_cat": np.array(codes, dtype=np.int32)}
    for found, expected in zip(session.run(None, feed), estimator.__answers__(new_rows(20)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.all_faces
def test_serving_needs_no_torch(model, tmp_path):
    estimator, path, _ = model
    new_rows().write_parquet(tmp_path / "rows.parquet")
    code = (
        "import sys, onnxruntime, polars as pl\n"
        "from tabmtl.serving.onnx import OnnxCoder\n"
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        "coder = OnnxCoder(session)\n"
        f"X = pl.read_parquet({str(tmp_path / 'rows.parquet')!r})\n"
        f"coder.decode(session.run(None, coder.encode(X))).write_parquet({str(tmp_path / 'y.parquet')!r})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    answered, predicted = pl.read_parquet(tmp_path / "y.parquet"), estimator.predict(new_rows())
    assert answered.drop("val_1").equals(predicted.drop("val_1"))
    assert (answered["val_1"] - predicted["val_1"]).abs().max() < 1e-5 * predicted["val_1"].std()


def test_a_file_of_another_kind_is_no_model_of_ours(model, tmp_path):
    proto = model[2]
    with pytest.raises(ValueError, match=r"was not written by tabmtl\.serving\.onnx\.export"):
        OnnxCoder(session_of(proto.SerializeToString()))
    entry = proto.metadata_props.add(key="tabmtl", value=json.dumps({"format": 3, "tabmtl": "9.1"}))
    with pytest.raises(ValueError, match=r"format 3, written by tabmtl 9\.1; this release reads format 2"):
        OnnxCoder(session_of(proto.SerializeToString()))
    for value in ("{}", "[]", '{"format": 2}', '{"format": 2, "tabmtl": "1"}', "no JSON", "3", "[" * 100_000):
        entry.value = value
        with pytest.raises(
            ValueError,
            match=r"the metadata 'tabmtl' of the ONNX model differ from those of tabmtl\.serving",
        ):
            OnnxCoder(session_of(proto.SerializeToString()))
    del proto.metadata_props[:]


def test_a_file_that_answers_otherwise_is_not_written(model, tmp_path, monkeypatch):
    estimator, _, proto = model
    monkeypatch.setattr(exporting, "_translate", lambda *args: proto)
    scores = exporting.predict_scores
    monkeypatch.setattr(exporting, "predict_scores", lambda *args: [s + 1e-4 for s in scores(*args)])
    (tmp_path / "model.onnx").write_text("an older one")
    with pytest.raises(RuntimeError, match="differs from torch on task 'softmax', for 1 rows by"):
        export(estimator, tmp_path / "model.onnx")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an older one"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export(estimator, tmp_path / "model.onnx")  # cannot be checked
    assert len((tmp_path / "model.onnx").read_bytes()) > 1000


class Counted(SharedBottomNetwork):
    """Makes a number of the rows, which the exporter takes as given."""

    def task_features(self, x, own=None):
        return super().task_features(x) * torch.ones(len(x), 1)


class Fixed(SharedBottom):
    def _network(self, columns, tasks):
        return Counted(columns, tasks, self)


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    X, y = features(), mixed_targets(features())
    path = tmp_path / "model.onnx"
    with pytest.raises(NotFittedError):
        export(tiny(SharedBottom), path)
    with pytest.raises(TypeError, match=r"holds a network, got SharedTrees; say distill\(.*export_task\("):
        export(SharedTrees(), path)
    with pytest.raises(ValueError, match=r"the targets \['x_num'\] have names of inputs"):
        export(tiny(SharedBottom).fit(X, y["late"].alias("x_num")), path)
    fixed = tiny(Fixed).fit(X, y)
    with pytest.raises(FileNotFoundError, match=r"the folder .*none of the ONNX file does not exist"):
        export(fixed, tmp_path / "none" / "model.onnx")
    with pytest.raises(ValueError, match=r"the network of Fixed cannot be exported.*x\.shape\[0\], not len\(x\)"):
        export(fixed, path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'tabmtl\[onnx\]'"):
        export(fixed, path)
    assert list(tmp_path.iterdir()) == []


def test_bits_of_predictions_do_not_change(model, tmp_path, monkeypatch):
    estimator, _, proto = model
    before = estimator.predict(new_rows())
    state = torch.random.get_rng_state()
    monkeypatch.setattr(exporting, "_translate", lambda *args: proto)
    export(estimator, tmp_path / "model.onnx")
    assert estimator.predict(new_rows()).equals(before)
    assert torch.equal(torch.random.get_rng_state(), state)
