"""The page of `benchmarks.evidence`: its tables, its plot and its goals, made from the records."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import polars as pl
from scipy.stats import t as student

from benchmarks.evidence_models import (
    AUTOGLUON,
    BASELINE,
    CATBOOST,
    DISTILLED,
    EACH_ALONE,
    ENSEMBLE,
    FEW,
    MODELS,
    REFERENCE,
    RIVALS,
    SINGLE,
    of_kind,
)
from benchmarks.harness import Record, print_table
from tabmtl.plots.display import COLORS, MARKED
from tabmtl.plots.display import REFERENCE as OUTSIDE

BEST = "best single-task model"
#: What the ensemble is compared with: a model, or the best of several in hindsight.
BESIDE = {
    "AutoGluon, equal CPU": (AUTOGLUON,),
    BEST: SINGLE,
    "itself, each task alone": (EACH_ALONE,),
}
#: Mean gains over AutoGluon that are expected at few labels, and sets on which one is at all labels.
ENOUGH, AHEAD_AT_FULL = {"AUC": 0.05, "R²": 0.05}, 4
#: Share of level models that are called ahead or behind.
LEVEL = 0.05
#: The most that the reference may be behind the best of its rivals in the mean, and a distilled network the ensemble.
MOST_BEHIND, MOST_DISTILLED = 0.005, 0.003
#: Slopes of calibration that are expected in the mean of the sets.
SLOPES = 0.9, 1.1
#: The most that a fit takes, and an answer to 1000 rows, by those of the baseline; and milliseconds of one row.
MOST_FIT, MOST_MANY, MOST_MS = 0.6, 1 / 3, 8.0
#: Test RMSE on rf1 that was published: means of five folds, and "±" where it is known.
PUBLISHED = {
    "CatBoost, multi-output (published)": (0.8975, "0.038"),
    "SketchBoost, random projection (published)": (0.9056, "0.058"),
    "XGBoost per target (published)": (0.925, "0.031"),
    "SketchBoost, full vector leaves (published)": (1.169, ""),
    "TabNet (published)": (3.79, ""),
}
FIGURE, PAGE = "labels.png", "README.md"
PLOT = f"![Score of a target against its number of labels]({{}}{FIGURE})\n"
#: Models of the large tables.
OURS = (*SINGLE, *of_kind("joint"))
MARKS = "<!-- evidence -->", "<!-- /evidence -->"
#: What tells the comparisons of a target apart.
OF_TARGET = ("set", "task", "metric", "amount")

ONE_DRAW, NOT_RUN = "one draw", "not run"
SUMMARY = (
    "Mean differences of `MultiTaskEnsemble`, positive if it is better, with the standard error over the sets, and "
    "their number. It is ahead or behind where this stays beyond chance for all cases of a column at once (Holm, "
    "Student's t over the draws), which few draws seldom show. The best single-task model is chosen in hindsight."
)
INTRODUCTION = """# When learning together pays

