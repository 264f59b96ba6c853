"""The demonstration, on a small table: what it prints, what it leaves, and its exit codes."""

import inspect
import re
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import commands
import mlflow
import polars as pl
import pytest

import tabmtl
import tabmtl.serving.mlflow
from tabmtl.pipelines import datasets, demo, tracking

TARGETS = ["cancelled", "dep_del15", "arr_delay", "air_time"]
EVERY = 25
N_LABELS, N_ROWS, N_DRAWS = 150, 300, 2
later = pytest.mark.all_faces  # continuous integration runs the demonstration itself


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with every 25th row of the sample of flights."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "flights").mkdir()
    datasets.load("flights").table.gather_every(EVERY).sink_parquet(folder / "flights" / "data.parquet")
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_rows():
    with pytest.MonkeyPatch.context() as patch:
        for name, number in {"N_LABELS": N_LABELS, "N_ROWS": N_ROWS, "N_DRAWS": N_DRAWS}.items():
            patch.setattr(demo, name, number)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return commands.store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def run(folder, store, tmp_path_factory):
    """One run of the demo; gives its output folder, its arguments and what it printed."""
    output = tmp_path_factory.mktemp("output") / "demo"
    argv = ["--folder", str(folder), "--epochs", "2", "--seed", "3", "--output", str(output), "--tracking-uri", store]
    with redirect_stdout(StringIO()) as printed:
        assert commands.run("demo", *argv) == 0
    return output, argv, printed.getvalue()


@later
def test_leaves_tables_plot_and_model(run):
    output, _, _ = run
    assert sorted(path.name for path in output.iterdir()) == ["few_labels.csv", "model", "table.csv"]


@later
def test_few_labels_are_learned_alone_and_judged_over_draws(run, folder):
    output, _, printed = run
    draws = pl.read_csv(output / "few_labels.csv")
    assert draws["draw"].to_list() == [3, 4]
    data = datasets.load("flights", folder=folder)
    X, y = (part.sample(N_ROWS, seed=4) for part in data.part("train"))
    X_test, y_test = data.part("test")
    alone = tabmtl.IndependentTasks(tasks={"cancelled": "binary"}, random_state=4)
    alone.fit(X[:N_LABELS], y[:N_LABELS, ["cancelled"]])
    assert draws["alone"][1] == pytest.approx(alone.score_tasks(X_test, y_test.select("cancelled"))["cancelled"])
    difference = draws["together"] - draws["alone"]
    margin = 12.7062 * difference.std() / N_DRAWS**0.5  # Student's t of two draws
    low, high = difference.mean() - margin, difference.mean() + margin
    assert f"paired difference {difference.mean():+.2f}, 95 % interval {low:+.2f} to {high:+.2f}." in printed


@later
def test_the_reference_of_the_table_learns_each_target_alone_on_the_same_rows(run, folder):
    output, _, printed = run
    data = datasets.load("flights", folder=folder)
    n_fit, n_val, n_test = (len(data.part(part)[0]) for part in ("train", "val", "test"))
    table = pl.read_csv(output / "table.csv")
    assert table["model"].unique(maintain_order=True).to_list() == ["IndependentTasks", "SharedTrees", "MultiTabNet"]
    assert table["task"].to_list() == TARGETS * 3
    assert "Differences are to IndependentTasks on the same rows." in printed
    assert table.filter(model="IndependentTasks")["difference"].null_count() == len(TARGETS)
    said = rf"3 models on 4 tasks: {n_fit:,} rows to fit, {n_val:,} to stop by and {n_test:,} to test in \d+ groups"
    assert re.search(rf"{said} \(other days\)\. Rows to stop by are rows to fit for IndependentTasks\.\n", printed)


@later
def test_the_saved_model_has_the_scores_of_the_table(run, folder):
    output, _, _ = run
    scores = tabmtl.load(output / "model").score_tasks(*datasets.load("flights", folder=folder).part("test"))
    table = pl.read_csv(output / "table.csv").filter(model="SharedTrees")
    assert scores == pytest.approx(dict(table.select("task", "score").iter_rows()))


