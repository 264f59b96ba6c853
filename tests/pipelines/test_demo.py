"""The demonstration, on a small table: what it prints, what it leaves, and its exit codes."""

import inspect
from pathlib import Path

import commands
import mlflow
import numpy as np
import polars as pl
import pytest

import tabmtl
import tabmtl.mlflow
from tabmtl.pipelines import datasets, demo, tracking
from tabmtl.pipelines.data.tables import DataSource, open_table
from tabmtl.pipelines.demo import _compare_scarce as compare_scarce
from tabmtl.plots import display

TARGETS = ["cancelled", "dep_del15", "arr_delay", "air_time"]
EVERY = 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with every 25th row of the sample of flights."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "flights").mkdir()
    datasets.load("flights").table.gather_every(EVERY).sink_parquet(folder / "flights" / "data.parquet")
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick_ensemble():
    """The part with few labels, which has a test of its own, only says that it was reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_compare_scarce", lambda rows, seed: print(f"few labels of {rows.name} by seed {seed}"))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return commands.store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def run(folder, store, tmp_path_factory):
    """One run of the demo; gives its output folder and its arguments."""
    output = tmp_path_factory.mktemp("output") / "demo"
    argv = ["--folder", str(folder), "--epochs", "2", "--seed", "3", "--output", str(output), "--tracking-uri", store]
    assert commands.run("demo", *argv) == 0
    return output, argv


def test_leaves_table_plots_and_model(run):
    output, _ = run
    assert sorted(path.name for path in output.iterdir()) == ["gain.png", "learning_curves.png", "model", "table.csv"]
    for name in ("gain.png", "learning_curves.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    table = pl.read_csv(output / "table.csv")
    assert table.columns == ["task", "score", "single_task_score", "difference", "low", "high"]
    assert table["task"].to_list() == TARGETS
    difference = table["score"] - table["single_task_score"]
    assert (table["difference"] - difference).abs().max() < 1e-12
    assert (table["low"] < table["difference"]).all()
    assert (table["difference"] < table["high"]).all()


def test_the_saved_model_has_the_scores_of_the_table(run, folder):
    output, _ = run
    scores = tabmtl.load(output / "model").score_tasks(*datasets.load("flights", folder=folder).part("test"))
    table = pl.read_csv(output / "table.csv")
    assert scores == pytest.approx(dict(zip(table["task"], table["score"], strict=True)))


def test_the_run_holds_parameters_epochs_data_plots_and_schema(run, store):
    logged = commands.Registry(store).runs("flights")["demo"]
    client = commands.Registry(store).client
    assert logged.info.status == "FINISHED"
    assert (logged.data.params["class"], logged.data.params["epochs"]) == ("MultiTabNet", "2")
    for name in ("val/cancelled/roc_auc", "val/air_time/r2"):
        assert [point.step for point in client.get_metric_history(logged.info.run_id, name)] == [0, 1]
    assert {"final/arr_delay/r2", "gain/dep_del15"} <= logged.data.metrics.keys()
    files = {file.path for folder in (None, "plots") for file in client.list_artifacts(logged.info.run_id, folder)}
    assert {*demo.FILES, "schema.json", "scores.json", "plots/history.png", "plots/gain.png"} <= files
    assert len(logged.inputs.dataset_inputs) == 2


def test_the_registered_champion_is_the_saved_model(run, store, folder):
    assert commands.Registry(store).aliases("flights") == {"champion": "1"}
    X, _ = datasets.load("flights", folder=folder).part("test")
    mlflow.set_tracking_uri(store)
    try:
        champion = tabmtl.mlflow.load_model("models:/flights@champion")
    finally:
        mlflow.set_tracking_uri(None)
    assert champion.predict(X).equals(tabmtl.load(run[0] / "model").predict(X))


@pytest.mark.all_faces  # another demonstration
def test_again_gives_the_same_table_and_says_what_it_does(run, folder, store, capsys):
    output, argv = run
    _, y = datasets.load("flights", folder=folder).part("train")
    before = (output / "table.csv").read_bytes()
    assert commands.run("demo", *argv) == 0
    assert (output / "table.csv").read_bytes() == before
    printed = capsys.readouterr().out
    assert "2,415 rows (all rows)" in printed
    assert f"arr_delay  regression  {y['arr_delay'].null_count() / len(y):.1%} unlabelled" in printed
    assert "Δm = " in printed
    assert f"Saved in {output}" in printed
    assert "bit-equal" in printed
    assert "few labels of flights by seed 3\n" in printed
    assert commands.Registry(store).aliases("flights") == {"champion": "1", "challenger": "2"}
    assert "version 2 of the model flights, alias challenger" in printed
    assert f"serve promote flights --data flights --folder {folder} --full\n" in printed
    serves, starts, opens = printed.splitlines()[-3:]
    assert serves.endswith("tabmtl serve start flights")
    assert f"mlflow server --backend-store-uri {store} --host 127.0.0.1 --port 5000" in starts
    assert "http://127.0.0.1:5000/" in opens
    for target in TARGETS:
        assert sum(line.split()[:1] == [target] for line in printed.splitlines()) >= 2, target


@pytest.mark.all_faces  # CI runs the demonstration itself
def test_one_target_keeps_few_labels(folder, monkeypatch, capsys):
    """A constant has the AUC .5."""
    monkeypatch.setattr(demo, "N_LABELS", 150)
    monkeypatch.setattr(demo, "N_ROWS", 300)
    rows = open_table(DataSource(data="flights", folder=folder, full=True))
    compare_scarce(rows, 0)
    said = capsys.readouterr().out
    assert "150 of cancelled" in said
    assert "in 300 rows" in said
    found = {line.split()[-4]: float(line.split()[-3]) for line in said.splitlines() if " ± " in line}
    assert list(found) == ["alone", "MultiTaskEnsemble"]
    drawn = np.random.default_rng(0).permutation(rows.sizes["train"])[:150]
    X, y = (part[drawn] for part in rows.parts["train"])
    assert f"{y['cancelled'].sum()} of them yes, on " in said
    days = X["month"].cast(str) + "-" + X["day"].cast(str)
    alone = tabmtl.IndependentTasks(tune="all", tasks={"cancelled": "binary"}, random_state=0)
    alone.fit(X, y.select("cancelled"), groups=days)
    X_test, y_test = rows.parts["test"]
    assert found["alone"] == round(alone.score_tasks(X_test, y_test.select("cancelled"))["cancelled"], 3)
    assert found["MultiTaskEnsemble"] > 0.6


def test_the_sample_is_the_default():
    defaults = {name: parameter.default for name, parameter in inspect.signature(demo.demo).parameters.items()}
    assert (defaults["full"], defaults["folder"], defaults["output"]) == (False, None, Path("demo_output"))
    assert defaults["tracking_uri"] == "sqlite:///mlflow.db"


@pytest.mark.all_faces  # another whole demonstration
def test_without_mlflow_the_files_are_left_alone(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.run("demo", "--folder", folder, "--epochs", 1, "--output", "out", "--no-mlflow") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("library", "extra"), [("matplotlib", "plot"), ("mlflow", "mlflow")])
def test_without_a_library_nothing_is_trained(library, extra, tmp_path, monkeypatch, capsys):
    for module in (display, tracking):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == library else object())
    monkeypatch.setattr(demo, "_compare", lambda *_: pytest.fail("trained"))
    assert commands.run("demo", "--output", tmp_path) == 2
    assert f"pip install 'tabmtl[{extra}]'" in capsys.readouterr().err


def test_a_model_that_comes_back_different_is_an_error(run, folder, monkeypatch, tmp_path):
    data = datasets.load("flights", folder=folder)
    model = tabmtl.load(run[0] / "model")
    other = tabmtl.SharedBottom(epochs=1, tasks=data.tasks, random_state=0).fit(*data.part("train"))
    monkeypatch.setattr(demo.tabmtl, "load", lambda path: other)
    with pytest.raises(RuntimeError, match="predict differently"):
        demo._check_saved(model, tmp_path / "model", data.part("test")[0])
