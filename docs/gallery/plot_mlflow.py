"""
From a fit to a server
======================

Log a training in MLflow, register the model without pickle, and ask it over HTTP, as ``tabmtl train --register`` and
``tabmtl serve start`` do in two commands.
"""

# %%
# A store in a folder of its own. In production it is a database and a server.
import json
import logging
import tempfile
import threading
import time
from urllib.request import Request, urlopen

import mlflow
import polars as pl
import uvicorn
from mlflow.pyfunc import scoring_server

import tabmtl.serving.mlflow
from tabmtl import IndependentTasks, SharedBottom
from tabmtl.pipelines.datasets import load
from tabmtl.serving.mlflow import MLflowCallback

logging.disable(logging.INFO)
folder = tempfile.TemporaryDirectory()
mlflow.set_tracking_uri(f"sqlite:///{folder.name}/mlflow.db")
experiment = mlflow.create_experiment(
    "portal", artifact_location=f"file://{folder.name}/artifacts"
)

# %%
# The callback logs the scores of every epoch. The registered model has a signature that names and types every column.
portal = load("portal")
X, y = (part.sample(1500, seed=0) for part in portal.part("train"))
X_val, y_val = (part.sample(1500, seed=0) for part in portal.part("val"))
model = SharedBottom(tasks=portal.tasks, epochs=12, random_state=0)
with mlflow.start_run(experiment_id=experiment) as run:
    model.set_params(on_epoch=MLflowCallback()).fit(X, y, X_val=X_val, y_val=y_val)
    tabmtl.serving.mlflow.log_model(
        model, input_example=X.head(5), registered_model_name="portal"
    )
alone = IndependentTasks(
    families=("lightgbm",), tasks=portal.tasks, random_state=0
).fit(X, y)
{
    "SharedBottom": model.score_tasks(X_val, y_val),
    "LightGBM per target": alone.score_tasks(X_val, y_val),
}

# %%
# What MLflow's page shows of the run, asked from its store: validation scores, on which the training stopped.
import matplotlib.pyplot as plt

client = mlflow.MlflowClient()
for metric in ("val/weight/r2", "val/hindfoot_length/r2", "val/male/roc_auc"):
    history = client.get_metric_history(run.info.run_id, metric)
    plt.plot(
        [point.step for point in history],
        [point.value for point in history],
        marker=".",
        label=metric,
    )
plt.xlabel("epoch")
plt.ylabel("score on validation rows")
plt.legend()
plt.show()

# %%
# The registered model behind MLflow's server, here in a thread. ``tabmtl serve start portal`` runs it as a process.
served = mlflow.pyfunc.load_model("models:/portal/1")
server = uvicorn.Server(
    uvicorn.Config(scoring_server.init(served), port=0, log_level="error")
)
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.05)
port = server.servers[0].sockets[0].getsockname()[1]

# %%
# A question in JSON, and its answer; a missing value is null.
row = X_val.head(1).to_dicts()[0] | {"plot_type": None}
question = json.dumps(
    {"dataframe_records": [row], "params": {"method": "predict_proba"}}
).encode()
headers = {"Content-Type": "application/json"}
with urlopen(
    Request(f"http://127.0.0.1:{port}/invocations", question, headers)
) as reply:
    answer = json.load(reply)
answer

# %%
# The estimator itself comes back too, with equal answers bit for bit.
same = tabmtl.serving.mlflow.load_model("models:/portal/1")
assert same.predict(X_val).equals(model.predict(X_val))
server.should_exit = True
logging.disable(logging.NOTSET)
pl.DataFrame(answer["predictions"])
