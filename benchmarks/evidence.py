"""When learning together pays, beside what one would pick instead: from 50 labels of one target to all labels of all.

Run it by ``python -m benchmarks.evidence``; ``--help`` lists the options. :mod:`benchmarks.evidence_models` names the
models and their settings, and says by how many draws something of a model was chosen: the other draws judge it.
Single-task models are `IndependentTasks`, tuned LightGBM (of four configurations the best on validation rows; of few
labels, a size chosen by folds), a bag of five of these, and CatBoost. The trivial transfer is tuned LightGBM that reads
answers to the other targets, out of fold, beside the features. Peers are AutoGluon, within the CPU seconds that the
ensemble took in the same setting, and networks of pytabkit. :mod:`benchmarks.peers.outside` says which environments the
peers need; without one, its models are left out, and count as missing. Models that need validation rows set them aside
by themselves.

The parts:

labels
    One target keeps 50, 150 or 500 of its labels, those that a model sets aside included; the others keep theirs. The
    score is that of the target. Single-task models learn the target alone, on its labelled rows. Peers have one target
    a set; of 50 labels, AutoGluon alone.
full
    All labels of all targets, which are all scored; peers have one target a set, and the ensemble with each task alone
    two. A network that is distilled from the ensemble reads `UNLABELLED` further rows, where there are more.
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
reference
    The fits of labels and full that tell whether `IndependentTasks`, untuned, is a fair bar: it, and what one writes
    without any choice. These are ``LGBMClassifier()`` or ``LGBMRegressor()``, 60 trees of 7 leaves at a learning rate
    of .05, scikit-learn's ExtraTrees, a logistic or ridge regression, and CatBoost. A call for this part prints its
    table.
sharing
    It runs where it is named, with records in ``benchmark_output`` and a table of paired differences. What learning
    together is worth: SharedTrees and networks against SharedTrees fitted to each task alone (the twin), tuned LightGBM
    and CatBoost. Five seeds draw at most 20 000 rows of a set, 80 % of them to fit; all labels are there, or one task
    keeps 300 (500 of a classification).

The baselines of the rivers learn nothing: the flow now as the forecast, and a line through the nearest hours to fit,
which sees no feature.

The first three split a set by the recipe of the data folder, anew for every draw (seed 0 gives the stored test rows),
by groups where it has some. A model learns from `FIT_ROWS` of the rows that are not for the test, at most, and answers
`TEST_ROWS`, at most. Times are CPU seconds of a fit, and milliseconds of an answer to one and to 1000 rows.

Every fit adds a line to ``docs/evidence/<part>.jsonl``, with the commit and the versions of packages that it ran by; a
later call runs what is missing there. Records of a commit before the ``first`` of their model do not count: who changes
what a model answers sets that, and moves the records to ``docs/evidence/before/``. A part is shown by those there until
its first round is whole.

The order is such that a part of the work already tells something: few labels, all labels and Mulan's sets come first,
a draw of each setting after the other, and the cheap models of a setting before the others. Sets on which a fit takes
minutes have one draw, but for few labels of oes10; the ensemble and CatBoost have three of their folds of Mulan.
``--share 1/2`` and ``--share 2/2`` part the work between two calls at the same time. ``--budget`` ends a call before a
fit by which all fits together, those of other calls too, would probably exceed it; ``--budget 0`` only prints the
estimate. ``--report`` writes the page of the results from the lines.

What a fit costs is judged by ``BASELINE``, a commit of the package. Its records are made on the same machine, in a
checkout of it, by ``python -m benchmarks.evidence --parts full --models MultiTaskEnsemble --seeds 0 --output FOLDER``,
and by the same for the parts ``full`` and ``labels`` of ``IndependentTasks``; its model of ``labels`` has the kind
"joint" there, as it is to learn all targets, like the mixture whose cost is judged. They are kept as
``docs/evidence/before/baseline.jsonl``. At the same time the same calls run in this checkout, on another core, with
nothing else on the machine; its records replace those of draw 0.
"""

from __future__ import annotations

import json
import subprocess
import warnings
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
from sklearn.model_selection import KFold, train_test_split

