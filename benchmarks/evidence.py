"""When learning together pays: six models, from 50 labels of one target to all labels of all.

Run it by ``python -m benchmarks.evidence``; ``--help`` lists the options. Single-task models are LightGBM (the best of
four configurations), a bag of five of these, and CatBoost; the others learn all tasks together. Every model has its
defaults, and sets validation rows aside by itself. Test rows are scored once, and nothing is chosen by them.

The parts:

labels
    One target keeps 50, 150, 500, 1500 or all of its labels, those that a model sets aside included; the others keep
    theirs. The score is that of the target. Single-task models learn the target alone, on its labelled rows.
full
    All labels of all targets; the score is the mean over the targets.
missing
    25, 50 or 90 % of all labels are hidden at random; the score is the mean over the targets.
mulan
    Small sets of the Mulan collection, some of ten folds: the root of the squared errors over those of the training
    mean.
rf1
    The protocol that results on this set were published by: a fifth of the rows for the test, five folds of the rest.
    A model learns from four folds, and does not see the fifth, which the published models stop on. Models learn once,
    with the first fold left out; the two baselines are cheap, and answer with each left out in turn.
blocks
    rf1 in five blocks of consecutive hours, the newest first. A model learns from hours of the other blocks, by weeks
    as groups. Hours whose features and targets overlap with those of the tested block are left out.

Two parts run where they are named, with records in ``benchmark_output`` and a table of paired differences:

sharing
    What learning together is worth: SharedTrees and networks against SharedTrees fitted to each task alone (the twin),
    tuned LightGBM and CatBoost. Five seeds draw at most 20 000 rows of a set, 80 % of them to fit; all labels are
    there, or one task keeps 300 (500 of a classification).
reference
    Whether `IndependentTasks`, untuned, is a fair bar at 50, 150, 500 and all labels, by LightGBM alone and by all its
    families: against ``LGBMClassifier()`` or ``LGBMRegressor()``, 60 trees of 7 leaves at a learning rate of .05,
    scikit-learn's ExtraTrees, a logistic or ridge regression, and CatBoost. Five draws; each target is learned alone.

The baselines of the rivers learn nothing: the flow now as the forecast, and a line through the nearest hours to fit,
which sees no feature.

The first three split a set by the recipe of the data folder, anew for every draw (seed 0 gives the stored test rows),
by groups where it has some. A model learns from `FIT_ROWS` of the rows that are not for the test, at most, and answers
`TEST_ROWS`, at most. Times are CPU seconds of a fit, and milliseconds of an answer to one and to 1000 rows.

Every fit adds a line to ``docs/evidence/<part>.jsonl``, with the commit and the versions of packages that it ran by; a
later call runs what is missing there. The order is such that a part of the work already tells something: few labels,
all labels and rf1 come first, and of each a first draw. To stay within the CPU hours, 50, 1500 and all labels of a
target and hidden labels have one draw, as have oes10 and osales. ``--budget`` ends a call before a fit by which all
fits together, those of earlier calls too, would probably exceed it; ``--budget 0`` only prints the estimate.
``--report`` writes the page of the results from the lines.
"""

from __future__ import annotations

import json
import subprocess
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import cache, lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, train_test_split

from benchmarks import evidence_report
from benchmarks.evidence_report import AS_NOW, BAG, CATBOOST, ENSEMBLE, LIGHTGBM, LINE, SINGLE
from benchmarks.harness import ROOT, Record, cpu, score_parser
from benchmarks.problems import (
    SETS,
    Alone,
    Bag,
    Case,
    CatBoost,
    Plain,
    Scikit,
    answers_of,
    open_case,
    open_set,
    score_answers,
)
from benchmarks.splits import split_rows, time_blocks, units_of
from tabmtl import IndependentTasks, MMoE, MultiTabNet, MultiTaskEnsemble, SharedBottom, SharedTrees

