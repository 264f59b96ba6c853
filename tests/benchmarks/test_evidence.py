"""The evidence when learning together pays: its cells, its rows, its scores, and the page of its results."""

from __future__ import annotations

import importlib
import json
import math
import re
import shutil
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_rel

from benchmarks import datasets, evidence, evidence_compare, evidence_goals, evidence_report
from benchmarks.evidence import Cell
from benchmarks.evidence_compare import OF_TARGET, Comparison, compare, curve_of, flatten, holm
from benchmarks.evidence_models import (
    AS_NOW,
    AUTOGLUON,
    BAG,
    CATBOOST,
    DISTILLED,
    EACH_ALONE,
    ENSEMBLE,
    FAST,
    FOURFOLD,
    GUESS,
    LIGHTGBM,
    LINE,
    MODELS,
    REALMLP,
    REALMLP_BY_LOSS,
    REFERENCE,
    RIVALS,
    TRANSFER,
    TREES,
    TREES_ALONE,
)
from benchmarks.problems import N_TRANSFERRED, Transfer
from tabmtl import IndependentTasks, MultiTaskEnsemble, SharedTrees

TREES_OF_TESTS = {"n_estimators": 5, "n_estimators_task": 0}
ALONE = {"families": ("lightgbm",), "patience": 1, "learning_rate": 0.3}


