"""What learning together is worth: SharedTrees and networks against a single-task twin and tuned LightGBM.

Run it by ``python -m benchmarks.sharing``; ``--help`` lists the options. A seed draws at most 20 000 rows of a set and
splits them as the stored split was made, by rows or by groups: 80 % to fit, 20 % to test. Every model has its defaults,
sets validation rows aside by itself, and is scored on the test rows once. At ``full`` labels the score is the mean over
the tasks. Otherwise one task keeps 300 labels (500 of a classification), those that a model sets aside included; the
others keep all theirs, and the score is that of the scarce task.

The twin is SharedTrees fitted to each task alone, on its own rows. LightGBM is the best of four configurations.
CatBoost is one model per task too. A bag averages five models that differ in their seed, the first of them the model
itself, and is compared with a bag of as many; bags run where ``--models`` names them.

The table gives the mean over the seeds, and the paired difference to a reference with its standard error over the
seeds. Rows are in several seeds' parts, so this error is somewhat too small. ``sharing.csv`` is written after every
fit; a later call into the same folder runs what is missing there. Seconds are CPU seconds of a fit.
"""

from __future__ import annotations

import math
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import r2_score, roc_auc_score

from benchmarks.harness import Record, print_sets, print_table, score_parser
from benchmarks.peers.lightgbm import Coded
from benchmarks.scores import outputs_of
from benchmarks.splits import units_of
from tabmtl import IndependentTasks, MMoE, MultiTabNet, SharedTrees
from tabmtl.encode import TableCoder
from tabmtl.model_selection import train_valid_split
from tabmtl.pipelines.data.files import scan
from tabmtl.pipelines.data.tables import Dataset
from tabmtl.pipelines.datasets import load

ROWS = 20_000
#: Sets, with the tasks that are made scarce in turn.
SETS: dict[str, tuple[str, ...]] = {
    "portal": ("male", "weight"),
    "star": ("math1", "read3"),
    "rand_hie": ("any_mental", "log_spend"),
    "gss_abortion": ("absingle", "abpoor"),
    "flights": ("cancelled", "arr_delay"),
    "census_kdd": ("income_50k", "college_degree"),
    "wq": ("25400", "37880"),
    "oes10": (),
    "osales": (),
    "jura": (),
    "enb": (),
    "rf1": (),
}
#: Sets of the Mulan collection, with how many targets they have.
MULAN = {"edm": 2, "enb": 2, "jura": 3, "slump": 3, "wq": 14, "oes10": 16, "osales": 12, "rf1": 8}
FEW = {"binary": 500, "regression": 300}
FULL, TWIN, REFERENCE, PEER = "full", "single-task twin", "LightGBM tuned", "CatBoost"
#: Models of a bag, and the names of the bags.
N_BAGGED = 5
BAGS = ("SharedTrees, bag", f"{REFERENCE}, bag")
#: Seeds of one bag are apart by this, so that no two bags share any.
SEED_STEP = 1_000
#: Trees without a better score of the rows set aside that end CatBoost, which stops nowhere by itself.
PATIENCE = 30


def score_answers(tasks: dict[str, Any], y: pl.DataFrame, answers: dict[str, np.ndarray]) -> dict[str, float]:
    """Score values, or probabilities of the second class, on the labelled rows: R² or ROC AUC."""
    scores: dict[str, float] = {}
    for task, kind in tasks.items():
        labels = y[task].drop_nulls()
        score = roc_auc_score if kind == "binary" else r2_score
        scores[task] = float(score(labels, answers[task][y[task].is_not_null().to_numpy()]))
    return scores


