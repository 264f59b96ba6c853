"""Studies: made once, kept in an SQLite file or a database, and opened again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from tabmtl.base.params import check_count
from tabmtl.base.schema import warn_user
from tabmtl.base.storage.atomic import locked
from tabmtl.tuning.trial import ENDED, FAILURE, SCORES, Objective, name_numbers

#: Whether `run_study` is at work in this thread: only then are trials begun with a heartbeat.
at_work = ContextVar("at_work", default=False)

#: User attributes of a study: facts on its rows and settings, and its search space.
_FACTS, _SOUGHT = "tabmtl:facts", "tabmtl:sought"
_LOCK_TIMEOUT = 60.0  # seconds that a process waits while others write to the file
_MAX_RETRIES = 2  # a trial that kills its worker every time would kill all workers
_DAMAGED = ("SQLITE_ERROR", "SQLITE_NOTADB", "SQLITE_CORRUPT")  # of a file without Optuna's tables


def open_study(
    name: str,
    objective: Objective | None = None,
    *,
    storage: str | Path | BaseStorage | None = None,
    seed: int | None = None,
    grace_period: int = 15,
) -> optuna.Study:
    """Make a study, or open the one of this name.

    The first trial of a new study has the parameters of the estimator. A study that Optuna made, or whose maker was
    killed, gets that trial too. TPE suggests the others. The pruner ends a trial, after three epochs at the earliest,
    if its best epoch so far is below the median of other trials at that epoch. Trials whose worker is dead are put in
    the queue again.

    Parameters
    ----------
    name : str
    objective : Objective, optional
        The objective to maximise. Without it, only a study that exists is opened.
    storage : str, Path, or optuna storage, optional
        An SQLite file for workers of one machine, which holds any number of studies; default ``<name>.db``. For workers
        of several machines, the URL of a database, such as ``postgresql://user@host/database``. Open the study once
        before they start, because workers that make the tables of a database at the same time fail. A storage object
        of Optuna is used as it is; without a heartbeat, it notices no dead workers. Whoever may write to a storage
        controls the searches that go on from it.
    seed : int, optional
        Random seed of the search. The same seed gives the same trials if one worker runs them all. Two workers draw
        different trials.
    grace_period : int, default=15
        Seconds without a sign of life after which a worker counts as dead. A worker gives three signs in that time.

    Returns
    -------
    optuna.Study
        With a direction and a name for each of ``objective.names``.

    Raises
    ------
    ValueError
        If there is no such study and no objective, the study maximises or searches something else or was made with
        other rows, or the file holds something else.
    OSError
        If the storage is locked, full, read-only or out of reach.
    ImportError
        If the driver of the database is missing.
    """
    check_count("grace_period", grace_period)
    if storage is None:
        if Path(name).name != name:
            raise ValueError(f"the study {name!r} cannot name a file of its own; give storage, such as 'search.db'")
        storage = f"{name}.db"
    sampler = optuna.samplers.TPESampler() if seed is None else _SeededTPE(seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3)
    with quiet(), storage_errors(_show(storage)):
        kept = storage if isinstance(storage, BaseStorage) else _open_database(storage, grace_period)
        given: dict[str, Any] = {"study_name": name, "storage": kept, "sampler": sampler, "pruner": pruner}
        if objective is None:
            study = _load(given, _show(storage))
        else:
            directions = [optuna.study.StudyDirection.MAXIMIZE] * len(objective.names)
            with _undamaged(_show(storage)):
                study = optuna.create_study(**given, directions=directions, load_if_exists=True)
            check_same(study, objective)
            _complete(study, objective)
        retry_stale(study)
    return study


def check_whole(study: optuna.Study) -> None:
    """Raise a ValueError that names the damage if a study holds something else than Optuna and this package write."""
    with _undamaged(f"the study {study.study_name!r}"):
        wrong = next(_find_damage(study), None)
        if wrong is not None:
            raise ValueError(wrong)


def _find_damage(study: optuna.Study) -> Iterator[str]:
    """Yield the contents of a study that have another form than they were written with."""
    n_numbers, names = len(study.directions), study.metric_names
    if not n_numbers or not (names is None or (_is_list(names, str) and len(names) == n_numbers)):
        yield f"{n_numbers} directions, and the names {names!r:.200}"
    yield from _misformed(study.user_attrs, _OF_STUDIES)
    is_ours = _SOUGHT in study.user_attrs
    for number, trial in enumerate(study.get_trials(deepcopy=False)):
        if trial.number != number:
            yield f"a trial {trial.number!r:.200} in place of {number}"
        values = trial.values or ()
        if trial.state == TrialState.COMPLETE and not (len(values) == n_numbers and _are_numbers(values)):
            yield f"trial {number} has the numbers {values!r:.200}"
        attributes = {**(trial.user_attrs if is_ours else {}), **trial.system_attrs}
        yield from (f"trial {number} has {fault}" for fault in _misformed(attributes, _OF_TRIALS))


def _misformed(attributes: Mapping[str, Any], forms: Mapping[str, Callable[[Any], bool]]) -> Iterator[str]:
    for name in forms.keys() & attributes.keys():
        if not forms[name](attributes[name]):
            yield f"{name} = {attributes[name]!r:.200}"


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back Optuna's messages about every study and trial, unless its user has set another level.

    Its warnings too: they repeat, with the traceback, the error that a trial raises.
    """
    level = optuna.logging.get_verbosity()
    if level == optuna.logging.INFO:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Turn an error of a storage that is locked, full, read-only or out of reach into an OSError with the cure.

    That of an SQLite file without studies, or with others than Optuna has written, becomes a ValueError.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (AssertionError, StorageInternalError, SQLAlchemyError) as error:
        # Optuna fails an assertion after it failed to store a trial, and hides the reason behind an error of its own
        cause = error.__context__ if isinstance(error, AssertionError) else error
        cause = cause.__cause__ if isinstance(cause, StorageInternalError) else cause
        if not isinstance(cause, SQLAlchemyError):
            raise
        orig = getattr(cause, "orig", cause)
        reason = " ".join(str(orig).split())
        if getattr(orig, "sqlite_errorname", None) in _DAMAGED:
            raise ValueError(
                f"{storage} holds no studies ({reason}): it is damaged, a file of another program, or a journal of "
                "tabmtl 0.1.0; name another file, or a copy from before"
            ) from error
        raise OSError(
            f"{storage} cannot be read or written: {reason}. Its content is kept: make sure that it is in reach, "
            "writable, unlocked and has room on its disk, and go on"
        ) from error


