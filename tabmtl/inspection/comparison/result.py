"""The result of a comparison: numbers in a frame, fitted models, and their looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from tabmtl.base.schema import counted, listed, text_table
from tabmtl.base.storage.atomic import write_file
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.inspection.comparison import page
from tabmtl.inspection.comparison.figures import draw_figures
from tabmtl.inspection.comparison.judging import FURTHER, STANDINGS
from tabmtl.inspection.plots import ComparisonDisplay
from tabmtl.metrics.scores import by_metric, check_metric, shown_metric
from tabmtl.models.independent import CONFIGURATIONS, IndependentTasks
from tabmtl.targets import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Fits of the models that come first, each by its own seed.
SEEDS = 3

_MOST_ROWS = 60  # in print
_MOST_NAMES = 5  # of tasks or models in a verdict
_FEW_GROUPS = 10  # below, Student's quantile is large and the error itself badly known


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Comparison:
    """Comparison of models that were fitted on the same rows and judged by the same other rows; print it to read it.

    Parameters
    ----------
    frame : polars.DataFrame
        One row per model and task, by the metric that is watched; undefined values are null. The columns are "model",
        "task" and the task's "metric"; "score", higher is better, with "standard_error", "low" and "high" of its 95 %
        interval; "difference" to the reference on the same rows, with "difference_error", "difference_low" and
        "difference_high", and with several seeds "difference_spread", the standard deviation over seeds; "n_labelled",
        the number of rows that count; "fit_seconds" and "predict_ms", the times of all tasks and all rows to test
        together, by the clock; "fit_cpu_seconds", the CPU time of the fit in this process and its children; and
        "error", the reason why a model has no scores. The reference has no difference to itself.
    models : dict of str to estimator
        The fitted models, without those that failed.
    calibration : polars.DataFrame
        Answers beside what came, in at most ten bins of equally many rows per model and task: "model", "task",
        "predicted", "observed", "standard_error" and "n". The answer of a binary task is the probability of the second
        class; with more classes, the probability of the most probable class; of a regression, the value.
    overall : polars.DataFrame
        One row per model except the reference: "model", and "mean_difference" to the reference over the tasks whose
        difference has an interval, with "mean_difference_error", "mean_difference_low", "mean_difference_high" and
        "mean_difference_spread" as in ``frame``.
    tasks : tuple of Task
    reference : str
        Name of the reference, the model that others are compared with.
    n_fit, n_val, n_test : int
        Numbers of rows to fit, to stop by and to test. Models that choose by folds of their own learn those to stop by.
    how : str
        Where the rows to test come from.
    is_interrupted : bool
        Whether Ctrl-C has left models out.
    seeds : int
        Number of fits of every model.
    refitted : tuple of str
        Models that were fitted by three seeds because they come first; empty if none was.
    unseeded : str
        Why the models that come first were not fitted by further seeds, although the rows tell them apart; else empty.
    margin : float
        Difference in the mean score up to which a model counts as level.
    source : str
        File or set that the rows come from, for the title of the page.
    standings : polars.DataFrame
        One row per model except the `leader`: "model"; "mean_difference" to the leader, with its joint interval from
        "mean_difference_low" to "mean_difference_high"; "behind_on", the tasks on which it is clearly behind, null for
        none; and "standing": "level", "behind" or "not told apart".
    constant : dict of str to float
        Scores of the best constant answers of the rows to fit, by task.
    n_groups : int or None
        Number of groups of the rows to test; None if no groups are given.
    further : polars.DataFrame
        One row per model, task and further metric of a task that has several: the columns of ``frame`` from "model" to
        "high", and "n_labelled". No verdict looks at them.

    Notes
    -----
    Intervals are over draws of the rows to test, or of their groups if these are given; see `tabmtl.metrics.intervals`.
    Intervals of differences are wide enough to hold together. If all models were equal, about one of twenty comparisons
    would have a mean difference whose interval leaves 0 out, and about one of twenty such an interval of a single task.
    With several seeds, intervals hold the spread over seeds too. Two or three seeds say little of this spread, so the
    intervals are rather too wide than too narrow. Where only the models that come first have several seeds, the single
    fit of another model stands beside each fit of the reference. The best of several models scores somewhat better
    here than on new rows, because these rows have chosen it.
    """

    frame: pl.DataFrame
    models: Mapping[str, MultiTaskEstimator]
    calibration: pl.DataFrame
    overall: pl.DataFrame
    tasks: tuple[Task, ...]
    reference: str
    n_fit: int
    n_test: int
    how: str
    is_interrupted: bool = False
    seeds: int = 1
    n_groups: int | None = None
    n_val: int = 0
    refitted: tuple[str, ...] = ()
    unseeded: str = ""
    margin: float = 0.01
    source: str = ""
    standings: pl.DataFrame = field(default_factory=partial(pl.DataFrame, schema=STANDINGS))
    constant: Mapping[str, float] = field(default_factory=dict)
    further: pl.DataFrame = field(default_factory=partial(pl.DataFrame, schema=FURTHER))

    @cached_property
    def summary(self) -> pl.DataFrame:
        """One row per model, the best mean score first.

        Columns are "model"; "mean_score", the mean over the tasks where it is defined; the columns of `overall`;
        "ahead" and "behind", the numbers of tasks whose difference to the reference has an interval above or below 0,
        joint over all models and tasks;
        "fit_seconds", "fit_cpu_seconds", "predict_ms" and "error".
        """
        by_model = self.frame.group_by("model", maintain_order=True).agg(
            mean_score=pl.col("score").mean(),
            ahead=(pl.col("difference_low") > 0).sum(),
            behind=(pl.col("difference_high") < 0).sum(),
            **{name: pl.col(name).first() for name in ("fit_seconds", "fit_cpu_seconds", "predict_ms", "error")},
        )
        joined = by_model.join(self.overall, on="model", how="left", maintain_order="left")
        columns = joined.select("model", "mean_score", "^mean_difference.*$", pl.all().exclude("^mean_.*$", "model"))
        return columns.sort("mean_score", descending=True, nulls_last=True, maintain_order=True)

    @property
    def best(self) -> str | None:
        """Name of the model with the best mean score; None if none has one."""
        first = self.summary.row(0, named=True)
        return None if first["mean_score"] is None else first["model"]

    @property
    def ahead(self) -> list[str]:
        """Models that are ahead of the reference on average: their mean difference has a joint interval above 0.

        Those with the best mean score come first. If some models were fitted by several seeds, others are not among
        them.
        """
        found = self.summary.filter(pl.col("mean_difference_low") > 0)["model"].to_list()
        return [name for name in found if name in self.refitted] if self.refitted else found

    @property
    def leader(self) -> str | None:
        """Model to train: the best that is ahead of the reference, else the reference, or the best if that failed."""
        if self.ahead:
            return self.ahead[0]
        return self.reference if self.reference in self.models else self.best

    @cached_property
    def verdict(self) -> str:
        """Say which models are ahead of the reference, on average and on single tasks, or that no other was fitted.

        It then says which models are level with the one to train, behind it, or not told apart from it, and where a
        score is worse than that of a constant answer.
        """
        compared = self.summary.filter(pl.col("mean_difference").is_not_null())
        if compared.is_empty():
            is_alone = [*self.models] == [self.reference] and self.frame["model"].n_unique() > 1
            alone = f"No other model was fitted, so nothing is compared with {self.reference}." if is_alone else ""
            return " ".join(filter(None, [alone, self._below_constant()]))
        unchecked = compared.filter(pl.col("mean_difference_low") > 0, ~pl.col("model").is_in(self.ahead))
        if not self.ahead:
            average = " on average" if len(self.tasks) > 1 else ""
            seeds = f" over {SEEDS} seeds" if self.refitted else ""
            none = f"no paired 95 % interval{seeds}" + _joint(compared["mean_difference_low"].count())
            said = [f"No model is clearly ahead of {self.reference}{average}: {none} lies above 0."]
            said.append(f"So train {self.reference}, which the others had to beat.")
            shown = compared.filter(pl.col("ahead") > 0, ~pl.col("model").is_in(unchecked["model"].to_list()))
        else:
            said, shown = [], compared.filter(pl.col("model").is_in(self.ahead))
        said += [self._standing(row) for row in shown.iter_rows(named=True)]
        if not unchecked.is_empty():
            named = [f"{row['model']} ({_interval(row)})" for row in unchecked.iter_rows(named=True)]
            why = f"above 0 by one fit, which {SEEDS - 1} further seeds have not checked"
            said.append(f"The difference to {self.reference} lies {why}: {listed(named, _MOST_NAMES)}.")
        said += [self._level(), self._behind(), self._not_told_apart(), self._below_constant()]
        if self.n_groups is not None and self.n_groups < _FEW_GROUPS:
            said.append(f"Only {counted(self.n_groups, 'group')} to test can hardly show anything.")
        return " ".join(filter(None, [*said, self._fits()]))

    def _others(self, standing: str) -> list[dict[str, Any]]:
        """Return the rows of `standings` that have a standing, those with the best mean first."""
        found = self.standings.filter(pl.col("standing") == standing, pl.col("model") != self.reference)
        return found.sort("mean_difference", descending=True, maintain_order=True).rows(named=True)

    def _level(self) -> str:
        """Name the models that may be trained in place of the leader."""
        found = [f"{row['model']} ({_interval(row)})" for row in self._others("level")]
        tasks = ", and no single task is clearly behind" if len(self.tasks) > 1 else ""
        what = f"the interval of the difference lies above minus the margin of {self.margin:g}{tasks}"
        return f"Level with {self.leader}, since {what}: {listed(found, _MOST_NAMES)}." if found else ""

    def _behind(self) -> str:
        """Name the models that are clearly behind the leader, and the tasks."""
        found = []
        for row in self._others("behind"):
            on = listed(row["behind_on"] or [], _MOST_NAMES) if len(self.tasks) > 1 else ""
            found.append(f"{row['model']} ({_interval(row)}{f'; behind on {on}' if on else ''})")
        where = ", on average or on a task" if len(self.tasks) > 1 else ""
        return f"Clearly behind {self.leader}{where}: {listed(found, _MOST_NAMES)}." if found else ""

    def _not_told_apart(self) -> str:
        """Name the models that these rows tell too little of."""
        found = [f"{row['model']} ({_interval(row)})" for row in self._others("not told apart")]
        return f"Not told apart from {self.leader} by these rows: {listed(found, _MOST_NAMES)}." if found else ""

    def _below_constant(self) -> str:
        """Name the scores that are worse than those of constant answers."""
        worse = self.frame.filter(pl.col("score") < pl.col("task").replace_strict(self.constant, default=None))
        found = [
            f"{row['model']} on {row['task']} ({row['metric']} {page.plain(row['score'])} against "
            f"{page.plain(self.constant[row['task']])})"
            for row in worse.iter_rows(named=True)
        ]
        return f"Worse than the best constant answer: {listed(found, _MOST_NAMES)}." if found else ""

    def _fits(self) -> str:
        """Say which seeds the verdict rests on."""
        if self.refitted:
            others = len(self.models) > len(self.refitted)
            said = f"{', '.join(self.refitted)}: means over {SEEDS} seeds"
            return f"{said}; the others by one fit, in which another seed may differ." if others else f"{said}."
        if self.seeds > 1:
            return f"Means over {self.seeds} seeds."
        why = f"; other seeds were not tried: {self.unseeded}" if self.unseeded else ""
        return f"For these fits; another seed may differ{why}."

    def _standing(self, row: Mapping[str, Any]) -> str:
        """Say how a row of the summary compares with the reference."""
        low, high = page.signed(row["mean_difference_low"]), page.signed(row["mean_difference_high"])
        interval = f"{page.signed(row['mean_difference'])}, paired 95 % interval {low} to {high}"
        interval += _joint(self.overall["mean_difference_low"].count())
        if self.has_seeds:
            interval += f", standard deviation over seeds {page.plain(row['mean_difference_spread'])}"
        if len(self.tasks) == 1:
            return f"{row['model']} is ahead of {self.reference}: {interval}."
        own = self.frame.filter(pl.col("model") == row["model"])
        joint = _joint(self.frame["difference_low"].count())
        ahead = listed(own.filter(pl.col("difference_low") > 0)["task"].to_list(), _MOST_NAMES) or "none"
        behind = listed(own.filter(pl.col("difference_high") < 0)["task"].to_list(), _MOST_NAMES) or "none"
        if row["model"] in self.ahead:
            return (
                f"{row['model']} is ahead of {self.reference} on average ({interval}); taken by themselves{joint}, "
                f"ahead on {ahead} and behind on {behind}."
            )
        return f"{row['model']} is ahead on {ahead} and behind on {behind}{joint}, on average {interval}."

    @property
    def has_seeds(self) -> bool:
        """Whether some models were fitted by several seeds."""
        return self.seeds > 1 or bool(self.refitted)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Names of the models as tables show them: of an `IndependentTasks` of LightGBM, with how it was tuned."""
        return {name: f"{name}{_tuning(self.models.get(name))}" for name in self.frame["model"].unique()}

    @cached_property
    def shown_metrics(self) -> dict[tuple[str, str], str]:
        """By task and metric, how tables show the metric: with the positive class, where it depends on this one."""
        judged = (each for task in self.tasks for each in by_metric(task))
        return {(task.name, check_metric(task)): shown_metric(task) for task in judged}

    @property
    def title(self) -> str:
        """Title of the page: the number of fitted models, the targets, and the file or set."""
        of = f" of {self.source}" if self.source else ""
        targets = listed([task.name for task in self.tasks], _MOST_NAMES)
        return f"Comparison of {counted(len(self.models), 'model')}: {targets}{of}"

    @property
    def heading(self) -> str:
        """Sentence that says what was compared."""
        lost = self.frame["model"].n_unique() - len(self.models)
        without = f" ({lost} without scores)" if lost else ""
        counts = f"{counted(len(self.models), 'model')}{without} on {counted(len(self.tasks), 'task')}"
        groups = "" if self.n_groups is None else f" in {counted(self.n_groups, 'group')}"
        stop = f", {self.n_val:,} to stop by" if self.n_val else ""
        said = f"{counts}: {self.n_fit:,} rows to fit{stop} and {self.n_test:,} to test{groups} ({self.how})."
        learners = [name for name, model in self.models.items() if self.n_val and model.__learns_all_rows__]
        return said + (f" Rows to stop by are rows to fit for {listed(learners, _MOST_NAMES)}." if learners else "")

    def plot(
        self,
        *,
        tasks: Sequence[str] | None = None,
        values: Literal["difference", "score"] = "difference",
        ax: Axes | None = None,
    ) -> ComparisonDisplay:
        """Draw differences to the reference, or scores, with their intervals: a panel per task.

        Parameters
        ----------
        tasks, values, ax
            As in :meth:`tabmtl.inspection.plots.ComparisonDisplay.from_comparison`.
        """
        return ComparisonDisplay.from_comparison(self, tasks=tasks, values=values, ax=ax)

    def report(self, path: str | PathLike[str]) -> None:
        """Write one HTML page that opens offline: tables, differences, learning curves, calibration, use of experts.

        Needs matplotlib (extra ``plot``). The page has no scripts and reads no other file.

        Parameters
        ----------
        path : str or path
            File, in place of an older one; it appears when it is complete.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        OSError
            If the file cannot be written.
        """
        write_file(Path(path), page.report(self, draw_figures(self)).encode())

    def _repr_html_(self) -> str:
        """Show tables in a notebook."""
        return page.tables(self)

    def __str__(self) -> str:
        """Lay the summary and the scores of every task out in plain text."""
        errors = self.summary.drop_nulls("error")
        lines = [self.heading, *([self.verdict] if self.verdict else [])]
        lines += [f"Differences are to {self.labels[self.reference]} on the same rows.", "", _text(self._totals())]
        lines += [f"{row['model']}: {row['error']}" for row in errors.iter_rows(named=True)]
        details = self._details()
        if len(self.tasks) > 1 and details.height <= _MOST_ROWS:
            lines += ["", _text(details)]
        elif len(self.tasks) > 1:
            lines += ["", f"The attribute frame has the {details.height} scores of all tasks."]
        if 0 < self.further.height <= _MOST_ROWS:
            names = {"standard_error": "±"}
            numbers = map(_number, ("score", "standard_error", "low", "high"))
            further = self.further.sort("task", "metric", maintain_order=True)
            shown = further.select("task", self._metric(), self._label(), *numbers).rename(names)
            lines += ["", "By further metrics, which no verdict looks at:", "", _text(shown)]
        return "\n".join(lines)

    __repr__ = __str__

    def _totals(self) -> pl.DataFrame:
        """Return the summary as text; of one task with its intervals."""
        scored = self.summary.filter(pl.col("error").is_null())
        shown = {"fit_seconds": "fit s", "fit_cpu_seconds": "CPU s", "predict_ms": "predict ms"}
        times = [pl.col(name).map_elements("{:.1f}".format, pl.String).alias(own) for name, own in shown.items()]
        if len(self.tasks) == 1:
            own = scored.select(self._label(), *times)
            return self._details().drop("task").join(own, on="model", maintain_order="left")
        names = {"mean_score": "mean score", "mean_difference": "mean difference"}
        names |= {"mean_difference_low": "from", "mean_difference_high": "to"}
        names |= {"mean_difference_spread": "over seeds"} if self.has_seeds else {}
        means = (_number(name).alias(shown) for name, shown in names.items())
        return scored.select(self._label(), *means, "ahead", "behind", *times)

    def _details(self) -> pl.DataFrame:
        """Return the scores of all tasks as text, the models in the order of the summary."""
        order = self.summary.filter(pl.col("error").is_null()).select("model")
        numbers = ["score", "standard_error", "low", "high", "difference", "difference_low", "difference_high"]
        numbers += ["difference_spread"] if self.has_seeds else []
        frame = self.frame.select("task", "metric", "model", *map(_number, numbers)).with_row_index()
        first = pl.col("index").min().over("task")
        frame = order.with_row_index("place").join(frame, on="model").sort(first, "place")
        names = {"standard_error": "±", "difference_low": "from", "difference_high": "to"}
        names |= {"difference_spread": "over seeds"}
        shown = frame.drop("place", "index").select("task", self._metric(), self._label(), *numbers)
        return shown.rename(names, strict=False)

    def _metric(self) -> pl.Expr:
        """Return the column of metrics, as tables show them."""
        pair = pl.struct("task", "metric")
        return pair.map_elements(lambda row: self.shown_metrics[row["task"], row["metric"]], pl.String).alias("metric")

    def _label(self) -> pl.Expr:
        """Return the column of models, as tables show them."""
        return pl.col("model").replace(self.labels)


