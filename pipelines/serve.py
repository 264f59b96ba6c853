"""Register, compare, promote and serve models.

The alias "champion" names the version that is served. It moves to a challenger when no task falls by more than a margin
on validation rows.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tabmtl.pipelines.data.files import RowSource
from tabmtl.pipelines.promotion import Promotion, check_tasks, judge, rows_for, score, table_of, why_unfair
from tabmtl.pipelines.terminal import lay_out
from tabmtl.pipelines.tracking import (
    CHALLENGER,
    CHAMPION,
    ROWS,
    Experiment,
    Store,
    Tracking,
    check_model_name,
    connected,
    make_client,
    open_log,
    server_environment,
    without_password,
)
from tabmtl.schema import TabmtlWarning

if TYPE_CHECKING:
    from mlflow import MlflowClient


def register(name: str, folder: Path, /, experiment: Experiment = Experiment(), *, rows: str | None = None) -> str:
    """Register a saved model as a new version.

    It becomes the champion if there is none, else its challenger.

    Parameters
    ----------
    name : str
        Name of the registered model.
    folder : Path
        Folder of the model, as --output and ``model.save(folder)`` leave it.
    experiment : Experiment
        Where it is logged.
    rows : str, optional
        Options of train that gave its rows, for promote to compare: "--data shop.csv --split-seed 3".

    Returns
    -------
    version : str

    Raises
    ------
    ValueError, OSError, ImportError
        If the folder holds no model, the rows are no options, or MLflow does not answer.
    """
    import tabmtl

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
    """Make a challenger the champion if no task falls too far.

    Both are scored on the same validation rows: give the same --data and split as in training. Without a champion, the
    challenger becomes it. The exit code is 1 where the champion stays.

    Parameters
    ----------
    name : str
        Name of the registered model.
    source : RowSource
        Where the rows come from; targets and columns are those that the models know.
    store : Store
        Where the versions are.
    margin : float, default=0.005
        How far a task may fall, in units of its score.
    version : int, optional
        The challenger; default the newest version.
    part : {"val", "all"}, default="val"
        Rows to judge by: the validation rows, or all rows of a new file. Test rows judge no choice.
    allow_undefined : bool, default=False
        Let tasks pass that have no score on these rows.

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
    with connected(store):
        client = make_client()
        champion, challenger = _versions(client, name, version)
        if champion == challenger:
            return _say(Promotion(table=None, moved=True, reason=f"Version {champion} is the champion already."))
        new = _load(name, challenger)
        rows = rows_for(new, source, whole=part == "all")
        _warn_of_rows(client, name, [champion, challenger], source, part)
        scores = score(new, rows, part, challenger)
        if champion is None:
            reason = f"There was no champion: version {challenger} is it now."
            found = Promotion(table=table_of(scores), moved=True, reason=reason)
        else:
            old = _load(name, champion)
            check_tasks(old, new, champion, challenger)
            print(f"Champion: version {champion} of {name}; challenger: version {challenger}. Both are scored on")
            print(f"{rows.sizes[part]:,} {rows.unit} of {rows.name} ({part}). A task may fall by {margin:g}.")
            found = judge(score(old, rows, part, champion), scores, margin, allow_undefined=allow_undefined)
        if found.moved:
            _move(client, name, champion, challenger)
        client.set_model_version_tag(name, challenger, "tabmtl.promotion", found.reason)
    return _say(found)


def start(name: str, /, store: Store = Store(), *, port: int = 5001, host: str = "127.0.0.1") -> int:
    """Serve the champion over HTTP, for this machine alone.

    It is MLflow's server: ``/invocations`` answers dataframe_records, dataframe_split, inputs and CSV. It asks nobody
    who they are.

    Parameters
    ----------
    name : str
        Name of the registered model.
    store : Store
        Where the versions are.
    port : int, default=5001
        Port of the server.
    host : str, default="127.0.0.1"
        Address that the server listens on; the default is for this machine alone.

    Returns
    -------
    int
        Exit code of the server.

    Raises
    ------
    ValueError, OSError, ImportError
        If there is no champion, or the port is taken.
    """
    with connected(store) as uri:
        champion, _ = _versions(make_client(), name, None)
    if champion is None:
        raise ValueError(f"{name} has no version with the alias {CHAMPION}: tabmtl serve promote gives it")
    if not _is_loopback(host):
        warnings.warn(
            f"whoever reaches {host}:{port} can use this server, which asks nobody who they are: put a proxy with "
            "authentication in front, or leave --host out",
            TabmtlWarning,
            stacklevel=2,
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


def _versions(client: MlflowClient, name: str, version: int | None) -> tuple[str | None, str]:
    """The champion, if there is one, and the challenger."""
    check_model_name(name)
    found = {str(entry.version): entry for entry in client.search_model_versions(f"name = '{name}'")}
    if not found:
        models = ", ".join(model.name for model in client.search_registered_models(max_results=20))
        raise ValueError(f"there is no registered model {name!r}; there are {models or 'none'}")
    newest = max(found, key=int)
    challenger = newest if version is None else str(version)
    if challenger not in found:
        raise ValueError(f"{name} has no version {challenger}; the newest is {newest}")
    champion = client.get_registered_model(name).aliases.get(CHAMPION)
    return (None if champion is None else str(champion)), challenger


def _load(name: str, version: str) -> Any:
    import tabmtl.mlflow

    return tabmtl.mlflow.load_model(f"models:/{name}/{version}")


def _warn_of_rows(
    client: MlflowClient, name: str, versions: Sequence[str | None], source: RowSource, part: str
) -> None:
    """Warn of rows that favour a version."""
    for version in filter(None, versions):
        reason = why_unfair(client.get_model_version(name, version).tags, source, part)
        if reason is not None:
            said = f"version {version} {reason}; a file of rows that no version has seen, and --part all, are fair"
            warnings.warn(said, TabmtlWarning, stacklevel=3)


def _move(client: MlflowClient, name: str, champion: str | None, challenger: str) -> None:
    """Move the alias, unless somebody else has in the meantime."""
    aliases = client.get_registered_model(name).aliases
    now = aliases.get(CHAMPION)
    if (None if now is None else str(now)) != champion:
        raise ValueError(f"the champion of {name} has become version {now} in the meantime: compare again")
    client.set_registered_model_alias(name, CHAMPION, challenger)
    if str(aliases.get(CHALLENGER)) == challenger:
        client.delete_registered_model_alias(name, CHALLENGER)


def _say(found: Promotion) -> Promotion:
    if found.table is not None:
        print(f"\n{lay_out(found.table, signed=['difference'])}\n")
    print(found.reason)
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_free(host: str, port: int) -> None:
    if not 0 < port < 65536:
        raise ValueError(f"--port must be from 1 to 65535, got {port}")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ValueError(f"cannot listen on {host}:{port} ({reason}): take another --host or --port") from error


if __name__ == "__main__":
    from tabmtl.pipelines.cli import main

    raise SystemExit(main(["serve", *sys.argv[1:]]))
