"""Promises of few labelled rows, and fresh rows: thresholds, calibration errors, isotonic answers, joint intervals.

Run it by ``python -m benchmarks.few_rows``; ``--help`` lists the options. Nothing is fitted: labels and answers are
drawn, many times, from laws that are known. One label in seven is positive, or one in two ("even"). Answers are the
probabilities of the labels, or their log odds are twice ("bold") or half ("timid") the true ones. The parts are:

==========  ============================================================================================================
thresholds  the score that `tune_thresholds` reports, and that of fresh rows at its thresholds: the difference should be
            0 within its error. A miss costs ten false alarms. "chosen" is the share of draws whose threshold is not the
            one at hand
errors      the mean of "neg_expected_calibration_error", without its sign, and the true error: the mean, over answers,
            of the gap of their bin
isotonic    log loss of fresh rows: of the answers, behind a sigmoid, behind an isotonic calibration, and behind that
            without its floor
joint       share of fresh rows whose numbers all lie in their joint intervals of level 0.9, and the mean width over the
            one of a normal number alone. The errors of five numbers have standard deviations from .1 to 1. Beside it
            are intervals by the mean scores of the rows alone, and by the standard deviations of labels, all 1
==========  ============================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import log_loss

from benchmarks.harness import print_table, speed_parser
from tabmtl.metrics.scores import Answered, score_task
from tabmtl.targets import Task
from tabmtl.targets.decisions.calibrators import Calibrator
from tabmtl.targets.decisions.conformal import Conformal
from tabmtl.targets.decisions.goals import goal_of
from tabmtl.targets.decisions.thresholds import Rows, tune

LATE = Task(name="late", kind="binary", classes=(0, 1))
#: Mean of the log odds, and slope of the answered ones.
LAWS = {"calibrated": (-2.5, 1.0), "bold": (-2.5, 2.0), "timid": (-2.5, 0.5), "even": (0.0, 1.0)}
COSTS = {(1, 0): 10.0, (0, 1): 1.0}
AIMS = {
    "costs": ("calibrated", "bold", "timid"),
    "f1": ("calibrated", "even"),
    "balanced_accuracy": ("calibrated", "even"),
}
LEVEL, FRESH = 0.9, 2_000
#: Standard deviations of the errors of numbers, whose labels all have 1.
SPREADS = np.geomspace(0.1, 1, 5)

#: Numbers of one draw, by what they are.
Found = dict[str, float]
Draw = Callable[[np.random.Generator, int], Found]


def drawn(rng: np.random.Generator, n: int, law: str) -> Rows:
    """Draw rows, and answers to them."""
    mean, slope = LAWS[law]
    odds = rng.normal(mean, 1.5, size=n)
    p = expit(slope * odds)
    y = (rng.random(n) < expit(odds)).astype(np.intp)
    return Rows(y, np.column_stack([1 - p, p]), np.ones(n), None)


def thresholds(rng: np.random.Generator, n: int, *, law: str, aim: str) -> Found:
    """Return the score that is reported, and that of fresh rows."""
    goal = goal_of(LATE, *((None, COSTS) if aim == "costs" else (aim, None)))
    rows, fresh = drawn(rng, n, law), drawn(rng, 10 * FRESH, law)
    found, tuned = tune(LATE, rows, goal)
    score = float(goal.score(goal.parts(fresh.y, LATE.at(found).decide(fresh.p)).sum(axis=0)))
    default = float(goal.score(goal.parts(fresh.y, LATE.decide(fresh.p)).sum(axis=0)))
    reported = np.nan if tuned.score is None else tuned.score
    at_hand = 0.5 if goal.threshold is None else goal.threshold
    known = {"reported": reported, "fresh": score, "difference": reported - score}
    return known | {"fresh, default": default, "chosen": float(found != (at_hand,))}


def errors(rng: np.random.Generator, n: int, *, law: str) -> Found:
    """Return the calibration error that is reported, and the true one."""
    judged = replace(LATE, metric="neg_expected_calibration_error")
    rows, many = (drawn(rng, m, law) for m in (n, 10 * FRESH))
    gap = many.p[:, 1] - expit(logit(many.p[:, 1]) / LAWS[law][1])
    place = np.minimum((many.p[:, 1] * 10).astype(int), 9)
    true = float(np.abs(np.bincount(place, gap)).sum() / len(gap))
    reported = -score_task(judged, rows.y.astype(float), rows.p)
    return {"reported": reported, "true": true, "difference": reported - true}


def isotonic(rng: np.random.Generator, n: int, *, law: str) -> Found:
    """Return log losses of fresh rows."""
    rows, fresh = drawn(rng, n, law), drawn(rng, FRESH, law)
    if min(np.bincount(rows.y, minlength=2)) < 20:
        return {}
    learned = {name: Calibrator.learn(LATE, rows.y, rows.p, None, name) for name in ("sigmoid", "isotonic")}
    answers = {"answers": fresh.p} | {name: own(fresh.p) for name, own in learned.items()}
    answers["isotonic without a floor"] = replace(learned["isotonic"], floor=0.0)(fresh.p)
    return {name: float(log_loss(fresh.y, p)) for name, p in answers.items()}


def joint(rng: np.random.Generator, n: int, *, law: str) -> Found:
    """Return shares of fresh rows whose numbers are all held, and widths of the intervals."""
    tasks = [Task(name=f"y{t}", kind="regression") for t in range(len(SPREADS))]
    draws = rng.normal if law == "normal" else partial(rng.standard_t, 3)
    known, new = (SPREADS * draws(size=(m, len(tasks))) for m in (n, FRESH))
    conformal = Conformal.learn(Answered(tasks, known, [np.zeros(n)] * len(tasks)), range(len(tasks)), None, None)
    spans = conformal.spans(tasks, [np.zeros(1)] * len(tasks), LEVEL, joint=True)
    place = int(np.ceil((n + 1) * LEVEL - 1e-9)) - 1
    reach = {"joint": np.array([own.high[0] for own in spans if own is not None])}
    for name, unit in (("by means of the rows", np.abs(known).mean(axis=0)), ("by labels", np.ones(len(tasks)))):
        reach[name] = unit * np.sort((np.abs(known) / unit).max(axis=1))[place]
    held = {name: float((np.abs(new) <= own).all(axis=1).mean()) for name, own in reach.items()}
    alone = SPREADS * norm.ppf((1 + LEVEL) / 2)
    return held | {f"{name}, width": float((own / alone).mean()) for name, own in reach.items()}


PARTS: dict[str, tuple[tuple[int, ...], dict[str, Draw]]] = {
    "thresholds": (
        (200, 1_000),
        {f"{aim}, {law}": partial(thresholds, aim=aim, law=law) for aim, laws in AIMS.items() for law in laws},
    ),
    "errors": ((200, 1_000, 10_000), {law: partial(errors, law=law) for law in LAWS}),
    "isotonic": ((200, 400, 1_000), {law: partial(isotonic, law=law) for law in LAWS}),
    "joint": ((20, 50, 100, 1_000), {law: partial(joint, law=law) for law in ("normal", "Student's t(3)")}),
}


def report(part: str, n: int, draws: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the means over draws by law, with their standard errors."""
    for law, draw in PARTS[part][1].items():
        found = [own for seed in range(draws) if (own := draw(np.random.default_rng([seed, n]), n))]
        cells = {}
        for name in found[0] if found else ():
            values = np.array([own[name] for own in found])
            cells[name] = f"{values.mean():.4f} ± {values.std(ddof=1) / np.sqrt(len(values)):.4f}"
        yield law, cells


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    options = speed_parser("few_rows", __doc__, parts=tuple(PARTS))
    options.add_argument("--draws", type=int, default=400, help="default: 400; 5 with --quick")
    chosen = options.parse_args(argv)
    draws = 5 if chosen.quick else chosen.draws
    for part in chosen.parts:
        for n in PARTS[part][0]:
            print_table(f"{part} of {n} rows: means of {draws} draws, ± standard errors", dict(report(part, n, draws)))


if __name__ == "__main__":
    main()
