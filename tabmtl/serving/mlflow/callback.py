"""Log of a training in MLflow: parameters, metrics per epoch, the schema, the data and the plots."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import mlflow
from mlflow.data.polars_dataset import from_polars
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.tracking.context.registry import resolve_tags
from mlflow.tracking.fluent import _get_experiment_id
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.schema import warn_user
from tabmtl.estimators.base import unfitted
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.inspection.plots import (
    ExpertUsageDisplay,
    GainDisplay,
    HistoryDisplay,
    LeaderboardDisplay,
)
from tabmtl.inspection.plots.display import Display
from tabmtl.metrics.gain import MultitaskGain, multitask_gain
from tabmtl.serving.mlflow.signature import rows_of, schema_of
from tabmtl.sessions.recommender import Recommender
from tabmtl.targets import Task
from tabmtl.training.hooks import OnEpoch

_MOST_METRICS, _MOST_PARAMS = 1000, 100  # in one request to MLflow
_LONGEST_NAME = 250  # of a metric or parameter
_LONGEST_TAG = 500  # of a data set
_MOST_LINES = 20  # tasks in the plots of the history and the leaderboard


@dataclass(kw_only=True)
class MLflowCallback:
    """Callback that logs a training to MLflow: each epoch as it ends, and the rest at the end.

    As ``on_epoch`` of an estimator it logs the history's numbers under their own names, such as
    ``val/cancelled/roc_auc``, with the epoch as step; undefined numbers are left out. `log_fitted` logs the rest, and
    works for estimators without epochs too.

    If a store does not answer, training goes on with a warning, and a later epoch, `flush` or `log_fitted` logs the
    missing records. MLflow itself repeats a request for minutes before it gives up; a smaller
    ``MLFLOW_HTTP_REQUEST_MAX_RETRIES`` in the environment shortens that.

    Parameters
    ----------
    run_id : str, optional
        The run to log to; default the active run at the first call, or else a new one in the active experiment, which
        stays inactive until `log_fitted` ends it. One callback logs one fit: each unused copy, such as those of a grid
        search, makes a run of its own.
    on_epoch : callable, optional
        Called too; a true answer stops training.

    Examples
    --------
    .. code-block:: text

        with mlflow.start_run():
            callback = MLflowCallback()
            model = MultiTabNet(on_epoch=callback).fit(X, y, X_val=X_val, y_val=y_val)
            callback.log_fitted(model, X, y, X_val=X_val, y_val=y_val)
            tabmtl.serving.mlflow.log_model(model, input_example=X.head(5))
    """

    run_id: str | None = None
    on_epoch: OnEpoch | None = None
    _waiting: list[Metric] = field(default_factory=list, init=False, repr=False)
    _made_run: bool = field(default=False, init=False, repr=False)

    def __call__(self, record: Mapping[str, float | None]) -> bool:
        """Log the record of an epoch; see `NetworkEstimator.on_epoch`."""
        values = {metric_name(key): value for key, value in record.items() if key != "epoch"}
        step = int(record["epoch"] or 0)
        said = f"epoch {step} is not logged yet, which is tried again with the next one and in log_fitted"
        with suppress(Exception) if self._waiting else as_warning(said):  # said once while the store is down
            self._log_metrics(values, step)
        return bool(self.on_epoch is not None and self.on_epoch(record))

    def flush(self) -> None:
        """Log records that epochs could not log; if MLflow raises an error, they wait for the next call."""
        client = mlflow.MlflowClient()
        while self._waiting:
            client.log_batch(self._run(), metrics=self._waiting[:_MOST_METRICS])
            del self._waiting[:_MOST_METRICS]

    def log_fitted(
        self,
        estimator: MultiTaskEstimator | Recommender,
        X: Any,
        y: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        reference: Any = None,
        plots: bool = True,
    ) -> None:
        """Log the facts of a finished training, and end the run if the callback has made it.

        Epochs that could not be logged yet; the parameters of fit; the tasks and features (``schema.json``, and the
        names of the tasks as a tag); the data sets; scores of the kept weights on the validation rows as
        ``final/<task>/<metric>`` and with their intervals (``scores.json``); the gain over a reference
        (``gain/<task>``, ``gain.txt``); and the plots that there are of an estimator of this kind (``plots/``). Errors
        of MLflow are raised here, where they cost no training.

        Parameters
        ----------
        estimator : fitted estimator of the package
        X, y : as in fit
            The training rows; of a recommender, its click log alone. A LazyFrame is shown by its first 10 000 rows.
        X_val, y_val : as in fit, optional
            Rows that fit did not learn from; of a recommender, a later click log as X_val alone. Without them there are
            no final scores.
        reference : fitted estimator or mapping of task to score, optional
            Model to compare multi-task learning with, such as `IndependentTasks`, on the same validation rows.
        plots : bool, default=True

        Raises
        ------
        ValueError
            If X_val comes without y_val or the other way round, or a reference without both; or if a recommender gets
            more than X_val.
        """
        check_is_fitted(estimator)
        _check_validation(estimator, X_val, y_val, reference)
        self.flush()
        self._log_estimator(estimator)
        self._log_data(estimator, X, y, "training")
        if X_val is not None:
            self._log_data(estimator, X_val, y_val, "validation")
            scores = self._log_final(estimator, X_val, y_val)
            if reference is not None:
                known = reference if isinstance(reference, Mapping) else reference.score_tasks(X_val, y_val)
                against = "reference" if isinstance(reference, Mapping) else type(reference).__name__
                names, tasks = (type(estimator).__name__, against), getattr(estimator, "tasks_", ())
                self.log_gain(multitask_gain(scores, known), names=names, tasks=tasks, plots=plots)
        if plots:
            self._log_plots(_displays(estimator))
        if self._made_run:
            mlflow.MlflowClient().set_terminated(self._run())

    def log_scores(self, scores: Mapping[str, float | None]) -> None:
        """Log scores of no epoch, named as those of epochs are; undefined ones are left out."""
        self._log_metrics({metric_name(key): value for key, value in scores.items()})

    def log_gain(
        self, gain: MultitaskGain, *, names: tuple[str, str], tasks: Sequence[Task] = (), plots: bool = True
    ) -> None:
        """Log a gain over a reference (``gain/<task>``, ``gain.txt``) and its plot, as `log_fitted` does.

        Call it where the rows that compare both are not the validation rows of `log_fitted`, such as test rows.

        Parameters
        ----------
        gain : MultitaskGain
        names : tuple of str
            Names of the estimator and of the reference in the plot.
        tasks : sequence of Task, default=()
            Tasks of the estimator, whose metrics the plot names.
        plots : bool, default=True
        """
        per_task = gain.table["task", "gain_percent"].iter_rows()
        self._log_metrics({_fit_name(f"gain/{_escape(task)}"): per_cent for task, per_cent in per_task})
        if gain.n_defined:
            self._log_metrics({"gain_delta_m": gain.delta_m})
        mlflow.MlflowClient().log_text(self._run(), str(gain), "gain.txt")
        if plots:
            self._log_plots(_gain_display(gain, names, tasks))

    def _run(self) -> str:
        if self.run_id is None:
            active: Any = mlflow.active_run()
            self._made_run = active is None
            if active is None:  # mlflow.start_run would leave its run active for later logs
                experiment: Any = _get_experiment_id()
                active = mlflow.MlflowClient().create_run(experiment, tags=resolve_tags())
            self.run_id = active.info.run_id
        return self.run_id

    def _log_metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in values.items() if value is not None]
        self.flush()

    def _log_estimator(self, estimator: MultiTaskEstimator | Recommender) -> None:
        client, run = mlflow.MlflowClient(), self._run()
        values = {"class": type(estimator), **unfitted(estimator).get_params()}
        values.pop("on_epoch", None)
        params = [Param(_fit_name(_escape(name)), _text_of(value)) for name, value in values.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            client.log_batch(run, params=params[start : start + _MOST_PARAMS])
        schema = schema_of(estimator)
        client.set_tag(run, "tabmtl.estimators.base", schema["estimator"])
        if "tasks" in schema:
            client.set_tag(run, "tabmtl.tasks", json.dumps([task["name"] for task in schema["tasks"]]))
        client.log_dict(run, schema, "schema.json")

    def _log_data(self, estimator: MultiTaskEstimator | Recommender, X: Any, y: Any, context: str) -> None:
        frame, targets = rows_of(estimator, X, y)
        data = from_polars(frame, targets=targets[0] if len(targets) == 1 else None)
        tags = [InputTag("mlflow.data.context", context)]
        if targets:
            tags.append(InputTag("targets", json.dumps(targets)[:_LONGEST_TAG]))
        entity = Dataset(**data.to_dict())
        mlflow.MlflowClient().log_inputs(self._run(), datasets=[DatasetInput(entity, tags)])

    def _log_final(self, estimator: MultiTaskEstimator | Recommender, X: Any, y: Any) -> dict[str, float | None]:
        """Log final scores, and return those of the tasks."""
        if isinstance(estimator, Recommender):
            table, scores = estimator.evaluate(X), {}
            values = table.row(0, named=True)
            final = {f"final/{name}": value for name, value in values.items() if name not in ("bucket", "n_targets")}
        else:
            table = estimator.score_intervals(X, y)
            watched = table.unique("task", keep="first", maintain_order=True)
            scores = dict(watched.select("task", "score").iter_rows())
            final = {
                f"final/{task}/{metric}": score for task, metric, score in table["task", "metric", "score"].iter_rows()
            }
            final["final/score"] = watched["score"].mean()
        self.log_scores(final)
        mlflow.MlflowClient().log_table(self._run(), table.to_dict(as_series=False), "scores.json")
        return scores

    def _log_plots(self, displays: Iterable[tuple[str, Display]]) -> None:
        try:
            for name, display in displays:
                mlflow.MlflowClient().log_figure(self._run(), display.figure_, f"plots/{name}.png")
                display.close()
        except ImportError as error:
            warn_user(f"the plots are not logged: {error}")


@contextmanager
def as_warning(what: str) -> Iterator[None]:
    """Turn an error of a store into a warning that names the loss, and go on."""
    try:
        yield
    except Exception as error:  # any error of a database, a driver or a server
        warn_user(f"{what}: MLflow says {error}")


def _check_validation(estimator: MultiTaskEstimator | Recommender, X_val: Any, y_val: Any, reference: Any) -> None:
    if isinstance(estimator, Recommender):
        if y_val is not None or reference is not None:
            raise ValueError("a recommender is scored on a later click log, X_val; leave y_val and reference out")
    elif (X_val is None) != (y_val is None):
        given, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
        raise ValueError(f"validation rows are X_val and y_val, got {given} alone; give {missing} too, or neither")
    elif reference is not None and X_val is None:
        raise ValueError("a reference is compared on validation rows; give X_val and y_val too")


def metric_name(key: str) -> str:
    """Return a key of a record as a name that MLflow allows: ``<part>/<task>/<metric>``, one name per key.

    MLflow takes letters and digits of any script, spaces and ``_-.``; other characters in the name of a task become
    their code, such as ``:3d:`` for ``=``.

    Examples
    --------
    >>> metric_name("val/late > 15/roc_auc"), metric_name("val/a/b/r2"), metric_name("val/recall@20")
    ('val/late :3e: 15/roc_auc', 'val/a:2f:b/r2', 'val/recall_at_20')
    """
    part, *task, metric = key.split("/")
    middle = [_escape("/".join(task))] if task else []
    return _fit_name("/".join([part, *middle, metric.replace("@", "_at_")]))


def _escape(name: str) -> str:
    pattern = r"[^\w \-]" if set(name) <= {"."} else r"[^\w. \-]"  # dots alone would be a path
    return re.sub(pattern, lambda found: f":{ord(found[0]):x}:", name) or "::"


def _fit_name(name: str) -> str:
    """Shorten a name to MLflow's limit, and keep names different."""
    if len(name) <= _LONGEST_NAME:
        return name
    checksum = sha256(name.encode()).hexdigest()[:16]
    return f"{name[: _LONGEST_NAME - len(checksum) - 1]}:{checksum}"


