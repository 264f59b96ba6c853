"""
One row without torch: ONNX
===========================

A fitted network becomes an ONNX file, which runs without Python's torch, in any language that has ONNX Runtime.
Before it is written, it is compared with the network.
"""

# %%
# Train on flights, and export.
import tempfile
from time import process_time

import numpy as np
import onnxruntime

import tabmtl.serving.onnx
from tabmtl import IndependentTasks, SharedBottom
from tabmtl.pipelines.datasets import load

flights = load("flights")
X, y = (part.sample(2000, seed=0) for part in flights.part("train"))
X_test, y_test = (part.sample(2000, seed=0) for part in flights.part("test"))
model = SharedBottom(tasks=flights.tasks, epochs=8, random_state=0).fit(X, y)
alone = IndependentTasks(
    families=("lightgbm",), tasks=flights.tasks, random_state=0
).fit(X, y)
{
    "SharedBottom": model.score_tasks(X_test, y_test),
    "LightGBM per target": alone.score_tasks(X_test, y_test),
}

# %%
# The file holds the coding of the columns too: ``OnnxCoder`` reads it, with numpy and polars alone.
with tempfile.TemporaryDirectory() as folder:
    tabmtl.serving.onnx.export(model, f"{folder}/model.onnx")
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
coder = tabmtl.serving.onnx.OnnxCoder(session)
inputs = coder.encode(X_test.head(2))
coder.decode(session.run(None, inputs))

# %%
# The answers are those of the network:
ours = model.predict(X_test)["arr_delay"].to_numpy()
theirs = coder.decode(session.run(None, coder.encode(X_test)))["arr_delay"]
assert np.allclose(np.asarray(theirs).ravel(), ours, rtol=1e-3, atol=1e-3)


# %%
# CPU milliseconds for one row, from a frame to named answers, on the machine that built this page.
def milliseconds(answer) -> list[float]:
    """Time single rows, after a few to warm up."""
    times = []
    for i in range(60):
        row = X_test[i : i + 1]
        start = process_time()
        answer(row)
        times.append(1000 * (process_time() - start))
    return times[10:]


times = {
    "SharedBottom": milliseconds(model.predict),
    "its ONNX file": milliseconds(
        lambda row: coder.decode(session.run(None, coder.encode(row)))
    ),
    "LightGBM per target": milliseconds(alone.predict),
}

import matplotlib.pyplot as plt

plt.boxplot(list(times.values()), tick_labels=list(times), showfliers=False)
plt.ylabel("CPU milliseconds for one row")
plt.ylim(bottom=0)
plt.show()