class Constant:
    """A model that answers 0, and takes no time."""

    def __init__(self, tasks: dict[str, str], random_state: int, seconds: float = 0.0, **_: object) -> None:
        self._tasks, self.seconds = tasks, seconds

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
    hours = np.arange(100.0)
    flows = {f"s{t}": np.sin(hours / 3 + t) + 10 for t in range(8)}
    now = {f"{site}__0": flow for site, flow in flows.items()}
    ahead = {f"{site}_48H__0": np.roll(flow, -2) for site, flow in flows.items()}
    for name, table, tasks in (("enb", columns, ("y0", "y1")), ("rf1", now | ahead, [*ahead])):
        pl.DataFrame(table).write_parquet(folder / "mulan" / f"{name}.parquet")
        features = [feature for feature in table if feature not in tasks]
        meta = {"features": features, "categorical": [], "tasks": dict.fromkeys(tasks, "regression")}
        (folder / "mulan" / f"{name}.meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture
def small(monkeypatch):
    """One small set for every part, few rows, and quick models."""
    evidence.open_draw.cache_clear()
    sizes: dict[str, Any] = {
        "TEST_ROWS": 150,
        "FIT_ROWS": {"labels": 300, "full": 350, "missing": 300, "blocks": 60},
        "UNLABELLED": 100,
        "HOURS_BACK": 1,
        "HOURS_AHEAD": 2,
        "WEEK": 5,
        "TARGETS": {"portal": ("male", "weight")},
        "FEW": (40,),
        "FEWEST": (30,),
        "FULL_SETS": ("portal",),
        "MISSING_SETS": ("portal",),
        "HIDDEN": (50,),
        "FOLD_SETS": ("enb",),
    }
    for name, value in sizes.items():
        monkeypatch.setattr(evidence, name, value)
    candidates = {"alone": IndependentTasks(**ALONE), "together": SharedTrees(**TREES_OF_TESTS)}
    change(monkeypatch, partial(IndependentTasks, **ALONE), LIGHTGBM)
    change(monkeypatch, partial(SharedTrees, **TREES_OF_TESTS), TREES)
    change(monkeypatch, partial(MultiTaskEnsemble, models=candidates, n_folds=2), ENSEMBLE)


def change(monkeypatch: pytest.MonkeyPatch, make: Any, *names: str) -> None:
    """Make some models in another way."""
    for name in names:
        monkeypatch.setitem(MODELS, name, replace(MODELS[name], make=make))


def test_the_first_draw_of_what_the_goals_are_about_comes_first():
    paged = [name for name, model in MODELS.items() if model.kind != "sharing"]
    cells = list(evidence.plan(paged))
    assert len(set(cells)) == len(cells)

    def count(model: str, **facts: Any) -> int:
        own = [cell for cell in cells if cell.model == model]
        return sum(all(getattr(cell, name) == value for name, value in facts.items()) for cell in own)

    for labels, n in {50: 5 * 16, 150: 5 * 16, 500: 5 * 14}.items():  # oes10 has 150 labels at most
        assert {count(model, part="labels", amount=labels) for model in (ENSEMBLE, EACH_ALONE, *RIVALS)} == {n}
        assert count(TRANSFER, part="labels", amount=labels) == 5 * 14
        assert count(AUTOGLUON, part="labels", amount=labels) == 5 * 7
        assert count(REALMLP, part="labels", amount=labels) == 3 * 7 * (labels != 50)
        assert count(REALMLP_BY_LOSS, part="labels", amount=labels) == 3 * 5 * (labels != 50)  # of five sets' classes
    assert [count(m, part="full") for m in (ENSEMBLE, REFERENCE, AUTOGLUON, DISTILLED)] == [35, 35, 35, 6]
    assert [count(m) for m in (FOURFOLD, LINE)] == [21, 10]
    assert [count(m, part="mulan") for m in (ENSEMBLE, CATBOOST, BAG, "ExtraTrees")] == [26, 26, 22, 0]
    first = [cell for cell in cells if cell.seed == 0]
    assert cells[: len(first)] != first  # hidden labels and the rivers come last
    assert [*dict.fromkeys(cell.part for cell in cells)] == ["labels", "full", "mulan", "missing", *evidence.RIVERS]
    told_first = [cell.part in ("labels", "full", "mulan") for cell in cells]
    order = [(not first, cell.seed) for first, cell in zip(told_first, cells, strict=True)]
    assert order == sorted(order)
    names = [cell.model for cell in cells[: cells.index(Cell("labels", "portal", "male", 150, 0, AUTOGLUON)) + 1]]
    assert names.index("LightGBM") < names.index(ENSEMBLE) < names.index(AUTOGLUON) == len(names) - 1


def test_single_task_models_see_the_target_alone(small, folder, monkeypatch):
    seen: list[tuple[int, list[str]]] = []

    class Spy(IndependentTasks):
        def fit(self, X: Any, y: Any, **options: Any) -> Any:
            seen.append((len(X), y.columns))
            return super().fit(X, y, **options)

    change(monkeypatch, partial(Spy, **ALONE), LIGHTGBM, TREES, EACH_ALONE)
    for model in (LIGHTGBM, TREES):
        record = evidence.run(Cell("labels", "portal", "weight", 40, 0, model), folder)
        assert list(record["scores"]) == ["R²"]
        assert list(record["scores"]["R²"]) == ["weight"]
    assert seen == [(40, ["weight"]), (300, ["weight", "hindfoot_length", "male"])]
    record = evidence.run(Cell("full", "portal", None, None, 0, EACH_ALONE), folder)
    assert [columns for _, columns in seen[2:]] == [["male"], ["weight"]]
    assert {metric: [*scores] for metric, scores in record["scores"].items()} == {"AUC": ["male"], "R²": ["weight"]}
    assert [*record["slopes"]] == ["male"]


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
    more = evidence.open_cell(Cell("full", "portal", None, None, 1, DISTILLED), folder)
    assert len(more.train[0]) == 450
    assert [*more.train[1].null_count().row(0)] == [100 + n for n in full.train[1].null_count().row(0)]
    assert more.test[1].equals(full.test[1])


def test_days_are_never_on_both_sides(small, monkeypatch):
    flights = datasets.load("flights")
    monkeypatch.setattr(evidence, "load", lambda *_, **__: flights)
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
    now = evidence.forecast(Cell("rf1", "rf1", None, None, 1, AS_NOW), folder)
    line = evidence.forecast(Cell("rf1", "rf1", None, None, 1, LINE), folder)
    truth, x = case.test[1]["s0_48H__0"].to_numpy(), case.test[0]["s0__0"].to_numpy()
    assert np.array_equal(now["s0_48H__0"], x)
    assert np.abs(line["s0_48H__0"] - truth).mean() < 0.2 < np.abs(x - truth).mean()
    record = evidence.run(Cell("blocks", "rf1", None, None, 0, LINE), folder)
    assert record["scores"]["RMSE"]["all"] > 0.3  # no hour of the block is near


def test_a_record_has_its_commit_and_the_versions(small, folder, monkeypatch):
    record = evidence.run(Cell("rf1", "rf1", None, None, 0, AS_NOW), folder)
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


def run_twice(output, folder, capsys, monkeypatch, *options):
    """Run a part of what is missing, and then the rest; return the records and the options of both calls."""
    change(monkeypatch, Constant, *MODELS)
    common = ["--folder", str(folder), "--output", str(output), *options]
    evidence.main([*common, "--budget", "0"])
    n = int(re.search(r"(\d+) of \1 fits are missing", capsys.readouterr().out)[1])
    assert not [*output.iterdir()]
    evidence.main([*common, "--parts", "labels", "--seeds", "0", "--share", "1/2"])
    before = (output / "labels.jsonl").read_text()
    evidence.main([*common, "--share", "2/2"])
    evidence.main(common)
    assert (output / "labels.jsonl").read_text().startswith(before)
    records = evidence.read(output)
    assert len({Cell.of(record) for record in records}) == len(records) == n
    assert f"of {n} fits are missing" in capsys.readouterr().out
    return records, common


def test_a_call_runs_what_is_missing(small, folder, tmp_path, capsys, monkeypatch):
    run_twice(tmp_path, folder, capsys, monkeypatch, "--parts", "labels", "--models", ENSEMBLE)


@pytest.mark.all_faces
def test_the_report_holds_what_calls_ran(small, folder, tmp_path, capsys, monkeypatch):
    output = tmp_path / "docs" / "evidence"
    records, common = run_twice(output, folder, capsys, monkeypatch)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evidence -->\nan earlier table\n<!-- /evidence -->\nafter\n")
    evidence.main([*common, "--report"])
    page = (output / "README.md").read_text()
    assert (output / "labels.png").read_bytes().startswith(b"\x89PNG")
    own = [r for r in records if (r["target"], r["amount"], r["model"]) == ("male", 40, ENSEMBLE) and r["seed"] > 0]
    mean = np.mean([record["scores"]["AUC"]["male"] for record in own])
    row = next(line for line in page.splitlines() if line.startswith("| portal | male | AUC | 40 | 1 to 4 |"))
    assert f"{mean:.4f}" in row
    assert "Not complete" not in page
    text = readme.read_text()
    assert re.search(r"\| all \| AUC [+]0.000 \(1\); 0 of 1 sets, p 1.000; 1 of 1 within .01 \|", text)
    assert "draw 0 the guard" in page
    assert "an earlier table" not in text
    assert text.endswith("<!-- /evidence -->\nafter\n")


def test_shares_part_the_draws_of_settings(tmp_path):
    args = evidence.parse(["--report", "--output", str(tmp_path)])
    cells = list(evidence.plan([*MODELS]))
    shares = []
    for k in (1, 2):
        args.share = k, 2
        shares.append(evidence.choose(cells, args))
    assert {*shares[0]} | {*shares[1]} == {*cells}
    draws = [{replace(cell, model="") for cell in share} for share in shares]
    assert not draws[0] & draws[1]
    peers = [sum(MODELS[cell.model].kind == "peer" for cell in share) for share in shares]
    assert abs(peers[0] - peers[1]) < 0.2 * sum(peers)


def test_a_peer_is_given_the_seconds_of_the_ensemble(small, folder, tmp_path, monkeypatch):
    change(monkeypatch, Constant, AUTOGLUON, FOURFOLD, ENSEMBLE)
    monkeypatch.setattr(evidence, "FEWEST", ())
    argv = ["--folder", str(folder), "--output", str(tmp_path), "--parts", "labels", "--seeds", "2"]
    with pytest.raises(SystemExit, match="it is given the CPU seconds of MultiTaskEnsemble, which has no record here"):
        evidence.main([*argv, "--models", AUTOGLUON])
    own = Cell("labels", "portal", "male", 40, 2, ENSEMBLE)
    record = evidence.run(own, folder) | {"seconds": 7.5}
    (tmp_path / "labels.jsonl").write_text(json.dumps(record) + "\n")
    evidence.main([*argv, "--models", AUTOGLUON, FOURFOLD])
    seconds = {record["model"]: record["seconds"] for record in evidence.read(tmp_path)}
    assert seconds == pytest.approx({ENSEMBLE: 7.5, AUTOGLUON: 7.5, FOURFOLD: 30.0}, abs=0.1)  # those it says it took


def test_a_peer_without_its_environment_is_left_out_and_missing(small, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TABMTL_AUTOGLUON", raising=False)
    argv = ["--folder", str(folder), "--output", str(tmp_path), "--parts", "labels", "--models", AUTOGLUON]
    evidence.main(argv)
    assert f"{AUTOGLUON} is left out" in capsys.readouterr().out
    evidence.main(argv)
    assert "10 of 10 fits are missing" in capsys.readouterr().out


def test_records_of_older_code_do_not_count(tmp_path, monkeypatch):
    lines = [
        record | {"code": code} for record in made("full", "AUC", {TREES: [0.5]}) for code in ("abc1+", "in abc", "f0")
    ]
    (tmp_path / "full.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(evidence, "commits_from", lambda first: {MODELS[TREES].first: ("abc123", "def456")}[first])
    assert [record["code"] for record in evidence.read(tmp_path)] == ["abc1+"]
    monkeypatch.setattr(evidence, "commits_from", lambda _: None)
    assert len(evidence.read(tmp_path)) == 3


def test_a_part_is_shown_by_older_records_until_its_first_round_is_whole(tmp_path, monkeypatch):
    first, second = (Cell("labels", "portal", "male", 150, 0, model) for model in (REFERENCE, ENSEMBLE))
    monkeypatch.setattr(evidence, "plan", lambda models: [first, second, replace(second, seed=1)])
    monkeypatch.setattr(evidence, "counts", lambda record: True)
    (tmp_path / "before").mkdir()

    def write(place, *cells):
        text = "".join(json.dumps(asdict(cell)) + "\n" for cell in cells)
        (tmp_path / place / "labels.jsonl").write_text(text)

    write("", first)
    assert evidence.to_show(evidence.read(tmp_path), tmp_path) == ([asdict(first)], [])
    write("before", second)
    assert evidence.to_show(evidence.read(tmp_path), tmp_path) == ([], [asdict(second)])
    write("", first, second)
    assert evidence.to_show(evidence.read(tmp_path), tmp_path) == ([asdict(first), asdict(second)], [])


def test_the_site_counts_the_cases_that_were_lost_from_the_stored_records(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(evidence.ROOT / "docs" / "_ext")
    shutil.copytree(evidence.ROOT / evidence.OUTPUT, tmp_path / "evidence")
    importlib.import_module("losses").write_losses(SimpleNamespace(srcdir=tmp_path))
    page = (tmp_path / "_generated" / "losses.md").read_text("utf-8")
    assert re.search(rf"^\| {ENSEMBLE} \| [1-9]\d* \|", page, re.MULTILINE)


def test_a_fit_that_fails_is_named_and_tried_again(small, folder, tmp_path, monkeypatch):
    good = MODELS[TREES].make
    argv = ["--folder", str(folder), "--output", str(tmp_path), "--parts", "full", "--models", TREES]
    change(monkeypatch, partial(SharedTrees, n_estimators=0), TREES)
    with pytest.raises(SystemExit, match=r"full portal 0 SharedTrees: ValueError: n_estimators"):
        evidence.main(argv)
    assert not evidence.read(tmp_path)
    change(monkeypatch, good, TREES)
    evidence.main(argv)
    assert len(evidence.read(tmp_path)) == 5


def test_an_estimate_is_that_of_the_fits_most_like_it():
    def record(part: str, name: str, amount: int | None, seconds: float) -> dict[str, Any]:
        return {"part": part, "set": name, "amount": amount, "model": TREES, "seconds": seconds}

    records = [record("labels", "star", 50, 3), record("labels", "star", 150, 5), record("full", "star", None, 13)]
    for cell, seconds in {
        Cell("labels", "star", "t", 50, 1, TREES): 3,
        Cell("labels", "star", "t", 500, 1, TREES): 4,
        Cell("missing", "star", None, 25, 1, TREES): 7,
        Cell("missing", "wq", None, 25, 1, TREES): 7,
        Cell("missing", "wq", None, 25, 1, BAG): GUESS,
        Cell("missing", "wq", None, 25, 1, ENSEMBLE): MODELS[ENSEMBLE].seconds,
    }.items():
        assert evidence.estimate(cell, records) == seconds
        assert evidence.estimate(cell, [], records) == seconds


def made(
    part: str, metric: str, scores: dict[str, list[float]], *, first: int = 0, **facts: Any
) -> list[dict[str, Any]]:
    """Records of one setting: per model a score for every seed from the first on."""
    times = {"seconds": 1.0, "ms_of_1": 1.0, "ms_of_1000": 1.0}
    common = {"part": part, "set": "star", "target": None, "amount": None, "code": "abc", **times, **facts}
    return [
        {**common, "seed": seed, "model": model, "scores": {metric: {"t": value}}}
        for model, values in scores.items()
        for seed, value in enumerate(values, start=first)
    ]


def test_the_ensemble_is_compared_with_the_best_single_task_model():
    scores = {LIGHTGBM: [0.5, 0.6, 0.7], BAG: [0.6, 0.6, 0.6], CATBOOST: [0.1] * 3, ENSEMBLE: [0.6, 0.7, 0.9]}
    scores[BAG] = [0.6, 0.6, 0.63]
    (found,) = compare(flatten(made("full", "R²", scores, first=1)), ("set",))
    gains = np.array(scores[ENSEMBLE]) - scores[BAG]
    assert found.rival == BAG
    assert found.gain == pytest.approx(gains.mean())
    assert found.error == pytest.approx(gains.std(ddof=1) / math.sqrt(3))
    assert found.p_value == pytest.approx(ttest_rel(scores[ENSEMBLE], scores[BAG]).pvalue)
    assert not found.is_ahead
    (against,) = compare(flatten(made("full", "R²", scores, first=1)), ("set",), (LIGHTGBM,))
    assert against.gain == pytest.approx(4 * (against.error or 0))
    assert not against.is_ahead  # three draws take 4.3 errors
    assert against.difference.startswith("+0.1333 ± ")
    scores[ENSEMBLE][2] = 0.85
    (against,) = compare(flatten(made("full", "R²", scores, first=1)), ("set",), (LIGHTGBM,))
    assert against.is_ahead
    assert against.difference.startswith("**+0.1167** ± ")


def test_draws_that_chose_something_of_a_model_do_not_judge_it():
    scores = {ENSEMBLE: [0.9, 0.5, 0.6], REFERENCE: [0.5, 0.5, 0.5, 0.5, 0.6], CATBOOST: [0.5, 0.5, 0.5, 0.7, 0.9]}
    frame = flatten(made("full", "R²", scores))
    (found,) = compare(frame, ("set",), (CATBOOST,))
    assert found.draws == (1, 2)
    assert found.gain == pytest.approx(0.05)
    (of_reference,) = compare(frame, ("set",), (CATBOOST,), model=REFERENCE)
    assert of_reference.draws == (3, 4)
    assert of_reference.gain == pytest.approx(-0.25)
    (only,) = compare(frame.filter(seed=0), ("set",), (CATBOOST,))
    assert (only.draws, only.gain, only.error, only.low) == ((0,), pytest.approx(0.4), None, -math.inf)
    (two,) = compare(frame.filter(pl.col("seed") < 2), ("set",), (CATBOOST,), model=REFERENCE)
    assert (two.draws, two.error) == ((0, 1), None)  # both chose how it mixes


def test_a_model_of_some_targets_is_not_compared_by_their_mean():
    records = made("full", "AUC", {ENSEMBLE: [0.7, 0.7], CATBOOST: [0.6, 0.6], EACH_ALONE: [0.9, 0.9]}, first=1)
    for record in records:
        if record["model"] != EACH_ALONE:
            record["scores"]["AUC"]["other"] = 0.5
    (found,) = compare(flatten(records), ("set",))
    assert found.rival == CATBOOST
    assert found.gain == pytest.approx(0.05)


def test_all_single_task_models_are_rivals():
    rivals = (LIGHTGBM, "LightGBM", "60 x 7", "linear", "ExtraTrees", EACH_ALONE, AUTOGLUON)
    for best in rivals:
        scores = {ENSEMBLE: [0.7, 0.7], **{name: [0.5, 0.5] for name in rivals}, best: [0.6, 0.6]}
        (found,) = compare(flatten(made("full", "R²", scores, first=1)), ("set",))
        assert found.rival == best


def test_the_page_and_the_readme_are_what_the_stored_records_say(tmp_path, monkeypatch):
    """Tables, goals, counts by Holm, published means and the code of the records: ``--report`` writes them anew."""
    monkeypatch.setattr(evidence_report, "draw_labels", lambda *_: None)
    folder = tmp_path / evidence.OUTPUT
    folder.mkdir(parents=True)
    shutil.copytree(evidence.ROOT / evidence.OUTPUT, folder, ignore=shutil.ignore_patterns("*.md"), dirs_exist_ok=True)
    shutil.copy(evidence.ROOT / "README.md", tmp_path)
    evidence.main(["--report", "--output", str(folder)])
    for name in ("README.md", evidence.OUTPUT / "README.md"):
        assert (tmp_path / name).read_text("utf-8") == (evidence.ROOT / name).read_text("utf-8")


def test_without_records_there_is_nothing_to_report(tmp_path):
    with pytest.raises(SystemExit, match="has no records"):
        evidence.main(["--report", "--output", str(tmp_path)])
    assert not [*tmp_path.iterdir()]


def test_differences_of_a_table_are_paired_and_judged_by_the_t_quantile(capsys):
    scores = {LIGHTGBM: [0.6, 0.61, 0.62], TREES: [0.5, 0.51, 0.53], CATBOOST: [0.5, 0.4, 0.6]}
    frame = flatten(made("sharing", "AUC", scores, target="t"))
    evidence_report.print_paired(frame, evidence.SHARING)
    out = capsys.readouterr().out
    difference = np.array(scores[TREES]) - scores[LIGHTGBM]
    assert f"{difference.mean():+.4f} ± {difference.std(ddof=1) / math.sqrt(3):.4f} behind" in out
    assert "SharedTrees to LightGBM tuned: 1 behind; means -0.097 at the labels" in out
    assert "SharedTrees to CatBoost: 1 level" in out


def test_the_part_without_a_page_runs_and_prints_its_table(small, folder, tmp_path, capsys, monkeypatch):
    change(monkeypatch, Constant, *evidence.SHARING)
    monkeypatch.setattr(evidence, "SETS", {"portal": ("male",)})
    argv = ["--parts", "sharing", "--models", *evidence.SHARING, "--folder", str(folder), "--output", str(tmp_path)]
    evidence.main([*argv, "--sets", "portal", "--seeds", "0", "1"])
    assert len(evidence.read(tmp_path)) == 2 * 2 * len(evidence.SHARING)
    assert "test scores, means over the draws" in capsys.readouterr().out


def test_the_reference_is_judged_by_all_pairs_and_by_the_best_rival(small, folder, tmp_path, capsys, monkeypatch):
    change(monkeypatch, Constant, *MODELS)
    evidence.main(["--parts", "reference", "--folder", str(folder), "--output", str(tmp_path)])
    assert {record["model"] for record in evidence.read(tmp_path)} == {REFERENCE, *RIVALS}
    assert "| reference: over the sets, behind no rival by more than 0.01 (one-sided 95 %) | 0 of 15" in (
        capsys.readouterr().out
    )  # one set has no error over sets
    scores = {REFERENCE: [0.9] * 3 + [0.51, 0.53], **{name: [0.41, 0.42] for name in RIVALS}, CATBOOST: [0.61, 0.62]}
    records = []
    for name, shift in (("star", 0.0), ("wq", 0.01), ("rand_hie", 0.02)):
        for model, values in scores.items():
            own = [value + shift if model == REFERENCE else value for value in values]
            first = 0 if model == REFERENCE else 3
            records += made("labels", "AUC", {model: own}, first=first, target="t", amount=50, set=name)
    never, deficit = evidence_goals.reference_goals(curve_of(flatten(records)))
    found = "behind beyond chance, one by one, 1 of 5: CatBoost 50; mean below 0 in 1, lowest -0.0850 (CatBoost 50)"
    assert never[1:] == (f"4 of 5 within; {found}", False)
    assert deficit[1:] == ("-0.0850 (-0.0850 ± 0.0058 at 50 labels)", False)


def test_goals_are_judged_by_what_the_records_say():
    few = made(
        "labels", "AUC", {ENSEMBLE: [0.7, 0.71, 0.72], AUTOGLUON: [0.6, 0.61, 0.63]}, first=1, target="t", amount=150
    )
    scores = {ENSEMBLE: [0.5, 0.8, 0.81], AUTOGLUON: [0.9, 0.8, 0.82], DISTILLED: [0.498]}
    full = made("full", "AUC", scores, slopes={"t": 0.8})
    for record in full:
        record["ms_of_1"] += 8.0 * record["seed"]  # the baseline has draw 0 alone
    fewest = made("labels", "AUC", {ENSEMBLE: [0.9], AUTOGLUON: [0.1]}, target="t", amount=50)
    frame = flatten([*few, *fewest, *full])
    curve = curve_of(frame)
    beside = {title: compare(curve, OF_TARGET, rivals) for title, rivals in evidence_compare.BESIDE.items()}
    before = flatten(made("full", "AUC", {ENSEMBLE: [0.8]}, seconds=2.0, ms_of_1000=2.0))
    costs = evidence_goals.cost_goals(frame, before)
    goals = evidence_goals.goals_of(frame, frame.clear(), beside, costs)
    behind = "behind beyond chance, one by one, 0 of"
    assert [(found, is_met) for _, found, is_met in goals] == [
        ("AUC +0.448 (1)", False),  # and no R²
        ("1 of 1, lowest +0.0967 (star t AUC 150)", True),
        (f"0 of 1 within; {behind} 1; mean below 0 in 1, lowest -0.0050 (star t AUC all)", False),
        ("0 of 1", False),
        (evidence_goals.NOT_RUN, False),
        (
            f"1 of 3 within; {behind} 3; mean below 0 in 1, lowest -0.0050 (star t AUC all); "
            "of one draw: star t AUC 50 +0.8000",
            False,
        ),
        *[(evidence_goals.NOT_RUN, False)] * 5,
        ("0.22 (0.00) at all labels", False),
        (evidence_goals.NOT_RUN, False),
        ("0.50 (sum of 1 fits)", True),
        ("0.50 (sum of 1 fits)", True),
        ("1.0 to 1.0 ms by set", True),
        *[(evidence_goals.NOT_RUN, False)] * 2,
        (f"0 of 1 within; {behind} 1; mean below 0 in 1, lowest -0.0020 (star); of one draw: star -0.0020", False),
        (evidence_goals.NOT_RUN, False),
        (evidence_goals.NOT_RUN, False),
    ]


def test_mixtures_are_judged_beside_each_other_and_beside_the_older_reference():
    facts = {"target": "t", "amount": 150, "first": 1}
    scores = {ENSEMBLE: [0.70, 0.72], FAST: [0.68, 0.71], TREES: [0.5, 0.5, 0.61, 0.62], TREES_ALONE: [0.62, 0.64]}
    own = [*made("labels", "AUC", {TREES: scores.pop(TREES)}, first=0, target="t", amount=150)]
    own += made("labels", "AUC", {TREES_ALONE: scores.pop(TREES_ALONE)}, first=2, target="t", amount=150)
    own += made("labels", "AUC", scores, **facts)
    before = made("labels", "AUC", {REFERENCE: [0.70, 0.72], ENSEMBLE: [0.7]}, **facts)
    curves = [curve_of(flatten(records)) for records in (own, before)]
    found = [(text, is_met) for _, text, is_met in evidence_goals.mixture_goals(*curves)]
    assert found == [
        ("-0.0150; AUC -0.015 (1)", False),
        ("AUC +0.000 (1); farther behind in 0 of 1", True),
        ("AUC -0.015 (1); farther behind in 1 of 1: star t AUC 150, lowest -0.0150", False),
        ("-0.0150; AUC -0.015 (1); 1 of 1 by less", False),
    ]
    for records, slope in ((own, 1.2), (before, 2.0)):
        for record in records:
            record["slopes"] = {"t": slope}
    flatter = evidence_goals.flatter_goal(*map(flatten, (own, before)))
    assert flatter[1:] == (f"{math.log(1.2):.2f}, before {math.log(2):.2f}", True)
    few = made("labels", "AUC", {FAST: [0.7], REFERENCE: [0.7]}, target="t", amount=150, seconds=3.0, ms_of_1=2.0)
    full = made("full", "AUC", {FAST: [0.7], REFERENCE: [0.7]}, seconds=1.0, ms_of_1=4.0)
    cheap = [record | {"seconds": 1.0} for record in [*few, *full]]
    fast = evidence_goals.fast_costs(flatten([*few, *full]), flatten(cheap))
    assert [goal[1:] for goal in fast] == [("3.00 at 150, 1.00 at all labels", False), ("at most 4.0 ms", False)]


def test_a_goal_over_sets_is_judged_by_exact_wilcoxon_and_holm():
    def cases(amount: int | None, gains: list[float]) -> list[Comparison]:
        facts = {"task": "t", "metric": "AUC", "amount": amount}
        return [
            Comparison(facts={"set": f"s{i}"} | facts, means={}, rival="r", draws=(1, 2), gain=gain, error=0.1)
            for i, gain in enumerate(gains)
        ]

    ahead = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]
    _, found, is_met = evidence_goals.sets_goal([*cases(150, ahead), *cases(None, [-0.01, *ahead[1:]])])
    assert found == "7 of 7 sets, p 0.016 at 150; 6 of 7 sets, p 0.031 at all labels; by Holm, at 2 of 2"
    assert is_met
    four = [each for amount in (50, 150, 500, None) for each in cases(amount, ahead)]
    _, found, is_met = evidence_goals.sets_goal(four)
    assert found.endswith("by Holm, at 0 of 4")  # 4 times .016 is above .05
    assert not is_met
    assert not evidence_goals.sets_goal(cases(150, [-gain for gain in ahead]))[2]


def test_a_mean_of_slopes_near_one_is_not_calibrated():
    records = made("full", "AUC", {ENSEMBLE: [0.5, 0.5, 0.5, 0.5]}, first=1)
    for record, slope in zip(records, (-0.2, 2.4, 0.9, 1.1), strict=True):
        record["slopes"] = {"t": slope}
    _, found, is_met = evidence_goals.calibration_goal(flatten(records))
    away = np.mean([math.log(10), math.log(2.4), -math.log(0.9), math.log(1.1)])
    assert found == f"{away:.2f} (0.50) at all labels"
    assert not is_met


def test_helpers_of_the_transfer_answer_rows_that_they_have_not_learned(monkeypatch):
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"x": rng.normal(size=100)})
    y = pl.DataFrame({"a": X["x"] * 2, "b": [*range(50), *[None] * 50]}, strict=False)
    seen: dict[str, list[pl.DataFrame]] = {"helper": [], "model": []}

    class Spy:
        def __init__(self, name: str, tasks: dict[str, str], random_state: int) -> None:
            (self._task,), self._name = tasks, name

        def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: Any) -> None:
            self._learned = {*X["x"]}
            seen[self._name].append(X)
            assert not y[self._task].null_count()

        def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
            return {self._task: X["x"].is_in(list(self._learned)).cast(pl.Float64).to_numpy()}

    spies, facts = (partial(Spy, "model"), partial(Spy, "helper")), {"tasks": dict.fromkeys("ab", "regression")}
    model = Transfer(*spies, **facts, scored=("a", "b"), random_state=0)
    model.fit(X, y, groups=np.arange(100) // 4)
    assert [(len(rows), rows.columns) for rows in seen["model"]] == [
        (100, ["x", "answer to b"]),
        (50, ["x", "answer to a"]),
    ]
    assert all(rows[:, 1].eq(0.0).all() for rows in seen["model"])  # a helper that had learned the row would say 1
    assert len(seen["helper"]) == 2 * N_TRANSFERRED
    assert [*model.answer_tasks(X[:3])] == ["a", "b"]
    one = Transfer(*spies, **facts, scored=("a",), random_state=0)
    one.fit(X, y, groups=None)
    assert seen["model"][2].equals(seen["model"][0])
    assert len(seen["helper"]) == 3 * N_TRANSFERRED  # none of the scored task
    assert [*one.answer_tasks(X[:3])] == ["a"]


def test_holm_judges_all_at_once():
    def at(error: float) -> Comparison:
        return Comparison(facts={}, means={}, rival="r", draws=(0, 1, 2, 3, 4), gain=1.0, error=error)

    clear, near = at(0.05), at(0.3)
    assert near.is_ahead
    assert holm([near, clear]) == [clear, near]
    assert holm([near, clear, *[at(9.0)] * 3]) == [clear]


def test_means_are_over_common_draws_and_one_draw_has_no_error():
    scores = {LIGHTGBM: [0.5, 0.9], CATBOOST: [0.4, 0.2], ENSEMBLE: [0.6]}
    records = made("labels", "R²", scores, first=1, target="t", amount=50)
    curve = curve_of(flatten(records))
    (found,) = compare(curve, OF_TARGET)
    assert found.means == {LIGHTGBM: 0.5, CATBOOST: 0.4, ENSEMBLE: 0.6}
    assert (found.draws, found.error) == ((1,), None)
    assert found.difference == "+0.1000"
    assert not found.is_ahead
    assert "| 1 of star | 50 | R² +0.100 (1); one draw |" in evidence_report.summary_table({"others": [found]})


def test_the_budget_is_that_of_all_calls(small, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evidence, "commits_from", lambda _: None)
    before = made("labels", "R²", {LIGHTGBM: [0.5]})
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(each | {"seconds": 100.0}) + "\n" for each in before))
    evidence.main(["--folder", str(folder), "--output", str(tmp_path), "--parts", "full", "--budget", "100"])
    assert "100 of 100 CPU seconds are spent" in capsys.readouterr().out
    assert not (tmp_path / "full.jsonl").exists()
