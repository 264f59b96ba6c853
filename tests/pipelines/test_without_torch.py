"""What trains no network loads no torch, and works where it is missing; mistakes load no scikit-learn."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl

from tabmtl import SharedTrees

ROOT = Path(__file__).parents[2]
MISTAKES = [
    ["train", "--data", "none.csv", "--target", "y"],
    ["compare", "--data", "none.csv", "--target", "y"],
    ["train", "--data", "portal", "--target", "y", "--model", "SharedTrees"],
    ["train", "--data", "portal", "--target", "weight", "--model", "MMoEE"],
    ["train", "--data", "portal", "--target", "weight=binry", "--model", "MMoE"],
    ["train", "--data", "portal", "--target", "weight", "--column", "monthh=category"],
    ["sweep", "--data", "portal", "--target", "weight", "--column", "month=categry"],
    ["predict", "--model", "nowhere", "--data", "X.parquet", "--output", "a.parquet"],
]
OF_SAVED = [
    ["predict", "--model", "before", "--data", "X.parquet", "--output", "a.parquet"],
    ["score", "--model", "before", "--data", "rows.parquet"],
    ["drift", "--model", "before", "--data", "X.parquet"],
]
ASK = """
import json, sys
from tabmtl.pipelines.cli import main

for command in json.loads(sys.argv[1]):
    print([main(command), *(name in sys.modules for name in ("sklearn", "torch"))])
"""
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name == "torch" else super().find_spec(name, *rest)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
runpy.run_path(".ci/smoke.py", run_name="__main__")
"""


def told(folder, *arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder)
    return done.stdout.splitlines(), done.stderr


def test_commands_load_no_torch_where_no_network_is_asked_for(rodents, tmp_path):
    rows = pl.read_parquet(rodents)
    model = SharedTrees(n_estimators=2, n_estimators_task=2)
    model.fit(rows.drop("weight", "male", "split"), rows[["weight", "male"]]).save(tmp_path / "before")
    rows.write_parquet(tmp_path / "X.parquet")
    rows.write_parquet(tmp_path / "rows.parquet")
    lines, error = told(tmp_path, "-c", ASK, json.dumps(MISTAKES + OF_SAVED))
    assert [line for line in lines if line.startswith("[")] == ["[2, False, False]"] * 8 + ["[0, True, False]"] * 3, (
        error
    )


def test_all_but_networks_and_recommenders_work_without_torch():
    lines, error = told(ROOT, "-c", WITHOUT)
    assert sum("torch, which is missing: pip install 'tabmtl[nn]'" in line for line in lines) == 5, error
    assert [line.split()[1] for line in lines if line.startswith("  0.")] == [
        *("SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble")
    ]
