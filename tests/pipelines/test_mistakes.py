"""Mistakes of all commands are one line that names the option and the cure, and nothing is trained or written."""

import re
import shlex

import commands
import polars as pl
import pytest

from tabmtl.pipelines import datasets
from tabmtl.pipelines.data import tables

SHOP = "compare --data rodents.parquet --target weight"
ROWS = "rodents.parquet --target weight --target male=binary"
NET = "--model SharedBottom --set epochs=2"
TUNE = f"sweep --data {ROWS} {NET} --storage sweep.db"
SHARDS = f"train --no-mlflow --shards {ROWS} {NET}"
NO_STORE = "no model is registered in sqlite:///mlflow.db: there is no file mlflow.db"
SMALL = "--model SharedBottom --set SharedBottom.epochs=1"

MISTAKES = [
    # of any command
    ("trian", 'Unknown command "trian". Did you mean "train"?'),
    ("bench", 'Unknown command "bench".'),
    ("train --data x --outptu x", "Unknown option: --outptu. Did"),
    ("sweep --dat x", 'Command "sweep" parameter --data requires'),
    ("sweep --data portal --trials x", "Invalid value"),
    (
        "serve promote r --data portal --part vall",
        'Invalid value "vall" for --part. Choose from: "val", "all". Did',
    ),
    ("serve start", 'Command "serve start" parameter NAME'),
    ("serve register x nowhere --rows '--dat shop.csv'", "begin with --data, got '--dat shop.csv'"),
    ("train --data nothing.csv --data portl", "there is no file 'portl'"),
    # of one fit
    ("train --data rodents.parquet --target weight --list-separator ;", "rodents.parquet holds its own: leave it out"),
    ("train --data rodents.parquet --target weight --column nam=text", "--column: there is no column 'nam'"),
    (
        "train --data rodents.parquet --target weight --column year=text",
        "column 'year' has type Int64 and is declared 'text', which",
    ),
    ("train --data portl", "near is portal"),
    ("train --data portal --model MMoo", "near is MMoE"),
    ("train --data portal --set n_fold=9", "MultiTaskEnsemble has no parameter 'n_fold' to set: near is n_folds"),
    ("train --data portal --set n_estimators=50", "; those of others need --model, such as SharedTrees"),
    ("train --data portal --set random_state=1", "use --seed instead of --set random_state"),
    ("train --data portal --model MMoE --set on_epoch=1", "--set on_epoch: it is code or a model, given in"),
    ("train --data portal --model MMoE --set epochs=0", "epochs must be at least 1, got 0"),
    ("train --data portal --model MMoE --set epochs=many", "got 'many'"),
    ("train --data portal --set epochs", "takes name=value"),
    ("train --data portal --set epochs=1 --set epochs=2", "'epochs' twice"),
    ("train --data portal --seed -1", "--seed must be"),
    ("train --data portal --model VSKNN", "portal is a table, but VSKNN learns from a click log: name a file of one"),
    ("train --data flights --full", "TABMTL_DATA"),
    ("train --data star", "nor a data set of this name: known are portal, flights"),
    ("train --data portal --output foreign/model", "choose another folder"),
    ("train --data portal --output file/x", "--output: cannot write to file/x"),
    ("train --data portal --tracking-uri sqlite:///full/mlflow.db", "cannot write"),
    ("train --data portal --model IndependentTasks --set n_jobs=0", "n_jobs must be None or"),
    (
        "train --data portal --model IndependentTasks --set classifier=x",
        "--set classifier: it is code or a model, given in Python, IndependentTasks(classifier=...)",
    ),
    (
        "train --data portal --model MultiTaskEnsemble --set fold=3",
        "no parameter 'fold' to set: near is n_folds",
    ),
    ("train --data portal --model IndependentTasks --baseline", "already"),
    ("train --data portal --tracking-uri sqlite:///file", "cannot open"),
    ("train --data portal --tracking-uri sqlite:///no/mlflow.db", "unable to open database"),
    ("train --data portal --tracking-uri http://127.0.0.1:9", "cannot open http://127.0.0.1:9"),
    ("train --data portal --tracking-uri ftp://x", "open ftp://x (unknown kind of address)"),
    ("train --data portal --register a/b", "'a/b'"),
    ("train --data portal --register a --no-mlflow", "--register needs MLflow"),
    ("train --data recbole.csv --model VSKNN", "given in full, such as --session-column user_id:token --item-column"),
    ("train --data milliseconds.csv --model VSKNN", "by --order-column, without --time-column, and by another name"),
    # of one fit on files
    ("train --no-mlflow", "name the rows to train on: --data is a set or a file"),
    ("train --no-mlflow --data portal --cache x", "--cache has no effect without --shards"),
    ("train --data portal --no-mlflow --checkpoint c", "MultiTaskEnsemble has none: leave it out, or name a network"),
    (f"{SHARDS} --baseline", "rows that no fit has seen: name files by --test-shards"),
    (f"{SHARDS} --data portal", "--data has no effect with --shards: leave one of the two out"),
    (f"{SHARDS} --val-share 0.3", "--val-share has no effect with --shards: say --set validation_fraction="),
    (f"{SHARDS} --model M2TRec", "--shards are files of a table, but M2TRec learns from a click log"),
    (f"{SHARDS} --items items.csv", "--items applies to click logs only, not to --shards"),
    (f"{SHARDS} --column yaer=ignore", "--column: there is no column 'yaer': near is year"),
    (f"{SHARDS} --valid-shards none.parquet", "no file is called none.parquet"),
    # of a comparison, whose models are checked before the file is read
    ("compare --data rodents.parquet", "--target must name the columns of"),
    ("compare --data rodents.parquet --target weigth", "--target: there is no column 'weigth': near is weight"),
    (f"{SHOP} --model MMOE", "there is no model 'MMOE'"),
    ("compare --data nowhere.csv --target weight --model MMOE", "there is no model 'MMOE'"),
    (f"{SHOP} --model M2TRec", "compare takes models of tables"),
    (f"{SHOP} --model PLE --model PLE", "--model names a model twice"),
    (f"{SHOP} {SMALL} --set epochs=2", "--set takes MODEL.NAME=VALUE"),
    (f"{SHOP} {SMALL} --set SharedBottom.epoch=2", "no parameter 'epoch'"),
    (f"compare --data nowhere.csv --target weight {SMALL} --set SharedBottom.epoch=2", "no parameter 'epoch'"),
    (f"{SHOP} --test-share 0", "give a --test-share above 0"),
    (f"{SHOP} --report nowhere/report.html", "--report: there is no folder nowhere"),
    (f"{SHOP} --report report.pdf", "--report writes HTML: name a file such as report.html"),
    (f"{SHOP} --val-share 0.1", "--val-share has no effect"),
    (f"{SHOP} --time-limit 0", "--time-limit must be a finite number above 0, got 0"),
    (f"{SHOP} --metric weight", "--metric takes TARGET=NAME, got 'weight'"),
    (f"{SHOP} --metric weigth=r2", "--metric weigth=r2: there is no target 'weigth': near is weight"),
    (f"{SHOP} --metric weight=r2 --metric weight=r2", "--metric names 'r2' of 'weight' twice"),
    (
        f"{SHOP} --metric weight=explaned_variance",
        "--metric weight=explaned_variance: weight is regression, whose metrics are r2, explained_variance, "
        "neg_root_mean_squared_error, neg_mean_absolute_error, neg_mean_squared_error; near is 'explained_variance'",
    ),
    (
        f"{SHOP} --target male --class-weight male",
        "--class-weight takes TARGET=balanced, or TARGET=CLASS:WEIGHT, got 'male'",
    ),
    (f"{SHOP} --target plot_type=ordinal", "'plot_type' is ordinal, but its labels are text without an order"),
    (f"{SHOP} --target plot_type=ordinal", "give it by --target 'plot_type=ordinal:LOWEST<...<HIGHEST'"),
    (f"{SHOP} --target male=binary:2", "'male' is binary:2, but its labels have the classes [0, 1]; name one of them"),
    (f"{SHOP} --target male --class-weight mal=balanced", "there is no target 'mal': near is male"),
    (f"{SHOP} --class-weight weight=balanced", "task 'weight': class_weight is for tasks of classes, and a regression"),
    (f"{SHOP} --target male --class-weight male=much:3", "male=CLASS:WEIGHT, and labels are Int8, such as [0, 1]"),
    (
        f"{SHOP} --target male --class-weight male=1:0",
        "--class-weight male=1:0: task 'male': the weight of the class 1.0 must be",
    ),
    (f"{SHOP} --target male --class-weight male=1:2 --class-weight male=1:3", "names the class 1 of 'male' twice"),
    (f"{SHARDS} --class-weight weight=balanced", "--class-weight weight=...: declare the kind too"),
    (f"{SHOP} --monotone weight=day", "--monotone weight=day: expected weight=COLUMN:1 or weight=COLUMN:-1"),
    (f"{SHOP} --monotone weight=day:2", "--monotone weight=day:2: expected weight=COLUMN:1"),
    (f"{SHOP} --monotone day:1", "--monotone takes TARGET=COLUMN:1, or TARGET=COLUMN:-1, got 'day:1'"),
    (f"{SHOP} --monotone weight=day:1 --monotone weight=day:-1", "names the column 'day' of 'weight' twice"),
    (f"{SHOP} --target year=quantile --monotone year=month:1", "year=month:1: task 'year': LightGBM cannot keep"),
    (
        f"{SHOP} --monotone weight=month:1",
        "'weight' has monotone={'month': 1}, which SharedTrees cannot promise; fit Ind",
    ),
    (f"{SHOP} --model IndependentTasks --monotone weight=dya:1", "'weight': monotone names columns that the model do"),
    (f"{SHARDS} --metric weight=r2", "--metric weight=...: declare the kind too, such as --target weight=binary"),
    # of a sweep
    (f"{TUNE} --objective max", 'for --objective. Choose from: "mean", "pareto"'),
    (f"{TUNE} --weight male=1", "take --objective pareto"),
    (f"{TUNE} --objective pareto --weight male=1 --above-single-task", "take one"),
    (f"{TUNE} --objective pareto --weight mal=1", "near is male"),
    (f"{TUNE} --objective pareto --weight male=much", "takes a number"),
    (f"{TUNE} --objective pareto --weight male=nan", "at least 0, and one above it"),
    (f"{TUNE} --objective pareto --weight male=1 --weight weight=-1", "at least 0"),
    (f"{TUNE} --objective pareto --weight male=0", "one above it, got male=0"),
    (f"{TUNE} --trials 0", "--trials must be at least 1"),
    (f"{TUNE} --timeout 0", "--timeout must be above 0"),
    (f"{TUNE} --trial-timeout 0", "--trial-timeout must be above 0"),
    (f"{TUNE} --storage nosql://x", "nosql"),
    (f"{TUNE} --storage postgresql://me@127.0.0.1:1/x", "refused"),
    (f"sweep --data {ROWS} --model RMTGB --trial-timeout 9", "every epoch, and RMTGB has none: leave them out"),
    (f"sweep --data {ROWS} --model MultiTaskEnsemble", "has no parameter to search: fit it once by tabmtl train"),
    # of the registry and the server
    ("serve promote r --data portal --margin -1", "--margin must be at least 0"),
    ("serve register x nowhere", "nowhere"),
    ("serve register x nowhere --rows shop.csv", "begin with --data"),
    # of a store that is not there, and is not made
    ("score --model models:/shop@champion --data days.csv", NO_STORE),
    ("serve promote shop --data days.csv", NO_STORE),
    ("serve start shop", NO_STORE),
    # of the demonstration
    ("demo --full", "TABMTL_DATA"),
    ("demo --folder no", "data.parquet"),
    ("demo --folder broken", "parquet"),
    ("demo --output file", "cannot write to file/model (Not a directory)"),
    ("demo --output foreign --folder data", "choose another folder"),
    ("demo --epochs 0", "--epochs must be at least 1"),
    ("demo --seed -1", "--seed"),
    ("demo --seed x", "--seed"),
    ("demo --fulll", "--fulll"),
    ("demo --folder data --tracking-uri ftp://x", "cannot open ftp://x"),
]


