"""Rows by name or from a file: what is read, what is learned, and how it is split."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import commands
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tabmtl import IndependentTasks, MultiTabNet, MultiTaskEnsemble, SharedTrees
from tabmtl.base.schema import RandomSplitWarning, TabmtlWarning, for_commands
from tabmtl.columns import Category
from tabmtl.columns.declared import Ignore
from tabmtl.pipelines.data import ClickColumns, DataSource, open_rows
from tabmtl.pipelines.data.clicks import ClickRows
from tabmtl.pipelines.data.files import read_file
from tabmtl.pipelines.data.tables import TableRows
from tabmtl.pipelines.datasets import load


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return commands.small_table(tmp_path_factory.mktemp("sources"))


def opened(data: Path | str, **options: object) -> TableRows:
    found = open_rows(DataSource(data=str(data), **options), ClickColumns(), "MultiTabNet")  # type: ignore[arg-type]
    assert isinstance(found, TableRows)
    return found


def test_a_named_set_has_its_own_split_and_kinds():
    rows, data = opened("portal", target=["male", "weight"], column=["genus=ignore", "year=category"]), load("portal")
    X, y = rows.parts["train"]
    assert rows.facts == {
        "tasks": {"weight": "regression", "male": "binary"},
        "task_column": None,
        "columns": {"year": Category()},
    }
    assert y.columns == ["weight", "male"]
    assert X.columns == [name for name in data.part("train")[0].columns if name != "genus"]
    assert rows.sizes == {part: len(data.part(part)[0]) for part in ("train", "val", "test")}


@pytest.mark.parametrize("name", ["portal", "flights"])
def test_rows_of_a_set_are_its_parts(name):
    data = load(name)
    for part, (X, y) in opened(name).parts.items():
        expected_X, expected_y = data.part(part)
        assert_frame_equal(X, expected_X)
        assert_frame_equal(y, expected_y)


@pytest.mark.parametrize("options", [{"split_column": "split"}, {"group_column": "year"}, {"test_share": 0}])
def test_validation_rows_stop_a_fit_or_are_learned_where_they_judge_nothing(options, table, monkeypatch):
    def asked(model, judged=None):
        fit = Mock()
        monkeypatch.setattr(type(model), "fit", fit)
        rows.fit(model, judged)
        return *fit.call_args.args, fit.call_args.kwargs

    rows = opened(table, target=["weight", "male=binary"], **options)
    train, val = rows.parts["train"], rows.parts["val"]
    whole = [pl.concat(pair) for pair in zip(train, val, strict=True)]
    is_judge = "test" not in rows.parts
    for model in (MultiTaskEnsemble(), IndependentTasks()):
        for judged, expected in ((None, train if is_judge else whole), ("val", train)):
            X, y, given = asked(model, judged)
            assert X.equals(expected[0]) and y.equals(expected[1]) and given.keys() == {"groups"}
            has_groups = "group_column" in options
            assert given["groups"].equals(X["year"]) if has_groups else given["groups"] is None
        assert rows.learns_val(model) != is_judge
    X, y, given = asked(MultiTabNet())
    assert X.equals(train[0]) and y.equals(train[1])
    assert given == {"X_val": val[0], "y_val": val[1], "groups": None}
    assert not rows.learns_val(MultiTabNet())


def test_a_file_says_its_split_by_a_column(table):
    rows = opened(table, target=["weight", "male=binary"], split_column="split")
    stored = pl.read_parquet(table)
    for part, (X, y) in rows.parts.items():
        mine = stored.filter(split=part)
        assert X.equals(mine.drop("split", "weight", "male"))
        assert y.equals(mine["weight", "male"])
    assert rows.facts["tasks"] == {"male": "binary"}


def test_rows_are_drawn_by_a_seed_of_their_own(table):
    numbered = pl.read_parquet(table).with_row_index("row")
    numbered.write_parquet(table.with_name("numbered.parquet"))
    first, again, other = (
        opened(table.with_name("numbered.parquet"), target=["weight"], split_seed=seed, val_share=0.1, test_share=0.3)
        for seed in (0, 0, 1)
    )
    drawn = {part: set(X["row"]) for part, (X, _) in first.parts.items()}
    assert sorted(row for rows in drawn.values() for row in rows) == list(range(600))
    assert first.sizes == pytest.approx({"train": 360, "val": 60, "test": 180}, abs=1)
    assert drawn == {part: set(X["row"]) for part, (X, _) in again.parts.items()}
    assert drawn != {part: set(X["row"]) for part, (X, _) in other.parts.items()}


def test_features_have_no_say_in_the_split(table):
    dated = pl.read_parquet(table).with_columns(when=pl.date(2020, 1, "month"))
    dated.write_parquet(table.with_name("dated.parquet"))
    kept, dropped = (
        opened(table.with_name("dated.parquet"), target=["male"], column=said) for said in ([], ["when=ignore"])
    )
    for part, (X, _) in kept.parts.items():
        assert X.drop("when").equals(dropped.parts[part][0])
    kept.check_features()


def test_lists_of_a_csv_file_are_named_and_text_with_their_sign_is_left(tmp_path):
    size = range(200)
    frame = pl.DataFrame({
        "tags": [None if k % 3 else "b|a" for k in size],
        "hours": ["|".join(["0.5", "2", "7"][: 1 + k % 3]) for k in size],
        "whole": ["1.0|2.0"] * 200,
        "codes": ["1|20"] * 200,
        "remark": [f"the room {k} is fine | the price of it is not" for k in size],
        "shop": ["x|y" if k % 25 == 0 else "x" for k in size],
        "y": size,
    })  # fmt: skip
    frame.write_csv(tmp_path / "lists.csv")
    options = {"target": ["y=regression"], "test_share": 0, "list_separator": "|"}
    with pytest.warns(TabmtlWarning, match=r"\['remark', 'shop'\] hold '\|' and stay text: less than 10% of their"):
        rows = opened(tmp_path / "lists.csv", **options)
    X, _ = rows.parts["train"]
    assert rows.describe().endswith("6 features (lists: tags, hours, whole, codes), the target y")
    numbers, texts = pl.List(pl.Float64), pl.List(pl.String)
    assert X.dtypes == [texts, numbers, numbers, pl.List(pl.Int64), pl.String, pl.String]
    assert set(X["hours"].list.len()) == {1, 2, 3}
    X, _ = opened(tmp_path / "lists.csv", column=["remark=tags", "shop=ignore"], **options).parts["train"]
    assert X.schema["remark"] == texts
    with pytest.raises(
        ValueError, match=r"no column of text but free text holds it in 10% of its values, of \['shop'\]"
    ):
        opened(tmp_path / "lists.csv", column=[f"{name}=ignore" for name in frame.columns[:5]], **options)


def test_dates_of_a_csv_file_are_read_as_such(tmp_path):
    days = [f"2024-01-{1 + k % 28:02}" for k in range(299)]
    clock = {"at": ["05:30", "23:59:59"] * 150, "code": ["2024", "2025"] * 150}
    frame = pl.DataFrame({"when": [*days, "soon"], **clock, "y": range(300)})
    frame.write_csv(tmp_path / "days.csv")
    frame.write_parquet(tmp_path / "days.parquet")
    with pytest.warns(TabmtlWarning, match=r"column 'when' holds dates, but for 1 value such as 'soon', .*--no-dates"):
        rows = opened(tmp_path / "days.csv", target=["y=regression"], test_share=0)
    X, _ = rows.parts["train"]
    assert rows.describe().endswith("3 features (dates: when, at), the target y")
    assert X.schema == {"when": pl.Date, "at": pl.Time, "code": pl.Int64}
    for file, csv in (
        ("days.csv", {"no_dates": True}),
        ("days.csv", {"column": ["when=ignore", "at=ignore"]}),
        ("days.parquet", {"no_dates": True}),
    ):
        X, _ = opened(tmp_path / file, target=["y=regression"], **csv).parts["train"]
        assert not any(dtype.is_temporal() for dtype in X.dtypes)


def test_the_identity_of_rows_is_their_split_types_and_values(table):
    pl.read_parquet(table).write_csv(table.with_suffix(".csv"))
    frame = pl.read_csv(table.with_suffix(".csv"))
    frame.with_columns(year=pl.col("year").replace(1990, 1991)).write_csv(table.with_name("other.csv"))
    options = {"target": ["weight"], "column": ["split=ignore"]}
    ours = opened(table.with_suffix(".csv"), **options).identity
    assert opened(table.with_suffix(".csv"), **options).identity == ours
    changes = {"split": {"split_seed": 7}, "columns": {"column": ["split=ignore", "year=category"]}}
    for fact, change in changes.items():
        changed = opened(table.with_suffix(".csv"), **options | change).identity
        assert changed[fact] != ours[fact], fact
    assert opened(table.with_name("other.csv"), **options).identity["test"] != ours["test"]


def test_without_a_test_share_there_are_no_test_rows(table):
    assert opened(table, target=["weight"], test_share=0.0).sizes == {"train": 480, "val": 120}


def test_rare_classes_are_in_every_part(tmp_path):
    label = pl.Series(["rare"] * 6 + ["common"] * 294)
    pl.DataFrame({"x": range(300), "label": label}).write_csv(tmp_path / "rare.csv")
    rows = opened(tmp_path / "rare.csv", target=["label"])
    assert all((y["label"] == "rare").any() for _, y in rows.parts.values())


def test_a_drawn_split_keeps_groups_together(tmp_path):
    days = {"day": [i % 50 for i in range(300)], "half": [i // 150 for i in range(300)]}
    pl.DataFrame({"x": range(300), **days, "label": ["a", "b"] * 150}).write_csv(tmp_path / "days.csv")
    rows = opened(tmp_path / "days.csv", target=["label"], group_column="day")
    parts = [set(X["day"]) for X, _ in rows.parts.values()]
    assert [len(part) for part in parts] == [30, 10, 10]
    assert len(set.union(*parts)) == 50
    assert rows.origin.endswith("--group-column day")
    assert "by day" in rows.split
    with pytest.raises(ValueError, match=r"--group-column.*near is day"):
        opened(tmp_path / "days.csv", target=["label"], group_column="dy")
    with pytest.raises(ValueError, match="--group-column has no effect with --split-column"):
        opened(tmp_path / "days.csv", target=["label"], group_column="day", split_column="x")
    with pytest.raises(ValueError, match=r"--group-column half: .* each of 3 parts, got 2: name a column with smaller"):
        opened(tmp_path / "days.csv", target=["label"], group_column="half")
    assert len(opened(tmp_path / "days.csv", target=["label"], group_column="half", test_share=0).parts) == 2


def test_a_split_by_time_judges_by_the_newest_rows(tmp_path):
    days = [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(100)]
    shuffled = pl.DataFrame({"x": range(300), "day": days * 3, "shop": [i % 250 for i in range(300)]}).sample(
        fraction=1, shuffle=True, seed=0
    )
    shuffled.with_columns(label=pl.Series(["a", "b"] * 150)).write_csv(tmp_path / "days.csv")
    rows = opened(tmp_path / "days.csv", target=["label"], time_column="day", column=["day=ignore"])
    train, val, test = (rows.times[part] for part in ("train", "val", "test"))
    assert train.max() < val.min() <= val.max() < test.min()
    assert rows.sizes == {"train": 180, "val": 60, "test": 60} and "day" not in rows.parts["train"][0]
    assert rows.origin.endswith("--time-column day")
    assert rows.split == "drawn: 0.2 val and 0.2 test the newest by day"
    fit = Mock()
    rows.fit(Mock(fit=fit, __learns_all_rows__=True))
    assert fit.call_args.kwargs["time"].to_list() == [*train, *val] and len(fit.call_args.args[0]) == 240
    rows.fit(Mock(fit=fit, __learns_all_rows__=False))
    assert fit.call_args.kwargs.keys() == {"groups", "X_val", "y_val"}
    both = {"group_column": "shop", "time_column": "day"}
    told = pytest.warns(TabmtlWarning, match=r"of the newest rows .*; leave --group-column or --time-column out if")
    with for_commands(), told:
        grouped = opened(tmp_path / "days.csv", target=["label"], **both)
    assert not {*grouped.groups["train"]} & {*grouped.groups["test"]} and sum(grouped.sizes.values()) < 300
    told = pytest.warns(RandomSplitWarning, match="X holds dates in 'day'.* say --time-column day, and the newest")
    with for_commands(), told:
        opened(tmp_path / "days.csv", target=["label"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time_column": "dy"}, "--time-column: there is no column 'dy'"),
        ({"time_column": "x", "split_column": "label"}, "--time-column has no effect with --split-column"),
        ({"time_column": "x", "split_seed": 1}, "--split-seed has no effect with --time-column"),
        ({"time_column": "text"}, "got String; write dates as 2024-01-31, and leave --no-dates out"),
        ({"time_column": "one"}, "all 30 rows have the same time"),
        ({"time_column": "holes"}, "has 29 missing values"),
        ({"time_column": "x", "group_column": "shop"}, "or --time-column out, or name the parts by --split-column"),
    ],
)
def test_bad_times_are_named(options, words, tmp_path):
    table = {"x": range(30), "text": ["a", "b"] * 15, "one": [1] * 30, "holes": [1] + [None] * 29}
    pl.DataFrame(table | {"shop": [*range(6)] * 5, "label": ["a", "b"] * 15}).write_csv(tmp_path / "rows.csv")
    with pytest.raises((ValueError, TypeError), match=words), for_commands():
        opened(tmp_path / "rows.csv", target=["label"], **options)


@pytest.mark.parametrize("ignored", [[], ["day"]])
def test_a_target_is_judged_by_group(ignored, tmp_path):
    days = {"day": [i % 50 for i in range(300)], "x": [i % 7 for i in range(300)]}
    pl.DataFrame({**days, "label": ["a", "b", "b"] * 100}).write_csv(tmp_path / "days.csv")
    judged = {"target": ["label=binary:b"], "metric": ["label=ndcg@2", "label=gauc"]}
    rows = opened(tmp_path / "days.csv", **judged, group_column="day", column=[f"{name}=ignore" for name in ignored])
    model = IndependentTasks(families=("lightgbm",), **rows.facts, random_state=0)
    rows.fit(model)
    assert rows.example().columns == list(model.coder_.names) and f"; {2 - len(ignored)} features" in rows.describe()
    assert "day" in rows.parts["test"][0] and list(model.coder_.names) == [name for name in days if name not in ignored]
    assert rows.scores(model, "test")["label"] == rows.table(model, "test")["score"][0]
    assert rows.table(model, "test")["metric"].to_list() == ["ndcg@2", "gauc"]
    with pytest.raises(ValueError, match="name the column that holds them by --group-column"), for_commands():
        opened(tmp_path / "days.csv", **judged).fit(IndependentTasks(**rows.facts))


@pytest.mark.parametrize("option", ["column", "group_column", "time_column"])
def test_a_column_has_one_role(tmp_path, option):
    pl.DataFrame({"x": range(30), "shop": ["a", "b"] * 15, "label": [0.5] * 30}).write_csv(tmp_path / "long.csv")
    for name, role in (("label", "a target"), ("shop", "the task column")):
        value = [f"{name}=ignore"] if option == "column" else name
        with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} names '{name}', which is {role}"):
            opened(tmp_path / "long.csv", target=["label"], task_column="shop", **{option: value})


def test_csv_and_parquet_are_the_same(table):
    pl.read_parquet(table).write_csv(table.with_suffix(".csv"))
    options = {"target": ["weight"], "split_column": "split"}
    csv, parquet = opened(table.with_suffix(".csv"), **options), opened(table, **options)
    assert csv.parts["val"][0].cast(pl.String).equals(parquet.parts["val"][0].cast(pl.String))


def test_names_with_an_equals_sign_are_names(tmp_path):
    pl.DataFrame({"x": range(60), "a=b": [float(i) for i in range(60)]}).write_csv(tmp_path / "t.csv")
    assert opened(tmp_path / "t.csv", target=["a=b"]).facts["tasks"] == {}
    assert opened(tmp_path / "t.csv", target=["a=b=regression"]).facts["tasks"] == {"a=b": "regression"}


def test_a_metric_makes_a_task_of_the_kind_that_the_labels_tell(table):
    options = {"target": ["weight", "male", "year=regression"], "column": ["split=ignore"]}
    judged = opened(table, **options, metric=["male=accuracy", "year=explained_variance"])
    tasks = {name: (task.kind.name, task.metric) for name, task in judged.facts["tasks"].items()}
    assert tasks == {"year": ("regression", "explained_variance"), "male": ("binary", "accuracy")}
    assert opened(table, **options).identity["columns"]["tasks"] == {"year": "regression"}
    assert judged.identity["columns"]["tasks"] == {name: [*task] for name, task in tasks.items()}


def test_clicks_are_split_in_time(tmp_path):
    clicks, items = commands.small_log(tmp_path)
    source = DataSource(data=str(clicks), val_share=0.2, test_share=0.2)
    rows = open_rows(source, ClickColumns(items=items), "M2TRec")
    assert isinstance(rows, ClickRows)
    assert rows.items is not None
    assert rows.facts["time_column"] == "time"
    ends = {part: log.group_by("session_id").agg(pl.col("time").max())["time"] for part, log in rows.parts.items()}
    assert ends["train"].max() <= ends["val"].min() < ends["val"].max() <= ends["test"].min()
    assert [len(ends[part]) for part in ("train", "val", "test")] == pytest.approx([120, 40, 40], abs=2)


def test_a_log_without_times_has_an_order(tmp_path):
    clicks, _ = commands.small_log(tmp_path)
    pl.read_csv(clicks).drop("time").write_csv(clicks)
    rows = open_rows(DataSource(data=str(clicks)), ClickColumns(), "M2TRec")
    assert rows.facts["time_column"] is None


def test_the_options_of_the_same_rows_can_be_typed():
    assert DataSource(data="portal", target=["male"], column=["x=ignore"]).as_typed == "--data portal"
    source = DataSource(data="a table.csv", split_column="part", split_seed=3, test_share=0.0, full=True)
    assert source.as_typed == "--data 'a table.csv' --full --split-column part --test-share 0.0 --split-seed 3"


def test_classes_are_named_behind_the_kind(tmp_path):
    rows = pl.DataFrame({"a": range(60), "size": ["S", "M", "L"] * 20, "v=w": ["fraud", "ok", "ok"] * 20})
    rows.with_columns(grade=pl.Series(["a=1", "a=2"] * 30)).write_csv(tmp_path / "rows.csv")
    targets = ["size=ordinal:S<M<L", "v=w=binary:fraud", "grade=ordinal:a=2<a=1"]
    source = DataSource(data=str(tmp_path / "rows.csv"), target=targets, metric=["v=w=f1"])
    found = open_rows(source, ClickColumns(), "SharedTrees")
    model = SharedTrees(n_estimators=2, early_stopping=False, **found.facts)
    found.fit(model)
    assert [task.classes for task in model.tasks_] == [("S", "M", "L"), ("ok", "fraud"), ("a=2", "a=1")]
    assert [task.metric for task in model.tasks_] == ["quadratic_kappa", "f1", "quadratic_kappa"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--target must name the columns"),
        ({"target": ["wieght"]}, "near is weight"),
        ({"target": ["weight", "weight=binary"]}, "names 'weight' twice"),
        ({"target": ["weight", "male"], "task_column": "species_id"}, "one --target"),
        ({"target": ["weight"], "task_column": "x"}, "--task-column: there is no column 'x'"),
        ({"target": ["weight"], "split_column": "spilt"}, "near is split"),
        ({"target": ["weight"], "split_column": "plot_type"}, "expected train, val and perhaps test"),
        ({"target": ["weight"], "column": ["x=ignore"]}, "--column: there is no column 'x'"),
        ({"target": ["weight"], "column": ["year"]}, "--column takes NAME=KIND, such as zip=category, got 'year'"),
        ({"target": ["weight"], "column": ["year=categry"]}, "--column year=categry: a column is one of"),
        ({"target": ["weight"], "column": ["year=date:x"]}, "--column year=date:x: format must tell a date"),
        ({"target": ["weight"], "column": ["year=number", "year=text"]}, "'year' is declared twice"),
        ({"target": ["male=binry"]}, "--target male=binry: unknown kind 'binry': near is binary"),
        ({"target": ["male=binary:"]}, "--target male=binary:: kind must be 'binary', or name the positive class"),
        ({"target": ["male=ordinal:a"]}, "--target male=ordinal:a: the order of an ordinal task must be different"),
        ({"target": ["weight=tweedie:3"]}, "--target weight=tweedie:3: the power of a tweedie task must be between"),
        (
            {"target": ["weight=poisson"], "metric": ["weight=d2_gamma"]},
            "weight is poisson, whose metrics are d2_poisson",
        ),
        ({"target": ["weight"], "split_seed": -1}, "--split-seed must be at least 0, got -1"),
        ({"target": ["weight"], "split_column": "split", "split_seed": 1}, "--split-seed has no effect with --split-c"),
        ({"target": ["weight"], "full": True}, "--full applies to named sets only"),
        ({"target": ["weight"], "val_share": 0.0}, "--val-share must be above 0"),
        ({"target": ["weight"], "val_share": 0.6, "test_share": 0.5}, "together below 1"),
        ({"data": "portal", "task_column": "x"}, "applies to files only"),
        ({"data": "portal", "split_column": "x"}, "applies to files only"),
        ({"data": "portal", "split_seed": 1}, "applies to files only"),
        ({"data": "portal", "val_share": 0.1}, "applies to files only"),
        ({"data": "portal", "test_share": 0.0}, "applies to files only"),
        ({"data": "portal", "full": True}, "--full applies to flights only"),
    ],
)
def test_mistakes_name_the_option(options, message, table):
    with pytest.raises(ValueError, match="--") as caught:
        opened(**{"data": table} | options)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("t.xlsx", "x"), ("t.parquet", "no parquet"), ("t.csv", "")])
def test_files_that_cannot_be_read_are_named(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        opened(tmp_path / name, target=["y=regression"])


def test_tables_of_other_separators_are_named(tmp_path):
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        (tmp_path / "t.csv").write_text(f"a{mark}b\n1,5{mark}2\n")
        with pytest.raises(ValueError, match=f"/t.csv are separated by {name}, expected commas: write"):
            read_file(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a,b;c\n1,2\n")
    assert read_file(tmp_path / "t.csv").columns == ["a", "b;c"]
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(ValueError, match=r"t\.csv: line 3 has 3 cells, expected 2 cells, .*: put quotes around"):
        read_file(tmp_path / "t.csv")


def test_lists_are_no_categories_and_a_header_is_no_table(tmp_path):
    pl.DataFrame({"x": [[1], [2]], "y": [0, 1]}).write_parquet(tmp_path / "list.parquet")
    with pytest.raises(TypeError, match=r"column 'x' has type List.* and is declared 'category'"):
        opened(tmp_path / "list.parquet", target=["y=regression"], column=["x=category"], test_share=0).check_features()
    (tmp_path / "empty.csv").write_text("x,y\n")
    for cls in ("MultiTabNet", "M2TRec"):
        with pytest.raises(ValueError, match=r"empty\.csv has no rows"):
            open_rows(DataSource(data=str(tmp_path / "empty.csv")), ClickColumns(), cls)


@pytest.mark.parametrize(
    "option",
    [
        {"target": ["x"]},
        *({name: "x"} for name in ("task_column", "split_column", "group_column")),
        {"split_seed": 1},
    ],
)
def test_what_is_about_tables_is_refused_for_clicks(option, tmp_path):
    clicks, _ = commands.small_log(tmp_path)
    with pytest.raises(ValueError, match="applies to tables only; M2TRec learns from a click log"):
        open_rows(DataSource(data=str(clicks), **option), ClickColumns(), "M2TRec")


@pytest.mark.parametrize("name", ["items", "session_column", "item_column", "order_column"])
def test_what_is_about_clicks_is_refused_for_tables(name, table):
    with pytest.raises(ValueError, match="applies to click logs only; MultiTabNet learns from a table"):
        open_rows(DataSource(data=str(table), target=["weight"]), ClickColumns(**{name: "x"}), "MultiTabNet")


def test_a_file_declares_targets_and_columns_as_options_do(table, tmp_path):
    said = """
        [tasks]
        weight = "regression"
        male = {kind = "binary:1", metric = ["roc_auc", "f1"], class_weight = {0 = 1.0, 1 = 2.0}}
        hindfoot_length = {kind = "regression", monotone = {year = 1}}
        [columns]
        year = "category"
        plot_type = {kind = "category", order = ["Control", "Rodent Exclosure"]}
        split = "ignore"
    """
    (tmp_path / "said.toml").write_text(said)
    options = {
        "target": ["weight=regression", "male=binary:1", "hindfoot_length=regression"],
        "metric": ["male=roc_auc", "male=f1"],
        "class_weight": ["male=0:1.0", "male=1:2.0"],
        "monotone": ["hindfoot_length=year:1"],
        "column": ["year=category", "plot_type=category:Control<Rodent Exclosure", "split=ignore"],
    }
    assert opened(table, tasks=tmp_path / "said.toml").identity == opened(table, **options).identity


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tasks", "cannot be read as TOML"),
        ("[task]", r"expected the tables \[tasks\] and \[columns\], got 'task'"),
        ("[tasks]\nmale = 1", r"tasks.male: expected a kind such as 'binary', or a table .*, got 1"),
        ("[tasks]\nmale = {kind = 'binary', weight = 2}", "tasks.male: there is no option 'weight': .*class_weight"),
        ("[tasks]\nmale = 'binry'", "--target male=binry: unknown kind 'binry': near is binary"),
        ("[columns]\nyear = {kind = 'categry'}", "columns.year: expected a kind, or a table with one of"),
        ("[columns]\nyear = {kind = 'date', from = 1}", "columns.year: a date has no option 'from'; .*format"),
        ("[columns]\nyear = {kind = 'number', decimal = ';'}", "columns.year: decimal must be"),
        ("[columns]\nyaer = 'ignore'", "--column: there is no column 'yaer': near is year"),
    ],
)
def test_mistakes_in_a_file_of_tasks_name_their_place(text, message, table, tmp_path):
    (tmp_path / "said.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        opened(table, tasks=tmp_path / "said.toml", target=["weight"])


def test_columns_of_an_item_table_are_declared(tmp_path):
    clicks, items = commands.small_log(tmp_path)
    name = next(name for name in read_file(items).columns if name != "item_id")
    source = DataSource(data=str(clicks), column=[f"{name}=ignore"])
    assert open_rows(source, ClickColumns(items=items), "M2TRec").facts["columns"] == {name: Ignore()}
    with pytest.raises(ValueError, match="declares columns of the item table: name its file by --items"):
        open_rows(source, ClickColumns(), "M2TRec")
