"""The page of `benchmarks.evidence`: its tables, its plot and its goals, made from the records."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
from scipy.stats import t as student

from benchmarks.harness import Record, print_table
from tabmtl.plots.display import COLORS, MARKED

LIGHTGBM, BAG, CATBOOST, ENSEMBLE = "LightGBM tuned", "LightGBM tuned, bag", "CatBoost", "MultiTaskEnsemble"
#: Models of one task each.
SINGLE = (LIGHTGBM, BAG, CATBOOST)
#: Labels at which a gain is expected, and how much is enough.
FEW_LABELS, ENOUGH = 500, {"AUC": 0.03, "R²": 0.05}
#: Share of level models that are called ahead or behind.
LEVEL = 0.05
#: Test RMSE on rf1 that is good enough, and those that were published: means of five folds, and "±" where it is known.
RF1_GOAL = 0.95
PUBLISHED = {
    "CatBoost, multi-output (published)": (0.8975, "0.038"),
    "SketchBoost, random projection (published)": (0.9056, "0.058"),
    "XGBoost per target (published)": (0.925, "0.031"),
    "SketchBoost, full vector leaves (published)": (1.169, ""),
    "TabNet (published)": (3.79, ""),
}
#: Forecasts of the rivers that learn nothing.
AS_NOW, LINE = "as now", "line between hours"
#: The commit that changed how the ensemble selects, and those that brought records before it.
SELECTION = "c961777"
BEFORE_SELECTION = ("in 3fa232b", "in d2348f5", "in ed4e3f0", "in 138990d", "in 85ce128")
FIGURE, PAGE = "labels.png", "README.md"
MARKS = "<!-- evidence -->", "<!-- /evidence -->"

ONE_DRAW = "(one draw)"
SUMMARY = (
    "Targets on which `MultiTaskEnsemble` is ahead of, or behind, the best of three single-task models beyond chance "
    "(95 % interval by Student's t; three draws: 4.3 errors). Rows of a block average the same targets:"
)
INTRODUCTION = """# When learning together pays

Made by `python -m benchmarks.evidence --report` from the records beside this page. `python -m benchmarks.evidence`
makes the records, and `--help` says what the parts are. All models have their defaults. A difference is that of
`MultiTaskEnsemble` to the single-task model with the best mean (of tuned LightGBM, its bag of five, and CatBoost;
chosen in hindsight, to the disadvantage of the ensemble), paired over the draws, with its standard error. It is bold
where its 95 % interval by Student's t leaves 0 out: 4.3 errors with three draws, 3.2 with four. One draw has no error.
Means and differences are over the draws that all shown models have. Draws share rows, so errors are too small.
"""
RF1_NOTE = """
The published split deals hours at random, so that nearly every hour of the test has its neighbours among the hours to
fit. A line between these, which sees no feature, has the lowest error of all: **this table ranks how well hours are
filled in, not forecasts.** Models of this package ran on one fold of five; published figures are means of five models,
with ± as published. Folds differ much, as the line shows: a peak fell into a gap of the first.
"""
BLOCKS_NOTE = """
The same hours in five blocks of consecutive ones, where a model has to forecast. It learns from at most 3000 hours of
the other blocks, by weeks as groups, none within 108 hours of the tested block. "as now" says that the flow in 48 hours
is that of now; the line has no neighbours here.
"""
CODE_NOTE = """
A commit alone is the newest of the package that a record was made by, with a plus where files differed from it. "in" a
commit: the record came into the repository with it, and is of that code or of older. `{commit}` changed how
`MultiTaskEnsemble` selects (ROC AUC within folds, errors over groups): {n_old} of its {n} records surely precede it,
{few_old} of {few} of those with few labels of a target. All records of tuned LightGBM and its bag precede the rule
that keeps it from very few trees where a class is rare: differences with few labels of a class may be too large.
"""


def paired(records: pl.DataFrame, model: str, reference: str) -> tuple[float, float] | None:
    """Return the mean difference of two models over their common seeds, and its standard error; None below two."""
    ours, theirs = (records.filter(model=each).select("seed", "score") for each in (model, reference))
    difference = ours.join(theirs, on="seed", suffix="_of_reference")
    values = (difference["score"] - difference["score_of_reference"]).to_numpy()
    if len(values) < 2:
        return None
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


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
    def p_value(self) -> float | None:
        """How often level models would differ as much, by Student's t over the draws; None of one draw."""
        if self.gain is None or self.error is None:
            return None
        return float(2 * student.sf(abs(self.gain) / max(self.error, 1e-12), self.n_draws - 1))

    @property
    def is_ahead(self) -> bool:
        """Whether the ensemble is better beyond chance."""
        return self.p_value is not None and self.p_value < LEVEL and (self.gain or 0.0) > 0

    @property
    def is_behind(self) -> bool:
        """Whether the ensemble is worse beyond chance."""
        return self.p_value is not None and self.p_value < LEVEL and (self.gain or 0.0) < 0

    @property
    def difference(self) -> str:
        """The gain with its error, bold beyond chance."""
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