def retry_stale(study: optuna.Study) -> None:
    """Fail the trials of dead workers, and put them in the queue again."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        optuna.storages.fail_stale_trials(study)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put a failed trial whose worker is gone in the queue again, at most twice."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        former = RetryHeartbeatStaleTrialCallback.retry_history(trial)
        if len(former) < _MAX_RETRIES:
            RetryHeartbeatStaleTrialCallback()(study, trial)
            return
    warn_user(
        f"trial {former[0]} was lost with its worker {len(former) + 1} times, and is not tried again: its parameters "
        f"{trial.params} may need more memory than there is"
    )


class _Database(RDBStorage):
    """Database that takes every trial from its queue once, and in which `run_study` loses none of them.

    Optuna gives a trial its first heartbeat after its sampler has run: a worker that dies before that is never noticed.
    """

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        from sqlalchemy import text

        if state == TrialState.RUNNING and at_work.get():
            self.record_heartbeat(trial_id)
        if self.engine.name == "sqlite":  # has no SELECT ... FOR UPDATE: lock before the state is read
            self.scoped_session().execute(text("BEGIN IMMEDIATE"))
        return super().set_trial_state_values(trial_id, state, values)

    def record_heartbeat(self, trial_id: int) -> None:
        """Give a sign of life; if that fails, the next one may not."""
        with suppress(StorageInternalError):
            super().record_heartbeat(trial_id)


class _SeededTPE(optuna.samplers.TPESampler):
    """TPE with draws seeded by the study and the number of the trial, for any worker, and after any pause."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self._seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        seed = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)
        super().__init__(seed=int(seed[0]))
        super().before_trial(study, trial)


@contextmanager
def _undamaged(what: str) -> Iterator[None]:
    """Turn an error of Optuna about contents that it has not written into a ValueError with the cure."""
    with storage_errors(what):
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError | StorageInternalError) or type(error).__module__.startswith("sqlalchemy"):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}"[:500].split())
            raise ValueError(
                f"{what} is damaged, or of another release of Optuna ({reason}): go on with a copy from before, or "
                "take another name of a study, or another storage"
            ) from error


def _load(given: Mapping[str, Any], storage: str) -> optuna.Study:
    study = None
    with _undamaged(storage), suppress(KeyError):
        study = optuna.load_study(**given)
    if study is None:
        raise ValueError(f"there is no study {given['study_name']!r} in {storage}; give the objective to make one")
    check_whole(study)
    return study


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(part, kind) for part in value)


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(value is None or isinstance(value, int | float) for value in values)


#: Forms of the attributes that this package and Optuna's retries read.
_OF_STUDIES: dict[str, Callable[[Any], bool]] = {
    _FACTS: lambda value: isinstance(value, dict),
    _SOUGHT: lambda value: isinstance(value, dict) and isinstance(value.get("search_space"), dict),
}
_OF_TRIALS: dict[str, Callable[[Any], bool]] = {
    SCORES: lambda value: isinstance(value, dict) and _are_numbers(value.values()),
    ENDED: lambda value: isinstance(value, str),
    FAILURE: lambda value: isinstance(value, str),
    "retry_history": lambda value: _is_list(value, int),
    "fixed_params": lambda value: isinstance(value, dict),
}


