"""Networks of three departments, merged into one, beside one network of all labels.

Run it by ``python -m benchmarks.merging``; ``--help`` lists the options. A seed draws rows to fit a common network on,
with the labels of all tasks; rows of each of three departments, with the labels of a third of the tasks; rows to choose
scales by; and rows to test. Each department fine-tunes the common network on its own rows. The ways to answer all tasks
are

===============  ====================================================================================================
base             the common network
single           each task by the network of its department: three networks
joint            one network of all rows, with all of these labels: the upper bound
average          the merged network, by the mean of weights
task_arithmetic  the merged network, by the best of five scales, by the rows to choose by
===============  ====================================================================================================

The front of `tabmtl.extras.merge_front` is held against that of 500 drawn scales, by the share of the volume that
these dominate, of one task of every department; so is that of as many drawn scales as the front has scored. Levels that
the common network has not seen are missing in all rows, since levels that grow apart cannot be merged.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any, get_args

import numpy as np
import polars as pl

import tabmtl
from benchmarks.datasets import load
from benchmarks.harness import Record, paired, print_sets, print_table, score_parser, spreads
from benchmarks.problems import answers_of, score_answers
from tabmtl.extras import merge, merge_front
from tabmtl.extras.front import is_front
from tabmtl.extras.merge import Method

SETS = ("star", "gss_abortion", "census_kdd")
#: Rows to fit the common network, of each department, to choose scales by, and at most to test.
ROWS, TEST_ROWS = {"base": 600, "department": 1_500, "choose": 600}, 4_000
N_DEPARTMENTS = 3
SCALES = (0.2, 0.4, 0.6, 0.8, 1.0)
AVERAGE = "average"
#: Drawn scales that a front is held against, and draws of the volume.
N_DRAWN, N_VOLUME = 500, 20_000

Table = tuple[pl.DataFrame, pl.DataFrame]


def parts_of(X: pl.DataFrame, y: pl.DataFrame, seed: int, share: float) -> dict[str, Any]:
    """Draw the rows of all parts; a share below 1 takes fewer of each."""
    sizes = [ROWS["base"], *[ROWS["department"]] * N_DEPARTMENTS, ROWS["choose"], TEST_ROWS]
    order = np.random.default_rng([seed, 37]).permutation(len(X))
    ends = np.cumsum([round(share * size) for size in sizes])
    parts = [(X[rows], y[rows]) for rows in map(np.sort, np.split(order[: ends[-1]], ends[:-1]))]
    return {"base": parts[0], "departments": parts[1:-2], "choose": parts[-2], "test": parts[-1]}


def known_levels(model: Any, X: pl.DataFrame) -> pl.DataFrame:
    """Return rows whose levels are those that a model has seen; others are missing."""
    return X.with_columns(
        pl.when(pl.col(name).cast(pl.String).is_in(levels)).then(pl.col(name)).alias(name)
        for name, levels in model.coder_.levels.items()
    )


def labels_of(y: pl.DataFrame, tasks: Sequence[str]) -> pl.DataFrame:
    """Return targets with the labels of some tasks only."""
    return y.with_columns(pl.lit(None, kind).alias(name) for name, kind in y.schema.items() if name not in tasks)


def fine_tuned(base: Any, X: pl.DataFrame, y: pl.DataFrame, rate: float) -> Any:
    """Return a copy of the base that has gone on with rows of a department."""
    return copy(base).set_params(warm_start=True, learning_rate=rate).fit(X, y)


def run_seed(name: str, seed: int, args: Namespace) -> Iterator[Record]:
    """Yield the scores of every way on the draw of a seed, and then what the front is worth."""
    data = load(name, args.folder, full=True)
    X, y = pl.collect_all([data.features, data.targets])
    parts, tasks = parts_of(X, y, seed, args.share), dict(data.tasks)
    budget = {} if args.epochs is None else {"epochs": args.epochs}
    columns = dict.fromkeys(X.select(pl.col(pl.String)).columns, "category")
    make = partial(getattr(tabmtl, args.model), tasks=tasks, columns=columns, random_state=seed, **budget)
    base = make().fit(*parts["base"])
    own = [[*part] for part in np.array_split([*tasks], N_DEPARTMENTS)]
    departments = [
        (known_levels(base, X), labels_of(y, names)) for (X, y), names in zip(parts["departments"], own, strict=True)
    ]
    models = [fine_tuned(base, *rows, args.rate) for rows in departments]
    (X_choose, y_choose), (X_test, y_test) = ((known_levels(base, X), y) for X, y in (parts["choose"], parts["test"]))
    rows = pl.concat([known_levels(base, parts["base"][0]), *(X for X, _ in departments)])
    joint = make().fit(rows, pl.concat([parts["base"][1], *(y for _, y in departments)]))

    def scored(way: str, answers: dict[str, np.ndarray], scale: float | None = None) -> Iterator[Record]:
        for task, score in score_answers(tasks, y_test, answers).items():
            yield {"set": name, "seed": seed, "way": way, "task": task, "score": score, "scale": scale}

    yield from scored("base", answers_of(base, X_test))
    found = [answers_of(model, X_test) for model in models]
    yield from scored("single", {task: each[task] for each, names in zip(found, own, strict=True) for task in names})
    yield from scored("joint", answers_of(joint, X_test))
    for method in args.methods:
        scales = [None] if method == AVERAGE else SCALES
        merged = [merge(base, models, method=method, scale=scale, X=rows) for scale in scales]
        chosen = int(np.argmax([model.score(X_choose, y_choose) for model in merged]))
        yield from scored(method, answers_of(merged[chosen], X_test), scales[chosen])
    if args.front:
        shown = [names[0] for names in own]
        for way, reached in front_of(base, models, X_choose, y_choose, shown, seed, args.front).items():
            yield {"set": name, "seed": seed, "way": way, "task": "volume", "score": reached, "scale": None}


def front_of(
    base: Any, models: Sequence[Any], X: pl.DataFrame, y: pl.DataFrame, tasks: Sequence[str], seed: int, n_drawn: int
) -> dict[str, float]:
    """Return the share of the volume below drawn scales that a front dominates, and as many drawn scales."""
    columns = [f"score/{task}" for task in tasks]
    front = merge_front(base, models, X, y, tasks=tasks, random_state=seed).select(columns).to_numpy()
    found = merge_front(base, models, X, y, tasks=tasks, n_points=n_drawn, n_front=1, random_state=seed + 1_000)
    drawn = found.select(columns).to_numpy()[:n_drawn]
    low, high = drawn.min(axis=0), np.maximum(drawn.max(axis=0), front.max(axis=0))
    points = low + (high - low) * np.random.default_rng(seed).random((N_VOLUME, len(tasks)))

    def volume(scores: np.ndarray) -> float:
        best = scores[is_front(scores)]
        return float((best[None] >= points[:, None]).all(axis=2).any(axis=1).mean())

    return {name: volume(scores) / volume(drawn) for name, scores in (("front", front), ("drawn", drawn[: len(front)]))}


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield the records of every seed."""
    for seed in args.seeds:
        yield [*run_seed(name, seed, args)]