Made by `python -m benchmarks.evidence --report` from the records beside this page. `python -m benchmarks.evidence`
makes the records, and `--help` says what the parts are. Settings were fixed before: `benchmarks/evidence_models.py`
lists them. A difference is that of `MultiTaskEnsemble` to another model, such as the single-task model with the best
mean (of `IndependentTasks`, tuned LightGBM, its bag of five, and CatBoost; chosen in hindsight, to the disadvantage of
the ensemble). It is paired over the draws, with its standard error, and bold where its 95 % interval by Student's t
leaves 0 out: 2.8 errors with five draws, 3.2 with four, 4.3 with three, 12.7 with two. One draw has no error. Means and
differences are over the draws that the compared models have. Draws share rows, so errors are too small. Three draws of
AutoGluon at 150, 500 and all labels, and at all labels of the models of all tasks and of the ensemble with each task
alone, were read before two more were added, as was one fold of oes10 and osales.
"""
PEERS_NOTE = """
Peers learn the target alone, in an environment of their own, on one core: `benchmarks/peers` says how they are made and
set. AutoGluon 1.6 (best_quality, boosters and networks) has the CPU seconds that the ensemble took in the same draw for
all targets, and in one draw four times as many. At all labels, draw 0 has those of an earlier run of the ensemble, up
to a seventh more. Its usual budget is larger still: an hour. Peers are not told the groups of rows, families in
rand_hie and days in flights: AutoGluon's folds by groups fail where one of them has labels of one class only. Beside
them is the same ensemble with each task alone: what it lacks comes from learning together, what it has from mixing
models. Scores are means over the draws of all three; each difference is over those of its two.
"""
REFERENCE_NOTE = """
`IndependentTasks`, untuned, beside models that one writes in a line: mean differences over the sets, each of the mean
of its targets, AUC and R² together. It is ahead or behind where this stays beyond chance for all pairs of set, labels
and rival (Holm).
"""
SLOPE_NOTE = """
The slope of a logistic regression of the label on the log odds of the answer, on the test rows; mean over the binary
targets of a set, then over the sets. 1 is calibrated, below 1 is too bold.
"""
COST_NOTE = """
Means over the draws, each measured beside another process. Goals judge the ensemble by draw 0 alone, measured on one
core while the other ran the same by the older commit.
"""
CANDIDATES_NOTE = """
Seconds by the clock of all fits of each candidate of `MultiTaskEnsemble`, mean over its fits, and their share; the sets
are those of the table above:
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
The newest commit of the package that a record was made by, with a plus where files differed from it. "in" a commit: the
record came into the repository with it, and is of that code or of older.
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
    """A model beside others in one setting, over the same draws.

    Parameters
    ----------
    facts : dict
        Set, and perhaps task, amount and metric.
    means : dict of str to float
        Mean score of every model.
    rival : str or None
        The best of the others.
    n_draws : int
        Draws that all of these models have.
    gain, error : float or None
        Mean paired difference, positive if the model is better, and its standard error, None of one draw.
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
        """Whether the model is better beyond chance."""
        return self.p_value is not None and self.p_value < LEVEL and (self.gain or 0.0) > 0

    @property
    def is_behind(self) -> bool:
        """Whether the model is worse beyond chance."""
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
    facts: dict[str, Any] = dict.fromkeys(("part", "set", "target", "model"), pl.String)
    facts |= dict.fromkeys(("amount", "seed"), pl.Int64) | dict.fromkeys(
        ("seconds", "ms_of_1", "ms_of_1000"), pl.Float64
    )
    rows = [
        (*map(record.get, facts), metric, task, score, record.get("slopes", {}).get(task))
        for record in records
        for metric, scores in record["scores"].items()
        for task, score in scores.items()
    ]
    own = {"metric": pl.String, "task": pl.String, "score": pl.Float64, "slope": pl.Float64}
    return pl.DataFrame(rows, facts | own, orient="row")


def compare(
    frame: pl.DataFrame,
    keys: Sequence[str],
    rivals: Sequence[str] = SINGLE,
    *,
    model: str = ENSEMBLE,
    is_error: bool = False,
) -> list[Comparison]:
    """Compare a model with the best of its rivals, in every setting that the keys tell apart.

    Means are over the tasks, and over the draws that the model and all its rivals have.
    """
    found = []
    means = frame.group_by(*keys, "model", "seed", maintain_order=True).agg(pl.col("score").mean())
    for values, drawn in means.group_by(*keys, maintain_order=True):
        compared = drawn.filter(pl.col("model").is_in([model, *rivals]))
        counts = compared.group_by("seed").len().filter(pl.col("len") == compared["model"].n_unique())
        own = drawn.filter(pl.col("seed").is_in(counts["seed"].implode())) if len(counts) else drawn
        scores = dict(own.group_by("model", maintain_order=True).agg(pl.col("score").mean()).iter_rows())
        there = [name for name in rivals if name in scores]
        rival = (min if is_error else max)(there, key=scores.__getitem__) if there else None
        gain, error = None, None
        if rival is not None and len(counts) and model in scores:
            gain, error = paired(own, model, rival) or (scores[model] - scores[rival], None)
        found.append(
            Comparison(
                facts=dict(zip(keys, values, strict=True)),
                means=scores,
                rival=rival,
                n_draws=len(counts) or own["seed"].n_unique(),
                gain=-gain if is_error and gain is not None else gain,
                error=error,
            )
        )
    return found


def holm(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Return those that stay beyond chance where all are judged at once, by Holm's method."""
    judged = sorted((c for c in comparisons if c.p_value is not None), key=lambda c: c.p_value or 0.0)
    n = len(judged)
    held = next((i for i, each in enumerate(judged) if (each.p_value or 0.0) > LEVEL / (n - i)), n)
    return judged[:held]