def summary_table(comparisons: Sequence[Comparison], n_blocks: int | None = None) -> str:
    """Return how often the ensemble is ahead, and its mean gain; a block has targets with equal numbers of labels.

    The largest blocks come first; by default all of them are shown.
    """
    amounts: dict[tuple[str, str], list[int | None]] = {}
    for each in comparisons:
        if each.gain is not None:
            amounts.setdefault((each.facts["set"], each.facts["task"]), []).append(each.facts["amount"])
    rows = []
    for block in sorted(set(map(tuple, amounts.values())), key=len, reverse=True)[:n_blocks]:
        targets = [target for target, own in amounts.items() if tuple(own) == block]
        title = f"{len(targets)} of {', '.join(dict.fromkeys(name for name, _ in targets))}"
        for amount in block:
            own = [c for c in comparisons if (c.facts["set"], c.facts["task"]) in targets]
            rows.append(summary_row(title, [c for c in own if c.facts["amount"] == amount]))
    return table(rows)


def summary_row(targets: str, own: Sequence[Comparison]) -> dict[str, Any]:
    """Return how often the ensemble is ahead of its rivals on some targets at one number of labels."""
    amount = own[0].facts["amount"]
    row: dict[str, Any] = {"targets": targets, "labels": "all" if amount is None else amount}
    judged = any(each.error is not None for each in own)
    row["ahead"] = sum(each.is_ahead for each in own) if judged else ONE_DRAW
    row["behind"] = sum(each.is_behind for each in own) if judged else ONE_DRAW
    for metric in ENOUGH:
        gains = [each.gain for each in own if each.facts["metric"] == metric and each.gain is not None]
        row[f"mean difference, {metric}"] = f"{fmean(gains):+.3f} (of {len(gains)})" if gains else ""
    return row


def chance_note(comparisons: Sequence[Comparison]) -> str:
    """Return how many differences are judged, and how many stay beyond chance where all are judged at once, by Holm."""
    judged = [each for each in comparisons if each.p_value is not None]
    values = sorted(each.p_value or 0.0 for each in judged)
    n, beyond = len(values), sum(value < LEVEL for value in values)
    held = next((i for i, value in enumerate(values) if value > LEVEL / (n - i)), n)
    return (
        f"{n} differences of the page have an error, and {beyond} are beyond chance one by one; if all were level, "
        f"about {LEVEL * n:.0f} would be. For all of them at once, by Holm's method, it is {held}: draws are few. "
        f"The ensemble is behind in {_named(judged, 'is_behind')}.\n"
    )


def print_paired(frame: pl.DataFrame, rivals: Mapping[str, Sequence[str]]) -> None:
    """Print a line for each setting and model: mean score, seconds, and paired differences to its rivals.

    A difference has its standard error over the draws, and says so where its 95 % interval by Student's t leaves 0 out.
    Last come the counts of those, and the mean differences by number of labels.
    """
    counts: dict[str, Counter[str]] = {}
    gains: dict[str, dict[Any, list[float]]] = {}
    lines: dict[str, dict[str, str]] = {}
    means = frame.group_by("set", "target", "amount", "model", "seed", maintain_order=True).agg(
        pl.col("score").mean(), pl.col("seconds").first()
    )
    for (name, target, amount, model), own in means.group_by("set", "target", "amount", "model", maintain_order=True):
        same = means.filter(
            pl.col("set") == name, pl.col("target").eq_missing(target), pl.col("amount").eq_missing(amount)
        )
        line = {"score": f"{fmean(own['score']):.4f}", "seconds": f"{fmean(own['seconds']):.1f}"}
        for rival in rivals.get(str(model), ()):
            found = paired(same, str(model), rival)
            if found is not None:
                gain, error, n = *found, same.filter(model=rival)["seed"].n_unique()
                beyond = abs(gain) > student.ppf(1 - LEVEL / 2, n - 1) * error
                verdict = ("ahead" if gain > 0 else "behind") if beyond else "level"
                line[f"to {rival}"] = f"{gain:+.4f} ± {error:.4f} {verdict}"
                counts.setdefault(f"{model} to {rival}", Counter())[verdict] += 1
                gains.setdefault(f"{model} to {rival}", {}).setdefault(amount, []).append(gain)
        lines[" ".join(str(fact) for fact in (name, target or "all labels", amount, model) if fact)] = line
    print_table("test scores, means over the draws", lines)
    for pair, found_counts in counts.items():
        of_amount = ", ".join(f"{fmean(own):+.3f} at {amount or 'the'} labels" for amount, own in gains[pair].items())
        print(f"{pair}: {', '.join(f'{n} {verdict}' for verdict, n in found_counts.items())}; means {of_amount}")