def _tuning(model: Any) -> str:
    """Say how the models of a fitted reference were tuned, in brackets, if all are LightGBM; nothing of others."""
    if not isinstance(model, IndependentTasks) or model.classifier is not None or model.regressor is not None:
        return ""
    weights = getattr(model, "family_weights_", None)
    if weights is not None and (weights["lightgbm"] < 1).any():
        return ""
    n_tried = len(CONFIGURATIONS if model.tune == "all" else model.tune)
    return f" (best of {n_tried})" if n_tried else " (untuned)"


def _interval(row: Mapping[str, Any]) -> str:
    """Write the mean difference of a row, and its interval."""
    mean, low, high = (page.signed(row[f"mean_difference{end}"]) for end in ("", "_low", "_high"))
    return f"{mean}, {low} to {high}"


def _joint(n: int) -> str:
    """Say how many intervals hold together."""
    return f" (joint over {n} comparisons)" if n > 1 else ""


def _number(name: str) -> pl.Expr:
    """Return a column of numbers as text, a difference with its sign."""
    write = page.signed if "difference" in name else page.plain
    return pl.col(name).map_elements(write, pl.String, skip_nulls=False)


def _text(frame: pl.DataFrame) -> str:
    """Lay a frame out in plain text."""
    return text_table(frame.columns, frame.iter_rows())
