"""MLflow for the commands: the store, runs, trials as runs, and the registry."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import sqlite3
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import tabmtl.serving.mlflow
from tabmtl import tuning
from tabmtl.pipelines.terminal import tell, without_password

if TYPE_CHECKING:
    import optuna
    from mlflow import MlflowClient
    from mlflow.entities import Experiment as MlflowExperiment
    from mlflow.entities import Run

_SQLITE = "sqlite:///"
DEFAULT_URI = f"{_SQLITE}mlflow.db"

#: Tags of model versions: the options that gave the rows, as one types them; the trial that was fitted again; and the
#: model that went on by these rows.
ROWS, REFIT, CONTINUED = "tabmtl.rows", "tabmtl.refit", "tabmtl.continued"

#: Tags of runs: the number of a trial, how it ended and why.
TRIAL, STATE, REASON = "tabmtl.trial", "tabmtl.state", "tabmtl.reason"

_PARENT = "mlflow.parentRunId"
_LONGEST = 500  # letters of a reason
_MOST_RUNS = 1000
_SECONDS = 10  # that a server has to answer at all


@dataclass(frozen=True, kw_only=True)
class Store:
    """The store of MLflow, with its runs and models.

    Parameters
    ----------
    tracking_uri : str, optional
        Database or server of MLflow; default ``$MLFLOW_TRACKING_URI``, or else sqlite:///mlflow.db.
    """

    tracking_uri: str | None = None

    @property
    def uri(self) -> str:
        """URI of the store."""
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


@dataclass(frozen=True, kw_only=True)
class Experiment(Store):
    """The store of MLflow, and an experiment in it.

    Parameters
    ----------
    experiment : str
        Name of the experiment.
    """

    experiment: str = "tabmtl"


@dataclass(frozen=True, kw_only=True)
class Tracking(Experiment):
    """The store of MLflow, and the names under which a model is logged.

    Parameters
    ----------
    register : str, optional
        Name to register by: champion, or challenger beside one.
    no_mlflow : bool
        Log nothing.
    """

    register: str | None = None
    no_mlflow: bool = False

    @property
    def is_asked(self) -> bool:
        """Whether an option, or $MLFLOW_TRACKING_URI, says where or by which name to log."""
        return self != Tracking(no_mlflow=self.no_mlflow) or self.uri != DEFAULT_URI

    @property
    def logs(self) -> bool:
        """Whether anything is logged: not with ``no_mlflow``, nor where MLflow is missing and no option asks for it."""
        return not self.no_mlflow and (self.is_asked or find_spec("mlflow") is not None)


@dataclass(frozen=True, kw_only=True)
class Log:
    """An open experiment; MLflow's own functions log to its store as long as it is open.

    Parameters
    ----------
    uri : str
        Of the store, as it may be printed and kept.
    experiment : mlflow.entities.Experiment
    """

    uri: str
    experiment: MlflowExperiment

    @contextmanager
    def run(self, name: str, *, tags: Mapping[str, str] | None = None, run_id: str | None = None) -> Iterator[str]:
        """Activate a run, new or continued.

        It ends as FINISHED, as KILLED after an interrupt, or as FAILED after an error.

        Parameters
        ----------
        name : str
        tags : mapping of str to str, optional
        run_id : str, optional
            Of the run that goes on.

        Yields
        ------
        run_id : str
        """
        import mlflow

        run = mlflow.start_run(
            run_id=run_id,
            run_name=name,
            experiment_id=self.experiment.experiment_id,
            tags=dict(tags or {}),
            nested=mlflow.active_run() is not None,
        )
        try:
            yield run.info.run_id
        except BaseException as error:
            mlflow.end_run("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        mlflow.end_run()

    def log_model(
        self,
        estimator: Any,
        *,
        example: Any = None,
        register: str | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> tuple[str | None, str | None]:
        """Log a model in the active run, and register it: as champion if there is none, else as challenger.

        Parameters
        ----------
        estimator : estimator
        example : frame, optional
            Rows as they will come.
        register : str, optional
            Name of the registered model.
        tags : mapping of str to str or None, optional
            Of the version; None is no tag.

        Returns
        -------
        version, alias : str or None
            None if the model is not registered.
        """
        version_tags = {key: value for key, value in (tags or {}).items() if value is not None}
        named: Any = {"registered_model_name": register, "alias": "auto", "version_tags": version_tags}
        info = tabmtl.serving.mlflow.log_model(estimator, input_example=example, **named if register else {})
        if register is None:
            return None, None
        version = str(info.registered_model_version)
        return version, make_client().get_model_version(register, version).aliases[0]


class TrialRuns:
    """A nested run of MLflow for every trial of this process: a reporter of an objective.

    A store that does not answer costs the record of a trial, and a warning, but no trial.

    Parameters
    ----------
    experiment_id, parent : str
        Of the run of the sweep.
    """

    def __init__(self, experiment_id: str, parent: str) -> None:
        self.experiment_id, self.parent = experiment_id, parent
        self._trial: Any = None
        self._run: Run | None = None
        self._callback: Any = None
        self._has_params = False

    @contextmanager
    def of(self, trial: optuna.Trial) -> Iterator[None]:
        """Run a trial inside its run: FINISHED, KILLED if it was pruned or interrupted, or FAILED."""
        from optuna import TrialPruned

        self._begin(trial)
        try:
            yield
        except BaseException as error:
            pruned = isinstance(error, TrialPruned)
            failed = tuning.FAILURE in trial.user_attrs if pruned else isinstance(error, Exception)
            state = "failed" if failed else "pruned" if pruned else "interrupted"
            self._end("FAILED" if failed else "KILLED", state, str(error) if pruned else repr(error))
            raise
        self._end("FINISHED", "complete")

    def log_epoch(self, record: Mapping[str, float | None]) -> None:
        """Log the record of an epoch."""
        if self._callback is not None:
            with self._as_warning():
                self._log_params()
                self._callback(record)

    def log_scores(self, model: Any, scores: Mapping[str, float | None]) -> None:
        """Log the scores of the kept weights."""
        from tabmtl.metrics.scores import mean_score

        names = {task.name: f"{task.name}/{task.metric}" for task in getattr(model, "tasks_", ())}
        final = {f"final/{names.get(name, name)}": score for name, score in scores.items()}
        final |= {"final/score": mean_score(scores)}
        defined = {name: score for name, score in final.items() if score is not None and math.isfinite(score)}
        if self._callback is not None:
            with self._as_warning():
                self._callback.log_scores(defined)

    def end_lost(self, study: optuna.Study) -> None:
        """End the runs of finished trials whose process was killed before it could end them."""
        trials = study.get_trials(deepcopy=False)
        for run in self._open_runs():
            number = int(run.data.tags.get(TRIAL, -1))
            if 0 <= number < len(trials) and trials[number].state.is_finished():
                is_complete = trials[number].state.name == "COMPLETE"
                _terminate(run, "FINISHED" if is_complete else "KILLED", "complete" if is_complete else "lost")

    def end_lost_refits(self) -> None:
        """End the runs of final fits whose sweep was killed."""
        for run in self._open_runs():
            if REFIT in run.data.tags:
                _terminate(run, "KILLED", "lost")

    def _open_runs(self) -> Any:
        among = f"tags.{_PARENT} = '{self.parent}' and attributes.status = 'RUNNING'"
        return make_client().search_runs([self.experiment_id], among, max_results=_MOST_RUNS)

    def _begin(self, trial: optuna.Trial) -> None:
        self._trial, self._run, self._callback, self._has_params = trial, None, None, False
        with self._as_warning():
            self.end_lost(trial.study)
            tags = {_PARENT: self.parent, TRIAL: str(trial.number)}
            self._run = make_client().create_run(self.experiment_id, run_name=f"trial {trial.number}", tags=tags)
            self._callback = tabmtl.serving.mlflow.MLflowCallback(run_id=self._run.info.run_id)

    def _end(self, status: str, state: str, reason: str = "") -> None:
        if self._run is None:
            return
        with self._as_warning():
            self._log_params()
            self._callback.flush()
            if reason:
                make_client().set_tag(self._run.info.run_id, REASON, reason[:_LONGEST])
            _terminate(self._run, status, state)

    def _log_params(self) -> None:
        """Log the parameters of the trial, known since its fit has begun."""
        from mlflow.entities import Param

        if self._run is not None and not self._has_params:
            params = [Param(name, str(value)) for name, value in self._trial.params.items()]
            make_client().log_batch(self._run.info.run_id, params=params)
            self._has_params = True

    def _as_warning(self) -> AbstractContextManager[None]:
        from tabmtl.serving.mlflow.callback import as_warning

        return as_warning(f"trial {self._trial.number} is not logged in full, but goes on")


def make_client() -> MlflowClient:
    """Return the client of the store that MLflow knows, see `connected`."""
    import mlflow

    return mlflow.MlflowClient()


def _terminate(run: Run, status: str, state: str) -> None:
    make_client().set_tag(run.info.run_id, STATE, state)
    make_client().set_terminated(run.info.run_id, status)


@contextmanager
def connected(store: Store, *, must_exist: bool = False) -> Iterator[str]:
    """Set MLflow's store inside, after a test that it answers, and restore the old one outside.

    Parameters
    ----------
    store : Store
    must_exist : bool, default=False
        Refuse a file of SQLite that is not there, which MLflow would make.

    Yields
    ------
    uri : str

    Raises
    ------
    ModuleNotFoundError
        If MLflow is missing.
    ValueError
        If the store does not answer, or must exist and does not.
    """
    if find_spec("mlflow") is None:
        cure = "pip install 'tabmtl[mlflow]'; to train without it, leave --register out and say --no-mlflow"
        raise ModuleNotFoundError(f"MLflow is missing: {cure}", name="mlflow")
    file = store.uri.removeprefix(_SQLITE)
    if must_exist and file != store.uri and not Path(file).exists():
        raise ValueError(
            f"no model is registered in {store.uri}: there is no file {file}, seen from the folder {Path.cwd()}; name "
            "another store by --tracking-uri, or register a model by train --register"
        )
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    before = mlflow.get_tracking_uri() if mlflow.tracking.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(store.uri)
    try:
        _check_answers(store.uri)
        yield store.uri
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None forgets it


@contextmanager
def open_log(tracking: Tracking) -> Iterator[Log | None]:
    """Open the experiment, and make it if there is none.

    It is None with ``no_mlflow``, and where MLflow is not installed and no option asks for it, which a line tells.
    The files of a database of sqlite go to the folder ``mlruns`` beside it; elsewhere MLflow has its own place.

    Raises
    ------
    ModuleNotFoundError, ValueError
        As `connected` raises them, or if a name cannot be one, or its files cannot be written.
    """
    if tracking.no_mlflow:
        if tracking.register:
            raise ValueError("--register needs MLflow: leave --no-mlflow out")
        yield None
        return
    if not tracking.logs:
        tell("Nothing is logged: MLflow is not installed (pip install 'tabmtl[mlflow]').")
        yield None
        return
    if tracking.register is not None:
        check_model_name(tracking.register)
    with connected(tracking) as uri:
        client, name = make_client(), tracking.experiment
        if client.get_experiment_by_name(name) is None:
            client.create_experiment(name, _beside(uri, name))
        found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise ValueError(f"--experiment {name}: it was deleted; restore it, or take another name")
        _check_artifacts(found.artifact_location)
        yield Log(uri=without_password(uri), experiment=found)


def check_model_name(name: str) -> None:
    """Raise a ValueError for a name that the registry would refuse after all the work."""
    if not name.strip() or name in (".", "..") or re.search(r"[/:@%\"']", name):
        raise ValueError(f"the name of a registered model must not hold / : @ % or quotes, got {name!r}")


def check_writable(folder: Path, option: str) -> None:
    """Raise a ValueError that names the option unless a folder, which need not exist yet, is writable."""
    try:
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        TemporaryDirectory(prefix=".tabmtl-", dir=place).cleanup()
    except OSError as error:
        raise ValueError(f"{option}: cannot write to {folder} ({error.strerror})") from error


def server_environment() -> dict[str, str]:
    """Return this environment for MLflow's server: it calls uvicorn by name, and must send no telemetry."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}


