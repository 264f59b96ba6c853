"""
A year, day by day
==================

What flights did is known at the end of their day. A model of the first months may answer the rest of the year as it is,
go on with what comes, or be fitted anew now and then. Which is worth its time?
"""

# %%
# Whole days of a year, in their order: a third to begin with, the others one by one. Month and day of the month only name
# days that are over, so they are left out.
import time
from copy import deepcopy

import numpy as np
import polars as pl

from tabmtl import SharedBottom
from tabmtl.pipelines.datasets import load

flights = load("flights")
features = flights.features.drop("month", "day").collect()
targets = flights.targets.select("dep_del15", "arr_delay").collect()
day = flights.table.select("yday").collect().to_series()
rng = np.random.default_rng(0)
kept = np.sort(rng.permutation(len(day))[:13_000])
features, targets, day = features[kept], targets[kept], day[kept]
days = day.unique().sort().to_list()
known, coming = days[:22], days[22:]


def rows_of(some):
    own = day.is_in(some)
    return features.filter(own), targets.filter(own), day.filter(own)


# %%
# Rows set aside are whole days. Copies of the fitted model answer each day before they see what came of it.
# ``partial_fit`` passes over the rows of a week once; the third copy is fitted anew on all days so far, thrice.
X, y, groups = rows_of(known)
fitted = SharedBottom(random_state=0).fit(X, y, groups=groups)
models = {
    name: deepcopy(fitted) for name in ("as fitted", "partial_fit", "fitted anew")
}
every = {"partial_fit": 7, "fitted anew": 15}
said = {name: [] for name in models}
seconds = dict.fromkeys(models, 0.0)
for number, today in enumerate(coming, start=1):
    X, y, _ = rows_of([today])
    for name, model in models.items():
        late = model.predict_proba(X, tasks="dep_del15")[:, 1]
        delay = model.predict(X, tasks="arr_delay")
        said[name].append(pl.DataFrame({"late": late, "delay": delay}))
        if number % every.get(name, 1_000) == 0:
            start = time.process_time()
            if name == "partial_fit":
                model.partial_fit(*rows_of(coming[number - 7 : number])[:2])
            else:
                X_all, y_all, groups = rows_of(known + coming[:number])
                model.fit(X_all, y_all, groups=groups)
            seconds[name] += time.process_time() - start

# %%
# Scores of all these days at once, and the CPU seconds of going on.
from sklearn.metrics import r2_score, roc_auc_score

_, y, of_day = rows_of(coming)
flown = y["arr_delay"].is_not_null()
departed = y["dep_del15"].is_not_null()
rows = []
for name in models:
    answers = pl.concat(said[name])
    auc = roc_auc_score(
        y["dep_del15"].filter(departed), answers["late"].filter(departed)
    )
    r2 = r2_score(y["arr_delay"].filter(flown), answers["delay"].filter(flown))
    rows.append({"model": name, "late: AUC": auc, "delay: R²": r2, "s": seconds[name]})
scores = pl.DataFrame(rows)
scores

# %%
# The mean delay of each day, and what the models said of it. That of the winter's days is no forecast of the summer.
import matplotlib.pyplot as plt

delays = y["arr_delay"].filter(flown)
real = delays.to_frame().group_by(of_day.filter(flown), maintain_order=True).mean()
plt.plot(real["yday"], real["arr_delay"], ".", color="grey", label="real")
for name in models:
    means = [answers["delay"].mean() for answers in said[name]]
    plt.plot(coming, means, label=name)
plt.xlabel("day of the year")
plt.ylabel("mean delay, minutes")
plt.legend()
plt.show()

# %%
# Going on follows the level of the delays for a small part of what new fits take. Which flights of a day are late hardly
# changes over the year, so the AUC gains little from any of it.
by_model = {row["model"]: row for row in rows}
assert by_model["partial_fit"]["delay: R²"] > by_model["as fitted"]["delay: R²"] + 0.02
assert by_model["partial_fit"]["s"] < 0.5 * by_model["fitted anew"]["s"]