def report(records: pl.DataFrame) -> None:
    """Print the scores of every way, and how far it is ahead of the average of weights in the mean of the tasks."""
    scores, volume = records.filter(pl.col("task") != "volume"), records.filter(task="volume")
    means = scores.group_by("way", "seed", maintain_order=True).agg(pl.col("score").mean())
    both = pl.concat([scores, means.with_columns(task=pl.lit("mean"))], how="diagonal")
    table, of_average = spreads(both, "way", "task", "score"), means.filter(way=AVERAGE).sort("seed")["score"]
    for way, cells in table.items():
        own = means.filter(way=way).sort("seed")["score"]
        if way != AVERAGE and len(own) == len(of_average):
            cells["mean - average"] = paired((own - of_average).to_list())
    seeds = records["seed"].unique().sort().to_list()
    print_table(f"{records['set'][0]}: test scores, mean ± standard deviation over the seeds {seeds}", table)
    if len(volume):
        print_table(f"share of the volume of {N_DRAWN} drawn scales", spreads(volume, "way", "task", "score"))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("merging", __doc__, seeds=range(5), sets=SETS, methods=get_args(Method))
    parser.add_argument("--model", choices=["SharedBottom", "MMoE", "PLE"], default="SharedBottom")
    parser.add_argument("--epochs", type=int, help="of every fit, at most; default: those of the model")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of departments; default: 0.0005")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows of every part; default: 1")
    parser.add_argument("--front", type=int, default=N_DRAWN, help=f"drawn scales, 0 for no front; default: {N_DRAWN}")
    args = parser.parse_args(argv)
    print_sets(args.sets, partial(runs, args), report, args.output / "merging.csv", [])


if __name__ == "__main__":
    main()
