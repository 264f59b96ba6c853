"""Whether a balance of the tasks' losses is ahead of their sum, on six sets that nothing here was chosen by.

Run it by ``python -m benchmarks.balances``; ``--help`` lists the options. The methods are those of `tabmtl.extras`.
SharedBottom has its defaults but for the balance. It learns from at most 3 000 rows of a set, with all labels, and
answers at most 4 000. A method with a parameter of its own has three values, of which the draws of ``CHOOSE`` take one
by the mean test score over the sets; the draws of ``JUDGE`` have only that value. The four best methods by ``CHOOSE``,
and the sum, train MMoE on the draws of ``JUDGE`` too.

A difference is that of the mean score over the tasks (ROC AUC, R²) to the one of the sum on the same draw. Its error
is half of the 95 % interval by Student's t over the draws that judge. A method is ahead if the interval of the mean of
all sets lies above 0, and this mean is at least .003.

Every fit adds a line to ``docs/evidence/balances/records.jsonl``; a later call runs what is missing. ``--budget`` ends
a call at so many CPU seconds of all fits together. ``--report`` prints the tables alone.
"""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

import tabmtl
from benchmarks.evidence import FIT_ROWS, OUTPUT, made_by, open_draw
from benchmarks.harness import Record, cpu, paired, print_table, score_parser
from benchmarks.problems import answers_of, score_answers
from tabmtl.extras import FlatRegions, GradientBalance, GradNorm, LossBalance

SETS = ("portal", "star", "rand_hie", "gss_abortion", "flights", "census_kdd")
CHOOSE, JUDGE = (0, 5, 6, 7), (1, 2, 3, 4)
SUM, FIRST, SECOND = "sum", "SharedBottom", "MMoE"
#: Scalarizers of TorchJD, those that want the number of tasks, and aggregators.
SCALARIZERS, SIZED = ("UW", "IMTLL", "DWA", "GeometricMean", "FAMO"), ("UW", "IMTLL", "FAMO")
AGGREGATORS = ("PCGrad", "MGDA", "IMTLG", "UPGrad", "AlignedMTL", "ConFIG")
#: Values of a method's own parameters; the first are the defaults.
VALUES: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys((SUM, *SCALARIZERS), ({},)),
    "GradNorm": ({}, {"alpha": 0.5}, {"alpha": 0.0}),
    **dict.fromkeys(AGGREGATORS, ({}, {"normalize": True}, {"level": "parameters"})),
    "FlatRegions": ({}, {"radius": 0.001}, {"radius": 0.05}),
}
#: Methods beside the sum that train the second network, and what counts as ahead.
N_SECOND, AHEAD = 4, 0.003
#: What tells a fit from the others.
KEY = ("network", "method", "value", "set", "draw")


def balance_of(method: str, value: int, n_tasks: int) -> Any:
    """Return what a network takes as its balance."""
    params = VALUES[method][value]
    if method == SUM:
        return SUM
    if method in SCALARIZERS:
        make = getattr(import_module("torchjd.scalarization"), method)
        return LossBalance(make(n_tasks) if method in SIZED else make())
    if method in AGGREGATORS:
        return GradientBalance(getattr(import_module("torchjd.aggregation"), method)(), **params)
    return {"GradNorm": GradNorm, "FlatRegions": FlatRegions}[method](**params)


def plan(frame: pl.DataFrame, methods: Sequence[str]) -> Iterator[tuple[str, str, int, str, int]]:
    """Yield the fits in their order, as far as the records tell what was chosen."""
    for draw, name, method in product(CHOOSE, SETS, methods):
        yield from ((FIRST, method, value, name, draw) for value in range(len(VALUES[method])))
    taken = chosen_values(frame, methods)
    yield from ((FIRST, method, taken[method], name, draw) for draw, name, method in product(JUDGE, SETS, taken))
    second = best_methods(frame, taken)
    for draw, name, method in product(JUDGE, SETS, second):
        yield SECOND, method, taken[method], name, draw


def chosen_values(frame: pl.DataFrame, methods: Sequence[str]) -> dict[str, int]:
    """Return the value of every method whose draws to choose by are complete."""
    known = frame.filter(pl.col("network") == FIRST, pl.col("draw").is_in(CHOOSE))
    means = known.group_by("method", "value").agg(pl.len(), pl.col("mean").mean())
    whole = means.filter(pl.col("len") == len(CHOOSE) * len(SETS)).sort("mean", "value", descending=[True, False])
    best = whole.group_by("method", maintain_order=True).agg(pl.len(), pl.col("value").first())
    found = {method: value for method, n, value in best.iter_rows() if n == len(VALUES[method])}
    return {method: found[method] for method in methods if method in found}