def _is_url(storage: str | Path | BaseStorage) -> TypeGuard[str]:
    return isinstance(storage, str) and "://" in storage


def _show(storage: str | Path | BaseStorage) -> str:
    """Return a storage without its password."""
    from sqlalchemy.engine import make_url

    return repr(make_url(storage).set(query={})) if _is_url(storage) else str(storage)


def _open_database(storage: str | Path, grace_period: int) -> RDBStorage:
    """Open a database; of files, only a new or an empty one gets tables."""
    from sqlalchemy.engine import URL

    if _is_url(storage):
        return _connect(storage, grace_period)
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    url = URL.create("sqlite", database=str(path)).render_as_string()
    with locked(path.parent):  # Optuna makes tables one by one, and fails if two workers do that
        return _connect(url, grace_period, has_tables=path.exists() and path.stat().st_size > 0)


def _connect(storage: str, grace_period: int, *, has_tables: bool = False) -> RDBStorage:
    options: dict[str, Any] = {"pool_pre_ping": True}
    if storage.startswith("sqlite"):
        options["connect_args"] = {"timeout": _LOCK_TIMEOUT}
    url = _with_driver(storage)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning), _undamaged(_show(storage)):
        return _Database(
            url,
            engine_kwargs=options,
            heartbeat_interval=max(1, grace_period // 3),
            grace_period=grace_period,
            heartbeat_stale_trial_callback=retry,
            skip_table_creation=has_tables,
        )


def _with_driver(url: str) -> str:
    """Return the URL with the installed driver of PostgreSQL; SQLAlchemy's default depends on its release."""
    if not url.startswith(("postgresql://", "postgres://")):
        return url
    drivers = [driver for driver in ("psycopg", "psycopg2") if find_spec(driver) is not None]
    if not drivers:
        raise ImportError("a study in PostgreSQL needs a driver, which is missing: pip install 'psycopg[binary]'")
    return f"postgresql+{drivers[0]}://{url.partition('://')[2]}"


def _sought(objective: Objective) -> dict[str, Any]:
    """Return the search of a study, as JSON returns it."""
    space = json.loads(json.dumps(objective.search_space))
    return {"estimator": type(objective.est).__name__, "search_space": space}


def _complete(study: optuna.Study, objective: Objective) -> None:
    """Add our facts to a study; the mark that it is complete comes last, as its maker may be killed."""
    known = study.user_attrs
    if _FACTS not in known:
        study.set_user_attr(_FACTS, objective.facts)
    if _SOUGHT in known:
        return
    name_numbers(study, objective.names)
    study.enqueue_trial(objective.defaults, skip_if_exists=True)
    study.set_user_attr(_SOUGHT, _sought(objective))


def check_same(study: optuna.Study, objective: Objective) -> None:
    """Raise a ValueError that names the difference if a study was made for another search, rows or settings."""
    check_whole(study)
    name, known = study.study_name, study.metric_names
    if known not in (None, list(objective.names)):
        raise ValueError(
            f"the study {name!r} maximises {known}, and the objective gives {list(objective.names)}; take another name"
        )
    objective.check_directions(study)
    sought, ours = study.user_attrs.get(_SOUGHT), _sought(objective)
    if sought is None:
        return
    if sought == ours:
        _check_facts(study, objective.facts)
        return
    spaces = sought["search_space"], ours["search_space"]
    names = sorted(name for name in {*spaces[0], *spaces[1]} if spaces[0].get(name) != spaces[1].get(name))
    if sought.get("estimator") == ours["estimator"]:
        said = f"has another search_space of {names!s:.500} than the objective"
    else:
        said = (
            f"searches parameters of {sought.get('estimator')!s:.200}, and the objective those of {ours['estimator']}"
        )
    raise ValueError(f"the study {name!r} {said}; take another name, or the search_space of the study")


def _check_facts(study: optuna.Study, facts: Mapping[str, Any]) -> None:
    known, ours = study.user_attrs.get(_FACTS, {}), json.loads(json.dumps(facts))
    differ = [fact for fact in ours if fact in known and known[fact] != ours[fact]]
    if differ:
        first, *others = differ
        further = f"; {', '.join(others)} differ too" if others else ""
        raise ValueError(
            f"the study {study.study_name!r} was made with {first} = {known[first]!s:.500}, and is asked to go on with "
            f"{ours[first]!s:.500}{further}: give the same again, or another name of a study"
        )