def curve_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the scores of the scarce targets, at each number of labels and at all."""
    few = frame.filter(pl.col("amount").is_not_null(), part="labels")
    full = frame.filter(part="full").join(few.select("set", "task"), on=["set", "task"], how="semi")
    return pl.concat([few, full]).sort("set", "task", "amount", nulls_last=True, maintain_order=True)


def of_models(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    """Return the scores of some models."""
    return frame.filter(pl.col("model").is_in(names))


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
        rows.append(facts | {"draws": each.n_draws} | scores | {BEST: each.rival or "", "difference": each.difference})
    return table(rows)


def labels_of(each: Comparison) -> str:
    """Name the number of labels of a comparison."""
    return "all" if each.facts["amount"] is None else str(each.facts["amount"])


def summary_blocks(beside: Mapping[str, Sequence[Comparison]]) -> dict[str, list[dict[str, str]]]:
    """Return rows of mean differences to each rival, and how often the ensemble is ahead and behind, by labels.

    A block has targets with equal numbers of labels, which its title names. The largest blocks come first.
    """
    held = {rival: holm(found) for rival, found in beside.items()}
    amounts: dict[tuple[str, str], list[str]] = {}
    for each in next(iter(beside.values())):
        amounts.setdefault((each.facts["set"], each.facts["task"]), []).append(labels_of(each))
    blocks: dict[str, list[dict[str, str]]] = {}
    for block in sorted(set(map(tuple, amounts.values())), key=len, reverse=True):
        targets = [target for target, own in amounts.items() if tuple(own) == block]
        title = f"{len(targets)} of {', '.join(dict.fromkeys(name for name, _ in targets))}"
        for labels in block:
            row = {"labels": labels}
            for rival, found in beside.items():
                own = [c for c in found if (c.facts["set"], c.facts["task"]) in targets and labels_of(c) == labels]
                row[f"to {rival}"] = summary_cell(own, held[rival])
            blocks.setdefault(title, []).append(row)
    return blocks


def summary_table(beside: Mapping[str, Sequence[Comparison]]) -> str:
    """Return the rows of all blocks."""
    return table([{"targets": title, **row} for title, rows in summary_blocks(beside).items() for row in rows])


def short_summary(beside: Mapping[str, Sequence[Comparison]]) -> str:
    """Return the rows of the largest block, and in words how the others are to the best single-task model."""
    (_, rows), *others = summary_blocks(beside).items()
    name = f"to {BEST}"
    notes = [f"{title}, {row['labels']} labels: {row[name]}" for title, own in others for row in own]
    return f"{table(rows)}\n" + (f"Other targets, {name}: {'. '.join(notes)}. " if notes else "")


def summary_cell(own: Sequence[Comparison], held: Sequence[Comparison]) -> str:
    """Return the mean differences by metric, and how many of the cases are held to be beyond chance."""
    own = known(own)
    if not own:
        return NOT_RUN
    judged = any(each.error is not None for each in own)
    return f"{means_of(own)}; {count_sides(own, held) if judged else ONE_DRAW}"


def means_of(comparisons: Sequence[Comparison]) -> str:
    """Return the mean differences by metric, with the standard errors over the sets and their numbers."""
    gains = {metric: gains_of_sets(comparisons, metric) for metric in ENOUGH}
    errors = {metric: f" ± {stdev(own) / math.sqrt(len(own)):.3f}" for metric, own in gains.items() if len(own) > 1}
    means = [f"{metric} {fmean(own):+.3f}{errors.get(metric, '')} ({len(own)})" for metric, own in gains.items() if own]
    return "; ".join(means) or NOT_RUN


def gains_of_sets(comparisons: Iterable[Comparison], metric: str) -> list[float]:
    """Return the mean of the known gains in a metric of each set, whose targets share rows."""
    of_sets: dict[str, list[float]] = {}
    for each in comparisons:
        if each.facts["metric"] == metric and each.gain is not None:
            of_sets.setdefault(each.facts["set"], []).append(each.gain)
    return [*map(fmean, of_sets.values())]


def count_sides(own: Sequence[Comparison], held: Iterable[Comparison]) -> str:
    """Count the cases that are held to be ahead and behind."""
    kept = [each for each in held if each in own]
    return f"ahead {sum(each.is_ahead for each in kept)}, behind {sum(each.is_behind for each in kept)}"


def known(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Return those that have run."""
    return [each for each in comparisons if each.gain is not None]


