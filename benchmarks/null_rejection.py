"""How often `compare` tells equal models apart, which should be in at most 5 % of comparisons.

Run it by ``python -m benchmarks.null_rejection``; ``--help`` lists the options. Nothing is fitted: the answers of a
reference and its rivals are drawn, and judged by the code that judges those of fits. Every model answers the signal and
an error of its own, half of whose variance the rows of a group share, and so do the labels: all models are equal, on
average over draws of the rows. They are judged on the same 600 rows of two tasks. A comparison is rejected if any rival
has an interval that leaves 0 out, on average over the tasks, or on some task. Unequal groups are one of half the rows,
and others of ten. With several fits, every fit of a model scales its error by a factor of its own, which moves its R²
by a tenth: models are equal on average over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from benchmarks.harness import print_table, speed_parser
from tabmtl.inspection.comparison.judging import differences_at_once, differences_of
from tabmtl.metrics.scores import Answered
from tabmtl.targets import Task

ROWS, TASKS = 600, 2
METRICS = ("r2", "roc_auc")
#: Logarithmic spread of the errors of the fits of a model.
SPREAD = 0.1

UNEQUAL = "unequal size"
SIZES, RIVALS = ("1", "5", "20", UNEQUAL), (1, 5, 9)


def groups_of(size: str) -> np.ndarray:
    """Return the group of every row."""
    if size == UNEQUAL:
        return np.append(np.zeros(ROWS // 2, dtype=np.intp), 1 + np.arange(ROWS // 2) // 10)
    return np.arange(ROWS) // int(size)


def shared(rng: np.random.Generator, group: np.ndarray, n: int) -> np.ndarray:
    """Draw n columns of errors (rows, n) of variance 1, half of it from row to row and half from group to group."""
    return np.sqrt(0.5) * (rng.normal(size=(len(group), n)) + rng.normal(size=(group.max() + 1, n))[group])


def draw(rng: np.random.Generator, metric: str, group: np.ndarray, n_fits: int) -> list[list[Answered]]:
    """Draw tasks, and what the fits of the reference and of its rivals answer."""
    signal, noise = rng.normal(size=(len(group), TASKS)), shared(rng, group, TASKS)
    errors = [shared(rng, group, TASKS) for _ in range(1 + max(RIVALS))]
    scales = rng.lognormal(0, SPREAD if n_fits > 1 else 0, (len(errors), n_fits))
    answers = [[signal + scale * error for scale in own] for own, error in zip(scales, errors, strict=True)]
    if metric == "r2":
        tasks = [Task(name=f"y{t}", kind="regression", metric=metric) for t in range(TASKS)]
        return [[Answered(tasks, signal + noise, list(fit.T), group=group) for fit in each] for each in answers]
    tasks = [Task(name=f"y{t}", kind="binary", metric=metric, classes=(0, 1)) for t in range(TASKS)]
    y = (signal + noise > 1).astype(float)
    columns = [[[np.column_stack([-p, p]) for p in fit.T] for fit in each] for each in answers]
    return [[Answered(tasks, y, fit, group=group) for fit in each] for each in columns]


def rejections(metric: str, size: str, n_fits: int, seeds: Iterable[int]) -> Iterator[tuple[int, bool, bool]]:
    """Yield numbers of rivals, and whether some was rejected on average, and on some task."""
    group = groups_of(size)
    for seed in seeds:
        reference, *rivals = draw(np.random.default_rng([seed, SIZES.index(size)]), metric, group, n_fits)
        found = {str(r): differences_of(each, reference)[0] for r, each in enumerate(rivals)}
        for n in RIVALS:
            tables = differences_at_once({name: found[name] for name in list(found)[:n]})
            by_task, overall = (any(low > 0 or high < 0 for *_, low, high, _ in table.rows()) for table in tables)
            yield n, overall, by_task


def report(metric: str, size: str, n_fits: int, replications: int) -> dict[str, str]:
    """Return the shares of rejections in percent, with their standard errors."""
    found = [*rejections(metric, size, n_fits, range(replications))]
    cells = {}
    for column, where in ((1, "on average"), (2, "on some task")):
        for n in RIVALS:
            share = float(np.mean([each[column] for each in found if each[0] == n]))
            error = 100 * np.sqrt(share * (1 - share) / replications)
            cells[f"{n} {where}"] = f"{100 * share:.1f} ± {error:.1f}"
    return cells


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    options = speed_parser("null_rejection", __doc__, metrics=METRICS, sizes=SIZES)
    options.add_argument("--replications", type=int, default=1_000, help="default: 1000; 20 with --quick")
    options.add_argument("--fits", type=int, default=1, help="fits of every model, by as many seeds; default: 1")
    chosen = options.parse_args(argv)
    n = 20 if chosen.quick else chosen.replications
    for metric in chosen.metrics:
        table = {f"groups of {size}": report(metric, size, chosen.fits, n) for size in chosen.sizes}
        print_table(f"{metric}, {chosen.fits} fits: rejections in % of {n} comparisons of equal models", table)


if __name__ == "__main__":
    main()