class Alone:
    """`SharedTrees` for each task alone, on its labelled rows: the same code, without anything to share."""

    def __init__(self, tasks: dict[str, Any], **options: Any) -> None:
        self._models = {task: SharedTrees(tasks={task: kind}, **options) for task, kind in tasks.items()}

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit all models."""
        for task, model in self._models.items():
            labelled = y[task].is_not_null()
            own = None if groups is None else groups[labelled.to_numpy()]
            model.fit(X.filter(labelled), y.select(task).filter(labelled), groups=own)

    def score_tasks(self, X: pl.DataFrame, y: pl.DataFrame) -> dict[str, float | None]:
        """Score every task."""
        return {task: model.score_tasks(X, y.select(task))[task] for task, model in self._models.items()}


class Bag:
    """The average answer of models that differ in their seed."""

    def __init__(self, make: Callable[..., Any], *, tasks: dict[str, Any], random_state: int) -> None:
        self._tasks = tasks
        seeds = range(random_state, random_state + N_BAGGED * SEED_STEP, SEED_STEP)
        self._models = [make(tasks=tasks, random_state=seed) for seed in seeds]

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit all models."""
        for model in self._models:
            model.fit(X, y, groups=groups)

    def answer(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return the average answer to every task."""
        found = [answers_of(model, X) for model in self._models]
        return {task: np.mean([answers[task] for answers in found], axis=0) for task in self._tasks}

    def score_tasks(self, X: pl.DataFrame, y: pl.DataFrame) -> dict[str, float]:
        """Score the average answer of every task."""
        return score_answers(self._tasks, y, self.answer(X))


class CatBoost:
    """CatBoost per task with its defaults; rows set aside find the number of trees, and then all are fitted."""

    def __init__(self, *, tasks: dict[str, Any], random_state: int) -> None:
        self._tasks, self._seed = tasks, random_state

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit a model per task."""
        from benchmarks.peers.catboost import fit_catboost, refit_catboost

        self._coder = TableCoder.fit(
            X,
            y,
            None,
            tasks=self._tasks,
            force=None,
            task_column=None,
            categorical="from_dtype",
            encoding={"transform": "none", "min_frequency": 1},
        )
        rows, tasks = self._coder.read(X, y), self._coder.labels.tasks
        kept, held_out = train_valid_split(rows.y, tasks, 0.15, np.random.default_rng(self._seed), group=groups)
        data = Coded(
            train=rows.rows(kept),
            val=rows.rows(held_out),
            kinds=tuple(task.kind.name for task in tasks),
            n_numeric=rows.x.numbers.shape[1],
        )
        params = {"random_seed": self._seed, "thread_count": 1, "early_stopping_rounds": PATIENCE}
        self._model = refit_catboost(fit_catboost(data, params, jointly=False), rows)

    def answer(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,), of every task."""
        answers = self._model.predict(self._coder.read(X))
        return {task.name: answers[:, t] for t, task in enumerate(self._coder.labels.tasks)}

    def score_tasks(self, X: pl.DataFrame, y: pl.DataFrame) -> dict[str, float]:
        """Score every task."""
        return score_answers(self._tasks, y, self.answer(X))


def answers_of(model: Any, X: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return values, or probabilities of the second class (n,), of every task, by any model that has been fitted."""
    if isinstance(model, Bag | CatBoost):
        return model.answer(X)
    return {task: found[:, 1] if found.ndim > 1 else found for task, found in outputs_of(model, X).items()}


MODELS: dict[str, Callable[..., Any]] = {
    "SharedTrees": SharedTrees,
    TWIN: Alone,
    REFERENCE: partial(IndependentTasks, tune="all"),
    PEER: CatBoost,
    "MMoE": MMoE,
    "MultiTabNet": MultiTabNet,
    BAGS[0]: partial(Bag, SharedTrees),
    BAGS[1]: partial(Bag, partial(IndependentTasks, tune="all")),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows to fit and to test, the kinds of the tasks, and the groups of the rows to fit."""

    train: tuple[pl.DataFrame, pl.DataFrame]
    test: tuple[pl.DataFrame, pl.DataFrame]
    tasks: dict[str, Any]
    groups: np.ndarray | None

    def scarce(self, task: str, n_labels: int, seed: int) -> Case:
        """Return the case with few labels of one task, drawn by the seed.

        There are at least two of each class, in two groups. More labels of the same seed hold all of fewer.
        """
        X, y = self.train
        labelled = np.flatnonzero(y[task].is_not_null().to_numpy())
        order = np.random.default_rng([seed, 3]).permutation(labelled)
        if self.tasks[task] != "regression":
            labels = y[task].to_numpy()[order]
            unit = order if self.groups is None else self.groups[order]
            first = []
            for label in np.unique(labels):
                own = np.flatnonzero(labels == label)
                first += [*own[np.sort(np.unique(unit[own], return_index=True)[1])[:2]]]
            order = np.concatenate([order[first], np.delete(order, first)])
        mask = pl.Series(np.isin(np.arange(len(y)), order[:n_labels]))
        return replace(self, train=(X, y.with_columns(pl.when(mask).then(pl.col(task)))))


def open_set(name: str, folder: Path | None) -> Dataset:
    """Open a real set by its name; those of the Mulan collection name their targets last."""
    if name not in MULAN:
        return load(name, folder=folder, **({"full": True} if name == "flights" else {}))
    table = scan("mulan", folder, name)
    columns = table.collect_schema().names()
    n_tasks = MULAN[name]
    return Dataset(
        name=name,
        table=table,
        numeric=tuple(columns[:-n_tasks]),
        categorical=(),
        tasks=dict.fromkeys(columns[-n_tasks:], "regression"),
        licence="unclear",
        source="Mulan collection of multi-target regression sets",
    )


def open_case(name: str, seed: int, folder: Path | None) -> Case:
    """Draw the rows of a seed, whole groups of them, and split them 80/20."""
    data = open_set(name, folder)
    X, y = pl.collect_all([data.features, data.targets])
    unit = np.unique(units_of(data), return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(unit.max() + 1)
    place = np.argsort(order)[unit]  # of the row's unit in the order
    sizes = np.bincount(place)
    n_units = max(int(np.searchsorted(np.cumsum(sizes), ROWS, side="right")), 1)
    parts = [place < round(0.8 * n_units), (place >= round(0.8 * n_units)) & (place < n_units)]
    train, test = ((X.filter(part), y.filter(part)) for part in map(pl.Series, parts))
    return Case(train=train, test=test, tasks=data.tasks, groups=unit[parts[0]] if data.groups else None)


def run(name: str, setting: str, model_name: str, seed: int, folder: Path | None) -> list[Record]:
    """Fit one model, and return one record."""
    case = open_case(name, seed, folder)
    if setting != FULL:
        case = case.scarce(setting, FEW[case.tasks[setting]], seed)
    model = MODELS[model_name](tasks=case.tasks, random_state=seed)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few labels, which are meant
        model.fit(*case.train, groups=case.groups)
    seconds = time.process_time() - start
    scores = model.score_tasks(*case.test)
    score = float(np.mean([*scores.values()])) if setting == FULL else scores[setting]
    print(f"{name} {setting} {model_name} seed {seed}: {score:.4f}, {seconds:.1f} s", flush=True)
    facts = {"set": name, "setting": setting, "model": model_name, "seed": seed, "seconds": seconds}
    return [{**facts, "score": score}]


def runs(args: Namespace, done: set[tuple[Any, ...]], name: str) -> Iterator[list[Record]]:
    """Yield the records of all settings, seeds and models that are missing."""
    for setting in (FULL, *SETS[name]):
        for seed in args.seeds:
            for model in args.models:
                if setting in args.settings and (name, setting, model, seed) not in done:
                    yield run(name, setting, model, seed, args.folder)


def paired(records: pl.DataFrame, model: str, reference: str) -> tuple[float, float] | None:
    """Return the mean difference of two models over their common seeds, and its standard error; None below two."""
    ours, theirs = (records.filter(model=each).select("seed", "score") for each in (model, reference))
    difference = ours.join(theirs, on="seed", suffix="_of_reference")
    values = (difference["score"] - difference["score_of_reference"]).to_numpy()
    if len(values) < 2:
        return None
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def report(records: pl.DataFrame) -> None:
    """Print a set: a line for each setting and model, with its paired differences."""
    table: dict[str, dict[str, str]] = {}
    for (setting, model), own in records.group_by("setting", "model", maintain_order=True):
        line = {"score": f"{fmean(own['score']):.4f}", "seconds": f"{fmean(own['seconds']):.1f}"}
        same = records.filter(setting=setting)
        for reference in BAGS[1:] if model in BAGS else (TWIN, REFERENCE, PEER):
            found = None if model == reference else paired(same, str(model), reference)
            if found is not None:
                line[f"to {reference}"] = f"{found[0]:+.4f} ± {found[1]:.4f}"
        table[f"{setting} {model}"] = line
    print_table(f"{records['set'][0]}: test scores, seeds {records['seed'].unique().sort().to_list()}", table)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("sharing", __doc__, seeds=range(5), sets=SETS, models=MODELS)
    parser.set_defaults(models=[model for model in MODELS if model not in BAGS])
    settings = [FULL, *(task for tasks in SETS.values() for task in tasks)]
    parser.add_argument("--settings", nargs="+", choices=settings, default=settings, help="default: all")
    args = parser.parse_args(argv)
    path = args.output / "sharing.csv"
    records = pl.read_csv(path, schema_overrides={"setting": pl.String}).to_dicts() if path.exists() else []
    done = {tuple(record[key] for key in ("set", "setting", "model", "seed")) for record in records}
    print_sets(args.sets, partial(runs, args, done), report, path, records)


if __name__ == "__main__":
    main()
