"""Trees and their mixtures work where torch cannot be imported."""

import subprocess
import sys
import textwrap

import polars as pl
import pytest
from conformance import features, mixed_targets
from polars.testing import assert_frame_equal

import tabmtl
from tabmtl import SharedTrees

#: Torch is there, as `find_spec` says, and cannot be imported.
NO_TORCH = """
import importlib.abc, importlib.machinery, sys, warnings

class Broken(importlib.abc.Loader):
    def create_module(self, spec):
        raise ImportError("no torch here")

    def exec_module(self, module):
        pass

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            return importlib.machinery.ModuleSpec(name, Broken())

sys.meta_path.insert(0, Finder())
warnings.simplefilter("ignore")
"""
TREES = """
import polars as pl
import tabmtl

X, y = pl.read_parquet("X.parquet"), pl.read_parquet("y.parquet")
half = len(X) // 2
small = {"n_estimators": 5, "n_estimators_task": 5, "n_jobs": 1, "random_state": 0}
shared = tabmtl.SharedTrees(**small)
alone = tabmtl.IndependentTasks(families=("lightgbm",), n_jobs=1, random_state=0)
stages = tabmtl.RMTGB(n_estimators_shared=2, n_estimators_outlier=2, n_estimators_task=2, n_jobs=1)
mixed = tabmtl.MultiTaskEnsemble(models={"a": shared, "b": alone}, n_folds=2, n_jobs=1, random_state=0)
for number, model in enumerate([shared, alone, stages, mixed]):
    model.fit(X[:half], y[:half]).save(f"model{number}")
    loaded = tabmtl.load(f"model{number}")
    assert loaded.predict(X).equals(model.predict(X))
    loaded.score_tasks(X[half:], y[half:]), loaded.drift(X[half:])
shared.partial_fit(X[half:], y[half:]).remove_task("late")
tabmtl.compare([shared], X, y)
tabmtl.load("before").predict(X).write_parquet("answers.parquet")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a table and a model."""
    monkeypatch.chdir(tmp_path)
    X = features()
    X.write_parquet("X.parquet")
    mixed_targets(X).write_parquet("y.parquet")
    return tmp_path


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trees_and_mixtures_of_them_need_no_torch(folder):
    X, y = pl.read_parquet("X.parquet"), pl.read_parquet("y.parquet")
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, y)
    model.save("before")
    run(NO_TORCH + TREES)
    assert_frame_equal(pl.read_parquet("answers.parquet"), tabmtl.load("before").predict(X))