from benchmarks import evidence_report
from benchmarks.datasets import load
from benchmarks.evidence_compare import flatten
from benchmarks.evidence_models import (
    AS_NOW,
    AUTOGLUON,
    BAG,
    BASELINE,
    CATBOOST,
    DISTILLED,
    ENSEMBLE,
    FEW,
    FEWEST,
    FOURFOLD,
    GUESS,
    LIGHTGBM,
    MODELS,
    REALMLP,
    REALMLP_BY_LOSS,
    REFERENCE,
    RIVALS,
    TABM,
    TRANSFER,
    TREE_BAG,
    TREES,
    TWIN,
)
from benchmarks.harness import ROOT, Record, cpu, score_parser
from benchmarks.problems import SETS, Case, answers_of, open_case, score_answers, slope_of
from benchmarks.splits import split_rows, time_blocks, units_of

#: Folders of the records, of a checkout: those of the page, and others.
OUTPUT, OTHER_OUTPUT = Path("docs/evidence"), Path("benchmark_output")
#: Records of older code, beside those of the page.
BEFORE = "before"
#: Rows to fit and to test, at most, and unlabelled ones beside those to fit.
FIT_ROWS, TEST_ROWS, UNLABELLED = {"labels": 2_000, "full": 3_000, "missing": 2_000, "blocks": 3_000}, 4_000, 7_000
#: Draws, or folds, of a model in each part: by its name, or else by its kind.
DRAWS: dict[str, dict[str, range]] = {
    "labels": {
        **dict.fromkeys(("joint", "single", "plain", "alone", "transfer", AUTOGLUON), range(5)),
        **dict.fromkeys((REALMLP, REALMLP_BY_LOSS, TABM), range(3)),
        FOURFOLD: range(2, 3),
    },
    "full": {
        **dict.fromkeys(("joint", "single", "plain", "alone", "transfer", AUTOGLUON), range(5)),
        **dict.fromkeys((DISTILLED, REALMLP, REALMLP_BY_LOSS, TABM), range(1)),
        FOURFOLD: range(2, 3),
    },
    "mulan": dict.fromkeys(("joint", "single"), range(4)),
    "missing": dict.fromkeys(("joint", "single"), range(1)),
    "rf1": {**dict.fromkeys(("joint", "single"), range(1)), "baseline": range(5)},
    "blocks": {**dict.fromkeys((LIGHTGBM, TREES, "baseline"), range(5)), ENSEMBLE: range(1)},
}
#: Models of the page that need no environment of their own.
OWN = tuple(name for name, model in MODELS.items() if model.kind not in ("peer", "sharing"))
#: Parts that may be named.
PARTS = (*DRAWS, "reference", "sharing")
#: Folds of a set; of these, `DRAWS` are run.
N_FOLDS = {"mulan": 10, "rf1": 5, "blocks": 5}
#: Parts of the rivers of rf1.
RIVERS = ("rf1", "blocks")
#: A row of rf1 is an hour: its features reach 60 hours back, and its targets, which end so, 48 hours ahead.
HOURS_BACK, HOURS_AHEAD, AHEAD, WEEK = 60, 48, "_48H", 168
#: Sets on which a fit takes minutes: one draw, but three folds of Mulan for the two that a goal compares.
SLOW, TWO_OF_MULAN = ("oes10", "osales"), (ENSEMBLE, CATBOOST)
#: That of which all draws are run nevertheless.
SLOW_OF_FEW = "labels", "oes10"
#: The scarce targets of a set; peers have the first.
TARGETS = {name: tasks for name, tasks in SETS.items() if tasks} | {
    "oes10": ("513021_Butchers_and_Meat_Cutters", "412021_Counter_and_Rental_Clerks")
}
#: The most labels below all, where they are fewer than 500.
MOST_LABELS = {"oes10": 150}
FULL_SETS = ("portal", "star", "rand_hie", "gss_abortion", "flights", "census_kdd", "wq")
#: Sets without a case for a model: no rows beside those to fit, a number as the target of peers, and one costly draw.
WITHOUT = {DISTILLED: ("wq",), REALMLP_BY_LOSS: ("star", "wq"), TRANSFER: ("oes10",)}
MISSING_SETS, HIDDEN = ("star", "gss_abortion", "rand_hie"), (25, 50, 90)
FOLD_SETS = ("edm", "enb", "jura", "slump", "wq", "oes10", "osales")
#: Kinds that learn one task at a time, whatever the part, and how many of `TARGETS` have costly ones at all labels.
ALONE, N_TARGETS = ("alone", "plain", "peer"), {"alone": 2, "peer": 1}
#: Part, set, target and amount of a cell.
Setting = tuple[str, str, str | None, int | None]
#: Rows that a timed answer is for.
ANSWERED = 1_000
#: Models of the part that no page shows, and what each is compared with.
SHARING: dict[str, tuple[str, ...]] = {
    TREES: (TWIN, LIGHTGBM, CATBOOST),
    TWIN: (),
    LIGHTGBM: (TWIN, CATBOOST),
    CATBOOST: (),
    "MMoE": (TWIN, LIGHTGBM, CATBOOST, TREES),
    "MultiTabNet": (TWIN, LIGHTGBM, CATBOOST, TREES),
    TREE_BAG: (BAG,),
    BAG: (),
}
#: Its draws, and labels of its scarce task by kind.
N_DRAWS, FEW_OF_KIND = 5, {"binary": 500, "regression": 300}
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
    for round_of in settings():
        for draw in range(max(len(draws) for of_part in DRAWS.values() for draws in of_part.values())):
            for setting in round_of:
                yield from (Cell(*setting, draw, model) for model in models if draw in draws_of(model, *setting))


