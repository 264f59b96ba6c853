"""
Dates, as they are
==================

A column of dates goes into ``fit`` as it is. Models read elapsed time of it, and the parts of the calendar and of the
clock that differ in the sample.
"""

# %%
# Flights from New York, whose month, weekday and minute stand in columns of their own. Here they become what most
# tables have in their place: one column with the scheduled departure, in the time zone of New York.
import warnings

import polars as pl

from tabmtl import (
    IndependentTasks,
    RandomSplitWarning,
    SharedBottom,
    SharedTrees,
    permutation_importances,
)
from tabmtl.inspection.plots import ImportanceDisplay
from tabmtl.pipelines.datasets import load

flights = load("flights")
# days to test lie between those to fit, so rows set aside at random are like them; of later days, say time="departure"
warnings.simplefilter("ignore", RandomSplitWarning)
BY_HAND = ["month", "day", "weekday", "sched_dep_min"]
NOT_BY_HAND = dict.fromkeys(BY_HAND, "ignore")


def with_departure(rows):
    day = pl.date(2013, pl.col("month").cast(pl.Int8), "day").cast(pl.Datetime("us"))
    departure = day + pl.duration(minutes="sched_dep_min")
    zoned = departure.dt.replace_time_zone("America/New_York")
    return rows.with_columns(departure=zoned).drop("sched_arr_min")


def sample(part, n, seed):
    X, y = (rows.sample(n, seed=seed) for rows in flights.part(part))
    return with_departure(X), y.select("dep_del15", "arr_delay")


X, y = sample("train", 4000, 0)
X_test, y_test = sample("test", 4000, 1)
X.select("departure", *BY_HAND, "carrier", "distance").head(3)

# %%
# The same trees without a time, with the columns made by hand, and with the date as it is; then one model per target,
# and a network. The guess of a mean scores one half by ROC AUC, and zero by R².
tables = {
    "no time": {**NOT_BY_HAND, "departure": "ignore"},
    "by hand": {"departure": "ignore"},
    "a date": NOT_BY_HAND,
}
models = {
    name: SharedTrees(columns=columns, random_state=0).fit(X, y)
    for name, columns in tables.items()
}
models["a date, one model per target"] = IndependentTasks(
    columns=NOT_BY_HAND, families=("lightgbm",), random_state=0
).fit(X, y)
models["a date, network"] = SharedBottom(columns=NOT_BY_HAND, random_state=0)
models["a date, network"].fit(X, y)
scores = {name: model.score_tasks(X_test, y_test) for name, model in models.items()}
pl.DataFrame({"columns": name, **dict(found)} for name, found in scores.items())

# %%
# A date is worth what the columns made of it by hand are worth, and far more than none.
late = {name: found["dep_del15"] for name, found in scores.items()}
assert late["a date"] > late["no time"] + 0.05
assert late["a date"] > late["by hand"] - 0.03

# %%
# What trees read of the column: a part is called after the column and itself. All flights are of 2013, so that the year
# tells nothing, and is left out. Networks read months, weekdays and hours as categories, and the rest as angles.
trees = models["a date"]
parts = [name for name in trees.encode(X).columns if name.startswith("departure")]
assert "departure: weekday" in parts and "departure: year" not in parts
trees.encode(X_test.head(3)).select(parts)

# %%
# Importances are those of the column, whatever was made of it: all its parts are shuffled together.
falls = permutation_importances(trees, X_test, y_test, n_repeats=3, random_state=0)
assert "departure" in falls["feature"].to_list()
ImportanceDisplay.from_importances(falls, max_features=6)

# %%
# Clocks are those of the time zone of ``fit``. The same moments written in another one get the same answers, and times
# without one are refused, since nobody can know which they are.
in_utc = X_test.with_columns(pl.col("departure").dt.convert_time_zone("UTC"))
assert trees.predict(in_utc).equals(trees.predict(X_test))
try:
    trees.predict(X_test.with_columns(pl.col("departure").dt.replace_time_zone(None)))
except TypeError as error:
    print(error)
