"""The page of `benchmarks.evidence`: its tables, its plot and its goals, made from the records."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from benchmarks.harness import Record
from benchmarks.sharing import paired
from tabmtl.plots.display import COLORS, MARKED

LIGHTGBM, BAG, CATBOOST, ENSEMBLE = "LightGBM tuned", "LightGBM tuned, bag", "CatBoost", "MultiTaskEnsemble"
#: Models of one task each.
SINGLE = (LIGHTGBM, BAG, CATBOOST)
#: Labels at which a gain is expected, and how much is enough.
FEW_LABELS, ENOUGH = 500, {"AUC": 0.03, "R²": 0.05}
#: Test RMSE on rf1 that is good enough, and those that were published.
RF1_GOAL = 0.95
PUBLISHED = {
    "CatBoost, multi-output (published)": 0.8975,
    "SketchBoost, random projection (published)": 0.9056,
    "XGBoost per target (published)": 0.925,
    "SketchBoost, full vector leaves (published)": 1.169,
    "TabNet (published)": 3.79,
}
FIGURE, PAGE = "labels.png", "README.md"
MARKS = "<!-- evidence -->", "<!-- /evidence -->"

ONE_DRAW = "(one draw)"
SUMMARY = (
    "Targets on which `MultiTaskEnsemble` is ahead of, or behind, the best of three single-task models by two errors:"
)
INTRODUCTION = """# When learning together pays

Made by `python -m benchmarks.evidence --report` from the records beside this page. `python -m benchmarks.evidence`
makes the records, and `--help` says what the parts are. All models have their defaults. A difference is that of
`MultiTaskEnsemble` to the single-task model with the best mean (of tuned LightGBM, its bag of five, and CatBoost;
chosen in hindsight, to the disadvantage of the ensemble), paired over the draws, with its standard error. It is bold
beyond two errors; one draw has no error. Means and differences are over the draws that all shown models have. Draws
share rows, and are few, so errors are rough.
"""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The ensemble beside other models in one setting, over the same draws.

    Parameters
    ----------
    facts : dict
        Set, and perhaps task, amount and metric.
    means : dict of str to float
        Mean score of every model.
    rival : str or None
        The best of the single-task models.
    n_draws : int
        Draws that all of these models have.
    gain, error : float or None
        Mean paired difference, positive if the ensemble is better, and its standard error, None of one draw.
    """

    facts: dict[str, Any]
    means: dict[str, float]
    rival: str | None
    n_draws: int
    gain: float | None
    error: float | None

    @property
    def is_ahead(self) -> bool:
        """Whether the ensemble is better by more than two errors."""
        return self.gain is not None and self.error is not None and self.gain > 2 * self.error

    @property
    def is_behind(self) -> bool:
        """Whether the ensemble is worse by more than two errors."""
        return self.gain is not None and self.error is not None and self.gain < -2 * self.error

    @property
    def difference(self) -> str:
        """The gain with its error, bold beyond two errors."""
        if self.gain is None:
            return ""
        gain = f"{self.gain:+.4f}"
        if self.error is None:
            return gain
        return f"{f'**{gain}**' if self.is_ahead or self.is_behind else gain} ± {self.error:.4f}"


def flatten(records: Iterable[Record]) -> pl.DataFrame:
    """Return a row per record, metric and task."""
    rows = [
        {**{name: value for name, value in record.items() if name != "scores"}, "metric": m, "task": t, "score": s}
        for record in records
        for m, scores in record["scores"].items()
        for t, s in scores.items()
    ]
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides={"amount": pl.Int64, "target": pl.String})


