"""Register, compare, promote and serve models.

The alias "champion" names the version that is served. It moves to a challenger when no task falls by more than a margin
on validation rows.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

import tabmtl.serving.mlflow
from tabmtl.base.schema import warn_user
from tabmtl.pipelines.data import Rows, RowSource, TableRows, rows_for
from tabmtl.pipelines.data.tables import columns_for
from tabmtl.pipelines.terminal import lay_out, tell, without_password
from tabmtl.pipelines.tracking import (
    CONTINUED,
    REFIT,
    ROWS,
    Experiment,
    Store,
    Tracking,
    check_model_name,
    connected,
    make_client,
    open_log,
    server_environment,
)
from tabmtl.serving.mlflow.aliases import CHALLENGER, CHAMPION

Scores = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """The result of a comparison.

    Parameters
    ----------
    table : polars.DataFrame or None
        One row per task: the scores of both versions, their difference, and the verdict; None without a comparison.
    moved : bool
        Whether the challenger is the champion now.
    reason : str
    """

    table: pl.DataFrame | None
    moved: bool
    reason: str

    @property
    def exit_code(self) -> int:
        """Exit code: 0 if the challenger is the champion now, else 1."""
        return 0 if self.moved else 1


def register(name: str, folder: Path, /, experiment: Experiment = Experiment(), *, rows: str | None = None) -> str:
    """Register a saved model as a new version.

    It becomes the champion if there is none, else its challenger.

    Parameters
    ----------
    name : str
        Name of the registered model.
    folder : Path
        Folder of the model, written by --output or ``model.save(folder)``.
    experiment : Experiment
        Where to log it.
    rows : str, optional
        Options of train that selected its rows, for promote to compare: "--data shop.csv --split-seed 3".

    Returns
    -------
    version : str

    Raises
    ------
    ValueError, OSError, ImportError
        If the folder holds no model, the rows are no options, or MLflow does not answer.
    """
    if rows is not None and not re.match(r"--data \S", rows):
        raise ValueError(f"--rows are options that begin with --data, got {rows!r}")

    model = tabmtl.load(folder)
    with open_log(Tracking(**asdict(experiment), register=name)) as log:
        assert log is not None
        with log.run(f"register {name}"):
            version, alias = log.log_model(model, register=name, tags={ROWS: rows})
        print(f"Registered as version {version} of {name}, alias {alias}.")
    return str(version)


def promote(
    name: str,
    /,
    source: RowSource,
    store: Store = Store(),
    *,
    margin: float = 0.005,
    version: int | None = None,
    part: Literal["val", "all"] = "val",
    allow_undefined: bool = False,
) -> Promotion:
    """Make a challenger the champion if no task loses too much.

    Both are scored on the same validation rows: give the same --data and split as in training. For a model that has
    learned these, such as MultiTaskEnsemble, give the rows of a new file and --part all. If there is no champion, the
    challenger becomes it. The exit code is 1 if the champion stays.

    Parameters
    ----------
    name : str
        Name of the registered model.
    source : RowSource
        Source of the rows; the models set targets and columns.
    store : Store
        Store of the versions.
    margin : float, default=0.005
        The most that a task may lose, in units of its score.
    version : int, optional
        The challenger; default the newest version.
    part : {"val", "all"}, default="val"
        Rows to judge by: the validation rows, or all rows of a new file; never test rows.
    allow_undefined : bool, default=False
        Pass tasks without a score on these rows.

    Returns
    -------
    Promotion

    Raises
    ------
    ValueError, OSError, ImportError
        If there is no such model or version, the two learn different tasks, or the rows do not fit them.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"--margin must be at least 0, got {margin:g}")
    with connected(store, must_exist=True):
        champion, challenger = _versions(name, version)
        if champion == challenger:
            found = Promotion(table=None, moved=True, reason=f"Version {champion} is the champion already.")
        else:
            found = _compare(name, champion, challenger, source, part, margin, allow_undefined)
            if found.moved:
                _move(name, champion, challenger)
            make_client().set_model_version_tag(name, challenger, "tabmtl.promotion", found.reason)
    if found.table is not None:
        print(f"\n{lay_out(found.table, signed=['difference'])}\n")
    print(found.reason)
    return found