#: Folders of the records, of a checkout: those of the page, and others.
OUTPUT, OTHER_OUTPUT = Path("docs/evidence"), Path("benchmark_output")
#: Rows to fit and to test, at most.
FIT_ROWS, TEST_ROWS = {"labels": 2_000, "full": 3_000, "missing": 2_000, "blocks": 3_000}, 4_000
#: Splits of a set: draws, or folds that are run.
DRAWS = {"labels": 3, "full": 3, "missing": 1, "mulan": 4, "rf1": 1, "blocks": 5}
#: Folds of a set; of these, `DRAWS` are run.
N_FOLDS = {"mulan": 10, "rf1": 5, "blocks": 5}
#: Parts of the rivers of rf1.
RIVERS = ("rf1", "blocks")
#: A row of rf1 is an hour: its features reach 60 hours back, and its targets, which end so, 48 hours ahead.
HOURS_BACK, HOURS_AHEAD, AHEAD, WEEK = 60, 48, "_48H", 168
#: Draws where the scarce target has another number of labels than those of `FEW`.
DRAWS_OF_OTHERS = 1
#: Draws, or folds of ten, that are run of sets on which a fit takes minutes.
DRAWS_OF_SLOW = {"oes10": 1, "osales": 1}
#: Numbers of labels of the scarce target; those that come first are the most telling.
FEW, OTHERS = (150, 500), (50, 1_500, None)
#: The scarce targets of a set.
TARGETS = {name: tasks for name, tasks in SETS.items() if tasks} | {
    "oes10": ("513021_Butchers_and_Meat_Cutters", "412021_Counter_and_Rental_Clerks")
}
#: The most labels below all, where they are fewer than 1500.
MOST_LABELS = {"star": 500, "wq": 500, "oes10": 150}
FULL_SETS = ("portal", "star", "rand_hie", "gss_abortion", "flights", "census_kdd", "wq")
MISSING_SETS, HIDDEN = ("star", "gss_abortion", "rand_hie"), (25, 50, 90)
FOLD_SETS = ("edm", "enb", "jura", "slump", "wq", "oes10", "osales")
#: CPU seconds of a fit, as long as none has been measured: those of the ensemble, and of any other model.
GUESS, GUESS_OF_OTHERS = 60.0, 3.0
#: Part, set, target and amount of a cell.
Setting = tuple[str, str, str | None, int | None]
#: Rows that a timed answer is for.
ANSWERED = 1_000

MODELS: dict[str, Callable[..., Any]] = {
    LIGHTGBM: partial(IndependentTasks, tune="all", families=("lightgbm",)),
    BAG: partial(Bag, partial(IndependentTasks, tune="all", families=("lightgbm",))),
    CATBOOST: CatBoost,
    "SharedTrees": SharedTrees,
    "SharedBottom, 4 members": partial(SharedBottom, n_members=4),
    ENSEMBLE: MultiTaskEnsemble,
}


