"""The evidence when learning together pays: its cells, its rows, its scores, and the page of its results."""

from __future__ import annotations

import json
import math
import re
import shutil
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_rel

from benchmarks import evidence, evidence_report
from benchmarks.evidence import Cell
from benchmarks.evidence_report import BAG, CATBOOST, ENSEMBLE, LIGHTGBM
from tabmtl import IndependentTasks, MultiTaskEnsemble, SharedTrees
from tabmtl.pipelines import datasets

TREES = {"n_estimators": 5, "n_estimators_task": 0}
ALONE = {"families": ("lightgbm",), "patience": 1, "learning_rate": 0.3}


class Constant:
    """A model that answers 0, and takes no time."""

    def __init__(self, tasks: dict[str, str], random_state: int) -> None:
        self._tasks = tasks

    def fit(self, *_: object, **__: object) -> None:
        pass

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        return dict.fromkeys(self._tasks, np.zeros(len(X)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with portal, and generated sets in place of two of the Mulan collection."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "portal").mkdir()
    datasets.load("portal").table.sink_parquet(folder / "portal" / "data.parquet")
    (folder / "mulan").mkdir()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    y = x @ rng.normal(size=(3, 2)) + 10
    columns = {f"x{j}": x[:, j] for j in range(3)} | {f"y{t}": y[:, t] for t in range(2)}
    pl.DataFrame(columns).write_parquet(folder / "mulan" / "enb.parquet")
    hours = np.arange(100.0)
    flows = {f"s{t}": np.sin(hours / 3 + t) + 10 for t in range(8)}
    now = {f"{site}__0": flow for site, flow in flows.items()}
    ahead = {f"{site}_48H__0": np.roll(flow, -2) for site, flow in flows.items()}
    pl.DataFrame(now | ahead).write_parquet(folder / "mulan" / "rf1.parquet")
    return folder


@pytest.fixture
def small(monkeypatch):
    """One small set for every part, few rows, and quick models."""
    evidence.open_draw.cache_clear()
    sizes: dict[str, Any] = {
        "TEST_ROWS": 150,
        "FIT_ROWS": {"labels": 300, "full": 350, "missing": 300, "blocks": 60},
        "DRAWS": {"labels": 2, "full": 2, "missing": 1, "mulan": 2, "rf1": 2, "blocks": 5},
        "DRAWS_OF_BLOCKS": {LIGHTGBM: 1, ENSEMBLE: 1},
        "HOURS_BACK": 1,
        "HOURS_AHEAD": 2,
        "WEEK": 5,
        "DRAWS_OF_OTHERS": 2,
        "TARGETS": {"portal": ("male", "weight")},
        "FEW": (40,),
        "AMOUNTS": (40,),
        "OTHERS": (None,),
        "FULL_SETS": ("portal",),
        "MISSING_SETS": ("portal",),
        "HIDDEN": (50,),
        "FOLD_SETS": ("enb",),
    }
    candidates = {"alone": IndependentTasks(**ALONE), "together": SharedTrees(**TREES)}
    models = {
        LIGHTGBM: partial(IndependentTasks, **ALONE),
        "SharedTrees": partial(SharedTrees, **TREES),
        ENSEMBLE: partial(MultiTaskEnsemble, models=candidates, n_folds=2),
    }
    for name, value in (sizes | {"MODELS": models}).items():
        monkeypatch.setattr(evidence, name, value)


def test_the_first_draw_of_the_most_telling_labels_comes_first():
    cells = list(evidence.plan([*evidence.MODELS]))
    assert len(set(cells)) == len(cells)
    n_models = len(evidence.MODELS)
    counts = {part: sum(cell.part == part for cell in cells) / n_models for part in evidence.DRAWS}
    few = 3 * (14 + 14) + 2  # three draws of 150 and 500 labels of two targets of seven sets, one of 150 of oes10
    others = 16 + 10 + 8  # 50 labels, 1500 where there are as many, and all
    assert counts == {"labels": few + others, "full": 21, "missing": 9, "mulan": 22, "rf1": 1, "blocks": 11 / 6}
    first = cells[: 2 * 16 * n_models]
    assert {cell.seed for cell in first} == {0}
    assert {cell.amount for cell in first[: 16 * n_models]} == {150}
    told_first = [cell.amount in (150, 500) or cell.part in ("full", *evidence.RIVERS) for cell in cells]
    order = [(not first, cell.seed) for first, cell in zip(told_first, cells, strict=True)]
    assert order == sorted(order)


def test_single_task_models_see_the_target_alone(small, folder, monkeypatch):
    seen: list[tuple[int, list[str]]] = []

    class Spy(IndependentTasks):
        def fit(self, X: Any, y: Any, **options: Any) -> Any:
            seen.append((len(X), y.columns))
            return super().fit(X, y, **options)

    monkeypatch.setitem(evidence.MODELS, LIGHTGBM, Spy)
    monkeypatch.setitem(evidence.MODELS, "all", Spy)
    for model in (LIGHTGBM, "all"):
        record = evidence.run(Cell("labels", "portal", "weight", 40, 0, model), folder)
        assert list(record["scores"]) == ["R²"]
        assert list(record["scores"]["R²"]) == ["weight"]
    assert seen == [(40, ["weight"]), (300, ["weight", "hindfoot_length", "male"])]
    record = evidence.run(Cell("labels", "portal", None, None, 0, LIGHTGBM), folder)
    assert [columns for _, columns in seen[2:]] == [["male"], ["weight"]]
    assert {metric: [*scores] for metric, scores in record["scores"].items()} == {"AUC": ["male"], "R²": ["weight"]}


def test_rows_to_fit_are_capped_and_a_share_of_labels_is_hidden(small, folder):
    full = evidence.open_cell(Cell("full", "portal", None, None, 1, ""), folder)
    few = evidence.open_cell(Cell("labels", "portal", None, None, 1, ""), folder)
    assert (len(full.train[0]), len(few.train[0])) == (350, 300)
    assert full.test[0].equals(few.test[0])
    assert len(full.test[0]) == 150
    assert len(few.train[0].join(full.train[0].unique(), on=few.train[0].columns, how="semi")) == 300
    hidden = evidence.open_cell(Cell("missing", "portal", None, 50, 1, ""), folder)
    before, after = few.train[1], hidden.train[1]
    for name in before.columns:
        assert 0.3 * before[name].count() < after[name].count() < 0.7 * before[name].count()
        kept = after[name].is_not_null()
        assert after[name].filter(kept).equals(before[name].filter(kept))
    assert hidden.test[1].equals(few.test[1])


def test_days_are_never_on_both_sides(small, monkeypatch):
    flights = datasets.load("flights")
    monkeypatch.setattr(evidence, "open_set", lambda *_: flights)
    case = evidence.open_draw("flights", 1, 300, None)
    days = flights.table.select("yday").collect()["yday"].to_numpy()
    tested = days[evidence.split_rows(flights, 1) == "test"]
    assert case.groups is not None
    assert len(case.groups) == len(case.train[0]) == 300
    assert not set(case.groups) & set(tested)
    assert len(set(case.groups)) > 20


def test_folds_part_the_rows_and_those_of_rf1_share_their_test_rows(folder):
    folds = [evidence.open_fold("mulan", "enb", fold, folder) for fold in range(10)]
    assert len(pl.concat([fold.test[0] for fold in folds]).unique()) == 100
    assert {len(fold.train[0]) for fold in folds} == {90}
    published = [evidence.open_fold("rf1", "rf1", fold, folder) for fold in range(5)]
    assert all(fold.test[0].equals(published[0].test[0]) for fold in published)
    assert [len(fold.train[0]) for fold in published] == [64] * 5
    assert len(pl.concat([fold.train[0] for fold in published]).unique()) == 80


def test_blocks_of_time_share_no_hour_with_what_is_learned(small, folder):
    blocks = [evidence.fold_rows("blocks", fold, 100) for fold in range(5)]
    assert np.array_equal(np.concatenate([tested for _, tested in reversed(blocks)]), np.arange(100))
    for kept, tested in blocks:
        hours = {hour for row in tested for hour in range(row - 1, row + 3)}
        assert not hours & {hour for row in kept for hour in range(row - 1, row + 3)}
        assert len(kept) == 60
    case = evidence.open_cell(Cell("blocks", "rf1", None, None, 0, ""), folder)
    assert case.groups is not None
    assert len(set(case.groups)) == 16  # weeks of five hours


def test_baselines_see_the_flow_now_or_the_hours_around(small, folder):
    case = evidence.open_cell(Cell("rf1", "rf1", None, None, 1, ""), folder)
    now = evidence.forecast(Cell("rf1", "rf1", None, None, 1, evidence.AS_NOW), folder)
    line = evidence.forecast(Cell("rf1", "rf1", None, None, 1, evidence.LINE), folder)
    truth, x = case.test[1]["s0_48H__0"].to_numpy(), case.test[0]["s0__0"].to_numpy()
    assert np.array_equal(now["s0_48H__0"], x)
    assert np.abs(line["s0_48H__0"] - truth).mean() < 0.2 < np.abs(x - truth).mean()
    record = evidence.run(Cell("blocks", "rf1", None, None, 0, evidence.LINE), folder)
    assert record["scores"]["RMSE"]["all"] > 0.3  # no hour of the block is near


def test_a_record_has_its_commit_and_the_versions(small, folder, monkeypatch):
    record = evidence.run(Cell("rf1", "rf1", None, None, 0, evidence.AS_NOW), folder)
    assert record["code"] == "unknown" or int(record["code"].rstrip("+"), 16)
    assert f"numpy {np.__version__}" in record["versions"]
    evidence.made_by.cache_clear()
    monkeypatch.setattr(evidence, "ROOT", folder)  # no checkout
    assert evidence.made_by()["code"] == "unknown"
    evidence.made_by.cache_clear()


def test_the_training_mean_has_the_relative_error_one(folder):
    case = evidence.open_fold("mulan", "enb", 0, folder)
    n = len(case.test[0])
    means = {task: np.full(n, case.train[1][task].mean()) for task in case.tasks}
    assert evidence.score("mulan", case, means) == {"RRMSE": pytest.approx({"y0": 1, "y1": 1})}
    truth = {task: case.test[1][task].to_numpy() for task in case.tasks}
    off = {"y0": truth["y0"] + 3, "y1": truth["y1"] - 4}
    assert evidence.score("blocks", case, off) == {"RMSE": {"all": pytest.approx(math.sqrt(12.5))}}


def test_a_call_runs_what_is_missing_and_the_report_holds_it(small, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evidence, "MODELS", dict.fromkeys(evidence.MODELS, Constant))
    output = tmp_path / "docs" / "evidence"
    common = ["--folder", str(folder), "--output", str(output)]
    evidence.main([*common, "--budget", "0"])
    assert "61 of 61 fits are missing" in capsys.readouterr().out
    assert not [*output.iterdir()]
    evidence.main([*common, "--parts", "labels", "--seeds", "0"])
    assert "9 of 9 fits are missing" in capsys.readouterr().out
    before = (output / "labels.jsonl").read_text()
    evidence.main(common)
    assert "52 of 61" in capsys.readouterr().out
    assert (output / "labels.jsonl").read_text().startswith(before)
    records = evidence.read(output)
    assert len({Cell.of(record) for record in records}) == len(records) == 61
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evidence -->\nan earlier table\n<!-- /evidence -->\nafter\n")
    evidence.main([*common, "--report"])
    page = (output / "README.md").read_text()
    assert (output / "labels.png").read_bytes().startswith(b"\x89PNG")
    own = [r for r in records if (r["target"], r["amount"], r["model"]) == ("male", 40, ENSEMBLE)]
    mean = np.mean([record["scores"]["AUC"]["male"] for record in own])
    row = next(line for line in page.splitlines() if line.startswith("| portal | male | AUC | 40 |"))
    assert f"{mean:.4f}" in row
    assert f"{len(re.findall(r'[+-][0-9.]+[*]* ± ', page))} differences of the page have an error" in page
    assert "| all |" in readme.read_text()
    assert "an earlier table" not in readme.read_text()
    assert readme.read_text().endswith("<!-- /evidence -->\nafter\n")


def test_a_fit_that_fails_is_named_and_tried_again(small, folder, tmp_path, monkeypatch):
    good = evidence.MODELS["SharedTrees"]
    argv = ["--folder", str(folder), "--output", str(tmp_path), "--parts", "full", "--models", "SharedTrees"]
    monkeypatch.setitem(evidence.MODELS, "SharedTrees", partial(SharedTrees, n_estimators=0))
    with pytest.raises(SystemExit, match=r"full portal 0 SharedTrees: ValueError: n_estimators"):
        evidence.main(argv)
    assert not evidence.read(tmp_path)
    monkeypatch.setitem(evidence.MODELS, "SharedTrees", good)
    evidence.main(argv)
    assert len(evidence.read(tmp_path)) == 2


def test_an_estimate_is_that_of_the_fits_most_like_it():
    def record(part: str, name: str, amount: int | None, seconds: float) -> dict[str, Any]:
        return {"part": part, "set": name, "amount": amount, "model": "m", "seconds": seconds}

    records = [record("labels", "star", 50, 3), record("labels", "star", 150, 5), record("full", "star", None, 13)]
    for cell, seconds in {
        Cell("labels", "star", "t", 50, 1, "m"): 3,
        Cell("labels", "star", "t", 500, 1, "m"): 4,
        Cell("missing", "star", None, 25, 1, "m"): 7,
        Cell("missing", "wq", None, 25, 1, "m"): 7,
        Cell("missing", "wq", None, 25, 1, "other"): evidence.GUESS_OF_OTHERS,
        Cell("missing", "wq", None, 25, 1, ENSEMBLE): evidence.GUESS,
    }.items():
        assert evidence.estimate(cell, records) == seconds


def made(part: str, metric: str, scores: dict[str, list[float]], **facts: Any) -> list[dict[str, Any]]:
    """Records of one setting: per model a score for every seed."""
    common = {"part": part, "set": "star", "target": None, "amount": None, "code": "abc", **facts}
    times = {"seconds": 1.0, "ms_of_1": 1.0, "ms_of_1000": 1.0}
    return [
        {**common, "seed": seed, "model": model, **times, "scores": {metric: {"t": value}}}
        for model, values in scores.items()
        for seed, value in enumerate(values)
    ]


def test_the_ensemble_is_compared_with_the_best_single_task_model():
    scores = {LIGHTGBM: [0.5, 0.6, 0.7], BAG: [0.6, 0.6, 0.6], CATBOOST: [0.1] * 3, ENSEMBLE: [0.6, 0.7, 0.9]}
    scores[BAG] = [0.6, 0.6, 0.63]
    (found,) = evidence_report.compare(evidence_report.flatten(made("full", "R²", scores)), ("set",))
    gains = np.array(scores[ENSEMBLE]) - scores[BAG]
    assert found.rival == BAG
    assert found.gain == pytest.approx(gains.mean())
    assert found.error == pytest.approx(gains.std(ddof=1) / math.sqrt(3))
    assert found.p_value == pytest.approx(ttest_rel(scores[ENSEMBLE], scores[BAG]).pvalue)
    assert not found.is_ahead
    (against,) = evidence_report.compare(evidence_report.flatten(made("full", "R²", scores)), ("set",), (LIGHTGBM,))
    assert against.gain == pytest.approx(4 * (against.error or 0))
    assert not against.is_ahead  # three draws take 4.3 errors
    assert against.difference.startswith("+0.1333 ± ")
    scores[ENSEMBLE][2] = 0.85
    (against,) = evidence_report.compare(evidence_report.flatten(made("full", "R²", scores)), ("set",), (LIGHTGBM,))
    assert against.is_ahead
    assert against.difference.startswith("**+0.1167** ± ")


def test_the_page_and_the_readme_are_what_the_stored_records_say(tmp_path, monkeypatch):
    """Tables, goals, counts by Holm, published means and the code of the records: ``--report`` writes them anew."""
    monkeypatch.setattr(evidence_report, "draw_labels", lambda *_: None)
    folder = tmp_path / evidence.OUTPUT
    folder.mkdir(parents=True)
    for file in (evidence.ROOT / evidence.OUTPUT).glob("*.jsonl"):
        shutil.copy(file, folder)
    shutil.copy(evidence.ROOT / "README.md", tmp_path)
    evidence.main(["--report", "--output", str(folder)])
    for name in ("README.md", evidence.OUTPUT / "README.md"):
        assert (tmp_path / name).read_text("utf-8") == (evidence.ROOT / name).read_text("utf-8")


def test_without_records_there_is_nothing_to_report(tmp_path):
    with pytest.raises(SystemExit, match="has no records"):
        evidence.main(["--report", "--output", str(tmp_path)])
    assert not [*tmp_path.iterdir()]


def test_differences_of_a_table_are_paired_and_judged_by_the_t_quantile(capsys):
    scores = {evidence.PLAIN: [0.6, 0.61, 0.62], evidence.REFERENCE: [0.5, 0.51, 0.53], evidence.FIXED: [0.5, 0.4, 0.6]}
    frame = evidence_report.flatten(made("reference", "AUC", scores, target="t", amount=50))
    evidence_report.print_paired(frame, evidence.TABLES["reference"])
    out = capsys.readouterr().out
    difference = np.array(scores[evidence.REFERENCE]) - scores[evidence.PLAIN]
    assert f"{difference.mean():+.4f} ± {difference.std(ddof=1) / math.sqrt(3):.4f} behind" in out
    assert "IndependentTasks to LightGBM: 1 behind; means -0.097 at 50 labels" in out
    assert "IndependentTasks to 60 x 7: 1 level" in out


@pytest.mark.parametrize(("part", "n"), [("sharing", 8), ("reference", 7)])
def test_parts_without_a_page_run_and_print_their_table(part, n, small, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evidence, "OF_TABLES", dict.fromkeys(evidence.OF_TABLES, Constant))
    monkeypatch.setattr(evidence, "MODELS", dict.fromkeys((LIGHTGBM, BAG, CATBOOST, "SharedTrees"), Constant))
    monkeypatch.setattr(evidence, "SETS", {"portal": ("male",)})
    argv = ["--parts", part, "--models", *evidence.TABLES[part], "--folder", str(folder), "--output", str(tmp_path)]
    evidence.main([*argv, "--sets", "portal", "--seeds", "0", "1"])
    settings = 2 if part == "sharing" else 2 * len(evidence.AMOUNTS)
    assert len(evidence.read(tmp_path)) == 2 * n * settings
    assert "test scores, means over the draws" in capsys.readouterr().out


def test_means_are_over_common_draws_and_one_draw_has_no_error():
    scores = {LIGHTGBM: [0.5, 0.9], CATBOOST: [0.4, 0.2], ENSEMBLE: [0.6]}
    records = made("labels", "R²", scores, target="t", amount=50)
    (found,) = evidence_report.labels_of(evidence_report.flatten(records))
    assert found.means == {LIGHTGBM: 0.5, CATBOOST: 0.4, ENSEMBLE: 0.6}
    assert (found.n_draws, found.error) == (1, None)
    assert found.difference == "+0.1000"
    assert not found.is_ahead
    assert f"| 1 of star | 50 | {evidence_report.ONE_DRAW} |" in evidence_report.summary_table([found])
    goals = evidence_report.goals_of(evidence_report.flatten(records), [found])
    assert [goal["found"] for goal in goals[:2]] == ["1 of 1", "0 of 0; in the mean 0"]


def test_the_budget_is_that_of_all_calls(small, folder, tmp_path, capsys):
    before = made("labels", "R²", {LIGHTGBM: [0.5]})
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(each | {"seconds": 100.0}) + "\n" for each in before))
    evidence.main(["--folder", str(folder), "--output", str(tmp_path), "--parts", "full", "--budget", "100"])
    assert "100 of 100 CPU seconds are spent" in capsys.readouterr().out
    assert not (tmp_path / "full.jsonl").exists()
