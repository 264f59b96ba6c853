"""
Click, then conversion
======================

Conversions are known of clicked impressions only, and clicked ones are not like the others. A model that learns from
them and answers for all impressions is too high. ``ESMM`` learns both steps over all impressions.
"""

# %%
# A log whose law is known: what is clicked converts better than the rest would.
import numpy as np
import polars as pl

from tabmtl import ESMM, IndependentTasks
from tabmtl.synth import make_funnel

log = make_funnel(
    6000,
    n_users=100,
    n_items=30,
    click_rate=0.2,
    conversion_rate=0.06,
    selection=0.9,
    spread=2.0,
    random_state=0,
)
fresh = log.draw(4000, random_state=1)
chain = ["click", "conversion"]

# %%
# Over all impressions, in one network with two towers:
funnel = ESMM(task_chain=chain, epochs=15, random_state=0).fit(
    log.X, log.y.select(chain)
)
p = funnel.predict_proba(fresh.X)
of_funnel = p["conversion"][:, 1] / p["click"][:, 1]

# %%
# From the clicked impressions alone, as conversions are often learned:
clicked = (log.y["click"] == 1).to_numpy()
tasks = {"conversion": "binary"}
naive = IndependentTasks(families=("lightgbm",), tasks=tasks, random_state=0).fit(
    log.X.filter(clicked), log.y.filter(clicked).select("conversion")
)
of_clicked = naive.predict_proba(fresh.X)["conversion"][:, 1]

# %%
# The truth is the chance that an impression would convert if it were clicked. The trivial answer is the rate among
# clicks.
truth = fresh.expected["cvr"].to_numpy()
rate = log.y.filter(clicked)["conversion"].mean()
means = {
    "truth": truth.mean(),
    "ESMM": of_funnel.mean(),
    "from clicks": of_clicked.mean(),
    "rate of clicks": rate,
}

# %%
import matplotlib.pyplot as plt

order = np.array_split(np.argsort(truth), 8)
place = [truth[rows].mean() for rows in order]
plt.plot(place, place, color="grey", ls=":", label="truth")
for name, answers in (
    ("ESMM, all impressions", of_funnel),
    ("LightGBM, clicked impressions", of_clicked),
):
    plt.plot(place, [answers[rows].mean() for rows in order], marker="o", label=name)
plt.axhline(rate, color="C3", ls="--", lw=1, label="rate among clicks")
plt.xlabel("true chance to convert if clicked, in eight parts")
plt.ylabel("mean answer")
plt.legend()
plt.show()

# %%
# Learned from clicks alone, the answers for all impressions are too high in the mean; those of ``ESMM`` are nearer.
assert abs(means["ESMM"] - means["truth"]) < abs(means["from clicks"] - means["truth"])
pl.DataFrame([means])
