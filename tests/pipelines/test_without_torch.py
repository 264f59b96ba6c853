"""Commands that need no network do not load torch."""

import json
import subprocess
import sys

import polars as pl

from tabmtl import SharedTrees

COMMANDS = [
    ["train", "--data", "none.csv", "--target", "y"],
    ["compare", "--data", "none.csv", "--target", "y"],
    ["train", "--data", "portal", "--target", "y", "--model", "SharedTrees"],
    ["predict", "--model", "before", "--data", "X.parquet", "--output", "a.parquet"],
    ["predict", "--model", "nowhere", "--data", "X.parquet", "--output", "a.parquet"],
]
ASK = """
import json, sys
from tabmtl.pipelines.cli import main

for command in json.loads(sys.argv[1]):
    print([main(command), "torch" in sys.modules])
"""


def test_commands_load_no_torch_where_no_network_is_asked_for(rodents, tmp_path):
    rows = pl.read_parquet(rodents)
    model = SharedTrees(n_estimators=2, n_estimators_task=2)
    model.fit(rows.drop("weight", "male", "split"), rows[["weight", "male"]]).save(tmp_path / "before")
    rows.write_parquet(tmp_path / "X.parquet")
    asked = [sys.executable, "-c", ASK, json.dumps(COMMANDS)]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path)
    told = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert told == ["[2, False]"] * 3 + ["[0, False]", "[2, False]"], done.stderr
