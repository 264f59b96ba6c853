"""One network at several sizes: what it scores, multiplies and takes, beside networks that were trained at that size.

Run it by ``python -m benchmarks.slimming``; ``--help`` lists the options. A seed draws rows to fit and to test; a fifth
of the rows to fit only judges what `prune` may leave out. The ways to a network of a share of the multiplications are

==================  =================================================================================================
trained             a network of the size: all its widths are smaller by one factor
slim                ``with_budget`` of a network that was trained at several widths
pruned              ``prune`` of a network that was trained at its full width, until the share is reached
pruned, and a pass  the same, and then one pass over the rows to fit by ``partial_fit``
==================  =================================================================================================

The share 1 is the whole network: trained as ever, or with ``slim``. Times are the medians of CPU milliseconds of one
thread, for an answer to one row and to 1 024: of the network's scores of encoded rows ("eager"), and of the exported
file. They are those of the first seed.
"""

from __future__ import annotations

from argparse import Namespace
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.base import clone

import tabmtl
from benchmarks.cases.serving import session_of
from benchmarks.harness import Record, cpu, paired, print_sets, print_table, score_parser, spreads
from benchmarks.problems import Case, answers_of, open_case, score_answers
from tabmtl import OnnxCoder
from tabmtl.training.predict import predict_scores

SETS, MODELS = ("star", "gss_abortion", "census_kdd"), ("SharedBottom", "MMoE", "PLE")
FIT_ROWS, TEST_ROWS, JUDGED = 3_000, 4_000, 0.2
WIDTHS, BUDGETS = (0.25, 0.5, 1.0), (0.5, 0.25)
#: Parameters that hold widths.
OF_WIDTHS = ("hidden", "expert_hidden", "head_hidden")
#: Factors of widths that are tried.
FACTORS = np.arange(1, 33) / 32
ASKED, REQUESTS = (1, 1_024), 15
TRAINED, SLIM, PRUNED, TUNED = "trained", "slim", "pruned", "pruned, and a pass"


def narrowed(model: Any, factor: float) -> Any:
    """Return a clone with all widths smaller by a factor, as multiples of 4."""
    widths = {name: getattr(model, name) for name in OF_WIDTHS if hasattr(model, name)}

    def scaled(width: Any) -> Any:
        return max(4 * round(factor * width / 4), 4) if isinstance(width, int) else tuple(map(scaled, width))

    return clone(model).set_params(**{name: scaled(width) for name, width in widths.items()})


def of_size(model: Any, X: pl.DataFrame, y: pl.DataFrame, budget: float) -> Any:
    """Return the widest clone within a share of the multiplications."""

    def cost(factor: float) -> int:
        return narrowed(model, factor).set_params(epochs=1, early_stopping=False).fit(X, y).multiply_adds_

    most = budget * cost(1.0)
    return narrowed(model, FACTORS[max(bisect_right(FACTORS, most, key=cost) - 1, 0)])


def made(model: Any, case: Case, budgets: Sequence[float]) -> Iterator[tuple[str, float, Any]]:
    """Yield the fitted networks of all ways and shares."""
    X, y = case.train
    n_judged = round(JUDGED * len(X))
    (X_fit, y_fit), judged = (X[n_judged:], y[n_judged:]), (X[:n_judged], y[:n_judged])
    whole = clone(model).fit(X_fit, y_fit)
    yield TRAINED, 1.0, whole
    slim = clone(model).set_params(slim=WIDTHS).fit(X_fit, y_fit)
    yield SLIM, 1.0, slim
    for budget in budgets:
        yield TRAINED, budget, of_size(model, X_fit, y_fit, budget).fit(X_fit, y_fit)
        yield SLIM, budget, slim.with_budget(budget)
        pruned = whole.prune(*judged, keep=budget, floor=1.0)
        yield PRUNED, budget, pruned
        yield TUNED, budget, pruned.partial_fit(X_fit, y_fit)


def times(model: Any, X: pl.DataFrame) -> dict[str, float]:
    """Return the median CPU milliseconds of an answer, by the number of rows, of the network and of its file."""
    session = session_of(model)
    network, coder, found = model.fitted_network()[0], OnnxCoder(session), {}
    for n in ASKED:
        rows = X[np.arange(n) % len(X)]
        batch, inputs = model.coder_.read(rows).map(torch.from_numpy), coder.encode(rows)
        calls = {"eager": partial(predict_scores, network, batch), "ONNX": partial(session.run, None, inputs)}
        for name, call in calls.items():
            call()
            found[f"{name}, {n} rows" if n > 1 else f"{name}, a row"] = 1e3 * float(
                np.median([cpu(call)(0)["s"] for _ in range(REQUESTS)])
            )
    return found


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield the records of every model and seed."""
    for seed in args.seeds:
        case = few_rows(open_case(name, seed, args.folder), seed)
        for model_name in args.models:
            budget = {} if args.epochs is None else {"epochs": args.epochs}
            model = getattr(tabmtl, model_name)(tasks=case.tasks, random_state=seed, **budget)
            records = []
            for way, share, network in made(model, case, args.budgets):
                score = fmean(score_answers(case.tasks, case.test[1], answers_of(network, case.test[0])).values())
                facts = {"score": score, "multiply-adds": float(network.multiply_adds_)}
                facts |= times(network, case.test[0]) if seed == args.seeds[0] else {}
                about = {"set": name, "seed": seed, "model": model_name, "way": way, "share": share}
                records += [{**about, "measure": measure, "value": value} for measure, value in facts.items()]
            yield records


def few_rows(case: Case, seed: int) -> Case:
    """Return a case of fewer rows, in random order."""
    rng = np.random.default_rng([seed, 38])

    def drawn(X: pl.DataFrame, y: pl.DataFrame, n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        rows = rng.permutation(len(X))[:n]
        return X[rows], y[rows]

    return Case(train=drawn(*case.train, FIT_ROWS), test=drawn(*case.test, TEST_ROWS), tasks=case.tasks, groups=None)


def report(records: pl.DataFrame) -> None:
    """Print the measures of every network, and its score less that of the network which was trained at its size."""
    for (model,), own in records.group_by("model", maintain_order=True):
        rows = own.with_columns(row=pl.format("{} at {}", "way", "share")).sort(
            "share", descending=True, maintain_order=True
        )
        table = spreads(rows, "row", "measure", "value")
        scores = rows.filter(measure="score")
        trained = scores.filter(way=TRAINED).select("seed", "share", trained="value")
        for (row,), way in scores.join(trained, on=["seed", "share"]).group_by("row", maintain_order=True):
            if way["way"][0] != TRAINED:
                table[str(row)]["score - trained"] = paired((way["value"] - way["trained"]).to_list())
        seeds = own["seed"].unique().sort().to_list()
        print_table(f"{own['set'][0]}, {model}: mean ± standard deviation over the seeds {seeds}", table)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("slimming", __doc__, seeds=range(5), sets=SETS, models=MODELS)
    parser.add_argument("--budgets", nargs="+", type=float, default=[*BUDGETS], help="shares of the multiplications")
    parser.add_argument("--epochs", type=int, help="of every fit, at most; default: those of the model")
    args = parser.parse_args(argv)
    print_sets(args.sets, partial(runs, args), report, args.output / "slimming.csv", [])


if __name__ == "__main__":
    main()
