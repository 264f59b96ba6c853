"""
Who uses which expert
=====================

In a mixture of experts every task weighs the experts by a gate of its own. After the fit you can look: do tasks that
need the same use the same experts?
"""

# %%
# Four smooth targets in two pairs. Inside a pair they follow nearly one direction of the features, and the pairs
# have nothing in common.
import numpy as np

from tabmtl import IndependentTasks, MMoE, multitask_gain
from tabmtl.synth import make_multitab_bench

pairs = np.kron(np.eye(2), [[1, 0.9], [0.9, 1]])
bench = make_multitab_bench(
    1000,
    8,
    4,
    correlation=pairs,
    degrees=(2, 2, 2, 2),
    standardize=True,
    random_state=0,
)
test = bench.draw(2000, random_state=1)
model = MMoE(n_experts=4, expert_hidden=(32, 16), epochs=15, random_state=0).fit(
    bench.X, bench.y
)

# %%
# The mean weight of every expert in every gate; an expert that no gate needs would be drawn in red.
from tabmtl.inspection.plots import ExpertUsageDisplay

ExpertUsageDisplay.from_estimator(model)

# %%
# Distance between the gates of two tasks, from 0 (the same mixture) to 1 (no expert in common):
weights = model.expert_utilisation_.pivot("expert", index="gate", values="weight")
gates = dict(zip(weights["gate"], weights.drop("gate").to_numpy(), strict=True))
names = bench.y.columns
distance = np.array(
    [[np.abs(gates[a] - gates[b]).sum() / 2 for b in names] for a in names]
)
distance.round(2)

# %%
# Weights show how a gate mixes, not what an expert is worth. The scores tell whether it helped: R², beside one
# LightGBM per target, and the mean has 0.
alone = IndependentTasks(families=("lightgbm",), random_state=0).fit(bench.X, bench.y)
gain = multitask_gain(
    model.score_tasks(test.X, test.y), alone.score_tasks(test.X, test.y)
)
gain.table