def draws_of(model: str, part: str, name: str, target: str | None, amount: int | None) -> range:
    """Return the splits of a setting that a model is run on."""
    kind, of_part = MODELS[model].kind, DRAWS[part]
    if name in WITHOUT.get(model, ()):
        return range(0)
    draws = of_part.get(model, of_part.get(kind, range(0)))
    if kind == "peer" and part == "labels":
        is_asked = target == TARGETS[name][0] and (amount in FEW or model == AUTOGLUON)
        return draws if is_asked and name not in SLOW else range(0)
    if name not in SLOW or (part, name) == SLOW_OF_FEW:
        return draws
    return draws[:3] if part == "mulan" and model in TWO_OF_MULAN else draws[:1]


def settings() -> tuple[list[Setting], list[Setting]]:
    """Return part, set, target and amount of the cells of one draw: those of the goals, and the others."""

    def curve(amounts: Sequence[int]) -> Iterator[Setting]:
        for amount, i in product(amounts, range(2)):
            for name, targets in TARGETS.items():
                if amount <= MOST_LABELS.get(name, amount):
                    yield from (("labels", name, target, amount) for target in targets[i : i + 1])

    full = [("full", name, None, None) for name in FULL_SETS]
    mulan = [("mulan", name, None, None) for name in FOLD_SETS]
    missing = [("missing", name, None, hidden) for name in MISSING_SETS for hidden in HIDDEN]
    return [*curve(FEW), *full, *mulan, *curve(FEWEST)], [*missing, *((part, "rf1", None, None) for part in RIVERS)]


def plan_sharing() -> Iterator[Cell]:
    """Yield all cells of the part that no page shows."""
    tested = [(name, target) for name, targets in SETS.items() for target in (None, *targets)]
    for (name, target), seed, model in product(tested, range(N_DRAWS), SHARING):
        yield Cell("sharing", name, target, None, seed, model)


def open_cell(cell: Cell, folder: Path | None) -> Case:
    """Return the rows of a cell."""
    if cell.part == "sharing":
        case = open_case(cell.set, cell.seed, folder)
        return case.scarce(cell.target, FEW_OF_KIND[case.tasks[cell.target]], cell.seed) if cell.target else case
    if cell.part in N_FOLDS:
        return open_fold(cell.part, cell.set, cell.seed, folder)
    more = UNLABELLED if cell.model == DISTILLED else 0
    case = open_draw(cell.set, cell.seed, FIT_ROWS[cell.part], folder, more)
    if cell.amount is None:
        return case
    if cell.target is None:
        return hide(case, cell.amount / 100, cell.seed)
    return case.scarce(cell.target, cell.amount, cell.seed)


