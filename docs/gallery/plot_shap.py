"""
Why this answer? SHAP values of a shared model
==============================================

``export_task`` turns one task of a shared model into a plain LightGBM model with the same answers. All that LightGBM
can do with a model works then, exact SHAP values among it.
"""

# %%
# Trees that learn three targets together.
import matplotlib.pyplot as plt
import numpy as np

from tabmtl import IndependentTasks, SharedTrees
from tabmtl.pipelines.datasets import load

portal = load("portal")
X, y = (part.sample(1500, seed=0) for part in portal.part("train"))
X_test, y_test = (part.sample(400, seed=1) for part in portal.part("test"))
model = SharedTrees(tasks=portal.tasks, random_state=0).fit(X, y)
alone = IndependentTasks(tasks=portal.tasks, random_state=0).fit(X, y)
{
    "together": model.score_tasks(X_test, y_test),
    "one model per target": alone.score_tasks(X_test, y_test),
}

# %%
# The weight, in gram, as a ``lightgbm.Booster``. The values of a row and the expected value sum to its prediction.
booster = model.export_task("weight")
encoded = model.encode(X_test)  # a frame with the columns of the booster
values = booster.predict(encoded, pred_contrib=True, num_threads=1)
contributions, expected = values[:, :-1], values[0, -1]
assert np.allclose(values.sum(axis=1), model.predict(X_test)["weight"])

# %%
# What moves the weight of these animals, and how far: a point is an animal.
order = np.argsort(np.abs(contributions).mean(axis=0))[-7:]
names = encoded.columns
jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))
for height, j in enumerate(order):
    plt.scatter(contributions[:, j], height + jitter, s=6, alpha=0.5, color="C0")
plt.yticks(range(len(order)), [names[j] for j in order])
plt.axvline(0, color="grey", lw=0.8)
plt.xlabel(f"SHAP value in gram, around {expected:.1f} g")
plt.tight_layout()
plt.show()

# %%
# One animal, term by term:
{names[j]: round(float(contributions[0, j]), 2) for j in order[::-1]} | {
    "expected": round(float(expected), 2)
}

# %%
# A target of more than two classes has such values for each class, side by side: ``values.reshape(len(values),
# n_classes, -1)[:, k]`` are those of class k, its expected value last.
#
# With ``pip install shap``, ``shap.plots.beeswarm(shap.Explanation(contributions, expected, encoded.to_numpy(),
# feature_names=names))`` draws the same with its own looks.
