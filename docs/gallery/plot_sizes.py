"""
One model at three sizes
========================

A network that is trained at several widths serves a large machine and a small one: after training it is cut to a budget,
and a preference says which target counts.
"""

# %%
# Train once, at a quarter, a half and all of the widths.
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import polars as pl

import tabmtl
from tabmtl import SharedBottom
from tabmtl.pipelines.datasets import load

flights = load("flights")
X, y = (part.sample(3000, seed=0) for part in flights.part("train"))
X_test, y_test = (part.sample(3000, seed=0) for part in flights.part("test"))
model = SharedBottom(
    slim=(0.25, 0.5, 1.0),
    tasks=flights.tasks,
    numeric_embedding="none",
    epochs=15,
    random_state=0,
)
model.fit(X, y)

# %%
# What each target loses where the shared layers, or its head, are narrower: the loss on the validation rows, over that of
# the whole network. A target's loss depends on these two widths alone, so that they tell all mixed choices.
losses = model.slim_losses_
whole = losses.filter(shared=1.0, task_width=1.0).select("task", whole="loss")
table = losses.join(whole, on="task").with_columns(
    loss=pl.col("loss") / pl.col("whole")
)
table.pivot("task", index=["shared", "task_width"], values="loss")

# %%
# A budget is a share of the multiplications of a row. The search is exact: no other choice of widths within the budget has
# a lower sum of losses. A preference weighs the losses of targets.
for prefer in ({}, {"arr_delay": 5}):
    smaller = model.with_budget(0.4, prefer=prefer)
    assert smaller.multiply_adds_ <= 0.4 * model.multiply_adds_
    print(prefer, smaller.widths_)

# %%
# Scores of three sizes on test rows, beside networks that were trained at these sizes alone.
rows = []
for budget in (0.2, 0.5, 1.0):
    smaller = model.with_budget(budget)
    widths = smaller.widths_
    alone = SharedBottom(
        hidden=(widths["trunk.0"], widths["trunk.3"]),
        head_hidden=max(n for name, n in widths.items() if "heads" in name),
        tasks=flights.tasks,
        numeric_embedding="none",
        epochs=15,
        random_state=0,
    )
    alone.fit(X, y)
    rows += [
        {
            "what": what,
            "multiply-adds": own.multiply_adds_,
            "score": float(np.mean([*own.score_tasks(X_test, y_test).values()])),
        }
        for what, own in (("one training", smaller), ("trained alone", alone))
    ]
scores = pl.DataFrame(rows)
for (what,), own in scores.group_by("what", maintain_order=True):
    plt.plot(own["multiply-adds"], own["score"], marker="o", label=what)
plt.xscale("log")
plt.xlabel("multiplications of a row with weights")
plt.ylabel("mean test score of the targets")
plt.legend()
plt.show()

# %%
# The smaller model is saved and exported like any other.
small = model.with_budget(0.2)
with tempfile.TemporaryDirectory() as folder:
    small.save(f"{folder}/small")
    loaded = tabmtl.load(f"{folder}/small")
    small.export_onnx(f"{folder}/small.onnx")
    session = onnxruntime.InferenceSession(f"{folder}/small.onnx")
assert loaded.predict(X_test).equals(model.predict(X_test, budget=0.2))
coder = tabmtl.OnnxCoder(session)
coder.decode(session.run(None, coder.encode(X_test.head(2))))