def cost_table(frame: pl.DataFrame) -> str:
    """Return CPU seconds of a fit and milliseconds of answers at full labels, by set and model."""
    full = frame.filter(part="full").unique(["set", "model", "seed"], maintain_order=True)
    times = full.group_by("set", "model", maintain_order=True).agg(pl.col("seconds", "ms_of_1", "ms_of_1000").mean())
    rows: dict[str, dict[str, Any]] = {}
    for name, model, seconds, one, many in times.iter_rows():
        rows.setdefault(name, {"set": name})[model] = f"{seconds:.1f} s, {one:.1f} ms, {many:.0f} ms"
    return table(list(rows.values()))


def rivers_table(frame: pl.DataFrame, fold: str, published: Mapping[str, tuple[float, str]] = {}) -> str:
    """Return the test RMSE of every fold of rf1, and its mean where all have run, beside published ones; best first."""
    folds = frame["seed"].unique().sort().to_list()
    rows: list[tuple[float, dict[str, str]]] = []
    for (model,), own in frame.group_by("model", maintain_order=True):
        scores = dict(own.select("seed", "score").iter_rows())
        cells = {f"{fold} {k + 1}": f"{scores[k]:.4f}" if k in scores else "" for k in folds}
        mean = f"{fmean(scores.values()):.4f}" if len(scores) == len(folds) else ""
        rows.append((scores.get(0, math.inf), {"model": str(model), **cells, "mean": mean}))
    for model, (value, error) in published.items():
        rows.append((value, {"model": model, "mean": f"{value:.4f}" + (f" ± {error}" if error else "")}))
    return table([row for _, row in sorted(rows, key=lambda row: row[0])])


def code_section(records: Sequence[Record]) -> str:
    """Return how many records are of which code."""
    own = [record for record in records if record["model"] == ENSEMBLE]
    few = [record for record in own if record["part"] == "labels"]
    old, few_old = (sum(r["code"] in BEFORE_SELECTION for r in some) for some in (own, few))
    counts = Counter(record["code"] for record in records)
    of_ensemble = Counter(record["code"] for record in own)
    rows = [
        {
            "code": code,
            "selection": f"before {SELECTION}" if code in BEFORE_SELECTION else "",
            f"records of {ENSEMBLE}": of_ensemble[code],
            "all records": n,
        }
        for code, n in counts.items()
    ]
    note = CODE_NOTE.format(commit=SELECTION, n_old=old, n=len(own), few_old=few_old, few=len(few))
    return f"{note.strip()}\n\n{table(rows)}"


def goals_of(frame: pl.DataFrame, labels: Sequence[Comparison]) -> list[dict[str, str]]:
    """Return what the ensemble is meant to reach, what it reaches, and whether that is enough."""
    few = [c for c in labels if c.gain is not None and c.facts["amount"] is not None]
    few = [c for c in few if c.facts["amount"] <= FEW_LABELS]
    with_error = [c for c in few if c.error is not None]
    enough = sum(c.gain is not None and c.gain >= ENOUGH[c.facts["metric"]] for c in few)
    full = [c for c in compare(frame.filter(part="full"), ("set",), (LIGHTGBM,)) if c.gain is not None]
    rf1 = frame.filter(part="rf1", model=ENSEMBLE)["score"].to_list()
    margin = " or ".join(f"{least} {metric}" for metric, least in ENOUGH.items())
    found = [
        (
            f"at most {FEW_LABELS} labels: ahead by {margin} on half of the cases",
            _share(enough, few),
            2 * enough >= len(few),
        ),
        (f"at most {FEW_LABELS} labels: nowhere behind beyond chance", *_nowhere(with_error)),
        ("full labels: nowhere behind tuned LightGBM beyond chance", *_nowhere(full)),
        (
            "full labels: ahead of it beyond chance on 3 sets",
            _named(full, "is_ahead"),
            sum(c.is_ahead for c in full) >= 3,
        ),
        (
            f"rf1: RMSE of at most {RF1_GOAL}, in the published split, which mixes hours",
            f"{fmean(rf1):.4f} (one fold of five)" if rf1 else "not run",
            bool(rf1) and fmean(rf1) <= RF1_GOAL,
        ),
    ]
    return [{"goal": goal, "found": text, "reached": "yes" if is_met else "**no**"} for goal, text, is_met in found]