#: Forecasts that learn nothing, of `RIVERS` only.
BASELINES = (AS_NOW, LINE)
#: Blocks that a model is run on.
DRAWS_OF_BLOCKS = {LIGHTGBM: 5, "SharedTrees": 5, ENSEMBLE: 1}
#: Models of the parts that no page shows, and what they are compared with.
TWIN, TREE_BAG, REFERENCE, MIXED, PLAIN, FIXED, FOREST, LINEAR = (
    "single-task twin",
    "SharedTrees, bag",
    "IndependentTasks",
    "IndependentTasks, all families",
    "LightGBM",
    "60 x 7",
    "ExtraTrees",
    "linear",
)
_RIVALS = (PLAIN, FIXED, FOREST, LINEAR, CATBOOST)
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "sharing": {
        "SharedTrees": (TWIN, LIGHTGBM, CATBOOST),
        TWIN: (),
        LIGHTGBM: (TWIN, CATBOOST),
        CATBOOST: (),
        "MMoE": (TWIN, LIGHTGBM, CATBOOST, "SharedTrees"),
        "MultiTabNet": (TWIN, LIGHTGBM, CATBOOST, "SharedTrees"),
        TREE_BAG: (BAG,),
        BAG: (),
    },
    "reference": {REFERENCE: _RIVALS, MIXED: (REFERENCE, *_RIVALS), **dict.fromkeys(_RIVALS, ())},
}
OF_TABLES: dict[str, Callable[..., Any]] = {
    TWIN: partial(Alone, SharedTrees),
    "MMoE": MMoE,
    "MultiTabNet": MultiTabNet,
    TREE_BAG: partial(Bag, SharedTrees),
    REFERENCE: partial(IndependentTasks, families=("lightgbm",)),
    PLAIN: Plain,
    FIXED: partial(Plain, n_estimators=60, num_leaves=7, learning_rate=0.05),
    MIXED: IndependentTasks,
    FOREST: partial(Scikit, ExtraTreesClassifier(), ExtraTreesRegressor()),
    LINEAR: partial(Scikit, LogisticRegression(max_iter=1_000), Ridge()),
}
#: Draws of these parts, labels of a scarce task of `sharing` by its kind, and of targets of `reference`.
N_DRAWS, FEW_OF_KIND, AMOUNTS = 5, {"binary": 500, "regression": 300}, (50, *FEW, None)
#: Folders of the package in a checkout, and other packages whose versions a record has.
SOURCES = ("tabmtl", "pipelines", "synth")
PACKAGES = ("lightgbm", "catboost", "scikit-learn", "torch", "polars", "numpy")


@dataclass(frozen=True)
class Cell:
    """One fit: a model on one split of a set.

    Parameters
    ----------
    part : str
    set : str
    target : str or None
        The scarce target, or None for all.
    amount : int or None
        Labels of the target, or percent of the labels that are hidden; None for all labels.
    seed : int
        Number of the draw or fold.
    model : str
    """

    part: str
    set: str
    target: str | None
    amount: int | None
    seed: int
    model: str

    @classmethod
    def of(cls, record: Record) -> Cell:
        """Return the cell that a record is of."""
        return cls(*(record[field.name] for field in fields(cls)))

    def __str__(self) -> str:
        """Return the facts, to be read."""
        return " ".join(str(fact) for fact in astuple(self) if fact is not None)


def plan(models: Sequence[str]) -> Iterator[Cell]:
    """Yield all cells in their order: what the goals are about first, a draw of each setting after the other."""
    goals, others = settings()
    for round_of in (goals, others):
        for draw in range(max(DRAWS.values())):
            for setting in round_of:
                yield from (Cell(*setting, draw, model) for model in models if draw < n_draws(model, *setting))


def n_draws(model: str, part: str, name: str, target: str | None, amount: int | None) -> int:
    """Return how many splits of a setting a model is run on."""
    if model in BASELINES:
        return N_FOLDS[part] if part in RIVERS else 0
    if part == "blocks":
        return DRAWS_OF_BLOCKS.get(model, 0)
    if part == "labels" and amount not in FEW:
        return DRAWS_OF_OTHERS
    return DRAWS_OF_SLOW.get(name, DRAWS[part])


def settings() -> tuple[list[Setting], list[Setting]]:
    """Return part, set, target and amount of the cells of one draw: those of the goals, and the others."""

    def curve(amounts: Sequence[int | None]) -> Iterator[Setting]:
        for amount in amounts:
            for name, targets in TARGETS.items():
                if amount is None:
                    yield "labels", name, None, None  # a joint model learns all targets at once
                elif amount <= MOST_LABELS.get(name, amount):
                    yield from (("labels", name, target, amount) for target in targets)

    rivers = ((part, "rf1", None, None) for part in RIVERS)
    goals = [*curve(FEW), *(("full", name, None, None) for name in FULL_SETS), *rivers]
    missing = (("missing", name, None, hidden) for name in MISSING_SETS for hidden in HIDDEN)
    return goals, [*curve(OTHERS), *missing, *(("mulan", name, None, None) for name in FOLD_SETS)]


