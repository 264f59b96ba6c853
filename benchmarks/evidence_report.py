"""The page of `benchmarks.evidence`: its tables, its plot and its goals, made from the records."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
from scipy.stats import t as student

from benchmarks.evidence_compare import (
    BESIDE,
    BEST,
    LEVEL,
    NOT_RUN,
    OF_TARGET,
    Comparison,
    compare,
    curve_of,
    fits_of,
    flatten,
    holm,
    known,
    labels_of,
    means_of,
    means_of_times,
    of_models,
    over_sets,
    paired,
    reference_cases,
    slopes_of,
)
from benchmarks.evidence_goals import (
    MARGIN,
    Goal,
    cost_goals,
    count_missed,
    goal_rows,
    goals_of,
    name_cases,
    reference_goals,
)
from benchmarks.evidence_models import (
    AUTOGLUON,
    EACH_ALONE,
    ENSEMBLE,
    FOURFOLD,
    MODELS,
    OF_ONE_MIXER,
    REALMLP,
    REALMLP_BY_LOSS,
    REFERENCE,
    RIVALS,
    TABM,
    of_kind,
)
from benchmarks.harness import Record, print_table
from tabmtl.inspection.plots.display import COLORS, MARKED
from tabmtl.inspection.plots.display import REFERENCE as OUTSIDE

#: Peers, and the ensemble with each task alone, in the table of all cases; a peer has the better of its stops.
PEERS: dict[str, tuple[str, ...]] = {name: (name,) for name in (AUTOGLUON, EACH_ALONE, REALMLP, TABM, FOURFOLD)}
PEERS[REALMLP] = REALMLP, REALMLP_BY_LOSS
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
OURS = of_kind("single", "joint", "transfer")
MARKS = "<!-- evidence -->", "<!-- /evidence -->"

ONE_DRAW = "one draw"
SUMMARY = (
    "Mean differences of `MultiTaskEnsemble`, positive if it is better, with the standard error over the sets, and "
    "their number, by draws that chose nothing of it. Then, on how many sets the mean over the targets is better, AUC "
    "and R² together, with the p value of an exact Wilcoxon test over the sets, each for itself (.016 is the least "
    "that seven sets can have), and how many cases are at most .01 behind by a one-sided 95 % interval (Student's t "
    "over the draws; one draw has none). The best single-task model is chosen in hindsight, of all that have all "
    "draws. AutoGluon has {times:.1f} times the CPU seconds of the ensemble: those of an older, dearer one. No "
    "foundation model is among the models, and the sets are those that the ensemble was developed on."
)
INTRODUCTION = f"""# When learning together pays

