"""How a comparison looks: as text, in a notebook, and as a page that stands alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest
from compared import Broken, comparison, constant, linear, table

from tabmtl import IndependentTasks, compare
from tabmtl.inspection.comparison.page import plain, signed


class Page(HTMLParser):
    """Tags of a page, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text("old")
    comparison().report(path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_reads_nothing_from_outside(source):
    page = Page(source)
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in page.tags}
    references = [
        value
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name.split(":")[-1] in ("href", "src") and not value.startswith(("#", "data:image/png"))
    ]
    assert references == []
    assert not re.search(r"url\((?!#)|@import", source)


def test_ids_are_distinct_and_all_references_lead_somewhere(source):
    ids = Counter(attrs["id"] for _, attrs in Page(source).tags if "id" in attrs)
    assert ids and max(ids.values()) == 1
    assert set(re.findall(r"url\(#([^)]+)\)", source)) <= set(ids)


def test_the_page_has_tables_and_all_pictures(source):
    page = Page(source)
    for heading in (
        "Comparison of 3 models: late, delay <min>, kind",
        "Differences, task by task",
        "Calibration",
        "Learning curves: experts",
        "Use of experts: experts",
        "RuntimeError: no room for <it>",
        "a <b>",
        "delay <min>",
    ):
        assert heading in page.text, heading
    assert [tag for tag, _ in page.tags].count("svg") == 6
    assert "-0.0000" not in page.text
    for score in comparison().frame["score"].drop_nulls():
        assert plain(score) in page.text


def test_the_title_has_the_targets_and_the_file(tmp_path):
    replace(comparison(), source="shop.csv").report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<title>Comparison of 3 models: late, delay &lt;min&gt;, kind of shop.csv</title>" in page


def test_the_notebook_shows_tables_without_pictures():
    page = Page(comparison()._repr_html_())
    assert "mean score" in page.text and "experts" in page.text
    assert "a <b>" in page.text
    assert not {"svg", "script", "html"} & {tag for tag, _ in page.tags}


def test_a_comparison_of_failures_has_a_page(tmp_path):
    found = compare([Broken()], *table(), random_state=0)
    assert found.best is None
    found.report(tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert "no room for <it>" in page.text and "best mean score" not in page.text


def test_text_has_the_summary_and_every_task():
    lines = str(comparison()).splitlines()
    assert lines[0].startswith(
        "3 models (1 without scores) on 3 tasks: 240 rows to fit and 80 to test in 20 groups (a random 25 % with labels"
    )
    assert lines[1] == comparison().verdict
    assert lines[2] == "Differences are to linear on the same rows."
    header = "model  mean score  mean difference  from  to  ahead  behind  fit s  CPU s  predict ms"
    assert lines[4].split() == header.split()
    assert lines[5].split()[:2] == [comparison().best, plain(comparison().summary["mean_score"][0])]
    assert "a <b>: RuntimeError: no room for <it>" in lines
    assert sum("roc_auc" in line for line in lines[2:]) == 6
    summary = comparison().summary
    assert summary["model"][-1] == "a <b>" and comparison().best == summary["model"][0]
    assert summary["mean_score"].drop_nulls().is_sorted(descending=True)
    assert summary.filter(model="constant")["ahead", "behind"].rows() == [(0, 2)]


def test_where_nothing_is_ahead_the_verdict_says_so_and_what_may_be_trained():
    found = comparison()
    assert found.ahead == []
    intervals = {
        name: f"{signed(mean)}, {signed(low)} to {signed(high)}"
        for name, mean, low, high in found.standings.select("model", "^mean_.*$").rows()
    }
    assert found.verdict == (
        "No model is clearly ahead of linear on average: no paired 95 % interval (joint over 2 comparisons) lies above "
        "0. So train linear, which the others had to beat. "
        f"Clearly behind linear, on average or on a task: experts ({intervals['experts']}; behind on delay <min>), "
        f"constant ({intervals['constant']}; behind on late, delay <min>). "
        "Worse than the best constant answer: linear on kind (roc_auc 0.4815 against 0.5000), "
        f"experts on kind (roc_auc {plain(found.frame['score'][-1])} against 0.5000). "
        "For these fits; another seed may differ."
    )
    level = pl.when(pl.col("model") == "experts").then(pl.lit("level")).otherwise("standing").alias("standing")
    assert (
        "Level with linear, since the interval of the difference lies above minus the margin of 0.01, and no single "
        f"task is clearly behind: experts ({intervals['experts']})."
    ) in replace(found, standings=found.standings.with_columns(level)).verdict
    assert found.verdict in Page(found._repr_html_()).text
    few = replace(found, n_groups=9)
    assert "Only 9 groups to test can hardly show anything. For these fits" in few.verdict


def test_the_verdict_names_who_is_ahead_and_on_which_tasks(tmp_path):
    found = compare({"constant": constant(), "linear": linear()}, *table(), random_state=0, seeds=1)
    assert found.ahead == ["linear"]
    row = found.summary.row(by_predicate=pl.col("model") == "linear", named=True)
    low, high = (signed(row[f"mean_difference_{end}"]) for end in ("low", "high"))
    assert f"linear is ahead of constant on average ({signed(row['mean_difference'])}, paired 95 %" in found.verdict
    assert f"interval {low} to {high}); taken by themselves (joint over 3 comparisons), ahead on" in found.verdict
    assert "ahead on late, delay <min> and behind on" in found.verdict
    X, y = table()
    single = compare({"constant": constant(), "linear": linear()}, X, y["late"], random_state=0)
    assert single.verdict.startswith("linear is ahead of constant: +0.") and "taken by" not in single.verdict
    alone = compare([linear()], X, y["late"], random_state=0)
    assert alone.verdict == ""
    assert "mean score" not in str(alone) and "fit s" in str(alone) and "roc_auc" in str(alone)


def test_a_reference_says_whether_it_is_tuned():
    X, y = table()
    few = X[:30], y[:30, ["delay <min>"]]
    trees = IndependentTasks(families=("lightgbm",), random_state=0).fit(*few)
    mixed = IndependentTasks(families=("lightgbm", "additive"), random_state=0).fit(*few)
    tuned = {"linear": IndependentTasks(tune="all"), "experts": trees, "constant": mixed}
    found = replace(comparison(), models=dict(comparison().models) | tuned)
    assert "Differences are to linear (best of 4) on the same rows." in str(found)
    assert " experts (untuned) " in str(found) and not re.search(r"constant \((untuned|best)", str(found))
    assert "experts (untuned)" in Page(found._repr_html_()).text
    assert "linear" in found.frame["model"].to_list()


def test_matplotlib_is_asked_for_by_its_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("tabmtl.inspection.plots.display.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'tabmtl\[plot\]'"):
        comparison().report(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_no_number_is_a_negative_zero():
    assert [signed(value) for value in (-1e-9, 1e-9, -0.5, 250.0)] == ["0.0000", "0.0000", "-0.5000", "+250.0"]
