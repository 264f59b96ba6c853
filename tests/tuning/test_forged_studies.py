"""Studies as somebody would forge them, or as a bad disk leaves them: read in full, or refused by a named error."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from cases import later
from goals import quick
from optuna.trial import TrialState

from tabmtl import MMoE
from tabmtl.tuning import ParetoDisplay, choose_point, open_study, pareto_front, run_study, with_params

TABLES = (
    *("studies", "study_directions", "study_user_attributes", "study_system_attributes", "trials"),
    *("trial_user_attributes", "trial_system_attributes", "trial_params", "trial_values"),
    *("trial_intermediate_values", "trial_heartbeats", "version_info", "alembic_version"),
)
DEEP = "[" * 100_000 + "]" * 100_000
CELLS = (
    *(None, "", "x", b"\x00\xff", -1, 0, 1, 7, 2**40, 2**62, 1.5, float("inf"), "1e999"),
    *("COMPLETE", "RUNNING", "MINIMIZE", "9999-99-99", "2026-01-01 00:00:00", "null", "NaN", "1", '"x"', "[]", "{}"),
    *("[1]", '["x", 1]', '{"few": "x"}', '{"few": {"few": []}}', "[" * 99, DEEP, '"' + "x" * 10**6 + '"'),
    '{"name": "FloatDistribution", "attributes": {}}',
)


def goal():
    return quick(X="3 rows")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study with trials that are complete, pruned, lost and waiting."""
    file = tmp_path_factory.mktemp("whole") / "s.db"
    study = open_study("s", goal(), storage=file, seed=0)
    run_study(study, goal(), n_trials=4)
    study.enqueue_trial({"n_experts": 3, "dropout": 0.1, "expert_hidden": "[64]"})
    distributions = study.trials[1].distributions
    params, lost = study.trials[1].params, {"retry_history": [1], "failed_trial": 1}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.PRUNED,
            params=params,
            distributions=distributions,
            intermediate_values={1: 0.5},
            user_attrs={"ended": "by the pruner"},
        )
    )
    study.add_trial(
        optuna.create_trial(state=TrialState.WAITING, params=params, distributions=distributions, system_attrs=lost)
    )
    return file


def forge(file: Path, rng: random.Random) -> str:
    """Change a cell, a row, a table or a byte of the file; return what was changed."""
    way = rng.choice(["cell", "cell", "cell", "cell", "attribute", "attribute", "row", "table", "bytes", "cut"])
    if way in ("bytes", "cut"):
        content = bytearray(file.read_bytes())
        if way == "cut":
            del content[rng.randrange(len(content)) :]
        for _ in range(0 if way == "cut" else rng.choice([1, 20, 2000])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content)
        return way
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA ignore_check_constraints = 1")
        table = rng.choice(TABLES)
        if way == "attribute":
            table = rng.choice([table for table in TABLES if table.endswith("attributes")])
        if way == "table":
            database.execute(f"DROP TABLE {table}")
            return f"{way} {table}"
        rows = [row for (row,) in database.execute(f"SELECT rowid FROM {table}")]
        row = rng.choice(rows) if rows else 0
        if way == "row":
            database.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
            return f"{way} {table} {row}"
        columns = [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
        column, value = "value_json" if way == "attribute" else rng.choice(columns), rng.choice(CELLS)
        try:
            database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
        except (sqlite3.IntegrityError, OverflowError) as error:
            return f"nothing: {error}"
        return f"{table}.{column} = {str(value)[:60]!r} of {row}"


def read_in_full(file: Path) -> None:
    """Read a study by all that read one, and go on with it."""
    study = open_study("s", storage=file)
    front = pareto_front(study, dominated=True)
    if front.height:
        ParetoDisplay.from_front(front).close()
        with_params(MMoE(), choose_point(front, weights={front.columns[2].removeprefix("score/"): 1}))
        for trial in study.best_trials:
            with_params(MMoE(), trial)
    again = open_study("s", goal(), storage=file, seed=0)
    run_study(again, goal(), n_trials=5, timeout=5)


def check(file: Path, whole: Path, seed: int) -> str:
    shutil.copy(whole, file)
    forged = forge(file, random.Random(seed))
    try:
        read_in_full(file)
    except (ValueError, OSError) as error:
        named = re.search(r"study 's'|s\.db", str(error))
        cured = re.search(r"another|go on|give the objective", str(error))
        assert named and cured and len(str(error)) < 2_000, f"{seed}: {forged}: {type(error).__name__}: {error}"
        return f"refused {forged}: {error}"
    return f"read {forged}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seeds", later([range(6), range(6, 250)], range(6, 250)), ids=["some", "many"])
def test_forged_studies_are_read_or_refused_by_name(seeds, whole, tmp_path):
    found = [check(tmp_path / "s.db", whole, seed) for seed in seeds]
    assert sum(line.startswith("refused") for line in found) > len(seeds) / 4


FORMS = {
    "scores": ["x", [1], {"few": "x"}, {"few": {}}],
    "ended": [1, None, ["x"]],
    "failure": [{}],
}


@pytest.mark.parametrize("name", FORMS)
def test_attributes_of_trials_have_their_forms(name, whole, tmp_path):
    for value in FORMS[name]:
        shutil.copy(whole, tmp_path / "s.db")
        with closing(sqlite3.connect(tmp_path / "s.db")) as file, file:
            file.execute("DELETE FROM trial_user_attributes WHERE trial_id = 2 AND key = ?", (name,))
            change = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (2, ?, ?)"
            file.execute(change, (name, json.dumps(value)))
        with pytest.raises(ValueError, match=rf"study 's' is damaged.*trial 1 has {name} = .*another name"):
            open_study("s", storage=tmp_path / "s.db")


def test_attributes_of_the_studies_of_others_are_theirs(tmp_path):
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db")
    trial = study.ask()
    trial.set_user_attr("scores", "mine")
    study.tell(trial, 0.5)
    assert pareto_front(study)["trial"].to_list() == [0]


def test_values_that_are_none_are_named():
    for text in ("[" * 99, DEEP, "{]"):
        with pytest.raises(ValueError, match=r"the study holds '.*', which is no value of a parameter"):
            with_params(MMoE(), {"expert_hidden": text})
