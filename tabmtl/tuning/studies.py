"""Studies: made once, kept in a journal file or a database, and gone on with."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage

from tabmtl.tuning.journal import Journal
from tabmtl.tuning.locks import FileLock, Lock, NoLock, PostgresLock
from tabmtl.tuning.lost import WORKER
from tabmtl.tuning.trial import Objective, name_numbers

_SOUGHT = "tabmtl:sought"  # user attribute of a study: what it searches
_HEARTBEAT, _GRACE = 60, 180  # seconds; of databases


def open_study(
    name: str,
    objective: Objective | None = None,
    *,
    storage: str | Path | BaseStorage | None = None,
    seed: int | None = None,
) -> optuna.Study:
    """Make a study, or open the one of this name.

    Open it once before several workers do: making the tables of a new database at the same time is a race. The first
    trial of a new study has the parameters of the estimator as it is; a study that Optuna made, or whose maker was
    killed, is given that trial too, and what else it lacks. Trials are suggested by TPE, and
    pruned after three epochs if the best epoch so far is below the median of other trials at that epoch.

    Parameters
    ----------
    name : str
    objective : Objective, optional
        What is to be maximised; without it, only a study that exists is opened.
    storage : str, Path, or optuna storage, optional
        A file, the journal of any number of studies, for workers of one machine; default ``<name>.journal``. Or the URL
        of a database for workers of several machines, such as ``postgresql://user@host/database``. Whoever may write it
        rules the searches that go on from it.
    seed : int, optional
        Of the search: the same seed gives the same trials if one worker runs all. No two workers draw the same.

    Returns
    -------
    optuna.Study
        With a direction, and a name, for each of ``objective.names``.

    Raises
    ------
    ValueError
        If there is no such study and no objective, or the study maximises or searches something else.
    ImportError
        If the driver of the database is missing.
    """
    kept = _find_storage(name, storage)
    sampler = optuna.samplers.TPESampler() if seed is None else _SeededTPE(seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3)
    if objective is None:
        try:
            return optuna.load_study(study_name=name, storage=kept, sampler=sampler, pruner=pruner)
        except KeyError:
            there = storage or f"{name}.journal"
            if isinstance(kept, RDBStorage):
                there = repr(kept.engine.url.set(query={}))  # without the password, wherever it is
            raise ValueError(f"there is no study {name!r} in {there}; give the objective to make one") from None
    directions = [optuna.study.StudyDirection.MAXIMIZE] * len(objective.names)
    with quiet():
        study = optuna.create_study(
            study_name=name,
            storage=kept,
            sampler=sampler,
            pruner=pruner,
            directions=directions,
            load_if_exists=True,
        )
    _check_same(study, objective)
    _complete(study, objective)
    return study


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what Optuna says of every study and trial, unless its user has asked for more or less."""
    level = optuna.logging.get_verbosity()
    if level == optuna.logging.INFO:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def journal_folder(study: optuna.Study) -> Path | None:
    """The folder of what the workers of a study hold; None where it is not in a journal that `open_study` opened."""
    storage = study._storage  # of which Study has no public name
    return storage.folder if isinstance(storage, Journal) else None


def turn_of(study: optuna.Study) -> Lock:
    """What one worker of a study holds at a time."""
    folder = journal_folder(study)
    if folder is not None:
        return FileLock(folder / "turn")
    database = getattr(study._storage, "_backend", None)  # Optuna keeps a cache before it
    if isinstance(database, RDBStorage) and database.engine.dialect.name == "postgresql":
        return PostgresLock(database.engine, study.study_name)
    return NoLock()


class _SeededTPE(optuna.samplers.BaseSampler):
    """TPE whose draws follow from a seed and the number of the trial, whichever worker runs it, and after any pause."""

    def __init__(self, seed: int) -> None:
        self._seed, self._tpe = seed, optuna.samplers.TPESampler(seed=seed)

    def before_trial(self, study: Any, trial: Any) -> None:
        seed = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)
        self._tpe = optuna.samplers.TPESampler(seed=int(seed[0]))
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Any, trial: Any, state: Any, values: Sequence[float] | None) -> None:
        self._tpe.after_trial(study, trial, state, values)


def _find_storage(name: str, storage: str | Path | BaseStorage | None) -> BaseStorage:
    if isinstance(storage, BaseStorage):
        return storage
    if storage is None:
        if Path(name).name != name:
            raise ValueError(
                f"the study {name!r} cannot name a file of its own; give storage, such as 'search.journal'"
            )
        storage = f"{name}.journal"
    if isinstance(storage, Path) or "://" not in storage:
        return Journal(Path(storage))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            _with_driver(storage),
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=_HEARTBEAT,
            grace_period=_GRACE,
        )


def _with_driver(url: str) -> str:
    """The URL with the driver of PostgreSQL that is there; which one SQLAlchemy asks for depends on its release."""
    if not url.startswith(("postgresql://", "postgres://")):
        return url
    drivers = [driver for driver in ("psycopg", "psycopg2") if find_spec(driver) is not None]
    if not drivers:
        raise ImportError("a study in PostgreSQL needs a driver, which is missing: pip install 'psycopg[binary]'")
    return f"postgresql+{drivers[0]}://{url.partition('://')[2]}"


def _sought(objective: Objective) -> dict[str, Any]:
    """What a study searches, as JSON gives it back."""
    space = json.loads(json.dumps(objective.search_space))
    return {"estimator": type(objective.est).__name__, "search_space": space}


def _complete(study: optuna.Study, objective: Objective) -> None:
    """Give a study what Optuna does not; the mark that it has that comes last, as its maker may be killed before."""
    turn = turn_of(study)
    turn.acquire()
    try:
        if _SOUGHT in study.user_attrs:
            return
        name_numbers(study, objective.names)
        study.enqueue_trial(objective.defaults, user_attrs={WORKER: ""}, skip_if_exists=True)
        study.set_user_attr(_SOUGHT, _sought(objective))
    finally:
        turn.release()


def _check_same(study: optuna.Study, objective: Objective) -> None:
    name, known = study.study_name, study.metric_names
    named = list(objective.names) if known is None else known
    if len(study.directions) != len(objective.names) or named != list(objective.names):
        there = f"{len(study.directions)} numbers" if known is None else known
        raise ValueError(
            f"the study {name!r} maximises {there}, and the objective gives {list(objective.names)}; take another name"
        )
    if any(direction != optuna.study.StudyDirection.MAXIMIZE for direction in study.directions):
        raise ValueError(f"the study {name!r} minimises; the objective is to be maximised: take another name")
    sought, ours = study.user_attrs.get(_SOUGHT), _sought(objective)
    if sought is None or sought == ours:
        return
    spaces = sought["search_space"], ours["search_space"]
    names = sorted(name for name in {*spaces[0], *spaces[1]} if spaces[0].get(name) != spaces[1].get(name))
    what = f"parameters of {sought['estimator']}" if sought["estimator"] != ours["estimator"] else f"{names} otherwise"
    raise ValueError(
        f"the study {name!r} searches {what}, and the objective those of {ours['estimator']}; take another name, or "
        "the search_space of the study"
    )