@later
def test_the_run_holds_parameters_scores_data_files_and_schema(run, store):
    logged = commands.Registry(store).runs("flights")["demo"]
    client = commands.Registry(store).client
    assert logged.info.status == "FINISHED"
    assert logged.data.params["class"] == "SharedTrees"
    assert {"final/arr_delay/r2", "gain/dep_del15"} <= logged.data.metrics.keys()
    files = {file.path for folder in (None, "plots") for file in client.list_artifacts(logged.info.run_id, folder)}
    assert {*demo.FILES, "schema.json", "scores.json", "plots/gain.png"} <= files
    assert len(logged.inputs.dataset_inputs) == 2


@later
def test_the_registered_champion_is_the_saved_model(run, store, folder):
    assert commands.Registry(store).aliases("flights") == {"champion": "1"}
    X, _ = datasets.load("flights", folder=folder).part("test")
    mlflow.set_tracking_uri(store)
    try:
        champion = tabmtl.serving.mlflow.load_model("models:/flights@champion")
    finally:
        mlflow.set_tracking_uri(None)
    assert champion.predict(X).equals(tabmtl.load(run[0] / "model").predict(X))


@later
def test_says_what_it_does_and_how_to_go_on(run, folder, store):
    output, _, printed = run
    _, y = datasets.load("flights", folder=folder).part("train")
    assert "2,415 rows (all rows)" in printed
    assert f"arr_delay  regression  {y['arr_delay'].null_count() / len(y):.1%} unlabelled" in printed
    assert "300 flights have all labels of 3 targets, and 150 labels of cancelled" in printed
    assert printed.index("draw 4: ") < printed.index("3 models on 4 tasks: ")
    assert f"Saved in {output}" in printed
    assert "version 1 of the model flights, alias champion" in printed
    serves, starts, opens = printed.splitlines()[-3:]
    assert serves.endswith("tabmtl serve start flights")
    assert f"mlflow server --backend-store-uri {store} --host 127.0.0.1 --port 5000" in starts
    assert "http://127.0.0.1:5000/" in opens


@pytest.mark.all_faces  # another demonstration
@later
def test_again_gives_the_same_tables_and_a_challenger(run, folder, store, capsys):
    output, argv, _ = run
    before = [(output / name).read_bytes() for name in ("few_labels.csv", "table.csv")]
    assert commands.run("demo", *argv) == 0
    assert [(output / name).read_bytes() for name in ("few_labels.csv", "table.csv")] == before
    assert commands.Registry(store).aliases("flights") == {"champion": "1", "challenger": "2"}
    printed = capsys.readouterr().out
    assert "version 2 of the model flights, alias challenger" in printed
    assert f"serve promote flights --data flights --folder {folder} --full\n" in printed


def test_the_sample_is_the_default():
    defaults = {name: parameter.default for name, parameter in inspect.signature(demo.demo).parameters.items()}
    assert (defaults["full"], defaults["folder"], defaults["output"]) == (False, None, Path("demo_output"))
    assert defaults["tracking_uri"] == "sqlite:///mlflow.db"


def test_an_interrupt_within_the_table_ends_the_demonstration(folder, tmp_path, monkeypatch):
    X, y = (part[:100] for part in datasets.load("flights", folder=folder).part("train"))
    cut_off = replace(
        tabmtl.compare([tabmtl.SharedTrees(n_estimators=2, n_estimators_task=5)], X, y["air_time"]), is_interrupted=True
    )
    monkeypatch.setattr(demo, "_learn_few", lambda *_: None)
    monkeypatch.setattr(tabmtl, "compare", lambda *_, **__: cut_off)
    assert commands.run("demo", "--folder", folder, "--epochs", 1, "--output", tmp_path / "out", "--no-mlflow") == 130
    assert not (tmp_path / "out" / "model").exists()


def test_without_mlflow_nothing_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "mlflow" else object())
    monkeypatch.setattr(demo, "_learn_few", lambda *_: pytest.fail("trained"))
    assert commands.run("demo", "--output", tmp_path) == 2
    assert "pip install 'tabmtl[mlflow]'" in capsys.readouterr().err