def plan_tables(parts: Sequence[str]) -> Iterator[Cell]:
    """Yield all cells of the parts that no page shows."""
    for part in parts:
        settings: list[tuple[str, str | None, int | None]]
        if part == "sharing":
            settings = [(name, target, None) for name, targets in SETS.items() for target in (None, *targets)]
        else:
            settings = [
                (name, target, amount)
                for name, targets in TARGETS.items()
                for target in targets
                for amount in AMOUNTS
                if amount is None or amount <= MOST_LABELS.get(name, amount)
            ]
        for (name, target, amount), seed, model in product(settings, range(N_DRAWS), TABLES[part]):
            yield Cell(part, name, target, amount, seed, model)


def open_cell(cell: Cell, folder: Path | None) -> Case:
    """Return the rows of a cell."""
    if cell.part == "sharing":
        case = open_case(cell.set, cell.seed, folder)
        return case.scarce(cell.target, FEW_OF_KIND[case.tasks[cell.target]], cell.seed) if cell.target else case
    if cell.part in N_FOLDS:
        return open_fold(cell.part, cell.set, cell.seed, folder)
    case = open_draw(cell.set, cell.seed, FIT_ROWS["labels" if cell.part == "reference" else cell.part], folder)
    if cell.amount is None:
        return case
    if cell.target is None:
        return hide(case, cell.amount / 100, cell.seed)
    return case.scarce(cell.target, cell.amount, cell.seed)


@lru_cache(maxsize=32)
def open_draw(name: str, seed: int, n_to_fit: int, folder: Path | None) -> Case:
    """Return the rows of a draw: the rows to fit of fewer are those of more, and the rows to test are the same."""
    data = open_set(name, folder)
    X, y = pl.collect_all([data.features, data.targets])
    is_test = split_rows(data, seed) == "test"
    rng = np.random.default_rng([seed, 5])
    order = [rng.permutation(np.flatnonzero(part)) for part in (~is_test, is_test)]
    kept, scored = (np.sort(rows[:n]) for rows, n in zip(order, (n_to_fit, TEST_ROWS), strict=True))
    groups = units_of(data)[kept] if data.groups else None
    return Case(train=(X[kept], y[kept]), test=(X[scored], y[scored]), tasks=data.tasks, groups=groups)


def open_fold(part: str, name: str, fold: int, folder: Path | None) -> Case:
    """Return a fold of a set; hours of a block are in groups by weeks."""
    data = open_set(name, folder)
    X, y = pl.collect_all([data.features, data.targets])
    kept, scored = fold_rows(part, fold, len(X))
    groups = kept // WEEK if part == "blocks" else None
    return Case(train=(X[kept], y[kept]), test=(X[scored], y[scored]), tasks=data.tasks, groups=groups)