def missed(goals: Sequence[Mapping[str, str]]) -> str:
    """Name the goals that are not reached."""
    names = [f"{goal['goal']} ({goal['found']})" for goal in goals if goal["reached"] != "yes"]
    return f"Goals not reached: {'; '.join(names) if names else 'none'}.\n"


def _nowhere(comparisons: Sequence[Comparison]) -> tuple[str, bool]:
    """Name the comparisons that are behind, and tell whether there are none."""
    in_mean = sum((c.gain or 0.0) < 0 for c in comparisons)
    return f"{_named(comparisons, 'is_behind')}; in the mean {in_mean}", not any(c.is_behind for c in comparisons)


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
        draws = {c.facts["amount"]: f" ({c.n_draws})" for c in own}
        ticks = [f"{'all' if n is None else n}{draws.get(n, '')}" for n in amounts]
        ax.set_xticks(range(len(amounts)), ticks, fontsize=8)
        ax.tick_params(axis="y", labelsize=8)
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.supxlabel("labels of the target, all labels of the others (in brackets: draws)", fontsize=9)
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
    labels, goals = labels_of(frame), goals_of(frame, labels_of(frame))
    draw_labels(labels, folder / FIGURE)
    plot = f"![Score of a target against its number of labels]({{}}{FIGURE})\n"
    full = compare(frame.filter(part="full"), ("set",))
    mulan = compare(frame.filter(part="mulan"), ("set",), is_error=True)
    missing = compare(frame.filter(part="missing"), ("set", "amount"))
    chance = chance_note([*labels, *full, *mulan, *missing])
    summary = f"{summary_table(labels)}\n{chance}\n{missed(goals)}"
    rivers = rivers_table(frame.filter(part="rf1"), "fold", PUBLISHED)
    blocks = rivers_table(frame.filter(part="blocks"), "block")
    parts = {
        "In short": f"{SUMMARY}\n\n{summary}",
        "Goals": table(goals),
        "Few labels of one target, all of the others": f"{plot.format('')}\n{score_table(labels, 'labels')}",
        "All labels: mean over the targets": score_table(full),
        "Labels missing at random: mean over the targets": score_table(missing, "percent hidden"),
        "Mulan: relative root squared error, lower is better": score_table(mulan),
        "rf1 by its published protocol": f"{RF1_NOTE.strip()}\n\n{rivers}",
        "rf1 in blocks of time: test RMSE, the newest block first": f"{BLOCKS_NOTE.strip()}\n\n{blocks}",
        "Cost: fit, answers to one row, and to 1000 rows (CPU time)": cost_table(frame),
        "Code that made the records": code_section(records),
    }
    n_done, n_planned = progress
    so_far = f"\nNot complete: {n_done} of {n_planned} fits have run so far.\n" if n_done < n_planned else ""
    page = INTRODUCTION + f"\n{rows}\n" + so_far + "".join(f"\n## {title}\n\n{text}" for title, text in parts.items())
    (folder / PAGE).write_text(page, encoding="utf-8")
    readme = folder.parents[1] / "README.md"
    if readme.is_file():
        shown = plot.format(f"{folder.parent.name}/{folder.name}/")
        short = f"{summary_table(labels, n_blocks=1)}\nThe page has the other targets. {missed(goals)}"
        text = "\n".join([MARKS[0], so_far + "\n" + shown, f"{rows} {SUMMARY}", "", short, MARKS[1]])
        before = readme.read_text(encoding="utf-8")
        readme.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: text, before, flags=re.S), encoding="utf-8")