@pytest.fixture(scope="module")
def workplace(rodents, tmp_path_factory):
    """A folder with everything that the mistakes stumble over."""
    place = tmp_path_factory.mktemp("workplace")
    for folder in ("foreign/model", "broken/flights", "data/flights", "full"):
        (place / folder).mkdir(parents=True)
    for file in ("file", "broken/flights/data.parquet", "foreign/model/thesis.txt", "full/mlruns"):
        (place / file).write_text("no database, table, model or folder" * 100)
    (place / "rodents.parquet").symlink_to(rodents)
    pl.read_parquet(rodents).drop("split").with_columns(day=pl.lit("2020-01-02")).write_csv(place / "days.csv")
    (place / "recbole.csv").write_text("user_id:token,item_id:token\n1,2\n1,3\n")
    (place / "milliseconds.csv").write_text(f"session_id,item_id,time\n1,2,{10**12}\n1,3,{10**12 + 1}\n")
    datasets.load("flights").table.gather_every(25).sink_parquet(place / "data" / "flights" / "data.parquet")
    commands.store(place / "full")
    return place


def files_of(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_trained_or_written(words, message, workplace, mistake, monkeypatch):
    monkeypatch.chdir(workplace)
    for name in ("TABMTL_DATA", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tables.TableRows, "fit", lambda *_: pytest.fail("trained"))
    before = files_of(workplace)
    command, *options = shlex.split(words)
    line = mistake(command, *options)
    assert re.match(rf"tabmtl( {command}[a-z ]*)?: error: ", line)
    assert message in line
    assert files_of(workplace) == before