def _text_of(value: Any) -> str:
    """Return a parameter as text; of an estimator or a function, its name."""
    if isinstance(value, Mapping) and any(hasattr(item, "get_params") for item in value.values()):
        return ", ".join(f"{name}: {_text_of(item)}" for name, item in value.items())
    if hasattr(value, "get_params") or callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return str(value)


def _displays(estimator: Any) -> Iterator[tuple[str, Display]]:
    """Yield the plots for an estimator of this kind."""
    tasks = [task.name for task in getattr(estimator, "tasks_", ())]
    if tasks and hasattr(estimator, "history_"):
        yield "history", HistoryDisplay.from_estimator(estimator, tasks=tasks[:_MOST_LINES])
    if hasattr(estimator, "expert_utilisation_"):
        yield "experts", ExpertUsageDisplay.from_estimator(estimator)
    if hasattr(estimator, "leaderboard_"):
        yield "leaderboard", LeaderboardDisplay.from_estimator(estimator, tasks=tasks[:_MOST_LINES])


def _gain_display(gain: MultitaskGain, names: tuple[str, str], tasks: Sequence[Task]) -> Iterator[tuple[str, Display]]:
    """Yield the plot of a gain, which is drawn where matplotlib is installed."""
    yield "gain", GainDisplay.from_gain(gain, names=names, tasks=tasks)