@lru_cache(maxsize=32)
def open_draw(name: str, seed: int, n_to_fit: int, folder: Path | None, n_unlabelled: int = 0) -> Case:
    """Return the rows of a draw: the rows to fit of fewer are those of more, and the rows to test are the same.

    Unlabelled rows are further ones, as far as there are some.
    """
    data = load(name, folder, full=True)
    X, y = pl.collect_all([data.features, data.targets])
    is_test = split_rows(data, seed) == "test"
    rng = np.random.default_rng([seed, 5])
    order = [rng.permutation(np.flatnonzero(part)) for part in (~is_test, is_test)]
    kept, scored = np.sort(order[0][: n_to_fit + n_unlabelled]), np.sort(order[1][:TEST_ROWS])
    groups = units_of(data)[kept] if data.groups else None
    labelled = pl.Series(np.isin(kept, order[0][:n_to_fit]))
    y_kept = y[kept].select(pl.when(labelled).then(pl.col(y.columns))) if n_unlabelled else y[kept]
    return Case(train=(X[kept], y_kept), test=(X[scored], y[scored]), tasks=data.tasks, groups=groups)


def open_fold(part: str, name: str, fold: int, folder: Path | None) -> Case:
    """Return a fold of a set; hours of a block are in groups by weeks."""
    data = load(name, folder, full=True)
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
    data = load(cell.set, folder, full=True)
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


def run(cell: Cell, folder: Path | None, seconds: float | None = None) -> Record:
    """Fit one model, and return its record: scores, calibration, the cost of a fit and of answers, and the code.

    A model that takes the CPU seconds that it is given needs ``seconds``.
    """
    code, case = made_by(), open_cell(cell, folder)
    kind = MODELS[cell.model].kind
    costly = TARGETS[cell.set][: N_TARGETS[kind]] if kind in N_TARGETS else ()
    scored = (cell.target,) if cell.target else costly or tuple(case.tasks)
    options = {"scored": scored} if kind == "transfer" else {} if seconds is None else {"seconds": seconds}
    is_alone = kind in ALONE or (cell.part == "labels" and kind == "single")
    answers: dict[str, np.ndarray] = {}
    times, candidates = [np.zeros(3)], {}
    if kind == "baseline":
        answers = forecast(cell, folder)
    else:
        for own in [alone(case, task) for task in scored] if is_alone else [case]:
            model, spent = fit(cell.model, own, cell.seed, options)
            answers |= answers_of(model, case.test[0])
            times.append(spent)
            candidates = seconds_of_candidates(model)
    scores = score(cell.part, case, {task: answers[task] for task in scored})
    rounded = {metric: {task: round(value, 5) for task, value in values.items()} for metric, values in scores.items()}
    named = dict(zip(("seconds", "ms_of_1", "ms_of_1000"), np.sum(times, axis=0).round(2).tolist(), strict=True))
    slopes = {task: slope_of(case.test[1][task], answers[task]) for task in scored if case.tasks[task] == "binary"}
    known = {task: round(slope, 4) for task, slope in slopes.items() if slope is not None}
    told = {name: facts for name, facts in (("slopes", known), ("candidates", candidates)) if facts}
    return {**asdict(cell), **named, **code, "scores": rounded, **told}


def seconds_of_candidates(model: Any) -> dict[str, float]:
    """Return the seconds of all fits of every candidate of an ensemble; nothing of other models."""
    if not hasattr(model, "leaderboard_"):
        return {}
    of_models = model.leaderboard_.filter(pl.col("model") != ENSEMBLE).drop_nulls("seconds")
    found = of_models.group_by("model", maintain_order=True).agg(pl.col("seconds").first().round(2))
    return dict(found.iter_rows())


@cache
def made_by() -> dict[str, str]:
    """Return the newest commit of the package, with a plus where files differ from it, and the versions of others."""
    try:
        commit = git("log", "-1", "--format=%h") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        commit = "unknown"
    return {"code": commit, "versions": " ".join(filter(None, map(_version, PACKAGES)))}


@cache
def commits_from(first: str) -> tuple[str, ...] | None:
    """Return the commits of the package from one on; None where git does not know them."""
    try:
        return tuple(git("log", "--format=%H", f"{first}~..HEAD").split())
    except (OSError, subprocess.CalledProcessError):
        return None