def fold_rows(part: str, fold: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to fit and to test: of ten folds by seed 0, of the published protocol, or of blocks of time."""
    rows, test = np.arange(n), None
    if part == "blocks":
        kept, scored = time_blocks(n, N_FOLDS[part], HOURS_BACK + HOURS_AHEAD)[-1 - fold]
        return np.sort(np.random.default_rng([fold, 6]).permutation(kept)[: FIT_ROWS[part]]), scored
    if part == "rf1":
        rows, test = train_test_split(rows, test_size=0.2, random_state=42)
    folds = KFold(N_FOLDS[part], shuffle=True, random_state=0 if test is None else 42)
    train, held_out = ([rows[index] for index in pair] for pair in zip(*folds.split(rows), strict=True))
    return train[fold], held_out[fold] if test is None else test


def forecast(cell: Cell, folder: Path | None) -> dict[str, np.ndarray]:
    """Return the answers of a baseline to the test rows of a fold of the rivers."""
    data = open_set(cell.set, folder)
    X, y = pl.collect_all([data.features, data.targets])
    kept, scored = fold_rows(cell.part, cell.seed, len(X))
    if cell.model == AS_NOW:
        return {task: X[task.replace(AHEAD, "")].to_numpy()[scored] for task in y.columns}
    hours = np.sort(kept)
    return {task: np.interp(scored, hours, y[task].to_numpy()[hours]) for task in y.columns}


def hide(case: Case, share: float, seed: int) -> Case:
    """Hide a share of all labels to fit."""
    X, y = case.train
    hidden = np.random.default_rng([seed, 4]).random(y.shape) < share
    columns = [pl.when(~pl.lit(pl.Series(hidden[:, j]))).then(pl.col(name)) for j, name in enumerate(y.columns)]
    return replace(case, train=(X, y.with_columns(columns)))


def alone(case: Case, task: str) -> Case:
    """Return the case of one task alone, on the rows that have its label."""
    X, y = case.train
    labelled = y[task].is_not_null()
    groups = None if case.groups is None else case.groups[labelled.to_numpy()]
    train = X.filter(labelled), y.select(task).filter(labelled)
    test = case.test[0], case.test[1].select(task)
    return Case(train=train, test=test, tasks={task: case.tasks[task]}, groups=groups)


def score(part: str, case: Case, answers: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the scores of the test rows: per metric a dict from task to score."""
    y = case.test[1]
    if part in N_FOLDS:
        squares = {task: np.square(y[task].to_numpy() - answer) for task, answer in answers.items()}
        if part in RIVERS:
            return {"RMSE": {"all": float(np.sqrt(np.nanmean([*squares.values()])))}}
        of_mean = {task: np.square(y[task].to_numpy() - case.train[1][task].mean()) for task in answers}
        return {
            "RRMSE": {task: float(np.sqrt(np.nansum(squares[task]) / np.nansum(of_mean[task]))) for task in answers}
        }
    found: dict[str, dict[str, float]] = {}
    for task, value in score_answers({task: case.tasks[task] for task in answers}, y, answers).items():
        found.setdefault("R²" if case.tasks[task] == "regression" else "AUC", {})[task] = value
    return found


def run(cell: Cell, folder: Path | None) -> Record:
    """Fit one model, and return its record: scores, CPU seconds of the fit, milliseconds of an answer, and the code."""
    code, case = made_by(), open_cell(cell, folder)
    scored = (cell.target,) if cell.target else TARGETS[cell.set] if cell.part == "labels" else tuple(case.tasks)
    is_alone = cell.part == "reference" or (cell.part == "labels" and cell.model in SINGLE)
    answers: dict[str, np.ndarray] = {}
    times = [np.zeros(3)]
    if cell.model in BASELINES:
        answers = forecast(cell, folder)
    else:
        for own in [alone(case, task) for task in scored] if is_alone else [case]:
            found, spent = fit(cell.model, own, cell.seed)
            answers |= found
            times.append(spent)
    scores = score(cell.part, case, {task: answers[task] for task in scored})
    rounded = {metric: {task: round(value, 5) for task, value in values.items()} for metric, values in scores.items()}
    named = dict(zip(("seconds", "ms_of_1", "ms_of_1000"), np.sum(times, axis=0).round(2).tolist(), strict=True))
    return {**asdict(cell), **named, **code, "scores": rounded}


@cache
def made_by() -> dict[str, str]:
    """Return the newest commit of the package, with a plus where files differ from it, and the versions of others."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments, "--", *SOURCES]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("log", "-1", "--format=%h") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        commit = "unknown"
    return {"code": commit, "versions": " ".join(filter(None, map(_version, PACKAGES)))}


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def fit(name: str, case: Case, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fit a model, and return its answers to the test rows, and three times: seconds of the fit, and milliseconds."""
    model, X = (OF_TABLES | MODELS)[name](tasks=case.tasks, random_state=seed), case.test[0]
    with warnings.catch_warnings(action="ignore"):  # of few labels, which are meant
        seconds = _cpu_seconds(lambda: model.fit(*case.train, groups=case.groups))
    many = X[:ANSWERED]
    one = min(_cpu_seconds(lambda: answers_of(model, X[:1])) for _ in range(3))
    of_many = _cpu_seconds(lambda: answers_of(model, many)) * ANSWERED / len(many)
    return answers_of(model, X), np.array([seconds, 1e3 * one, 1e3 * of_many])


def _cpu_seconds(call: Callable[[], Any]) -> float:
    return cpu(call)(0)["s"]


def estimate(cell: Cell, records: Sequence[Record]) -> float:
    """Return the probable CPU seconds of a fit: the mean of the fits that are most like it."""
    likeness = ("model",), ("model", "set"), ("model", "set", "part"), ("model", "set", "part", "amount")
    for names in reversed(likeness):
        like = [r["seconds"] for r in records if all(r[name] == getattr(cell, name) for name in names)]
        if like:
            return fmean(like)
    return GUESS if cell.model == ENSEMBLE else GUESS_OF_OTHERS


def read(folder: Path) -> list[Record]:
    """Read the records of all parts."""
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def work(cells: Sequence[Cell], args: Namespace, records: list[Record]) -> list[str]:
    """Fit cell after cell within the budget, write every record, and return what failed."""
    failed = []
    for cell in cells:
        spent = sum(record["seconds"] for record in records)
        if args.budget is not None and spent + estimate(cell, records) > args.budget:
            print(f"stopped before {cell}: {spent:.0f} of {args.budget:.0f} CPU seconds are spent")
            break
        try:
            record = run(cell, args.folder)
        except Exception as error:  # one fit must not end the work of hours; the next call tries it again
            failed.append(f"{cell}: {type(error).__name__}: {error}")
            print(f"failed: {failed[-1]}", flush=True)
            continue
        records.append(record)
        with (args.output / f"{cell.part}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        means = ", ".join(f"{name} {fmean(values.values()):.4f}" for name, values in record["scores"].items())
        print(f"{cell}: {means}, {record['seconds']:.1f} s", flush=True)
    return failed


def report(records: Sequence[Record], folder: Path, models: Sequence[str]) -> None:
    """Write the page of the results."""
    rows = (
        f"Models learn from at most {FIT_ROWS['labels']} rows, {FIT_ROWS['full']} where all labels are there, and "
        f"answer at most {TEST_ROWS}."
    )
    planned = {*plan(models)}
    n_missing = len(planned - {Cell.of(record) for record in records})
    evidence_report.write(records, folder, (len(planned) - n_missing, len(planned)), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    sets, models = dict.fromkeys([*SETS, *TARGETS, *FULL_SETS, *FOLD_SETS]), [*MODELS, *BASELINES]
    parser = score_parser(
        "evidence", __doc__, None, seeds=range(10), parts=[*DRAWS, *TABLES], sets=sets, models=[*models, *OF_TABLES]
    )
    parser.set_defaults(parts=[*DRAWS], models=[name for name in (*models, *OF_TABLES) if name != TREE_BAG])
    parser.add_argument("--budget", type=float, help="CPU seconds of all fits together (default: no end)")
    parser.add_argument("--report", action="store_true", help="run nothing, and write the page of the results")
    args = parser.parse_args(argv)
    tables = [part for part in args.parts if part in TABLES]
    args.output = args.output or (OTHER_OUTPUT if tables else OUTPUT)
    args.output.mkdir(parents=True, exist_ok=True)
    records = read(args.output)
    if args.report:
        report(records, args.output, models)
        return
    done = {Cell.of(record) for record in records}
    cells = [*(cell for cell in plan(models) if cell.part in args.parts), *plan_tables(tables)]
    chosen = [c for c in cells if c.model in args.models and c.set in args.sets and c.seed in args.seeds]
    missing = [cell for cell in chosen if cell not in done]
    hours = sum(estimate(cell, records) for cell in missing) / 3600
    print(f"{len(missing)} of {len(chosen)} fits are missing: about {hours:.1f} CPU hours", flush=True)
    failed = work(missing, args, records)
    for part in tables:
        shown = [record for record in records if record["part"] == part and record["set"] in args.sets]
        if shown:
            evidence_report.print_paired(evidence_report.flatten(shown), TABLES[part])
    if failed:
        raise SystemExit("\n".join(["failed:", *failed]))


if __name__ == "__main__":
    main()
