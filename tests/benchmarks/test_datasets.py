"""Every table keeps its roles, its rows and its split; what does not ship is tested where it is at hand."""

import json
import os
import warnings
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from benchmarks.datasets import load
from benchmarks.datasets.make_samples import QUOTAS, make_samples
from benchmarks.datasets.tables import ORIGINS
from tabmtl.base.schema import IdColumnWarning, TabmtlWarning
from tabmtl.encode import FeatureCoder
from tabmtl.pipelines import datasets

PARTS = ("train", "val", "test")

#: Rows of train, val and test; "flights" is the sample.
ROWS = {
    "portal": (20_548, 6_850, 6_849),
    "flights": (36_068, 12_268, 12_031),
    "all flights": (201_611, 66_994, 68_171),
    "census_kdd": (179_571, 19_952, 99_762),
    "star": (6_472, 2_157, 2_157),
    "rand_hie": (12_174, 4_017, 3_999),
    "gss_abortion": (27_359, 9_120, 9_120),
    "mathachieve": (4_312, 1_432, 1_441),
    "school": (9_216, 3_077, 3_069),
}

#: Unlabelled cells per target, where there are any.
NULLS = {
    "portal": {"weight": 1964, "hindfoot_length": 2809, "male": 1209},
    "flights": {"dep_del15": 1972, "arr_delay": 2151, "air_time": 2151},
    "all flights": {"dep_del15": 8255, "arr_delay": 9430, "air_time": 9430},
    "star": {
        "readk": 4997,
        "read1": 4390,
        "read2": 4709,
        "read3": 4786,
        "mathk": 4915,
        "math1": 4186,
        "math2": 4721,
        "math3": 4709,
    },
    "rand_hie": {"log_spend": 4453},
    "gss_abortion": {
        "abany": 8805,
        "abdefect": 1447,
        "abnomore": 1527,
        "abhlth": 1239,
        "abpoor": 1576,
        "abrape": 1677,
        "absingle": 1579,
    },
}

#: Columns that leak a target or identify a row.
LEAKS = {
    *("record_id", "taxa", "dep_delay", "arr_del15", "tailnum", "flight", "yday", "zper", "id"),
    *("marital_stat", "education", "instance_weight", "hispaniccat", "split"),
}


@pytest.fixture(scope="module")
def folder():
    """The data folder, or a skip that says how to name it."""
    if "TABMTL_DATA" not in os.environ:
        pytest.skip("TABMTL_DATA is unset: it names the folder that holds <name>/data.parquet per set")
    return Path(os.environ["TABMTL_DATA"])


@pytest.fixture(params=ROWS)
def case(request):
    """One loaded set under its name in ROWS."""
    name = request.param
    if name not in datasets.NAMES:
        request.getfixturevalue("folder")
    return name, load("flights", full=True) if name == "all flights" else load(name)


def test_rows_per_part(case):
    name, data = case
    counts = [data.part(part)[0].height for part in PARTS]
    assert tuple(counts) == ROWS[name]
    assert data.split.collect()["split"].is_in(PARTS).all()
    assert data.features.select(pl.len()).collect().item() == sum(ROWS[name])


def test_labels_are_missing_where_they_should_be(case):
    name, data = case
    nulls = data.targets.collect().null_count().row(0, named=True)
    assert {task: n for task, n in nulls.items() if n} == NULLS.get(name, {})


def test_the_dtype_says_what_a_column_is(case):
    _, data = case
    features, targets = data.features.collect_schema(), data.targets.collect_schema()
    assert list(features) == [*data.numeric, *data.categorical]
    assert all(features[name] == pl.String for name in data.categorical)
    assert all(features[name].is_numeric() for name in data.numeric)
    assert list(targets) == list(data.tasks)
    dtypes = {"binary": pl.Int8, "regression": pl.Float32}
    assert all(targets[name] == dtypes[kind] for name, kind in data.tasks.items())
    for name, kind in data.tasks.items():
        if kind == "binary":
            assert set(data.targets.collect()[name].drop_nulls().unique()) == {0, 1}


