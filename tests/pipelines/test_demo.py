"""The demonstration, on a small table: what it prints, what it leaves, and its exit codes."""

from __future__ import annotations

import warnings
from pathlib import Path

import polars as pl
import pytest

import tabmtl
from tabmtl.pipelines import datasets, demo

pytest.importorskip("matplotlib")

TARGETS = ["cancelled", "dep_del15", "arr_delay", "air_time"]
EVERY = 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with every 25th row of the sample of flights."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "flights").mkdir()
    datasets.load("flights").table.gather_every(EVERY).sink_parquet(folder / "flights" / "data.parquet")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """One run of the demo; gives its output folder and its arguments."""
    output = tmp_path_factory.mktemp("output") / "demo"
    argv = ["--folder", str(folder), "--epochs", "2", "--seed", "3", "--output", str(output)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert demo.main(argv) == 0
    return output, argv


def test_leaves_table_plots_and_model(run: tuple[Path, list[str]]) -> None:
    output, _ = run
    assert sorted(path.name for path in output.iterdir()) == ["gain.png", "learning_curves.png", "model", "table.csv"]
    for name in ("gain.png", "learning_curves.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    table = pl.read_csv(output / "table.csv")
    assert table.columns == ["task", "score", "single_task_score", "gain_percent", "difference"]
    assert table["task"].to_list() == TARGETS
    difference = table["score"] - table["single_task_score"]
    assert (table["difference"] - difference).abs().max() < 1e-12


def test_the_saved_model_has_the_scores_of_the_table(run: tuple[Path, list[str]], folder: Path) -> None:
    output, _ = run
    scores = tabmtl.load(output / "model").score_tasks(*datasets.load("flights", folder=folder).part("test"))
    table = pl.read_csv(output / "table.csv")
    assert scores == pytest.approx(dict(zip(table["task"], table["score"], strict=True)))


def test_again_gives_the_same_table_and_says_what_it_does(
    run: tuple[Path, list[str]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, argv = run
    _, y = datasets.load("flights", folder=folder).part("train")
    before = (output / "table.csv").read_bytes()
    assert demo.main(argv) == 0
    assert (output / "table.csv").read_bytes() == before
    printed = capsys.readouterr().out
    assert "2,415 rows (all rows)" in printed
    assert f"arr_delay  regression  {y['arr_delay'].null_count() / len(y):.1%} unlabelled" in printed
    assert "Δm = " in printed
    assert f"Saved in {output}" in printed
    assert "bit-equal" in printed
    for target in TARGETS:
        assert sum(line.split()[:1] == [target] for line in printed.splitlines()) == 2, target


def test_the_sample_is_the_default() -> None:
    args = demo._parser().parse_args([])
    assert (args.full, args.folder, args.output) == (False, None, Path("demo_output"))


MISTAKES = {
    "no folder named": (["--full"], "TABMTL_DATA"),
    "no such folder": (["--folder", "no"], "data.parquet"),
    "no parquet": (["--folder", "broken"], "parquet"),
    "output is a file": (["--output", "file"], "'file'"),
    "model folder is foreign": (["--output", "foreign", "--folder", "data", "--epochs", "1"], "choose another folder"),
    "no epochs": (["--epochs", "0"], "--epochs must be at least 1"),
    "negative seed": (["--seed", "-1"], "--seed"),
    "seed is no number": (["--seed", "x"], "--seed"),
    "unknown option": (["--fulll"], "--fulll"),
}


@pytest.fixture
def workplace(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with everything that the mistakes stumble over."""
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "broken" / "flights").mkdir(parents=True)
    (tmp_path / "broken" / "flights" / "data.parquet").write_text("no parquet")
    (tmp_path / "foreign" / "model").mkdir(parents=True)
    (tmp_path / "foreign" / "model" / "thesis.txt").write_text("not to be overwritten")
    (tmp_path / "data").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TABMTL_DATA", raising=False)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo.main(argv)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_matplotlib_nothing_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        demo.main([])
    assert stopped.value.code == 2
    assert "pip install 'tabmtl[plot]'" in capsys.readouterr().err


def test_a_model_that_comes_back_different_is_an_error(
    run: tuple[Path, list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = datasets.load("flights", folder=folder)
    model = tabmtl.load(run[0] / "model")
    other = tabmtl.SharedBottom(epochs=1, tasks=data.tasks, random_state=0).fit(*data.part("train"))
    monkeypatch.setattr(demo.tabmtl, "load", lambda path: other)
    with pytest.raises(RuntimeError, match="predicts otherwise"):
        demo._check_saved(model, tmp_path / "model", data.part("test")[0])
