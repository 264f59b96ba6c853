"""
Rare events at a cost
=====================

One flight in thirty is cancelled, and a missed one costs far more than a false alarm. When should a model raise the
alarm, and how sure is that threshold?
"""

# %%
# Two models learn from 3000 flights: shared trees of four targets, and trees of this target alone. The days to choose
# thresholds on come later, and the days to test on later still.
from copy import deepcopy

import numpy as np
import polars as pl

from tabmtl import IndependentTasks, SharedTrees
from tabmtl.pipelines.datasets import load

flights = load("flights")
X_all, y_all = flights.part("train")
X_tune, y_tune = flights.part("val")
X_test, y_test = (part.sample(6000, seed=9) for part in flights.part("test"))
truth = y_test["cancelled"].to_numpy()
ALONE = {"cancelled": "binary"}


def fit(seed: int) -> list:
    """Learn cancelled flights beside other targets, and alone."""
    X, y = (part.sample(3000, seed=seed, shuffle=True) for part in (X_all, y_all))
    together = SharedTrees(tasks=flights.tasks, n_estimators=60, random_state=seed)
    alone = IndependentTasks(tasks=ALONE, families=("lightgbm",), random_state=seed)
    return [together.fit(X, y), alone.fit(X, y.select(*ALONE))]


draws = [fit(seed) for seed in range(3)]
model = draws[0][0]
as_fitted = deepcopy(model)

# %%
# The most probable class is never the rare one.
model.predict(X_test)["cancelled"].value_counts()

# %%
# So the costs go into the decision: by the true class and the one that is answered, with a miss thirty times as dear as
# a false alarm. Flights of a day share its weather, so days are groups.
COSTS = {"cancelled": {(1, 0): 30.0, (0, 1): 1.0}}
model.tune_thresholds(X_tune, y_tune, costs=COSTS)
by_flight = model.thresholds_
model.tune_thresholds(X_tune, y_tune, costs=COSTS, groups="day")
by_day = model.thresholds_
pl.concat([by_flight, by_day]).with_columns(groups=pl.Series(["flights", "days"]))

# %%
# The score is the mean cost of flights at thresholds that other flights, or other days, have chosen. Its standard error
# over flights looks small: that would be right if cancelled flights came one by one. They come in storms, and the days
# are few.
assert by_day["standard_error"][0] > 3 * by_flight["standard_error"][0]


# %%
# What do 1000 flights of later days cost? Where probabilities hold, costs alone say the threshold: an alarm pays above
# 1 / (1 + 30). Beside it stand the tuned threshold, that of the model of this target alone, and no alarm at all.
def cost_of(alarms) -> float:
    """Return the cost of 1000 flights."""
    alarms = np.asarray(alarms).astype(bool)
    return 1000 * (30.0 * (~alarms & (truth == 1)) + (alarms & (truth == 0))).mean()


rows = []
for together, alone in draws:
    together.tune_thresholds(X_tune, y_tune, costs=COSTS, groups="day")
    alone.tune_thresholds(X_tune, y_tune.select(*ALONE), costs=COSTS, groups="day")
    p = together.predict_proba(X_test)["cancelled"][:, 1]
    rows += [
        ("no alarm", cost_of(p > 1)),
        ("most probable class", cost_of(p > 0.5)),
        ("above 1 / 31", cost_of(p > 1 / 31)),
        ("tuned", cost_of(together.predict(X_test)["cancelled"])),
        ("tuned, alone", cost_of(alone.predict(X_test)["cancelled"])),
    ]
costs = pl.DataFrame(rows, ["decision", "cost"], orient="row")
mean = costs.group_by("decision", maintain_order=True).agg(
    pl.mean("cost"), spread=pl.std("cost")
)
mean

# %%
# Both thresholds cost less than no alarm, and the shared trees less than the model of this target alone, whose threshold
# costs more than no alarm here. `tune_thresholds` begins with the threshold of the costs, and leaves it only for one that
# costs clearly less on the days it was given. These are few: that of the costs is better in these draws.
cost = dict(mean.select("decision", "cost").iter_rows())
assert cost["above 1 / 31"] < 0.9 * cost["no alarm"]
assert cost["tuned"] < 0.95 * cost["no alarm"]
assert cost["tuned"] < 0.9 * cost["tuned, alone"]

# %%
# Do the probabilities hold? `calibrate` learns from half of the flights of these days what they should be, and the
# other half judges. Flights that the model is surest of are rarely cancelled on these days, and the steps of an isotonic
# regression are level there. It knows nothing of later days, which have fewer storms: no calibration knows what comes.
import matplotlib.pyplot as plt

from tabmtl.inspection.plots import CalibrationDisplay

is_judge = pl.int_range(X_tune.height, eager=True) % 2 == 0
judge = {
    "X": X_tune.filter(is_judge),
    "y": y_tune.filter(is_judge),
    "tasks": ["cancelled"],
}
X_rest, y_rest = X_tune.filter(~is_judge), y_tune.filter(~is_judge)
display = CalibrationDisplay.from_estimator(as_fitted, **judge, name="as fitted")
as_fitted.calibrate(X_rest, y_rest, method="isotonic", tasks="cancelled")
CalibrationDisplay.from_estimator(as_fitted, **judge, name="calibrated", ax=display.ax_)
plt.show()
