"""Whether the reference is a fair bar: `IndependentTasks` against plain LightGBM where labels are few.

Run it by ``python -m benchmarks.reference``; ``--help`` lists the options. The cases are those of `benchmarks.evidence`
with 50, 150 and 500 labels of a target, which every model learns alone, by five draws. ``tune`` has no effect there.
The rivals are what one writes without any choice: ``LGBMClassifier()`` or ``LGBMRegressor()``, and 60 trees of 7 leaves
at a learning rate of .05.

Every fit adds a line to ``reference.jsonl``; a later call runs what is missing there, and prints the table of the mean
scores with the paired differences. Behind and ahead are by the t quantile of the draws: the 95 % interval of the
difference leaves 0 out.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
from scipy.stats import t

from benchmarks.evidence import FEW, FIT_ROWS, MOST_LABELS, TARGETS, alone, open_draw
from benchmarks.harness import Record, print_table, score_parser
from benchmarks.sharing import answers_of, score_answers
from tabmtl import IndependentTasks

AMOUNTS = (50, *FEW)
#: Trees that one takes without any choice.
FIXED: dict[str, Any] = {"n_estimators": 60, "num_leaves": 7, "learning_rate": 0.05}


class Plain:
    """LightGBM's own estimator, on text as pandas' categories."""

    def __init__(self, *, tasks: dict[str, Any], random_state: int, **options: Any) -> None:
        ((self._task, kind),) = tasks.items()
        make = lgb.LGBMRegressor if kind == "regression" else lgb.LGBMClassifier
        self._model = make(random_state=random_state, n_jobs=1, verbose=-1, **options)

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit the rows; LightGBM has no use for groups."""
        self._levels = {name: X[name].drop_nulls().unique().sort() for name in X.select(pl.col(pl.String)).columns}
        self._model.fit(self._frame(X), y[self._task].to_numpy())

    def answer(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,)."""
        ask = getattr(self._model, "predict_proba", self._model.predict)
        found = np.asarray(ask(self._frame(X)))
        return {self._task: found[:, 1] if found.ndim > 1 else found}

    def _frame(self, X: pl.DataFrame) -> Any:
        codes = [pl.col(name).cast(pl.Enum(levels), strict=False) for name, levels in self._levels.items()]
        return X.with_columns(codes).to_pandas()


REFERENCE = "IndependentTasks"
RIVALS: dict[str, Callable[..., Any]] = {"LightGBM": Plain, "60 x 7": partial(Plain, **FIXED)}
MODELS = {REFERENCE: IndependentTasks} | RIVALS


def cases(sets: Sequence[str], seeds: Sequence[int]) -> Iterator[Record]:
    """Yield the facts of every case."""
    for name in sets:
        for seed in seeds:
            for target in TARGETS[name]:
                for amount in AMOUNTS:
                    if amount <= MOST_LABELS.get(name, amount):
                        yield {"set": name, "target": target, "labels": amount, "seed": seed}


def run(model_name: str, facts: Record, folder: Path | None) -> Record:
    """Fit a model, and return its record."""
    draw = open_draw(facts["set"], facts["seed"], FIT_ROWS["labels"], folder)
    case = alone(draw.scarce(facts["target"], facts["labels"], facts["seed"]), facts["target"])
    model = MODELS[model_name](tasks=case.tasks, random_state=facts["seed"])
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few labels, which are meant
        model.fit(*case.train, groups=case.groups)
    seconds = time.process_time() - start
    answers = model.answer(case.test[0]) if isinstance(model, Plain) else answers_of(model, case.test[0])
    score = score_answers(case.tasks, case.test[1], answers)[facts["target"]]
    return {**facts, "model": model_name, "score": round(score, 5), "seconds": round(seconds, 2)}


def report(records: Sequence[Record]) -> None:
    """Print means by case, paired differences with the half of their interval, and what is ahead or behind."""
    found: dict[tuple[Any, ...], dict[int, dict[str, float]]] = {}
    for record in records:
        draws = found.setdefault((record["labels"], record["set"], record["target"]), {})
        draws.setdefault(record["seed"], {})[record["model"]] = record["score"]
    table: dict[str, dict[str, str]] = {}
    counts = {rival: [0, 0, 0] for rival in RIVALS}
    means: dict[tuple[int, str], list[float]] = {}
    for (amount, name, target), draws in sorted(found.items()):
        whole = [scores for scores in draws.values() if len(scores) == len(MODELS)]
        if len(whole) < 2:
            continue
        cells = {model: f"{fmean(scores[model] for scores in whole):.4f}" for model in MODELS}
        for rival in RIVALS:
            differences = [scores[REFERENCE] - scores[rival] for scores in whole]
            half = t.ppf(0.975, len(whole) - 1) * stdev(differences) / len(whole) ** 0.5
            mean = fmean(differences)
            means.setdefault((amount, rival), []).append(mean)
            counts[rival][0 if mean > half else 1 if mean < -half else 2] += 1
            cells[f"less {rival}"] = f"{mean:+.4f} ± {half:.4f}{' behind' if mean < -half else ''}"
        table[f"{name} {target[:22]} {amount}"] = cells
    print_table("test scores, mean over the draws; differences with half of their 95 % interval", table)
    for rival, (ahead, behind, open_) in counts.items():
        print(f"{REFERENCE} less {rival}: ahead in {ahead}, behind in {behind}, open in {open_}")
        of_amount = [f"{fmean(own):+.3f} at {amount} labels" for (amount, name), own in means.items() if name == rival]
        print(f"  means {', '.join(of_amount)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("reference", __doc__, seeds=range(5), sets=TARGETS, models=MODELS)
    parser.add_argument("--seconds", type=float, help="end after so many, between two fits (default: no end)")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    path, end = args.output / "reference.jsonl", time.monotonic() + (args.seconds or float("inf"))
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    done = {(r["set"], r["target"], r["labels"], r["seed"], r["model"]) for r in records}
    with path.open("a", encoding="utf-8") as file:
        for facts in cases(args.sets, args.seeds):
            for model in args.models:
                if (*facts.values(), model) not in done and time.monotonic() < end:
                    records.append(run(model, facts, args.folder))
                    file.write(json.dumps(records[-1], ensure_ascii=False) + "\n")
                    file.flush()
    report(records)


if __name__ == "__main__":
    main()