def test_no_leak_is_a_feature(case):
    name, data = case
    features = set(data.features.collect_schema())
    assert not features & (LEAKS | set(data.tasks))
    if name == "portal":
        assert not features & {"sex", "species"}


def test_groups_never_cross_the_split(case):
    name, data = case
    assert data.groups == {"flights": "yday", "all flights": "yday", "rand_hie": "zper"}.get(name)
    if data.groups:
        parts = data.table.group_by(data.groups).agg(pl.col("split").n_unique()).collect()
        assert parts["split"].max() == 1


def test_parts_keep_the_rows_in_order_and_aligned(case):
    _, data = case
    stored = data.table.collect()
    rows = stored.filter(pl.col("split") == "val")
    X, y = data.part("val")
    numbers = [*data.numeric, *data.tasks]
    expected = rows.select(pl.col(numbers).cast(pl.Float64))
    assert_frame_equal(pl.concat([X, y], how="horizontal").select(pl.col(numbers).cast(pl.Float64)), expected)
    for name in data.categorical:
        assert X[name].equals(rows[name].cast(pl.String))


def test_roles_are_those_of_the_meta_file(case, folder):
    _, data = case
    meta = json.loads((folder / data.name / "data.meta.json").read_text())
    assert set(meta["features"]) == {*data.numeric, *data.categorical} - {data.task_column}
    assert set(meta["categorical"]) == {*data.categorical} - {data.task_column}
    assert meta["tasks"] == data.tasks
    assert meta.get("task_column") == data.task_column
    assert not set(meta.get("extra", ())) & set(data.features.collect_schema())


@pytest.mark.parametrize(("name", "n_tasks"), [("mathachieve", 160), ("school", 139)])
def test_a_long_set_has_one_task_per_row(name, n_tasks, folder):
    data = load(name, folder)
    for part in PARTS:
        X, y = data.part(part)
        assert data.task_column == "task"
        assert X["task"].n_unique() == n_tasks
        assert y.columns == ["y"]


def test_an_amount_is_missing_exactly_where_nothing_was_spent(folder):
    y = load("rand_hie", folder).targets.collect()
    assert (y["log_spend"].is_null() == (y["any_spend"] == 0)).all()


def test_the_flights_sample_is_made_of_whole_days_in_the_proportions_of_the_split(folder):
    sample, everything = load("flights").table.collect(), load("flights", folder, full=True)
    days = everything.table.filter(pl.col("yday").is_in(sample["yday"].unique().implode())).collect()
    assert days.height == sample.height == 60_367
    assert sample["yday"].n_unique() == 67
    for part, quota in QUOTAS.items():
        assert quota <= sample.filter(split=part).height < 1.03 * quota


def test_the_tables_that_ship_can_be_made_again(folder, tmp_path):
    make_samples(folder, tmp_path)
    for name in ("portal", "flights_sample"):
        shipped = Path(datasets.__file__).with_name(f"{name}.parquet")
        assert_frame_equal(pl.read_parquet(tmp_path / shipped.name), pl.read_parquet(shipped))


@pytest.mark.parametrize("name", ORIGINS)
def test_a_table_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"expected the table .*{name}/data.parquet.*TABMTL_DATA"):
        load(name, tmp_path)


def test_education_is_a_feature_where_the_degree_is_no_target(folder):
    census = load("census_kdd", folder, college_degree=False)
    assert [*census.tasks] == ["income_50k", "never_married"]
    assert census.features.collect_schema()["education"] == pl.String


def test_a_set_of_the_mulan_collection_names_its_targets_last(folder):
    wells = load("wq", folder)
    assert wells.table.collect_schema().names() == [*wells.numeric, *wells.tasks]
    assert len(wells.tasks) == 14


def test_no_feature_is_taken_for_an_id(case):
    _, data = case
    sample = data.features.head(2_000).collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TabmtlWarning)  # codes in text that are whole numbers
        warnings.simplefilter("error", IdColumnWarning)
        FeatureCoder.fit(sample)


def test_every_set_says_whose_data_it_is(case):
    _, data = case
    assert data.licence
    assert data.source
    assert (data.licence == "CC0") == (data.name in datasets.NAMES)
