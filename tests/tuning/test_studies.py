"""Studies: made once, opened again, the same search for the same seed, and refused where they are another one's."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from tabmtl import MMoE, SharedBottom
from tabmtl.tuning import Objective, open_study, pareto_front, run_study
from tabmtl.tuning.journal import _WholeLines
from tabmtl.tuning.spaces import check_space

SPACE: dict[str, Any] = {
    "n_experts": {"low": 2, "high": 16},
    "dropout": {"low": 0.0, "high": 0.5},
    "expert_hidden": {"choices": ((64,), (128, 64))},
}


class Quick(Objective):
    """Numbers made of the parameters, without a fit."""

    def _fit_and_score(self, model):
        return {"few": 1 / model.n_experts, "many": model.n_experts * (1 - model.dropout)}

    def _chosen(self, scores):
        return tuple(scores[name] for name in self.names)


def quick(names=("few", "many"), est=None, space=SPACE) -> Quick:
    est = est or MMoE()
    return Quick(est=est, search_space=check_space(est, space), names=names)


def numbers(study):
    return [(trial.params, trial.values) for trial in study.trials]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("storage", [None, "in/a/folder.log", Path("given"), "sqlite:///study.db", "memory"])
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


def test_the_default_is_a_journal_named_after_the_study():
    open_study("flights", quick())
    assert Path("flights.journal").exists()
    with pytest.raises(ValueError, match="cannot name a file of its own"):
        open_study("a/b", quick())
    open_study("a/b", quick(), storage="c.journal")


def test_a_journal_holds_many_studies():
    for name in ("one", "two"):
        run_study(open_study(name, quick(), storage="j"), quick(), n_trials=2)
    assert len(open_study("one", storage="j").trials) == 2


def test_the_first_trial_is_the_estimator_as_it_is():
    est = MMoE(n_experts=7, dropout=0.25, expert_hidden=(128, 64))
    study = open_study("s", quick(est=est))
    run_study(study, quick(est=est), n_trials=2)
    assert study.trials[0].params == {"n_experts": 7, "dropout": 0.25, "expert_hidden": "[128, 64]"}
    assert study.trials[1].params != study.trials[0].params


@pytest.mark.parametrize("names", [("few",), ("few", "many")], ids=len)
def test_a_seed_rules_the_search_whatever_pauses_it_makes(names):
    whole = open_study("whole", quick(names), seed=3)
    run_study(whole, quick(names), n_trials=16)
    for n_trials in (1, 5, 12, 16):
        run_study(open_study("parts", quick(names), seed=3), quick(names), n_trials=n_trials)
    assert numbers(open_study("parts")) == numbers(whole)
    other = open_study("other", quick(names), seed=4)
    run_study(other, quick(names), n_trials=3)
    assert numbers(other)[1:] != numbers(whole)[1:3]


def test_workers_of_one_seed_draw_different_trials():
    first, second = (open_study("s", quick(), storage="j", seed=0) for _ in range(2))
    drawn = []
    for study in (first, second, first, second):
        trial = study.ask()
        drawn.append(trial.suggest_float("x", 0, 1))
    assert len(set(drawn)) == 4


def test_another_search_under_the_name_of_a_study_is_refused():
    open_study("s", quick(), storage="j")
    with pytest.raises(ValueError, match=r"maximises \['few', 'many'\], and the objective gives \['few', 'size'\]"):
        open_study("s", quick(("few", "size")), storage="j")
    with pytest.raises(ValueError, match=r"maximises \['few', 'many'\], and the objective gives \['many'\]"):
        open_study("s", quick(("many",)), storage="j")
    wider = {**SPACE, "n_experts": {"low": 2, "high": 32}, "head_hidden": {"choices": (32, 64)}}
    with pytest.raises(ValueError, match=r"searches \['head_hidden', 'n_experts'\] otherwise"):
        open_study("s", quick(space=wider), storage="j")
    with pytest.raises(ValueError, match="searches parameters of MMoE, and the objective those of SharedBottom"):
        open_study("s", quick(est=SharedBottom(), space={"dropout": SPACE["dropout"]}), storage="j")
    optuna.create_study(study_name="low", storage="sqlite:///low.db")
    with pytest.raises(ValueError, match="minimises"):
        open_study("low", quick(("few",)), storage="sqlite:///low.db")


def steps_until_a_study_is_made(monkeypatch, stop_after=99):
    """Make a study in a journal of its own, killed after so many changes; gives their number."""
    steps = []

    def append(backend, logs):
        if len(steps) == stop_after:
            raise KeyboardInterrupt
        steps.append(logs)
        real(backend, logs)

    real = _WholeLines.append_logs
    with monkeypatch.context() as patch:
        patch.setattr(_WholeLines, "append_logs", append)
        open_study("s", quick(), storage=f"{stop_after}.journal", seed=1)
    return len(steps)


def test_a_study_whose_maker_was_killed_is_completed(monkeypatch):
    n_steps = steps_until_a_study_is_made(monkeypatch)
    assert n_steps >= 4
    for stop_after in range(n_steps):
        with pytest.raises(KeyboardInterrupt):
            steps_until_a_study_is_made(monkeypatch, stop_after)
        study = open_study("s", quick(), storage=f"{stop_after}.journal", seed=1)
        assert study.metric_names == ["few", "many"]
        run_study(study, quick(), n_trials=2)
        assert [trial.params == quick().defaults for trial in study.trials] == [True, False]
        with pytest.raises(ValueError, match="searches parameters of MMoE"):
            open_study("s", quick(est=SharedBottom(), space={"dropout": SPACE["dropout"]}), storage=study._storage)


def test_a_study_of_plain_optuna_is_gone_on_with():
    optuna.create_study(study_name="s", storage="sqlite:///s.db", directions=["maximize"] * 2).ask()
    study = open_study("s", quick(), storage="sqlite:///s.db")
    seen = []
    run_study(study, quick(), n_trials=2, callbacks=[lambda study, trial: seen.append(study.metric_names)])
    assert seen == [["few", "many"]] * 2
    assert study.trials[1].params == quick().defaults
    assert pareto_front(study).columns[:3] == ["trial", "score/few", "score/many"]


def test_a_study_that_is_not_there_needs_an_objective():
    with pytest.raises(ValueError, match="there is no study 's' in j; give the objective"):
        open_study("s", storage="j")


def test_a_study_that_is_not_there_is_named_without_a_password():
    url = f"sqlite:///file:{Path('a.db').absolute()}?uri=true&password=secret"
    with pytest.raises(ValueError, match=r"there is no study 's' in sqlite:///.*a\.db;") as caught:
        open_study("s", storage=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("reopened", [True, False])
def test_a_line_that_was_cut_off_is_mended(reopened):
    study = open_study("s", quick(), storage="j")
    run_study(study, quick(), n_trials=3)
    n_lines = len(Path("j").read_bytes().splitlines())
    with Path("j").open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"' + b"x" * 9999)  # the machine went down, or another worker
    assert len(list(JournalFileBackend("j").read_logs(0))) == n_lines
    study = open_study("s", quick(), storage="j") if reopened else study
    run_study(study, quick(), n_trials=5)
    assert len(open_study("s", storage="j").trials) == 5
    lines = Path("j").read_bytes().splitlines()
    assert len(list(JournalFileBackend("j").read_logs(0))) == len(lines) > n_lines


def limit_files_to(size: int) -> None:
    """What this process writes fails like on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def run_into_a_full_disk(room: int) -> None:
    """Run trials until there is no more room, and go on when there is room again."""
    study = open_study("s", quick(), storage="j")
    size = Path("j").stat().st_size + room
    limit_files_to(size)
    with pytest.raises(OSError, match=r"File too large: the journal j takes no more lines.*make room on its disk"):
        run_study(study, quick(), n_trials=99)
    assert size - 2000 < Path("j").stat().st_size
    limit_files_to(resource.RLIM_INFINITY)
    run_study(study, quick(), n_trials=len(study.trials) + 3)


@pytest.mark.parametrize("room", [700, 731, 2000])
def test_a_full_disk_costs_no_study(room):
    run_study(open_study("s", quick(), storage="j"), quick(), n_trials=2)
    worker = multiprocessing.get_context("fork").Process(target=run_into_a_full_disk, args=(room,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    study = open_study("s", quick(), storage="j")
    assert {trial.state.name for trial in study.trials} <= {"COMPLETE", "FAIL"}
    assert len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) >= 5
    assert Path("j").read_bytes().endswith(b"\n")


def test_a_full_disk_of_one_of_two_writers():
    run_study(open_study("s", quick(), storage="j"), quick(), n_trials=2)
    worker = multiprocessing.get_context("fork").Process(target=run_into_a_full_disk, args=(3000,))
    worker.start()
    study, n_trials = open_study("s", quick(), storage="j"), 2
    while worker.is_alive() and n_trials < 400:
        n_trials += 1
        run_study(study, quick(), n_trials=n_trials)
    worker.join()
    assert worker.exitcode == 0
    assert len(open_study("s", storage="j").trials) >= n_trials


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