def compare(
    frame: pl.DataFrame, keys: Sequence[str], rivals: Sequence[str] = SINGLE, *, is_error: bool = False
) -> list[Comparison]:
    """Compare the models by their means over the tasks and common draws, in every setting that the keys tell apart."""
    found = []
    means = frame.group_by(*keys, "model", "seed", maintain_order=True).agg(pl.col("score").mean())
    for values, drawn in means.group_by(*keys, maintain_order=True):
        own = drawn.filter(pl.col("model").n_unique().over("seed") == drawn["model"].n_unique())
        if own.is_empty():  # they have no draw in common
            own = drawn
        scores = dict(own.group_by("model", maintain_order=True).agg(pl.col("score").mean()).iter_rows())
        known = [name for name in rivals if name in scores]
        rival = (min if is_error else max)(known, key=scores.__getitem__) if known else None
        gain, error = None, None
        if rival is not None and ENSEMBLE in scores:
            gain, error = paired(own, ENSEMBLE, rival) or (scores[ENSEMBLE] - scores[rival], None)
        found.append(
            Comparison(
                facts=dict(zip(keys, values, strict=True)),
                means=scores,
                rival=rival,
                n_draws=own["seed"].n_unique(),
                gain=-gain if is_error and gain is not None else gain,
                error=error,
            )
        )
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table; missing cells stay empty."""
    if not rows:
        return "Not run yet.\n"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")) for name in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [columns, ["---"] * len(columns), *cells])


def score_table(comparisons: Iterable[Comparison], amount: str = "") -> str:
    """Return the means of all models, with the difference of the ensemble to its rival."""
    rows = []
    for each in comparisons:
        facts: dict[str, Any] = {amount if name == "amount" else name: value for name, value in each.facts.items()}
        if amount:
            facts[amount] = "all" if facts[amount] is None else facts[amount]
        scores = {name: f"{value:.4f}" for name, value in each.means.items()}
        rows.append(
            facts
            | {"draws": each.n_draws}
            | scores
            | {"best single-task model": each.rival or "", "difference": each.difference}
        )
    return table(rows)


def labels_of(frame: pl.DataFrame) -> list[Comparison]:
    """Compare the models on every scarce target, at every number of labels."""
    keys = ("set", "task", "metric", "amount")
    curve = frame.filter(part="labels").sort("set", "task", "amount", nulls_last=True, maintain_order=True)
    return compare(curve, keys)


def summary_table(comparisons: Sequence[Comparison]) -> str:
    """Return, for every number of labels, how often the ensemble is ahead, and its mean gain."""
    rows = []
    for amount in dict.fromkeys(each.facts["amount"] for each in comparisons):
        own = [each for each in comparisons if each.facts["amount"] == amount and each.gain is not None]
        if not own:
            continue
        row: dict[str, Any] = {"labels": "all" if amount is None else amount, "targets": len(own)}
        if any(each.error is not None for each in own):
            row |= {"ahead": sum(each.is_ahead for each in own), "behind": sum(each.is_behind for each in own)}
        else:
            row |= {"ahead": ONE_DRAW, "behind": ONE_DRAW}
        for metric in ENOUGH:
            gains = [each.gain for each in own if each.facts["metric"] == metric and each.gain is not None]
            row[f"mean difference, {metric}"] = f"{fmean(gains):+.3f}" if gains else ""
        rows.append(row)
    return table(sorted(rows, key=lambda row: math.inf if row["labels"] == "all" else row["labels"]))


def cost_table(frame: pl.DataFrame) -> str:
    """Return CPU seconds of a fit and milliseconds of answers at full labels, by set and model."""
    full = frame.filter(part="full").unique(["set", "model", "seed"], maintain_order=True)
    times = full.group_by("set", "model", maintain_order=True).agg(pl.col("seconds", "ms_of_1", "ms_of_1000").mean())
    rows: dict[str, dict[str, Any]] = {}
    for name, model, seconds, one, many in times.iter_rows():
        rows.setdefault(name, {"set": name})[model] = f"{seconds:.1f} s, {one:.1f} ms, {many:.0f} ms"
    return table(list(rows.values()))


def rf1_table(frame: pl.DataFrame) -> str:
    """Return the test RMSE of the models on rf1 beside the published ones, best first."""
    own = frame.filter(part="rf1").group_by("model", maintain_order=True).agg(pl.col("score").mean(), pl.len())
    found = {f"{model} ({n} fold{'s' if n > 1 else ''})": score for model, score, n in own.iter_rows()} | PUBLISHED
    return table([{"model": name, "test RMSE": f"{found[name]:.4f}"} for name in sorted(found, key=found.__getitem__)])


def goals_of(frame: pl.DataFrame, labels: Sequence[Comparison]) -> str:
    """Return what the ensemble is meant to reach, and what it reaches."""
    few = [c for c in labels if c.gain is not None and c.facts["amount"] is not None]
    few = [c for c in few if c.facts["amount"] <= FEW_LABELS]
    with_error = [c for c in few if c.error is not None]
    enough = sum(c.gain is not None and c.gain >= ENOUGH[c.facts["metric"]] for c in few)
    full = [c for c in compare(frame.filter(part="full"), ("set",), (LIGHTGBM,)) if c.gain is not None]
    rf1 = frame.filter(part="rf1", model=ENSEMBLE)["score"].to_list()
    margin = " or ".join(f"{least} {metric}" for metric, least in ENOUGH.items())
    rows = [
        {"goal": f"at most {FEW_LABELS} labels: ahead by {margin} on half of the cases", "found": _share(enough, few)},
        {
            "goal": f"at most {FEW_LABELS} labels: nowhere behind by two errors",
            "found": _named(with_error, "is_behind"),
        },
        {"goal": "full labels: nowhere behind tuned LightGBM by two errors", "found": _named(full, "is_behind")},
        {"goal": "full labels: ahead of it by two errors on 3 sets", "found": _named(full, "is_ahead")},
        {"goal": f"rf1: RMSE of at most {RF1_GOAL}", "found": f"{fmean(rf1):.4f}" if rf1 else "not run"},
    ]
    return table(rows)


def _share(n: int, comparisons: Sequence[Comparison]) -> str:
    return f"{n} of {len(comparisons)}"


def _named(comparisons: Sequence[Comparison], attribute: str) -> str:
    """Count the comparisons that are ahead or behind, and name them."""
    chosen = [" ".join(str(value) for value in c.facts.values()) for c in comparisons if getattr(c, attribute)]
    return _share(len(chosen), comparisons) + (f": {'; '.join(chosen)}" if chosen else "")


def draw_labels(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the scores of all models against the labels, a panel for every target."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((c.facts["set"], c.facts["task"], c.facts["metric"]) for c in comparisons))
    amounts = sorted({c.facts["amount"] for c in comparisons}, key=lambda n: math.inf if n is None else n)
    models = list(dict.fromkeys(name for c in comparisons for name in c.means))
    colors = dict(zip([m for m in models if m != ENSEMBLE], cycle(COLORS), strict=False)) | {ENSEMBLE: MARKED}
    n_columns = min(4, len(panels))
    n_rows = math.ceil(len(panels) / n_columns)
    figure = Figure(figsize=(3.4 * n_columns, 0.8 + 2.3 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax, (name, task, metric) in zip(axes, panels, strict=False):
        own = [c for c in comparisons if (c.facts["set"], c.facts["task"]) == (name, task)]
        for model in models:
            points = [(amounts.index(c.facts["amount"]), c.means[model]) for c in own if model in c.means]
            look = {"linestyle": "--" if model in SINGLE else "-", "color": colors[model]}
            ax.plot(*zip(*points, strict=True), marker=".", label=model, lw=2.5 if model == ENSEMBLE else 1.2, **look)
        ax.set_title(f"{name}: {task[:24]} ({metric})", fontsize=9)
        ax.set_xticks(range(len(amounts)), ["all" if n is None else str(n) for n in amounts], fontsize=8)
        ax.tick_params(axis="y", labelsize=8)
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.supxlabel("labels of the target (all labels of the others)", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=100)


def write(records: Sequence[Record], folder: Path, progress: tuple[int, int], rows: str) -> None:
    """Write the page and the plot into the folder of the records, and a summary into the README of the checkout.

    The summary comes between the `MARKS`, if the README has them. Both say how many of the planned fits are there, as
    ``progress`` tells, and how many rows they see, as ``rows`` does.
    """
    if not records:
        raise SystemExit(f"{folder} has no records: run python -m benchmarks.evidence first")
    frame = flatten(records)
    labels = labels_of(frame)
    draw_labels(labels, folder / FIGURE)
    plot = f"![Score of a target against its number of labels]({{}}{FIGURE})\n"
    summary = summary_table(labels)
    parts = {
        "In short": f"{SUMMARY}\n\n{summary}",
        "Goals": goals_of(frame, labels),
        "Few labels of one target, all of the others": f"{plot.format('')}\n{score_table(labels, 'labels')}",
        "All labels: mean over the targets": score_table(compare(frame.filter(part="full"), ("set",))),
        "Labels missing at random: mean over the targets": score_table(
            compare(frame.filter(part="missing"), ("set", "amount")), "percent hidden"
        ),
        "Mulan: relative root squared error, lower is better": score_table(
            compare(frame.filter(part="mulan"), ("set",), is_error=True)
        ),
        "rf1 by its published protocol": rf1_table(frame),
        "Cost: fit, answers to one row, and to 1000 rows (CPU time)": cost_table(frame),
    }
    n_done, n_planned = progress
    so_far = f"\nNot complete: {n_done} of {n_planned} fits have run so far.\n" if n_done < n_planned else ""
    page = INTRODUCTION + f"\n{rows}\n" + so_far + "".join(f"\n## {title}\n\n{text}" for title, text in parts.items())
    (folder / PAGE).write_text(page, encoding="utf-8")
    readme = folder.parents[1] / "README.md"
    if readme.is_file():
        shown = plot.format(f"{folder.parent.name}/{folder.name}/")
        text = "\n".join([MARKS[0], so_far + "\n" + shown, f"{rows} {SUMMARY}", "", summary, MARKS[1]])
        before = readme.read_text(encoding="utf-8")
        readme.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: text, before, flags=re.S), encoding="utf-8")
