"""Studies: made once, opened again, the same search for the same seed, and refused where they are another one's."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from cases import later
from goals import SPACE, quick
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tabmtl import MMoE, SharedBottom
from tabmtl.tuning import open_study, pareto_front, run_study, studies


def numbers(study):
    return [(trial.params, trial.values) for trial in study.trials]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("storage", [None, "in/a/folder.log", Path("given?50%"), "sqlite:///study.db", "memory"])
def test_a_study_is_made_once_and_gone_on_with(storage):
    kept = optuna.storages.InMemoryStorage() if storage == "memory" else storage
    study = open_study("s", quick(), storage=kept, seed=1)
    assert study.metric_names == ["few", "many"]
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE] * 2
    run_study(study, quick(), n_trials=3)
    again = open_study("s", quick(), storage=kept, seed=1)
    assert numbers(again) == numbers(study)
    run_study(again, quick(), n_trials=5)
    assert numbers(open_study("s", storage=kept)) == numbers(again)
    assert [trial.state.name for trial in again.trials] == ["COMPLETE"] * 5


def test_the_default_is_a_file_named_after_the_study():
    open_study("flights", quick())
    assert [path.name for path in Path().iterdir()] == ["flights.db"]
    open_study("a/b", quick(), storage="c.db")


def test_the_first_trial_is_the_estimator_as_it_is():
    est = MMoE(n_experts=7, dropout=0.25, expert_hidden=(128, 64))
    study = open_study("s", quick(est=est))
    run_study(study, quick(est=est), n_trials=2)
    assert study.trials[0].params == {"n_experts": 7, "dropout": 0.25, "expert_hidden": "[128, 64]"}
    assert study.trials[1].params != study.trials[0].params


@pytest.mark.parametrize("names", later([("few",), ("few", "many")], ("few", "many")), ids=len)
def test_a_seed_rules_the_search_whatever_pauses_it_makes(names):
    whole = open_study("whole", quick(names), storage=optuna.storages.InMemoryStorage(), seed=3)
    run_study(whole, quick(names), n_trials=16)
    for n_trials in (1, 5, 12, 16):
        run_study(open_study("parts", quick(names), seed=3), quick(names), n_trials=n_trials)
    assert numbers(open_study("parts")) == numbers(whole)
    other = open_study("other", quick(names), storage=optuna.storages.InMemoryStorage(), seed=4)
    run_study(other, quick(names), n_trials=3)
    assert numbers(other)[1:] != numbers(whole)[1:3]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_workers_of_one_seed_draw_different_trials():
    first, second = (open_study("s", quick(), storage="j", seed=0) for _ in range(2))
    drawn = []
    for study in (first, second, first, second):
        trial = study.ask()
        drawn.append(trial.suggest_float("x", 0, 1))
    assert len(set(drawn)) == 4


WIDER = {**SPACE, "n_experts": {"low": 2, "high": 32}, "head_hidden": {"choices": (32, 64)}}
NARROW = {"dropout": SPACE["dropout"]}
OTHER_SEARCHES = [
    (quick(("few", "size")), r"maximises \['few', 'many'\], and the objective gives \['few', 'size'\]"),
    (quick(("many",)), r"maximises \['few', 'many'\], and the objective gives \['many'\]"),
    (quick(space=WIDER), r"has another search_space of \['head_hidden', 'n_experts'\]"),
    (quick(est=SharedBottom(), space=NARROW), "searches parameters of MMoE, and the objective those of SharedBottom"),
]


@pytest.mark.parametrize(("goal", "message"), OTHER_SEARCHES)
def test_another_search_under_the_name_of_a_study_is_refused(goal, message):
    open_study("s", quick(), storage="j")
    with pytest.raises(ValueError, match=message):
        open_study("s", goal, storage="j")
    optuna.create_study(study_name="low", storage="sqlite:///low.db")
    with pytest.raises(ValueError, match=r"directions of the study .* are .*minimize"):
        open_study("low", quick(("few",)), storage="sqlite:///low.db")


def make_a_study(storage: str, stop_after: int) -> None:
    """Make a study, and end without a word before it has written this often."""
    steps = []

    def commit(connection):
        if connection.connection.driver_connection.in_transaction:
            if len(steps) == stop_after:
                os._exit(9)
            steps.append(connection)

    event.listen(Engine, "commit", commit)
    open_study("s", quick(), storage=storage, seed=1)


@pytest.mark.all_faces  # ten seconds
def test_a_study_whose_maker_was_killed_is_completed():
    for stop_after in range(99):
        storage = f"{stop_after}.db"
        maker = multiprocessing.get_context("fork").Process(target=make_a_study, args=(storage, stop_after))
        maker.start()
        maker.join()
        study = open_study("s", quick(), storage=storage, seed=1)
        assert study.metric_names == ["few", "many"]
        run_study(study, quick(), n_trials=2)
        assert [trial.params == quick().defaults for trial in study.trials] == [True, False]
        with pytest.raises(ValueError, match="searches parameters of MMoE"):
            open_study("s", quick(est=SharedBottom(), space=NARROW), storage=study._storage)
        if maker.exitcode == 0:
            break
    assert stop_after >= 4


def make_and_run(barrier) -> None:
    barrier.wait()
    run_study(open_study("s", quick(), storage="j"), quick(), n_trials=6)


@pytest.mark.parametrize("n", later([2, 4], 4))
def test_workers_may_make_a_file_together(n):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=make_and_run, args=(barrier,)) for barrier in [context.Barrier(n)] * n]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * n
    states = [trial.state.name for trial in open_study("s", storage="j").trials]
    assert set(states) == {"COMPLETE"}
    assert 6 <= len(states) < 6 + n, "each worker may begin the last trial"


def test_a_study_of_plain_optuna_is_gone_on_with():
    optuna.create_study(study_name="s", storage="sqlite:///s.db", directions=["maximize"] * 2).ask()
    study = open_study("s", quick(), storage="sqlite:///s.db")
    seen = []
    run_study(study, quick(), n_trials=2, callbacks=[lambda study, trial: seen.append(study.metric_names)])
    assert seen == [["few", "many"]] * 2
    assert study.trials[1].params == quick().defaults
    assert pareto_front(study).columns[:3] == ["trial", "score/few", "score/many"]


def test_a_study_that_is_not_there_is_named_without_a_password():
    url = f"sqlite:///file:{Path('a.db').absolute()}?uri=true&password=secret"
    with pytest.raises(ValueError, match=r"there is no study 's' in sqlite:///.*a\.db;") as caught:
        open_study("s", storage=url)
    assert "secret" not in str(caught.value)


def make_another_database(file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE experiments (name)")


OTHERS = [
    (lambda file: file.write_bytes(b'{"op_code":0,"worker_id":"1"}\n'), "file is not a database"),
    (lambda file: file.write_bytes(b"\x00\x01" * 999), "file is not a database"),
    (make_another_database, "no such table"),
]


@pytest.mark.parametrize(("make", "message"), OTHERS)
def test_a_file_of_something_else_is_left_alone(make, message):
    make(Path("j"))
    content = Path("j").read_bytes()
    for goal in (quick(), None):
        with pytest.raises(ValueError, match=rf"j holds no studies \({message}.*another program.*name another file"):
            open_study("s", goal, storage="j")
    assert Path("j").read_bytes() == content


REFUSED = [
    ("a/b", {}, ValueError, "cannot name a file of its own"),
    *(("s", {"grace_period": seconds}, ValueError, "grace_period must be") for seconds in (0, 1.5, "15")),
    ("s", {"storage": "."}, OSError, r"cannot be read or written: unable to open.*in reach"),
    ("s", {"storage": "nosql://x"}, OSError, "nosql"),
]


@pytest.mark.parametrize(("name", "options", "error", "message"), REFUSED)
def test_a_study_that_cannot_be_kept_is_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        open_study(name, quick(), **options)


def test_an_empty_file_becomes_a_study():
    Path("j").touch()
    run_study(open_study("s", quick(), storage="j"), quick(), n_trials=1)
    assert len(open_study("s", quick(), storage="j").trials) == 1


def test_a_locked_file_is_named_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(studies, "_LOCK_TIMEOUT", 0.1)
    study = open_study("s", quick(), storage="j")
    run_study(study, quick(), n_trials=2)
    with closing(sqlite3.connect("j", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for call in (lambda: open_study("s", storage="j"), lambda: run_study(study, quick(), n_trials=3)):
            with pytest.raises(OSError, match=r"cannot be read or written: database is locked.*unlocked.*go on"):
                call()
    run_study(study, quick(), n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3


@pytest.mark.all_faces
def test_a_file_that_is_read_only_is_read_and_named():
    run_study(open_study("s", quick(), storage="j"), quick(), n_trials=2)
    study = open_study("s", storage=f"sqlite:///file:{Path('j').absolute()}?mode=ro&uri=true")
    assert len(study.trials) == 2
    with pytest.raises(OSError, match=r"study 's' cannot be read or written: .*readonly.*writable"):
        run_study(study, quick(), n_trials=3)
    assert len(open_study("s", storage="j").trials) == 2


def limit_files_to(size: int) -> None:
    """What this process writes fails like on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def run_into_a_full_disk(room: int, *, alone: bool = True) -> None:
    """Run trials until there is no more room, and go on when there is room again; the limit is that of this process."""
    study = open_study("s", quick(), storage="j", grace_period=3)
    size = Path("j").stat().st_size + room
    limit_files_to(size)
    with pytest.raises(OSError, match=r"study 's' cannot be read or written: .*content is kept.*room on its disk"):
        run_study(study, quick(), n_trials=99)
    assert Path("j").stat().st_size <= size or not alone
    limit_files_to(resource.RLIM_INFINITY)
    run_study(study, quick(), n_trials=len(study.trials) + 3)