def program(name: str) -> str:
    """Return a command of this environment as one would type it here."""
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).parent == own.parent:
        return name
    here = Path.cwd()
    return str(own.relative_to(here) if own.is_relative_to(here) else own)


def _beside(uri: str, experiment: str) -> str | None:
    """Return the folder of the files of an experiment beside a database of sqlite."""
    if not uri.startswith(_SQLITE):
        return None
    folder = Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlruns"
    return (folder / (re.sub(r"[^\w .-]", "_", experiment).strip(". ") or "_")).as_uri()


def _check_artifacts(location: str) -> None:
    parsed = urllib.parse.urlparse(location)
    if parsed.scheme in ("", "file"):
        check_writable(Path(urllib.request.url2pathname(parsed.path)), "the files of MLflow")


def _check_answers(uri: str) -> None:
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    try:
        if uri.startswith(("http://", "https://")):
            # MLflow itself would try again for minutes
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_SECONDS).close()
        elif uri.startswith(_SQLITE):  # here too
            with closing(sqlite3.connect(uri.removeprefix(_SQLITE).partition("?")[0])) as file:
                file.execute("PRAGMA schema_version")
        make_client().search_experiments(max_results=1)
    except urllib.error.HTTPError:
        return  # somebody answers, and MLflow reports the error later
    except Exception as error:  # any error of a database, a driver or a server
        is_unknown = isinstance(error, UnsupportedModelRegistryStoreURIException)
        reason = "unknown kind of address" if is_unknown else str(error).strip().splitlines()[0]
        raise ValueError(
            f"MLflow cannot open {without_password(uri)} ({reason}); --tracking-uri takes a database, such as "
            f"{DEFAULT_URI}, or the address of a server"
        ) from error
