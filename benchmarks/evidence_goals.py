"""The goals of `benchmarks.evidence`, and whether its records reach them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import polars as pl

from benchmarks.evidence_compare import (
    BEST,
    NOT_RUN,
    OF_ITSELF,
    OF_PEER,
    OF_TARGET,
    SLOPES,
    Comparison,
    compare,
    curve_of,
    fits_of,
    gains_of_sets,
    holm,
    known,
    labels_of,
    means_of,
    means_of_times,
    of_models,
    over_sets,
    reference_cases,
    slopes_of,
)
from benchmarks.evidence_models import (
    BASELINE,
    CATBOOST,
    DISTILLED,
    ENSEMBLE,
    FAST,
    FEW,
    REFERENCE,
    RIVALS,
    TREES,
    TREES_ALONE,
)

#: Mean gains over AutoGluon that are expected at few labels, and sets on which one is at all labels.
ENOUGH, AHEAD_AT_FULL = {"AUC": 0.05, "R²": 0.05}, 4
#: The most that a case may be behind by the lower end of its interval, and a distilled network behind the ensemble.
MARGIN, MOST_DISTILLED = 0.01, 0.003
#: The share of cases that are within the margin of AutoGluon, and the most that a case may be behind it in the mean.
NEAR, FARTHEST = 12 / 14, 0.02
#: The most that the reference may be behind the best of its rivals in the mean.
MOST_BEHIND = 0.005
#: The most that shared trees may be behind those of each task alone in the mean, the share of cases within `FARTHEST`,
#: and the numbers of labels that it is about.
MOST_BEHIND_ALONE, NEAR_ALONE, FEW_OF_TREES = 0.005, 25 / 28, (50, 150)
#: The largest mean distance of slopes of calibration to 1, as a logarithm, and by those of the baseline.
FLAT, FLATTER = 0.1, 0.5
#: The most that a fit takes, and an answer to 1000 rows, by those of the baseline; and milliseconds of one row.
MOST_FIT, MOST_MANY, MOST_MS = 0.6, 0.5, 8.0
#: The same of the fast mixture: a fit by that of the reference of the baseline.
MOST_FAST, MOST_FAST_MS = 2.0, 3.0
#: The reference at the commit of the baseline.
EARLIER = f"{REFERENCE} at {BASELINE}"

#: What is to be reached, what is found, and whether that is enough.
Goal = tuple[str, str, bool]


def goals_of(
    frame: pl.DataFrame, earlier: pl.DataFrame, beside: Mapping[str, Sequence[Comparison]], costs: Sequence[Goal]
) -> list[Goal]:
    """Return what is to be reached, the goals of costs among them; the earlier records are of older code."""
    fewest = [each for each in known(beside[OF_PEER]) if each.facts["amount"] is not None]
    few = [each for each in fewest if each.facts["amount"] in FEW]
    full = [each for each in known(beside[OF_PEER]) if each.facts["amount"] is None]
    mulan = compare(frame.filter(part="mulan"), ("set",), (CATBOOST,), is_error=True)
    distilled = compare(frame.filter(part="full"), ("set",), (ENSEMBLE,), model=DISTILLED)
    margin = " and ".join(f"{least} {metric}" for metric, least in ENOUGH.items())
    labels = " and ".join(map(str, FEW))
    ahead = [each for each in full if each.is_ahead]
    return [
        (
            f"few labels: ahead of AutoGluon by {margin} in the mean",
            means_of(fewest),
            all((own := gains_of_sets(fewest, metric)) and fmean(own) >= least for metric, least in ENOUGH.items()),
        ),
        near_goal(f"{labels} labels: behind AutoGluon", few, NEAR),
        within("all labels: no case behind AutoGluon", full),
        (
            f"all labels: ahead of AutoGluon beyond chance on {AHEAD_AT_FULL} sets, one by one",
            name_cases(ahead, len(full)) if full else NOT_RUN,
            len(ahead) >= AHEAD_AT_FULL,
        ),
        sets_goal(beside[OF_ITSELF]),
        within("the guard: no case behind the best single-task model", known(beside[BEST])),
        within("Mulan: no set behind CatBoost", known(mulan)),
        *mixture_goals(curve_of(frame), curve_of(earlier)),
        calibration_goal(frame),
        flatter_goal(frame, earlier),
        *costs,
        within("`distill`, with unlabelled rows: no set behind the ensemble", known(distilled), MOST_DISTILLED),
        *reference_goals(curve_of(frame)),
    ]


def sets_goal(to_itself: Sequence[Comparison]) -> Goal:
    """Return whether the ensemble is ahead of itself with each task alone over the sets, at every number of labels."""
    judged = [each for each in to_itself if each.error is not None]
    by_labels: dict[str, list[Comparison]] = {}
    for each in judged:
        by_labels.setdefault(labels_of(each), []).append(each)
    found = [*map(over_sets, by_labels.values())]
    held = [each for each in holm(found) if fmean(each.gains) > 0]
    counts = "; ".join(f"{each} at {each.labels}" for each in found)
    return (
        "ahead of itself with each task alone over the sets, at every number of labels (exact Wilcoxon, Holm)",
        f"{counts} labels; by Holm, at {len(held)} of {len(found)}" if found else NOT_RUN,
        bool(found) and len(held) == len(found),
    )


def near_goal(goal: str, comparisons: Sequence[Comparison], share: float) -> Goal:
    """Return whether most cases are within the margin by the lower end of a one-sided interval, and none far behind."""
    near = sum(each.low >= -MARGIN for each in comparisons)
    lowest = min(comparisons, key=lambda each: each.gain or 0.0, default=None)
    return (
        f"{goal} by at most {MARGIN} (one-sided 95 %) in {share:.0%} of the cases, by {FARTHEST} in the mean of each",
        f"{near} of {len(comparisons)}, lowest {lowest.gain:+.4f} ({_name(lowest)})" if lowest else NOT_RUN,
        lowest is not None and near >= share * len(comparisons) and (lowest.gain or 0.0) >= -FARTHEST,
    )


def mixture_goals(curve: pl.DataFrame, earlier: pl.DataFrame) -> list[Goal]:
    """Return whether the two mixtures, and shared trees, are near what they may not be behind, in means of cases."""
    before = of_models(earlier, REFERENCE).with_columns(model=pl.lit(EARLIER))
    both = pl.concat([of_models(curve, ENSEMBLE, FAST), before])
    to_whole = known(compare(curve, OF_TARGET, (ENSEMBLE,), model=FAST))
    goals = [deficit_goal(f"`{FAST}`: behind `{ENSEMBLE}`", to_whole, MARGIN)]
    for model in (ENSEMBLE, FAST):
        found = known(compare(both, OF_TARGET, (EARLIER,), model=model))
        far = sorted((each for each in found if (each.gain or 0.0) < -MARGIN), key=lambda each: each.gain or 0.0)
        lowest = f", lowest {far[0].gain:+.4f}" if far else ""
        text = f"{means_of(found)}; farther behind in {name_cases(far, len(found))}{lowest}"
        goals.append((
            f"`{model}`: behind {EARLIER} by at most {MARGIN} in the mean of each case",
            text if found else NOT_RUN,
            bool(found) and not far,
        ))  # fmt: skip
    own = known(compare(curve, OF_TARGET, (TREES_ALONE,), model=TREES))
    own = [each for each in own if each.facts["amount"] in FEW_OF_TREES]
    near = sum((each.gain or 0.0) >= -FARTHEST for each in own)
    name = f"`{TREES}`, {' and '.join(map(str, FEW_OF_TREES))} labels: behind itself with each task alone"
    goal, text, is_met = deficit_goal(name, own, MOST_BEHIND_ALONE)
    if own:
        text += f"; {near} of {len(own)} by less"
    goal += f", and by {FARTHEST} in {NEAR_ALONE:.0%} of them"
    return [*goals, (goal, text, is_met and near >= NEAR_ALONE * len(own))]


def deficit_goal(goal: str, comparisons: Sequence[Comparison], most: float) -> Goal:
    """Return whether a model is near another one in the mean of all cases."""
    gains = [each.gain or 0.0 for each in comparisons]
    text = f"{fmean(gains):+.4f}; {means_of(comparisons)}" if gains else NOT_RUN
    return f"{goal} by at most {most} in the mean of the cases", text, bool(gains) and fmean(gains) >= -most


def calibration_goal(frame: pl.DataFrame) -> Goal:
    """Return whether the slopes of the ensemble are near 1, fit by fit."""
    own = slopes_of(frame.filter(model=ENSEMBLE)).sort("amount", nulls_last=True).drop("model")
    found = {"all" if amount is None else str(amount): facts for amount, *facts in own.iter_rows()}
    low, high = SLOPES
    shown = [f"{away:.2f} ({near:.2f}) at {labels}" for labels, (_, away, near) in found.items()]
    return (
        f"calibration: log slopes at most {FLAT} from 0 in the mean (in brackets: the share from {low} to {high})",
        f"{', '.join(shown)} labels" if shown else NOT_RUN,
        bool(found) and all(away <= FLAT for _, away, _ in found.values()),
    )


def flatter_goal(frame: pl.DataFrame, earlier: pl.DataFrame) -> Goal:
    """Return whether slopes of the ensemble are nearer to 1 than before at few labels."""
    few = [slopes_of(each.filter(model=ENSEMBLE)).drop_nulls("amount")["distance"] for each in (frame, earlier)]
    found = [fmean(each) if len(each) else math.nan for each in few]
    return (
        f"calibration at few labels: log slopes at most {FLATTER} times as far from 0 as before",
        NOT_RUN if math.isnan(sum(found)) else f"{found[0]:.2f}, before {found[1]:.2f}",
        found[0] <= FLATTER * found[1],
    )


def cost_goals(own: pl.DataFrame, before: pl.DataFrame) -> list[Goal]:
    """Return whether fits and answers of both mixtures take little, beside the same fits of the baseline."""
    goals = []
    both = fits_of(of_models(own, ENSEMBLE)).join(
        fits_of(of_models(before, ENSEMBLE)), on=("set", "seed"), suffix="_before"
    )
    for title, name, most in (("fit", "seconds", MOST_FIT), ("answer to 1000 rows", "ms_of_1000", MOST_MANY)):
        ratio = fmean(both[name]) / fmean(both[f"{name}_before"]) if len(both) else math.inf
        text = f"{ratio:.2f} (sum of {len(both)} fits)" if len(both) else NOT_RUN
        goals.append((f"{title}: at most {most:.2f} of its CPU time at commit {BASELINE}", text, ratio <= most))
    ms = means_of_times(both)["ms_of_1"].sort().to_list() or [math.inf]
    found = f"{ms[0]:.1f} to {ms[-1]:.1f} ms by set" if len(both) else NOT_RUN
    goals.append((f"answer to one row: at most {MOST_MS:.0f} ms", found, ms[-1] <= MOST_MS))
    return [*goals, *fast_costs(own, before)]


def fast_costs(own: pl.DataFrame, before: pl.DataFrame) -> list[Goal]:
    """Return whether the fast mixture takes little beside the reference of the baseline, at each number of labels."""
    facts = ["part", "set", "target", "amount", "seed"]
    fast, reference = (
        of_models(frame, model).unique(facts, maintain_order=True)
        for frame, model in ((own, FAST), (before, REFERENCE))
    )
    both = fast.join(reference, on=facts, suffix="_before", nulls_equal=True)
    ratios = {
        "all" if amount is None else str(amount): fmean(fits["seconds"]) / fmean(fits["seconds_before"])
        for (amount,), fits in both.sort("amount", nulls_last=True).group_by("amount", maintain_order=True)
    }
    ms = max(both["ms_of_1"], default=math.inf)
    found = ", ".join(f"{ratio:.2f} at {labels}" for labels, ratio in ratios.items())
    return [
        (
            f"`{FAST}`: a fit at most {MOST_FAST:.0f} times the CPU time of {EARLIER}",
            f"{found} labels" if ratios else NOT_RUN,
            bool(ratios) and max(ratios.values()) <= MOST_FAST,
        ),
        (
            f"`{FAST}`: answer to one row: at most {MOST_FAST_MS:.0f} ms",
            f"at most {ms:.1f} ms" if ratios else NOT_RUN,
            ms <= MOST_FAST_MS,
        ),
    ]


def reference_goals(curve: pl.DataFrame) -> list[Goal]:
    """Return whether nothing that one writes without any choice is ahead of the reference, over the sets."""
    pairs = [each for rival in RIVALS for each in reference_cases(curve, (rival,)).values()]
    best = reference_cases(curve, RIVALS)
    gain = fmean(each.gain or 0.0 for each in best.values()) if best else -math.inf
    shown = [f"{each.difference.replace('*', '')} at {labels}" for labels, each in best.items()]
    return [
        within("reference: over the sets, behind no rival", pairs),
        (
            f"reference: at most {MOST_BEHIND} behind the best of them in the mean",
            f"{gain:+.4f} ({', '.join(shown)} labels)" if best else NOT_RUN,
            gain >= -MOST_BEHIND,
        ),
    ]


def goal_rows(goals: Iterable[Goal]) -> list[dict[str, str]]:
    """Return goals as rows of a table."""
    return [
        {"goal": goal, "found": text, "reached": NOT_RUN if text == NOT_RUN else "yes" if is_met else "**no**"}
        for goal, text, is_met in goals
    ]


def count_missed(goals: Sequence[Goal]) -> str:
    """Count the goals that are not reached."""
    n_missed = sum(not is_met for _, _, is_met in goals)
    return f"Of {len(goals)} goals on the page of figures, {n_missed} are not reached.\n"


def within(goal: str, comparisons: Sequence[Comparison], margin: float = MARGIN) -> Goal:
    """Count the cases that are within a margin by the lower end of a one-sided interval, which all have to be.

    One draw has no interval, and is not within. Beside them are those behind one by one, and those whose mean is below,
    with the lowest.
    """
    goal = f"{goal} by more than {margin} (one-sided 95 %)"
    if not comparisons:
        return goal, NOT_RUN, False
    near = sum(each.low >= -margin for each in comparisons)
    behind = [each for each in comparisons if each.is_behind]
    single = [f"{_name(each)} {each.gain:+.4f}" for each in comparisons if each.error is None]
    below = sorted((each for each in comparisons if (each.gain or 0.0) < 0), key=lambda each: each.gain or 0.0)
    text = (
        f"{near} of {len(comparisons)} within; behind beyond chance, one by one, {name_cases(behind, len(comparisons))}"
    )
    text += f"; mean below 0 in {len(below)}" + (f", lowest {below[0].gain:+.4f} ({_name(below[0])})" if below else "")
    text += f"; of one draw: {', '.join(single)}" if single else ""
    return goal, text, near == len(comparisons)


def name_cases(chosen: Sequence[Comparison], n: int) -> str:
    """Count the comparisons that are chosen of some, and name them."""
    return f"{len(chosen)} of {n}" + (f": {'; '.join(map(_name, chosen))}" if chosen else "")


def _name(comparison: Comparison) -> str:
    return " ".join("all" if value is None else str(value) for value in comparison.facts.values())