def gains_of(comparisons: Iterable[Comparison]) -> list[float]:
    """Return the gains that are known."""
    return [each.gain for each in comparisons if each.gain is not None]


def chance_note(comparisons: Sequence[Comparison]) -> str:
    """Return how many differences are judged, and how many stay beyond chance where all are judged at once, by Holm."""
    judged = [each for each in comparisons if each.p_value is not None]
    beyond = sum((each.p_value or 0.0) < LEVEL for each in judged)
    return (
        f"{len(judged)} differences of the evidence to the best single-task model have an error, and {beyond} are "
        f"beyond chance one by one; if all were level, about {LEVEL * len(judged):.0f} would be. For all of them at "
        f"once, by Holm's method, it is {len(holm(judged))}. One by one, the ensemble is behind in "
        f"{_named([each for each in judged if each.is_behind], len(judged))}.\n"
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


def peers_table(curve: pl.DataFrame) -> str:
    """Return the scores of the ensemble, of AutoGluon and of the ensemble with each task alone, and all differences."""
    beside = dict.fromkeys((AUTOGLUON, EACH_ALONE, *of_kind("peer")))
    own = of_models(curve, ENSEMBLE, *beside)
    with_peers = own.join(of_models(own, *beside), on=OF_TARGET, how="semi", nulls_equal=True)
    to = [compare(with_peers, OF_TARGET, (name,)) for name in beside]
    rows = []
    for first, *pairs in zip(compare(with_peers, OF_TARGET, (AUTOGLUON, EACH_ALONE)), *to, strict=True):
        means = first.means
        scores = {name: f"{means[name]:.4f}" if name in means else "" for name in (ENSEMBLE, AUTOGLUON, EACH_ALONE)}
        differences = {f"to {name}": each.difference for name, each in zip(beside, pairs, strict=True)}
        facts = {name: value for name, value in first.facts.items() if name != "amount"}
        rows.append(facts | {"labels": labels_of(first), "draws": first.n_draws} | scores | differences)
    return table(rows)


def reference_cases(curve: pl.DataFrame, rivals: Sequence[str]) -> list[Comparison]:
    """Compare the reference with the best of some rivals, by set and number of labels."""
    return known(compare(of_models(curve, REFERENCE, *RIVALS), ("set", "amount"), rivals, model=REFERENCE))


def reference_section(frame: pl.DataFrame) -> str:
    """Return how the reference is to its rivals by number of labels, and its goals."""
    curve = curve_of(frame)
    pairs = {rival: reference_cases(curve, (rival,)) for rival in RIVALS}
    held = holm(each for found in pairs.values() for each in found)
    pairs["the best of them"] = reference_cases(curve, RIVALS)
    rows: dict[str, dict[str, str]] = {}
    for rival, found in pairs.items():
        for labels in dict.fromkeys(map(labels_of, found)):
            own = [each for each in found if labels_of(each) == labels]
            text = f"{fmean(gains_of(own)):+.3f} ({len(own)})"
            sides = f"; {count_sides(own, held)}" if rival in RIVALS else ""
            rows.setdefault(labels, {"labels": labels})[f"to {rival}"] = text + sides
    return f"{REFERENCE_NOTE.strip()}\n\n{table([*rows.values()])}\n{table(goal_rows(reference_goals(curve)))}"


def slopes_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the mean slope of calibration over the sets, by model and number of labels."""
    own = frame.filter(pl.col("part").is_in(["labels", "full"])).drop_nulls("slope")
    by_set = own.group_by("model", "amount", "set", maintain_order=True).agg(pl.col("slope").mean())
    return by_set.group_by("model", "amount", maintain_order=True).agg(pl.col("slope").mean())


def slopes_table(frame: pl.DataFrame) -> str:
    """Return the slopes of calibration by model and number of labels."""
    rows: dict[str, dict[str, str]] = {}
    for model, amount, slope in slopes_of(frame).sort("amount", nulls_last=True, maintain_order=True).iter_rows():
        rows.setdefault(model, {"model": model})["all" if amount is None else str(amount)] = f"{slope:.2f}"
    return table([*rows.values()])


def fits_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the times at full labels, a row per fit."""
    return frame.filter(part="full").unique(["set", "model", "seed"], maintain_order=True)


def means_of_times(fits: pl.DataFrame) -> pl.DataFrame:
    """Return the means of the times, by set and model."""
    return fits.group_by("set", "model", maintain_order=True).agg(pl.col("seconds", "ms_of_1", "ms_of_1000").mean())


def cost_table(frame: pl.DataFrame) -> str:
    """Return CPU seconds of a fit and milliseconds of answers at full labels, by model and set."""
    rows: dict[str, dict[str, str]] = {}
    for name, model, seconds, one, many in means_of_times(fits_of(frame)).iter_rows():
        title = model + {"alone": " (two targets)", "peer": " (one target)"}.get(MODELS[model].kind, "")
        rows.setdefault(title, {"model": title})[name] = f"{seconds:.1f} s, {one:.1f} ms, {many:.0f} ms"
    return table([*rows.values()])


def candidates_table(records: Iterable[Record]) -> str:
    """Return the mean seconds of the candidates of the ensemble, and their shares, with few labels and all."""
    own = [each for each in records if each["model"] == ENSEMBLE and "candidates" in each]
    parts = {"few labels": "labels", "all labels": "full"}
    sets = {each["set"] for each in own if each["part"] == "full"}
    rows: dict[str, dict[str, str]] = {}
    for title, part in parts.items():
        fits = [each["candidates"] for each in own if each["part"] == part and each["set"] in sets]
        names = dict.fromkeys(name for fit in fits for name in fit)
        means = {name: sum(fit.get(name, 0.0) for fit in fits) / len(fits) for name in names}
        for name, seconds in means.items():
            share = f"{seconds:.1f} s, {100 * seconds / sum(means.values()):.0f} %"
            rows.setdefault(name, {"candidate": name})[title] = share
    return table([*rows.values()])


def rivers_table(frame: pl.DataFrame, fold: str, published: Mapping[str, tuple[float, str]] = {}) -> str:
    """Return the test RMSE of every fold of rf1, and the mean of all, beside published ones; in order of the first."""
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


def code_section(records: Sequence[Record], older: Sequence[Record]) -> str:
    """Return how many of the shown records are of which code."""
    of_ensemble = Counter(record["code"] for record in [*records, *older] if record["model"] == ENSEMBLE)
    counts = Counter(record["code"] for record in records), Counter(record["code"] for record in older)
    rows = [
        {"code": code, "counts": counted, f"records of {ENSEMBLE}": of_ensemble[code], "all records": n}
        for own, counted in zip(counts, ("yes", "no, older"), strict=True)
        for code, n in own.items()
    ]
    return f"{CODE_NOTE.strip()}\n\n{table(rows)}"


#: What is to be reached, what is found, and whether that is enough.
Goal = tuple[str, str, bool]


def goals_of(frame: pl.DataFrame, beside: Mapping[str, Sequence[Comparison]], costs: Sequence[Goal]) -> list[Goal]:
    """Return what is to be reached, the goals of costs among them."""
    to_autogluon, to_single, _ = map(known, beside.values())
    few = [each for each in to_autogluon if each.facts["amount"] in FEW]
    full = [each for each in to_autogluon if each.facts["amount"] is None]
    mulan = compare(frame.filter(part="mulan"), ("set",), (CATBOOST,), is_error=True)
    margin = " and ".join(f"{least} {metric}" for metric, least in ENOUGH.items())
    labels = " and ".join(map(str, FEW))
    ahead = [each for each in full if each.is_ahead]
    return [
        (
            f"{labels} labels: ahead of AutoGluon at equal CPU by {margin} in the mean",
            means_of(few),
            all((own := gains_of_sets(few, metric)) and fmean(own) >= least for metric, least in ENOUGH.items()),
        ),
        (f"{labels} labels: nowhere behind AutoGluon (Holm)", *_nowhere(few)),
        ("all labels: nowhere behind AutoGluon (Holm)", *_nowhere(full)),
        (
            f"all labels: ahead of AutoGluon beyond chance on {AHEAD_AT_FULL} sets, one by one",
            _named(ahead, len(full)) if full else NOT_RUN,
            len(ahead) >= AHEAD_AT_FULL,
        ),
        ("the guard: nowhere behind the best single-task model (Holm)", *_nowhere(to_single)),
        ("Mulan: nowhere behind CatBoost (Holm)", *_nowhere(known(mulan))),
        calibration_goal(frame),
        *costs,
        distilled_goal(frame),
        *reference_goals(curve_of(frame)),
    ]


def calibration_goal(frame: pl.DataFrame) -> Goal:
    """Return whether the slopes of the ensemble are near 1 in the mean of the sets."""
    own = frame.filter(model=ENSEMBLE).with_columns(pl.when(pl.col("amount").is_not_null()).then(0).alias("amount"))
    found = {"all" if amount is None else "few": slope for _, amount, slope in slopes_of(own).iter_rows()}
    low, high = SLOPES
    return (
        f"calibration slope of {low} to {high} in the mean of the sets",
        ", ".join(f"{slope:.2f} at {labels} labels" for labels, slope in found.items()) or NOT_RUN,
        bool(found) and all(low <= slope <= high for slope in found.values()),
    )


def cost_goals(own: pl.DataFrame, before: pl.DataFrame) -> list[Goal]:
    """Return whether a fit and answers of the ensemble take little, beside the same fits of the baseline."""
    goals = []
    own, before = (fits_of(of_models(frame, ENSEMBLE)) for frame in (own, before))
    both = own.join(before, on=("set", "seed"), suffix="_before")
    for title, name, most in (("fit", "seconds", MOST_FIT), ("answer to 1000 rows", "ms_of_1000", MOST_MANY)):
        ratio = fmean(both[name]) / fmean(both[f"{name}_before"]) if len(both) else math.inf
        text = f"{ratio:.2f} (sum of {len(both)} fits)" if len(both) else NOT_RUN
        goals.append((f"{title}: at most {most:.2f} of its CPU time at commit {BASELINE}", text, ratio <= most))
    ms = means_of_times(both)["ms_of_1"].sort().to_list() or [math.inf]
    found = f"{ms[0]:.1f} to {ms[-1]:.1f} ms by set" if len(both) else NOT_RUN
    return [*goals, (f"answer to one row: at most {MOST_MS:.0f} ms", found, ms[-1] <= MOST_MS)]


def distilled_goal(frame: pl.DataFrame) -> Goal:
    """Return whether the distilled network is near the ensemble at full labels, where there are unlabelled rows."""
    own = compare(frame.filter(part="full"), ("set",), (ENSEMBLE,), model=DISTILLED)
    found = {each.facts["set"]: each.gain for each in own if each.gain is not None}
    return (
        f"`distill`, with unlabelled rows: at most {MOST_DISTILLED} below the ensemble on every set (one draw)",
        ", ".join(f"{name} {gain:+.4f}" for name, gain in found.items()) or NOT_RUN,
        bool(found) and min(found.values()) >= -MOST_DISTILLED,
    )


def reference_goals(curve: pl.DataFrame) -> list[Goal]:
    """Return whether nothing that one writes without any choice is ahead of the reference."""
    pairs = [each for rival in RIVALS for each in reference_cases(curve, (rival,))]
    gains = gains_of(reference_cases(curve, RIVALS))
    gain = fmean(gains) if gains else -math.inf
    side = "ahead" if gain > 0 else "behind"
    return [
        ("reference: nowhere behind its rivals (Holm)", *_nowhere(pairs)),
        (
            f"reference: at most {MOST_BEHIND} behind the best of them in the mean",
            f"{abs(gain):.4f} {side} ({len(gains)} cases)" if gains else NOT_RUN,
            gain >= -MOST_BEHIND,
        ),
    ]


def goal_rows(goals: Iterable[Goal]) -> list[dict[str, str]]:
    """Return goals as rows of a table."""
    return [
        {"goal": goal, "found": text, "reached": NOT_RUN if text == NOT_RUN else "yes" if is_met else "**no**"}
        for goal, text, is_met in goals
    ]


def missed(goals: Sequence[Goal]) -> str:
    """Name the goals that are not reached, and count those without records."""
    judged = [each for each in goals if each[1] != NOT_RUN]
    names = [f"{goal} ({text})" for goal, text, is_met in judged if not is_met]
    open_ones = f" Not yet judged: {len(goals) - len(judged)}." if len(judged) < len(goals) else ""
    return f"Goals not reached, of {len(goals)}: {'; '.join(names) if names else 'none'}.{open_ones}\n"


def _nowhere(comparisons: Sequence[Comparison]) -> tuple[str, bool]:
    """Name the comparisons that are behind where all are judged at once, and tell whether there are none.

    One draw judges nothing. Beside them are those behind one by one, and those whose mean is below, with the lowest.
    """
    judged = [each for each in comparisons if each.p_value is not None]
    if not judged:
        return NOT_RUN, False
    behind = [each for each in holm(judged) if each.is_behind]
    below = sorted((each for each in comparisons if (each.gain or 0.0) < 0), key=lambda each: each.gain or 0.0)
    lowest = f", lowest {below[0].gain:+.3f} ({_name(below[0])})" if below else ""
    one_by_one = sum(each.is_behind for each in judged)
    text = f"{_named(behind, len(judged))}; one by one {one_by_one}; mean below 0 in {len(below)} of {len(comparisons)}"
    return text + lowest, not behind


def _named(chosen: Sequence[Comparison], n: int) -> str:
    """Count the comparisons that are chosen of some, and name them."""
    return f"{len(chosen)} of {n}" + (f": {'; '.join(map(_name, chosen))}" if chosen else "")


def _name(comparison: Comparison) -> str:
    return " ".join("all" if value is None else str(value) for value in comparison.facts.values())


def draw_labels(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the scores of all models against the labels, a panel for every target."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((c.facts["set"], c.facts["task"], c.facts["metric"]) for c in comparisons))
    amounts = sorted({c.facts["amount"] for c in comparisons}, key=lambda n: math.inf if n is None else n)
    models = list(dict.fromkeys(name for c in comparisons for name in c.means))
    lines = {"joint": "-", "peer": ":"}
    colors = dict(zip([m for m in models if m not in (ENSEMBLE, AUTOGLUON)], cycle(COLORS), strict=False))
    colors |= {ENSEMBLE: MARKED, AUTOGLUON: OUTSIDE}
    found: dict[str, Any] = {}
    n_columns = min(4, len(panels))
    n_rows = math.ceil(len(panels) / n_columns)
    figure = Figure(figsize=(3.4 * n_columns, 0.8 + 2.3 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax, (name, task, metric) in zip(axes, panels, strict=False):
        own = [c for c in comparisons if (c.facts["set"], c.facts["task"]) == (name, task)]
        for model in models:
            points = [(amounts.index(c.facts["amount"]), c.means[model]) for c in own if model in c.means]
            look = {"linestyle": lines.get(MODELS[model].kind, "--"), "color": colors[model], "marker": "."}
            if points:
                (found[model],) = ax.plot(*zip(*points, strict=True), lw=2.5 if model == ENSEMBLE else 1.2, **look)
        ax.set_title(f"{name}: {task[:24]} ({metric})", fontsize=9)
        draws = {c.facts["amount"]: f" ({c.n_draws})" for c in own}
        ticks = [f"{'all' if n is None else n}{draws.get(n, '')}" for n in amounts]
        ax.set_xticks(range(len(amounts)), ticks, fontsize=8)
        ax.tick_params(axis="y", labelsize=8)
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.supxlabel(
        "labels of the target, all labels of the others (in brackets: draws)\n"
        "solid: learns all targets; dashed: one; dotted: one, in another library",
        fontsize=9,
    )
    figure.legend(
        found.values(), found.keys(), loc="outside upper center", ncols=4, fontsize=9, frameon=False, handlelength=3
    )
    figure.savefig(path, dpi=100)


def write(
    records: Sequence[Record],
    older: Sequence[Record],
    baseline: Sequence[Record],
    folder: Path,
    progress: tuple[int, int],
    rows: str,
) -> None:
    """Write the page and the plot into the folder of the records, and a summary into the README of the checkout.

    The summary comes between the `MARKS`, if the README has them. Both say how many of the planned fits are there, as
    ``progress`` tells, and how many rows they see, as ``rows`` does. Older records stand in for parts without any, and
    costs are compared with those of the baseline.
    """
    shown = [*records, *older]
    if not shown:
        raise SystemExit(f"{folder} has no records: run python -m benchmarks.evidence first")
    frame = flatten(shown)
    curve = curve_of(frame)
    beside = {title: compare(curve, OF_TARGET, rivals) for title, rivals in BESIDE.items()}
    # not by older records, which the baseline belongs to
    costs = cost_goals(*map(flatten, (records, baseline)))
    goals = goals_of(frame, beside, costs)
    draw_labels(compare(of_models(curve, *OURS, AUTOGLUON), OF_TARGET), folder / FIGURE)
    parts = {
        **sections(frame, beside, goals),
        "Cost: fit, answers to one row, and to 1000 rows (CPU time)": (
            f"{COST_NOTE.strip()}\n\n{cost_table(frame)}\n{CANDIDATES_NOTE.strip()}\n\n{candidates_table(shown)}"
        ),
        "Code that made the records": code_section(records, older),
    }
    so_far = progress_note(progress, older)
    page = f"{INTRODUCTION}\n{rows}\n{so_far}" + "".join(f"\n## {title}\n\n{text}" for title, text in parts.items())
    (folder / PAGE).write_text(page, encoding="utf-8")
    readme = folder.parents[1] / "README.md"
    if readme.is_file():
        figure = PLOT.format(f"{folder.parent.name}/{folder.name}/")
        n_missed = sum(not is_met for _, _, is_met in goals)
        short = f"{short_summary(beside)}Of {len(goals)} goals on the page, {n_missed} are not reached.\n"
        text = "\n".join([MARKS[0], "", figure, f"{rows} {SUMMARY} {so_far.strip()}".rstrip(), "", short, MARKS[1]])
        before = readme.read_text(encoding="utf-8")
        readme.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: text, before, flags=re.S), encoding="utf-8")


def sections(frame: pl.DataFrame, beside: Mapping[str, Sequence[Comparison]], goals: Sequence[Goal]) -> dict[str, str]:
    """Return the parts of the page that tell scores, by title."""
    curve, ours = curve_of(frame), of_models(frame, *OURS)
    few = compare(curve_of(ours), OF_TARGET)
    full = compare(ours.filter(part="full"), ("set",))
    mulan = compare(ours.filter(part="mulan"), ("set",), is_error=True)
    missing = compare(ours.filter(part="missing"), ("set", "amount"))
    chance = chance_note([*few, *full, *mulan, *missing])
    rivers = rivers_table(frame.filter(part="rf1"), "fold", PUBLISHED)
    blocks = rivers_table(frame.filter(part="blocks"), "block")
    return {
        "In short": f"{SUMMARY}\n\n{summary_table(beside)}\n{chance}\n{missed(goals)}",
        "Goals": table(goal_rows(goals)),
        "Few labels of one target, all of the others": f"{PLOT.format('')}\n{score_table(few, 'labels')}",
        "Beside AutoGluon, and beside itself with each task alone": f"{PEERS_NOTE.strip()}\n\n{peers_table(curve)}",
        "All labels: mean over the targets": score_table(full),
        "The reference": reference_section(frame),
        "Calibration": f"{SLOPE_NOTE.strip()}\n\n{slopes_table(frame)}",
        "Labels missing at random: mean over the targets": score_table(missing, "percent hidden"),
        "Mulan: relative root squared error, lower is better": score_table(mulan),
        "rf1 by its published protocol": f"{RF1_NOTE.strip()}\n\n{rivers}",
        "rf1 in blocks of time: test RMSE, the newest block first": f"{BLOCKS_NOTE.strip()}\n\n{blocks}",
    }


def progress_note(progress: tuple[int, int], older: Iterable[Record]) -> str:
    """Return how many of the planned fits are there, and which parts are shown by records of older code."""
    n_done, n_planned = progress
    parts = ", ".join(dict.fromkeys(record["part"] for record in older))
    by_older = f" Shown by records of older code: {parts}." if parts else ""
    return f"\nNot complete: {n_done} of {n_planned} fits have run so far.{by_older}\n" if n_done < n_planned else ""
