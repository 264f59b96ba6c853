"""
When not to learn together
==========================

Targets that have nothing in common only compete for the same layers. Here two pairs of targets are drawn from a known
law: in the first the targets depend on the same direction of the features, in the second on directions at right
angles.
"""

# %%
# Smooth targets of 12 features, with 300 labels each, and one network for both against one network each.
from tabmtl import IndependentTasks, SharedBottom, SharedBottomRegressor, multitask_gain
from tabmtl.synth import make_multitab_bench

options = {"hidden": (32, 16), "epochs": 20, "random_state": 0}
gains = {}
for name, correlation in (("related", 0.95), ("unrelated", 0.0)):
    bench = make_multitab_bench(
        300,
        12,
        4,
        correlation=correlation,
        degrees=(3, 3, 3, 3),
        noise=1.0,
        standardize=True,
        random_state=0,
    )
    test = bench.draw(2000, random_state=1)
    together = SharedBottom(**options).fit(bench.X, bench.y)
    alone = IndependentTasks(
        regressor=SharedBottomRegressor(**options), random_state=0
    ).fit(bench.X, bench.y)
    gains[name] = multitask_gain(
        together.score_tasks(test.X, test.y), alone.score_tasks(test.X, test.y)
    )
    print(name)
    print(gains[name])

# %%
# Scores are R²: the mean of a target has 0.
import matplotlib.pyplot as plt

from tabmtl.inspection.plots import GainDisplay

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, (name, gain) in zip(axes, gains.items(), strict=True):
    GainDisplay.from_gain(gain, names=("together", "alone"), ax=ax)
    ax.set_title(f"{name} targets: {ax.get_title()}", fontsize="medium")

# %%
# Unrelated targets lose, and more than related ones. So measure before you share: ``multitask_gain`` does, and
# ``MultiTaskEnsemble`` gives single-task models the weight where sharing does not pay.
difference = {name: gain.table["difference"].mean() for name, gain in gains.items()}
assert difference["unrelated"] < min(0, difference["related"])
difference