@pytest.mark.parametrize("room", later([0, 5000, 12288], 12288))
def test_a_full_disk_costs_no_study(room):
    run_study(open_study("s", quick(), storage="j"), quick(), n_trials=2)
    worker = multiprocessing.get_context("fork").Process(target=run_into_a_full_disk, args=(room,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    study = open_study("s", quick(), storage="j")
    assert {trial.state.name for trial in study.trials} <= {"COMPLETE", "FAIL"}
    assert len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) >= 5


def test_optuna_keeps_quiet_unless_it_is_asked(caplog):
    level = optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(optuna.logging.INFO)
        run_study(open_study("s", quick()), quick(), n_trials=2)
        assert caplog.text == ""
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        optuna.logging.set_verbosity(optuna.logging.DEBUG)
        run_study(open_study("t", quick()), quick(), n_trials=2)
        assert "Trial 1 finished" in caplog.text
    finally:
        optuna.logging.set_verbosity(level)


def test_the_driver_of_postgresql_is_found_or_named(monkeypatch):
    from tabmtl.tuning import studies

    monkeypatch.setattr(studies, "find_spec", lambda name: name == "psycopg2" or None)
    assert studies._with_driver("postgresql://me@host/db") == "postgresql+psycopg2://me@host/db"
    assert studies._with_driver("postgresql+asyncpg://host/db") == "postgresql+asyncpg://host/db"
    monkeypatch.setattr(studies, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"psycopg\[binary\]"):
        open_study("s", quick(), storage="postgresql://me@host/db")


@pytest.mark.all_faces
def test_a_full_disk_of_one_of_two_writers():
    run_study(open_study("s", quick(), storage="j"), quick(), n_trials=2)
    worker = multiprocessing.get_context("fork").Process(
        target=run_into_a_full_disk, args=(8192,), kwargs={"alone": False}
    )
    worker.start()
    study, n_trials = open_study("s", quick(), storage="j"), 2
    while worker.is_alive() and n_trials < 400:
        n_trials += 1
        run_study(study, quick(), n_trials=n_trials)
    worker.join()
    assert worker.exitcode == 0
    assert len(open_study("s", storage="j").trials) >= n_trials