def git(*arguments: str) -> str:
    """Return what git says of the folders of the package."""
    command = ["git", "-C", str(ROOT), *arguments, "--", *SOURCES]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def fit(name: str, case: Case, seed: int, options: dict[str, Any]) -> tuple[Any, np.ndarray]:
    """Fit a model, and return it with three times: CPU seconds of the fit, and milliseconds of answers."""
    model, X = MODELS[name].make(tasks=case.tasks, random_state=seed, **options), case.test[0]

    def seconds_of(call: Callable[[], Any]) -> float:
        return cpu(call)(0)["s"] + getattr(model, "seconds", 0.0)  # those of a peer's own process

    with warnings.catch_warnings(action="ignore"):  # of few labels, which are meant
        seconds = seconds_of(lambda: model.fit(*case.train, groups=case.groups))
    many = X[:ANSWERED]
    one = min(seconds_of(lambda: answers_of(model, X[:1])) for _ in range(3))
    of_many = seconds_of(lambda: answers_of(model, many)) * ANSWERED / len(many)
    return model, np.array([seconds, 1e3 * one, 1e3 * of_many])


def estimate(cell: Cell, records: Sequence[Record], older: Sequence[Record] = ()) -> float:
    """Return the probable CPU seconds of a fit: the mean of the fits that are most like it, or those of its model.

    Older records stand in for a model without a guess.
    """
    likeness = ("model",), ("model", "set"), ("model", "set", "part"), ("model", "set", "part", "amount")
    model = MODELS[cell.model]
    for known in (records, older if model.seconds is None else ()):
        for names in reversed(likeness):
            like = [r["seconds"] for r in known if all(r[name] == getattr(cell, name) for name in names)]
            if like:
                return fmean(like)
    return GUESS if model.seconds is None else model.seconds