def best_methods(frame: pl.DataFrame, taken: dict[str, int]) -> list[str]:
    """Return the sum and the methods that are best on the draws to choose by, once all methods have their value."""
    if set(taken) != set(VALUES):
        return []
    known = frame.filter(pl.col("network") == FIRST, pl.col("draw").is_in(CHOOSE))
    means = {method: fmean(known.filter(method=method, value=value)["mean"]) for method, value in taken.items()}
    return [SUM, *sorted({*means} - {SUM}, key=lambda method: -means[method])[:N_SECOND]]


def run(key: tuple[str, str, int, str, int], args: Namespace) -> Record:
    """Fit one network, and return its record."""
    network, method, value, name, draw = key
    case = open_draw(name, draw, FIT_ROWS["full"], args.folder)
    balance = balance_of(method, value, len(case.tasks))
    model = getattr(tabmtl, network)(tasks=case.tasks, random_state=draw, balance=balance)
    with warnings.catch_warnings(action="ignore"):  # of text columns of whole numbers, which are known
        seconds = cpu(lambda: model.fit(*case.train, groups=case.groups))(0)["s"]
    scores = score_answers(case.tasks, case.test[1], answers_of(model, case.test[0]))
    rounded = {task: round(score, 5) for task, score in scores.items()}
    facts = dict(zip(KEY, key, strict=True)) | {"mean": round(fmean(scores.values()), 5), "seconds": round(seconds, 2)}
    return {**facts, **made_by(), "scores": rounded}


def read(file: Path) -> pl.DataFrame:
    """Read the records of a file; none gives an empty frame."""
    schema: dict[str, Any] = dict.fromkeys(("network", "method", "set"), pl.String)
    schema |= {"value": pl.Int64, "draw": pl.Int64, "mean": pl.Float64, "seconds": pl.Float64}
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    rows = [{name: record[name] for name in schema} for record in map(json.loads, lines)]
    return pl.DataFrame(rows, schema=schema)


def differences(frame: pl.DataFrame, network: str, draws: Sequence[int]) -> dict[str, dict[str, str]]:
    """Return the paired differences of every method and value to the sum, by set and over all sets."""
    own = frame.filter(pl.col("draw").is_in(draws), network=network)
    of_sum = own.filter(method=SUM).select("set", "draw", base="mean", cost="seconds")
    both = own.filter(pl.col("method") != SUM).join(of_sum, on=["set", "draw"])
    both = both.with_columns(difference=pl.col("mean") - pl.col("base")).sort("draw")
    table: dict[str, dict[str, str]] = {}
    for (method, value), rows in both.group_by("method", "value", maintain_order=True):
        label = " ".join([str(method), *(f"{name}={it}" for name, it in VALUES[str(method)][value].items())])
        by_set = {str(name): paired(part["difference"].to_list()) for (name,), part in rows.group_by("set")}
        by_draw = rows.group_by("draw", maintain_order=True).agg(pl.col("difference").mean(), pl.len())
        whole = by_draw.filter(pl.col("len") == len(SETS))["difference"].to_list()
        cells = {"all": paired(whole)} if whole else {}
        table[label] = cells | {name: by_set[name] for name in SETS if name in by_set}
        table[label]["CPU"] = f"{fmean(rows['seconds']) / fmean(rows['cost']):.1f}"
    return table


def report(frame: pl.DataFrame) -> None:
    """Print the tables of both networks, of the draws that choose and of those that judge."""
    for network, (title, draws) in product((FIRST, SECOND), (("chose", CHOOSE), ("judge", JUDGE))):
        print_table(f"{network}: score less that of the sum, draws that {title}", differences(frame, network, draws))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    made = score_parser("balances", __doc__, OUTPUT / "balances", seeds=sorted((*CHOOSE, *JUDGE)), methods=VALUES)
    made.add_argument("--budget", type=float, default=6 * 3600, help="CPU seconds of all fits together")
    made.add_argument("--report", action="store_true", help="run nothing, and print the tables")
    args = made.parse_args(argv)
    file = args.output / "records.jsonl"
    args.output.mkdir(parents=True, exist_ok=True)
    while not args.report:
        frame = read(file)
        done = set(frame.select(KEY).iter_rows())
        left = (key for key in plan(frame, args.methods) if key not in done and key[-1] in args.seeds)
        key = next(left, None)
        if key is None or frame["seconds"].sum() > args.budget:
            break
        record = run(key, args)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(*key, record["mean"], f"{record['seconds']:.1f} s", flush=True)
    report(read(file))


if __name__ == "__main__":
    main()
