"""
The next click, of new items too
================================

Methods that count clicks cannot recommend what nobody has clicked. ``M2TRec`` knows an item by its metadata, so that
a new product has a place on the first day.
"""

# %%
# A shop whose law is known: a tenth of the items appear after the day that ends the training.
import polars as pl

from tabmtl.sessions import VSKNN, M2TRec, Popularity
from tabmtl.synth import make_sessions

log = make_sessions(1500, 120, random_state=0)
train, test = log.split()
log.items.head(3)

# %%
# Three recommenders, one contract.
models = {
    "Popularity": Popularity(),
    "VSKNN": VSKNN(),
    "M2TRec": M2TRec(
        categories=["category", "subcategory"], columns={"name": "text"}, random_state=0
    ),
}
for model in models.values():
    model.fit(train, items=log.items)

# %%
# Recall@20: the share of next clicks among the first 20 of all items, by how often the item was clicked in training.
recall = pl.concat(
    [
        model.evaluate(test).select(
            pl.lit(name).alias("model"), "bucket", "n_targets", "recall@20"
        )
        for name, model in models.items()
    ]
)
recall = recall.filter(pl.col("n_targets") > 0)
recall.pivot("model", index=["bucket", "n_targets"], values="recall@20")

# %%
import matplotlib.pyplot as plt
import numpy as np

buckets = recall["bucket"].unique(maintain_order=True).to_list()
for i, name in enumerate(models):
    own = recall.filter(model=name)
    plt.bar(np.arange(len(own)) + 0.27 * (i - 1), own["recall@20"], 0.25, label=name)
plt.xticks(range(len(buckets)), buckets)
plt.xlabel("clicks on the item in training")
plt.ylabel("recall@20")
plt.legend()
plt.show()

# %%
# Items without any click, in the row of 0:
cold = dict(recall.filter(bucket="0").select("model", "recall@20").iter_rows())
assert cold["M2TRec"] > max(cold["VSKNN"], cold["Popularity"])
cold

# %%
# An item that joins today is recommended today, without training.
model = models["M2TRec"]
model.add_items(log.items.head(1).with_columns(item_id=pl.lit("brand new")))
model.recommend(test["item_id"].head(3).to_list(), candidates=["brand new"], k=1)
