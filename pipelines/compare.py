"""Compare models on a table: ``tabmtl compare``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

import tabmtl
from tabmtl.base.lazy import exported
from tabmtl.base.params import check_at_least, check_positive
from tabmtl.pipelines.data import ClickColumns, DataSource, TableRows, open_rows
from tabmtl.pipelines.model_choice import ModelChoice, make, recommends
from tabmtl.pipelines.terminal import INTERRUPTED, near, tell, verbosity
from tabmtl.pipelines.tracking import check_writable

_TUNED = "tune=all"


@dataclass(frozen=True, kw_only=True)
class ModelList:
    """The models to compare, by name.

    Parameters
    ----------
    model : list of str
        Estimator of tabmtl, such as RMTGB; may be repeated. The first is the reference. Default: several, by the number
        of rows, the first being IndependentTasks, which learns each task alone by LightGBM, a forest and curves. Its
        LightGBM is tuned here (tune=all: of many labels, all tasks get the best of four configurations by mean score),
        unless --set says otherwise.
    set : list of str
        MODEL.NAME=VALUE: a parameter of one of them, such as MMoE.epochs=5; may be repeated.
    seed : int
        Random seed of the models.
    seeds : int, optional
        Number of fits of every model, by seeds from --seed up: intervals then hold the spread over seeds. Default: one,
        and three of the first two and the reference where the rows tell them apart.
    """

    model: list[str] = field(default_factory=list)
    set: list[str] = field(default_factory=list)
    seed: int = 0
    seeds: int | None = None

    def choices(self) -> dict[str, ModelChoice]:
        """Return the choice of every model, with its own settings.

        Raises
        ------
        ValueError
            If a model is named twice, is none of tables, or cannot take its settings; or a setting names none of them.
        """
        own: dict[str, list[str]] = {name: [] for name in self.model}
        if len(own) < len(self.model):
            raise ValueError("--model names a model twice; compare two settings of one model in Python")
        for text in self.set:
            name, dot, setting = text.partition(".")
            if not dot or name not in own:
                named = near(name, self.model) if self.model else "name the models by --model"
                raise ValueError(f"--set takes MODEL.NAME=VALUE with one of the models, got {text!r}: {named}")
            own[name].append(setting)
        for name, settings in own.items():
            is_said = any(setting.startswith(("tune=", "early_stopping=")) for setting in settings)
            if name.startswith("IndependentTasks") and not is_said:  # a reference that is not tuned is too easy to beat
                settings.append(_TUNED)
        found = {name: ModelChoice(model=name, set=settings, seed=self.seed) for name, settings in own.items()}
        for name, choice in found.items():
            if recommends(name):
                raise ValueError(f"--model {name} recommends items to sessions; compare takes models of tables")
            if choice.params:
                make(exported(name), choice, {})  # reports a wrong parameter before the rows are read
        return found


def compare(
    source: DataSource,
    models: ModelList = ModelList(),
    *,
    time_limit: float | None = None,
    margin: float = 0.01,
    report: Path | None = None,
) -> int:
    """Fit several models on the same rows of a table, and judge them by test rows.

    It does not take click logs: fit recommenders by tabmtl train.
    A verdict comes first, then scores and paired differences to the first model with their intervals, and the command
    that trains the model that is ahead. A model that fails is a line with its error; Ctrl-C keeps the models that are
    done. Validation rows of a file are rows to fit, from which every model sets some aside by itself. Where a column or
    the set gives the split, models stop by them, but those that choose by folds of their own learn them.

    Parameters
    ----------
    source : DataSource
        Source of the rows.
    models : ModelList
        The models.
    time_limit : float, optional
        Minutes for all models together: one that would end later is left out, and named. The first is always fitted,
        and MultiTaskEnsemble gets the time that is left. Fits by further seeds need time that it leaves; without it,
        the verdict says so.
    margin : float
        In units of the mean score: a model is called level with the one to train if the interval of its difference lies
        above minus this margin, and no single task is clearly behind.
    report : Path, optional
        Write one HTML page with tables and plots to this file.

    Returns
    -------
    int
        Exit code: 0, 1 if every model failed, 130 after Ctrl-C.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option does not fit; raised before any training.
    """
    if report is not None:
        _check_report(report)
    if time_limit is not None:
        check_positive("--time-limit", time_limit)
    check_at_least("--margin", margin, 0)
    choices = models.choices()
    rows = open_rows(source, ClickColumns(), "IndependentTasks")
    assert isinstance(rows, TableRows)
    if "test" not in rows.parts:
        cure = "the value test in --split-column" if source.split_column else "a --test-share above 0"
        raise ValueError(f"compare judges by test rows, and {rows.name} has none: give {cure}")
    rows.check_features()
    tried = {name: make(exported(name), choice, rows.facts) for name, choice in choices.items()}
    tried = tried or tabmtl.default_models(len(rows.parts["train"][0]))
    fit, how = _rows_to_fit(rows, source)
    within = "" if time_limit is None else f" within {time_limit:g} min"
    tell(f"{rows.name}: {', '.join(tried)}{within}; Ctrl-C keeps those that are done.")
    X, y = rows.parts["test"]
    limit = None if time_limit is None else 60 * time_limit
    params = rows.facts | {"random_state": models.seed, "seeds": models.seeds, "verbose": verbosity.get()}
    found = tabmtl.compare(tried, **fit, X_test=X, y_test=y, time_limit=limit, margin=margin, **params)
    found = replace(found, how=how, source=Path(source.data).name)
    print(f"\n{found}\n" if verbosity.get() else f"{found}\n")
    if report is not None:
        found.report(report)
        tell(f"Written to {report}: open it in a browser.")
    if found.best is not None and found.leader is not None:
        command = _train_command(found, found.leader, tried, rows, source, models)
        print(f"{why_chosen(found)}, to train and save:  {command}")
    return INTERRUPTED if found.is_interrupted else int(found.best is None)


def why_chosen(found: tabmtl.Comparison) -> str:
    """Say why the leader of a comparison is the model to train."""
    if found.ahead:
        return "The best that is ahead"
    if found.leader != found.reference:
        return "The best mean score"
    nothing = "Nothing is clearly ahead" if len(found.models) > 1 else "No other model was fitted"
    return f"{nothing}, so the reference"


def _check_report(report: Path) -> None:
    """Raise an error before any training if the report cannot be written."""
    from tabmtl.inspection.plots.display import check_matplotlib

    check_matplotlib("--report")
    if report.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report writes HTML: name a file such as {report.with_suffix('.html')}, got {report}")
    if not report.absolute().parent.is_dir():
        raise ValueError(f"--report: there is no folder {report.parent}: make it, or name another")
    check_writable(report.absolute().parent, "--report")


def _rows_to_fit(rows: TableRows, source: DataSource) -> tuple[dict[str, Any], str]:
    """Return the arguments of `tabmtl.compare` for the rows to fit, and where those to test come from."""
    (X, y), (X_val, y_val) = rows.parts["train"], rows.parts["val"]
    groups: Any = tuple(rows.groups[part] for part in ("train", "val", "test")) if rows.groups else None
    if not rows.split.startswith("drawn"):
        return {"X": X, "y": y, "X_val": X_val, "y_val": y_val, "groups": groups}, rows.split
    if source.val_share != DataSource(data=source.data).val_share:
        raise ValueError("--val-share has no effect: every model of a comparison sets rows aside by itself")
    share = f"{100 * source.test_share:g} %"
    how = f"the newest {share} by {source.time_column}" if rows.times else f"{share}, drawn by seed {source.split_seed}"
    how += f", no {source.group_column} on both sides" if source.group_column else ""
    if rows.groups:
        groups = pl.concat([rows.groups["train"], rows.groups["val"]]), rows.groups["test"]
    time = pl.concat([rows.times["train"], rows.times["val"]]) if rows.times else None
    fit = {"X": pl.concat([X, X_val]), "y": pl.concat([y, y_val]), "groups": groups}
    return fit | ({} if time is None else {"time": time}), how


def _train_command(
    found: tabmtl.Comparison,
    name: str,
    tried: Mapping[str, Any],
    rows: TableRows,
    source: DataSource,
    models: ModelList,
) -> str:
    """Return the command that trains a model on these rows."""
    words = [*shlex.split(rows.origin)]
    for option in ("target", "column", "metric", "class-weight", "monotone"):
        words += [word for value in getattr(source, option.replace("-", "_")) for word in (f"--{option}", value)]
    for option in ("tasks", "task-column", "list-separator"):
        value = getattr(source, option.replace("-", "_"))
        words += [f"--{option}", str(value)] if value else []
    words += ["--no-dates"] if source.no_dates else []
    words += ["--model", name]
    own = models.choices().get(name)
    settings = [] if own is None else own.set
    if own is None and isinstance(tried[name], tabmtl.IndependentTasks):  # the one default model with settings
        settings = [_TUNED]
    limit = getattr(found.models.get(name), "time_limit", None)
    if limit is not None and limit != tried[name].time_limit:  # an ensemble that got the time that was left
        settings = [*settings, f"time_limit={max(1, round(limit))}"]
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--seed", str(models.seed)] if models.seed else []
    return f"tabmtl train {shlex.join(words)} --output model"