Made by `python -m benchmarks.evidence --report` from the records beside this page. `python -m benchmarks.evidence`
makes the records, and `--help` says what the parts are; `benchmarks/evidence_models.py` lists the settings. Test rows
chose some of them: those of draw 0 the guard, the mixing rule and the candidates of `MultiTaskEnsemble`
([lab](../lab.md#weights-by-likelihood)), those of draws 0 to 2 how `IndependentTasks`, one of the candidates, mixes its
models ([lab](../lab.md#families-of-a-reference)), and Mulan's first fold the trees for labels without noise, such as
those of enb ([lab](../lab.md#numbers-without-noise)). So a model is judged by draws and folds that chose nothing of it:
the ensemble from {MODELS[ENSEMBLE].tuned_on} on, the reference from {MODELS[REFERENCE].tuned_on} on. Where there are
none, the others are shown, without an error. The sets are those that all of this was developed on.

One mixer, and means of levels, were chosen by draw 0 and by draws 5 to 7, which are not on this page, and frozen at
commit {OF_ONE_MIXER}. Then draws 1 to 4 of the two mixtures, of the ensemble with each task alone, of
`IndependentTasks` and of `SharedTrees` were run once. The older ensemble had been read on these draws, and its records
are in `before`.

A difference is that of `MultiTaskEnsemble` to another model, such as the single-task model with the best mean: of
`IndependentTasks`, tuned LightGBM, its bag of five, CatBoost, LightGBM's defaults, 60 small trees, ExtraTrees, linear
models, the ensemble with each task alone, and AutoGluon, as far as they have run. It is chosen in hindsight, to the
disadvantage of the ensemble. The trivial transfer is tuned LightGBM that reads answers of small trees to the other
targets, out of fold, beside the features. A difference is paired over the draws, with its standard error, and bold
where its 95 % interval by Student's t leaves 0 out: 3.2 errors with four draws, 4.3 with three, 12.7 with two. One draw
has no error. Means and differences are over the draws that the compared models have. Draws share rows, so errors are
too small.

Three draws of AutoGluon at 150, 500 and all labels, and at all labels of the models of all tasks and of the ensemble
with each task alone, were read before two more were added, as was one fold of oes10 and osales. Goals about cases
within .01, about sets and about the distance of slopes were set after results were read, in place of ones that could
hardly fail: with so few draws, Holm's method seldom finds a model behind that is.
"""
PEERS_NOTE = """
Peers learn the target alone, in an environment of their own, on one core: `benchmarks/peers` says how they are made and
set. AutoGluon 1.6 (best_quality, boosters and networks) has the CPU seconds that an older ensemble took in the same
draw for all targets, two to three times those of this one, and in one draw four times as many. Its usual budget is
larger still: an hour. Peers are not told the groups of rows, families in rand_hie and days in flights: AutoGluon's
folds by groups fail where one of them has labels of one class only. Beside them is the same ensemble with each task
alone: what it lacks comes from learning together, what it has from mixing models. Scores are means over the draws of
all three; each difference is over those of its two.

Classifiers of RealMLP and TabM stop by AUC. They stopped by the error rate and then by cross-entropy until results were
read. By cross-entropy RealMLP is .026 of AUC better at all labels (five sets, one draw), and worse with few: each case
has its better stop. TabM is best by AUC, in the mean, at each number of labels. Both have draws 0 to 2, and at all
labels most sets draw 0 alone, so that the best single-task model is not chosen of them.
"""
REFERENCE_NOTE = """
`IndependentTasks`, untuned, beside models that one writes in a line: mean differences over the sets, each of the mean
of its targets, AUC and R² together, with the standard error over the sets, by the draws that chose nothing of it. The
last column has the best of them by set, in hindsight.
"""
SLOPE_NOTE = """
The slope of a logistic regression of the label on the log odds of the answer, on the test rows: 1 is calibrated, below
1 is too bold. By number of labels: the mean slope, the mean distance of its logarithm to 0, and the share of fits whose
slope is from .9 to 1.1; means over the binary targets of a set, then over the sets. For the distance, slopes below .1
are .1, negative ones among them: their answers count as ten times too bold.
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
        scores = {name: f"{each.means[name]:.4f}" for name in OURS if name in each.means}
        best = f"{each.rival}, {each.means[each.rival]:.4f}" if each.rival else ""
        rows.append(facts | {"draws": name_draws(each)} | scores | {BEST: best, "difference": each.difference})
    return table(rows)


def name_draws(comparison: Comparison) -> str:
    """Name the draws: "0", "1, 2" or "1 to 4"."""
    first, *_, last = comparison.draws[0], *comparison.draws
    return f"{first} to {last}" if len(comparison.draws) > 2 else ", ".join(map(str, comparison.draws))


def summary_of(curve: pl.DataFrame) -> str:
    """Say what the tables of the summary have."""
    keys = ["set", "target", "amount", "seed"]
    own, peer = (of_models(curve, model).unique(keys) for model in (ENSEMBLE, AUTOGLUON))
    both = own.join(peer, on=keys, suffix="_of_peer", nulls_equal=True)
    times = fmean(both["seconds_of_peer"]) / (fmean(both["seconds"]) or math.nan) if len(both) else math.nan
    return SUMMARY.format(times=times)


def summary_blocks(beside: Mapping[str, Sequence[Comparison]]) -> dict[str, list[dict[str, str]]]:
    """Return rows of mean differences to each rival, by labels.

    A block has targets with equal numbers of labels, which its title names. The largest blocks come first.
    """
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
                row[f"to {rival}"] = summary_cell(own)
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


def summary_cell(own: Sequence[Comparison]) -> str:
    """Return the mean differences by metric, the test over the sets, and the count of cases within the margin."""
    own = known(own)
    if not own:
        return NOT_RUN
    if all(each.error is None for each in own):
        return f"{means_of(own)}; {ONE_DRAW}"
    near = sum(each.low >= -MARGIN for each in own)
    return f"{means_of(own)}; {over_sets(own)}; {near} of {len(own)} within .01"


def chance_note(comparisons: Sequence[Comparison]) -> str:
    """Return how many differences are judged, and how many stay beyond chance where all are judged at once, by Holm."""
    judged = [each for each in comparisons if each.p_value is not None]
    beyond = sum((each.p_value or 0.0) < LEVEL for each in judged)
    return (
        f"{len(judged)} differences to the best single-task model, of targets and of Mulan's sets, have an error, and "
        f"{beyond} are beyond chance one by one; if all were level, about {LEVEL * len(judged):.0f} would be. For all "
        f"of them at once, by Holm's method, it is {len(holm(judged))}. One by one, the ensemble is behind in "
        f"{name_cases([each for each in judged if each.is_behind], len(judged))}.\n"
    )


def fourfold_note(curve: pl.DataFrame) -> str:
    """Return on how many sets AutoGluon is ahead with more CPU, by number of labels."""
    found = known(compare(curve, OF_TARGET, (FOURFOLD,)))
    lost = {labels: [c.gain or 0.0 for c in found if labels_of(c) == labels] for labels in map(labels_of, found)}
    counts = [f"{sum(gain < 0 for gain in own)} of {len(own)} sets at {labels}" for labels, own in lost.items()]
    return f"With four times the CPU, AutoGluon is ahead on {', '.join(counts)} labels (one draw).\n" if counts else ""


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
    beside = {name for models in PEERS.values() for name in models}
    own = of_models(curve, ENSEMBLE, *beside)
    with_peers = own.join(of_models(own, *beside), on=OF_TARGET, how="semi", nulls_equal=True)
    to = [compare(with_peers, OF_TARGET, models) for models in PEERS.values()]
    rows = []
    for first, *pairs in zip(compare(with_peers, OF_TARGET, (AUTOGLUON, EACH_ALONE)), *to, strict=True):
        means = first.means
        scores = {name: f"{means[name]:.4f}" if name in means else "" for name in (ENSEMBLE, AUTOGLUON, EACH_ALONE)}
        differences = {f"to {name}": each.difference for name, each in zip(PEERS, pairs, strict=True)}
        facts = {name: value for name, value in first.facts.items() if name != "amount"}
        rows.append(facts | {"labels": labels_of(first), "draws": name_draws(first)} | scores | differences)
    return table(rows)


def reference_section(frame: pl.DataFrame) -> str:
    """Return how the reference is to its rivals by number of labels, and its goals."""
    curve = curve_of(frame)
    pairs = {rival: reference_cases(curve, (rival,)) for rival in RIVALS}
    pairs["the best of them"] = reference_cases(curve, RIVALS)
    rows: dict[str, dict[str, str]] = {}
    for rival, found in pairs.items():
        for labels, each in found.items():
            text = f"{each.difference} ({len(each.draws)})"
            rows.setdefault(labels, {"labels": labels})[f"to {rival}"] = text
    return f"{REFERENCE_NOTE.strip()}\n\n{table([*rows.values()])}\n{table(goal_rows(reference_goals(curve)))}"


def slopes_table(frame: pl.DataFrame) -> str:
    """Return the calibration by model and number of labels."""
    rows: dict[str, dict[str, str]] = {}
    for model, amount, *found in slopes_of(frame).sort("amount", nulls_last=True, maintain_order=True).iter_rows():
        text = "{:.2f}; {:.2f}; {:.2f}".format(*found)
        rows.setdefault(model, {"model": model})["all" if amount is None else str(amount)] = text
    return table([*rows.values()])


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


def draw_labels(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the scores of all models against the labels, a panel for every target."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((c.facts["set"], c.facts["task"], c.facts["metric"]) for c in comparisons))
    amounts = sorted({c.facts["amount"] for c in comparisons}, key=lambda n: math.inf if n is None else n)
    models = list(dict.fromkeys(name for c in comparisons for name in c.means))
    lines = {"joint": "-", "transfer": "-", "peer": ":"}
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
        draws = {c.facts["amount"]: f" ({len(c.draws)})" for c in own}
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
    earlier: Sequence[Record],
    baseline: Sequence[Record],
    folder: Path,
    progress: tuple[int, int],
    rows: str,
) -> None:
    """Write the page and the plot into the folder of the records, and a summary into the README of the checkout.

    The summary comes between the `MARKS`, if the README has them. Both say how many of the planned fits are there, as
    ``progress`` tells, and how many rows they see, as ``rows`` does. Older records stand in for parts without any;
    scores are compared with all earlier ones too, and costs with those of the baseline.
    """
    shown = [*records, *older]
    if not shown:
        raise SystemExit(f"{folder} has no records: run python -m benchmarks.evidence first")
    frame = flatten(shown)
    curve = curve_of(frame)
    beside = {title: compare(curve, OF_TARGET, rivals) for title, rivals in BESIDE.items()}
    # not by older records, which the baseline belongs to
    costs = cost_goals(*map(flatten, (records, baseline)))
    goals = goals_of(frame, flatten(earlier), beside, costs)
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
        short = f"{short_summary(beside)}{fourfold_note(curve).strip()} {count_missed(goals)}"
        text = "\n".join(
            [MARKS[0], "", figure, f"{rows} {summary_of(curve)} {so_far.strip()}".rstrip(), "", short, MARKS[1]]
        )
        before = readme.read_text(encoding="utf-8")
        readme.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: text, before, flags=re.S), encoding="utf-8")


def sections(frame: pl.DataFrame, beside: Mapping[str, Sequence[Comparison]], goals: Sequence[Goal]) -> dict[str, str]:
    """Return the parts of the page that tell scores, by title."""
    curve = curve_of(frame)
    few = compare(curve, OF_TARGET)
    full = compare(frame.filter(part="full"), ("set",))
    mulan = compare(frame.filter(part="mulan"), ("set",), is_error=True)
    missing = compare(frame.filter(part="missing"), ("set", "amount"))
    chance = f"{fourfold_note(curve)}\n{chance_note([*few, *mulan])}"
    rivers = rivers_table(frame.filter(part="rf1"), "fold", PUBLISHED)
    blocks = rivers_table(frame.filter(part="blocks"), "block")
    return {
        "In short": f"{summary_of(curve)}\n\n{summary_table(beside)}\n{chance}\n{count_missed(goals)}",
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