def start(name: str, /, store: Store = Store(), *, port: int = 5001, host: str = "127.0.0.1") -> int:
    """Serve the champion over HTTP, for this machine alone.

    It runs MLflow's server: ``/invocations`` takes dataframe_records, dataframe_split, inputs and CSV. It has no
    authentication.

    Parameters
    ----------
    name : str
        Name of the registered model.
    store : Store
        Store of the versions.
    port : int, default=5001
        Port of the server.
    host : str, default="127.0.0.1"
        Address that the server listens on; the default serves this machine alone.

    Returns
    -------
    int
        Exit code of the server.

    Raises
    ------
    ValueError, OSError, ImportError
        If there is no champion, or the port is taken.
    """
    from tabmtl.scale.torch_group import is_loopback

    with connected(store, must_exist=True) as uri:
        champion, _ = _versions(name, None)
    if champion is None:
        raise ValueError(f"{name} has no version with the alias {CHAMPION}: set it by tabmtl serve promote")
    if not is_loopback(host):
        warn_user(
            f"anyone who reaches {host}:{port} can use this server, which has no authentication: put a proxy with "
            "authentication in front, or leave --host out"
        )
    _check_free(host, port)
    model = f"models:/{name}@{CHAMPION}"
    words = ["models", "serve", "-m", model, "--host", host, "--port", str(port), "--env-manager", "local"]
    print(f"Version {champion} of {name}, at http://{host}:{port}/invocations:", flush=True)
    print(f"  MLFLOW_TRACKING_URI={shlex.quote(without_password(uri))} mlflow {shlex.join(words)}", flush=True)
    environment = {**server_environment(), "MLFLOW_TRACKING_URI": uri}
    # in a session of its own, so that Ctrl-C does not reach its processes one by one
    server = subprocess.Popen([sys.executable, "-m", "mlflow", *words], env=environment, start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        return 0


def _versions(name: str, version: int | None) -> tuple[str | None, str]:
    """Return the champion, if there is one, and the challenger."""
    check_model_name(name)
    client = make_client()
    found = [str(entry.version) for entry in client.search_model_versions(f"name = '{name}'")]
    if not found:
        models = ", ".join(model.name for model in client.search_registered_models(max_results=20))
        raise ValueError(f"there is no registered model {name!r}; there are {models or 'none'}")
    newest = max(found, key=int)
    challenger = newest if version is None else str(version)
    if challenger not in found:
        raise ValueError(f"{name} has no version {challenger}; the newest is {newest}")
    return _champion(name), challenger


def _champion(name: str) -> str | None:
    champion = make_client().get_registered_model(name).aliases.get(CHAMPION)
    return None if champion is None else str(champion)


def _compare(
    name: str,
    champion: str | None,
    challenger: str,
    source: RowSource,
    part: str,
    margin: float,
    allow_undefined: bool,
) -> Promotion:
    """Score the challenger, and the champion on the same rows if there is one."""
    new = tabmtl.serving.mlflow.load_model(f"models:/{name}/{challenger}")
    rows = rows_for(new, source, whole=part == "all")
    for version in filter(None, [champion, challenger]):
        reason = why_unfair(make_client().get_model_version(name, version).tags, source, part)
        if reason is not None:
            warn_user(f"version {version} {reason}; a file of rows that no version has seen, and --part all, are fair")
    _check_unseen(new, challenger, name, rows, source, part)
    scores = score(new, rows, part, challenger)
    if champion is None:
        reason = f"There was no champion: version {challenger} is it now."
        return Promotion(table=_table(score=scores), moved=True, reason=reason)
    old = tabmtl.serving.mlflow.load_model(f"models:/{name}/{champion}")
    _check_tasks(old, new, champion, challenger)
    _check_unseen(old, champion, name, rows, source, part)
    tell(f"Champion: version {champion} of {name}; challenger: version {challenger}. Both are scored on")
    tell(f"{rows.sizes[part]:,} {rows.unit} of {rows.name} ({part}). A task may lose {margin:g}.")
    return judge(score(old, rows, part, champion), scores, margin, allow_undefined=allow_undefined)


def _move(name: str, champion: str | None, challenger: str) -> None:
    """Move the alias, unless somebody else has moved it in the meantime."""
    client, now = make_client(), _champion(name)
    if now != champion:
        raise ValueError(f"the champion of {name} has become version {now} in the meantime: compare again")
    client.set_registered_model_alias(name, CHAMPION, challenger)
    if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == challenger:
        client.delete_registered_model_alias(name, CHALLENGER)


def judge(champion: Scores, challenger: Scores, margin: float, *, allow_undefined: bool = False) -> Promotion:
    """Compare the scores of two versions.

    Parameters
    ----------
    champion, challenger : mapping of str to float or None
        Of the same tasks on the same rows; higher is better, None is undefined.
    margin : float
    allow_undefined : bool, default=False
        Whether tasks without a score pass.

    Returns
    -------
    Promotion

    Examples
    --------
    >>> found = judge({"late": 0.80, "delay": 0.40}, {"late": 0.85, "delay": 0.38}, 0.01)
    >>> found.moved, found.reason
    (False, 'The champion stays: delay falls by 0.0200, more than 0.01.')
    """
    difference = pl.col("difference")
    verdict = pl.when(difference.is_null()).then(pl.lit("undefined")).when(difference < -margin).then(pl.lit("falls"))
    table = _table(champion=champion, challenger=challenger)
    table = table.with_columns(difference=pl.col("challenger") - pl.col("champion"))
    table = table.with_columns(verdict=verdict.otherwise(pl.lit("ok")))
    falls = [f"{row['task']} falls by {-row['difference']:.4f}" for row in table.filter(verdict="falls").to_dicts()]
    undefined = ", ".join(table.filter(verdict="undefined")["task"])
    if falls:
        reason = f"The champion stays: {', '.join(falls)}, more than {margin:g}."
    elif undefined and not allow_undefined:
        reason = f"The champion stays: no score on these rows of {undefined}; give others, or --allow-undefined."
    else:
        reason = f"The challenger is the champion now: no task falls by more than {margin:g}."
        reason += f" Passed without a score: {undefined}." if undefined else ""
    return Promotion(table=table, moved=not falls and (allow_undefined or not undefined), reason=reason)


def _table(**scores: Scores) -> pl.DataFrame:
    """Return scores by task as columns; undefined ones are null."""
    tasks = next(iter(scores.values()))
    columns = {name: pl.Series([found[task] for task in tasks], dtype=pl.Float64) for name, found in scores.items()}
    return pl.DataFrame({"task": list(tasks), **columns}).fill_nan(None)


def why_unfair(tags: Mapping[str, str], source: RowSource, part: str) -> str | None:
    """Return the reason against judging a version by these rows, by its tags; None if there is none."""
    if ROWS not in tags:
        unknown = "has no record of the rows it learned from, which may include the rows that judge it"
        return unknown if part == "val" else None
    data, split = _typed(tags[ROWS])
    if data != Path(source.data).name:
        return None
    if part == "all":
        return f"was trained with {tags[ROWS]}, so it has learned from most of the rows that judge it"
    if (data, split) != _typed(source.as_typed):
        return (
            f"was trained with {tags[ROWS]}, and is judged with {source.as_typed}: it may have learned from these rows"
        )
    if REFIT in tags:
        return f"is the refit of trial {tags[REFIT]}, which was chosen by its scores on these rows"
    return None


def _typed(options: str) -> tuple[str, list[str]]:
    """Return the name of the data and the further options of a split."""
    _, data, *split = shlex.split(options)
    return Path(data).name, split


def _check_unseen(model: Any, version: str, name: str, rows: Rows, source: RowSource, part: str) -> None:
    """Refuse validation rows that train gave a model to learn, because it chooses by folds of its own, or went on."""
    tags = make_client().get_model_version(name, version).tags
    went_on = CONTINUED in tags
    is_learned = part == "val" and (went_on or (isinstance(rows, TableRows) and rows.learns_val(model)))
    if is_learned and _typed(tags.get(ROWS) or "--data ''") == _typed(source.as_typed):
        raise ValueError(
            f"version {version} of {name} has learned these validation rows, because "
            f"{'it went on by them' if went_on else f'{type(model).__name__} chooses by folds of its own'}: judge by "
            "rows that no version has seen, --data NEW_FILE --part all"
        )


def score(model: Any, rows: Rows, part: str, version: str) -> Scores:
    """Score a version on a part of the rows, with the columns that it knows."""
    if not isinstance(rows, TableRows):
        return rows.scores(model, part)
    X, y = rows.parts[part]
    return model.score_tasks(columns_for(model, X, f"--data, for version {version}"), y)


def _check_tasks(old: Any, new: Any, champion: str, challenger: str) -> None:
    """Refuse versions whose scores measure different things."""

    def learned(model: Any) -> str:
        tasks = [f"{task.name} ({task.kind}, {task.metric})" for task in getattr(model, "tasks_", ())]
        return ", ".join(sorted(tasks)) or "next clicks"

    if learned(old) != learned(new):
        raise ValueError(
            f"version {challenger} learns {learned(new)}, and the champion, version {champion}, learns {learned(old)}: "
            "only the same tasks by the same metrics can be compared; register one under another name"
        )


def _check_free(host: str, port: int) -> None:
    if not 0 < port < 65536:
        raise ValueError(f"--port must be from 1 to 65535, got {port}")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ValueError(f"cannot listen on {host}:{port} ({reason}): take another --host or --port") from error