def read(folder: Path) -> list[Record]:
    """Read the records of all parts that count."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    return [record for record in map(json.loads, lines) if counts(record)]


def counts(record: Record) -> bool:
    """Return whether the answers of a model are still those of its record, as far as git knows."""
    commits = commits_from(MODELS[record["model"]].first)
    return commits is None or any(commit.startswith(record["code"].rstrip("+")) for commit in commits)


def read_before(folder: Path, part: str) -> list[Record]:
    """Read the records of a part by older code; those of the part ``baseline`` are of the commit of that name."""
    file = folder / BEFORE / f"{part}.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def to_show(records: Sequence[Record], folder: Path) -> tuple[list[Record], list[Record]]:
    """Choose the records of the parts whose first round is whole, and read older ones of the others.

    The first round has a draw of every setting by all models but peers. A part without older records is shown anyway.
    """
    done = {Cell.of(record) for record in records}
    begun = {cell.part for cell in plan(OWN) if cell.seed == 0 and cell not in done}
    older = {part: read_before(folder, part) for part in DRAWS if part in begun}
    return [record for record in records if not older.get(record["part"])], [*chain.from_iterable(older.values())]


def work(cells: Sequence[Cell], args: Namespace, older: Sequence[Record]) -> list[str]:
    """Fit cell after cell within the budget, write every record, and return what failed.

    Other calls may write at the same time: records are read anew before each fit, and lines are appended whole.
    """
    failed = []
    for cell in cells:
        records = read(args.output)
        if cell in {Cell.of(record) for record in records}:
            continue
        spent = sum(record["seconds"] for record in records)
        if args.budget is not None and spent + estimate(cell, records, older) > args.budget:
            print(f"stopped before {cell}: {spent:.0f} of {args.budget:.0f} CPU seconds are spent")
            break
        try:
            record = run(cell, args.folder, given_seconds(cell, records))
        except Exception as error:  # one fit must not end the work of hours; the next call tries it again
            failed.append(f"{cell}: {type(error).__name__}: {error}")
            print(f"failed: {failed[-1]}", flush=True)
            continue
        with (args.output / f"{cell.part}.jsonl").open("ab", buffering=0) as file:
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        means = ", ".join(f"{name} {fmean(values.values()):.4f}" for name, values in record["scores"].items())
        print(f"{cell}: {means}, {record['seconds']:.1f} s", flush=True)
    return failed


def given_seconds(cell: Cell, records: Sequence[Record]) -> float | None:
    """Return the CPU seconds that a model is given, by those of the ensemble; None for a model that takes its own."""
    if not MODELS[cell.model].times:
        return None
    own = [record["seconds"] for record in records if Cell.of(record) == replace(cell, model=ENSEMBLE)]
    if not own:
        raise ValueError(f"it is given the CPU seconds of {ENSEMBLE}, which has no record here: run that first")
    return MODELS[cell.model].times * own[0]


def is_here(model: str) -> bool:
    """Tell whether a peer has its environment, and say what is missing otherwise."""
    if MODELS[model].kind != "peer":
        return True
    try:
        MODELS[model].make(tasks={}, random_state=0)
    except FileNotFoundError as error:
        print(f"{model} is left out: {error}")
        return False
    return True


def report(folder: Path, models: Sequence[str]) -> None:
    """Write the page of the results."""
    rows = (
        f"Models learn from at most {FIT_ROWS['labels']} rows, {FIT_ROWS['full']} where all labels are there, and "
        f"answer at most {TEST_ROWS}."
    )
    records = read(folder)
    planned = {*plan(models)}
    n_done = len(planned & {Cell.of(record) for record in records})
    earlier = [record for part in ("labels", "full") for record in read_before(folder, part)]
    baseline = [record for record in read_before(folder, "baseline") if record["code"].startswith(BASELINE)]
    evidence_report.write(*to_show(records, folder), earlier, baseline, folder, (n_done, len(planned)), rows)


def one_share(text: str) -> tuple[int, int]:
    """Read ``K/N``: the share, from 1, and how many there are."""
    k, _, n = text.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise ArgumentTypeError(f"a share is K/N, such as 1/2 or 2/2, got {text!r}")
    return int(k), int(n)


def choose(cells: Sequence[Cell], args: Namespace) -> list[Cell]:
    """Return the cells of a call: those that its options name, and of these every N-th draw of a setting."""

    def is_asked(cell: Cell) -> bool:
        is_named = cell.model in args.models and cell.set in args.sets and cell.seed in args.seeds
        is_of_reference = cell.part in ("labels", "full") and cell.model in (REFERENCE, *RIVALS)
        return is_named and (cell.part in args.parts or ("reference" in args.parts and is_of_reference))

    k, n = args.share
    draws: dict[Cell, int] = {}
    chosen = []
    for cell in filter(is_asked, cells):
        i = draws.setdefault(replace(cell, model=""), len(draws))
        chosen += [cell] if i % n == k - 1 else []
    return chosen


def parse(argv: Sequence[str] | None) -> Namespace:
    """Read the options."""
    sets = dict.fromkeys([*SETS, *TARGETS, *FULL_SETS, *FOLD_SETS])
    parser = score_parser("evidence", __doc__, None, seeds=range(10), parts=PARTS, sets=sets, models=MODELS)
    parser.set_defaults(parts=[*DRAWS], models=[name for name in MODELS if name != TREE_BAG])
    parser.add_argument("--budget", type=float, help="CPU seconds of all fits together (default: no end)")
    parser.add_argument(
        "--share", type=one_share, default=(1, 1), metavar="K/N", help="run share K of N (default: 1/1)"
    )
    parser.add_argument("--report", action="store_true", help="run nothing, and write the page of the results")
    args = parser.parse_args(argv)
    args.output = args.output or (OTHER_OUTPUT if "sharing" in args.parts else OUTPUT)
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    args = parse(argv)
    paged = [name for name, model in MODELS.items() if model.kind != "sharing"]
    if args.report:
        report(args.output, paged)
        return
    records = read(args.output)
    done = {Cell.of(record) for record in records}
    cells = choose([*plan(paged), *plan_sharing()], args)
    missing = [cell for cell in cells if cell not in done]
    older = [record for part in DRAWS for record in read_before(args.output, part)]
    hours = sum(estimate(cell, records, older) for cell in missing) / 3600
    print(f"{len(missing)} of {len(cells)} fits are missing: about {hours:.1f} CPU hours", flush=True)
    here = {model for model in dict.fromkeys(cell.model for cell in missing) if is_here(model)}
    failed = work([cell for cell in missing if cell.model in here], args, older)
    frame = flatten(read(args.output))
    if "sharing" in args.parts:
        evidence_report.print_paired(frame.filter(pl.col("part") == "sharing", pl.col("set").is_in(args.sets)), SHARING)
    if "reference" in args.parts:
        print(evidence_report.reference_section(frame))
    if failed:
        raise SystemExit("\n".join(["failed:", *failed]))


if __name__ == "__main__":
    main()
