"""
A table larger than memory
==========================

``Shards`` names files in place of a frame. A network reads them in windows and keeps a million rows in memory,
however many there are; ``predict_files`` answers file by file.
"""

# %%
# Six files, as one a day would come.
import tempfile
from pathlib import Path

import polars as pl

from tabmtl import SharedBottom
from tabmtl.pipelines.datasets import load
from tabmtl.scale import Shards, predict_files

portal = load("portal")
X, y = (part.head(3000) for part in portal.part("train"))
X_test, y_test = (part.sample(2000, seed=0) for part in portal.part("test"))
folder = tempfile.TemporaryDirectory()
place = Path(folder.name)
(place / "rows").mkdir()
for day, rows in enumerate(X.hstack(y).iter_slices(500)):
    rows.write_parquet(place / "rows" / f"day-{day}.parquet")

# %%
# Targets are columns of the files. The same estimator takes a frame.
options = {"tasks": portal.tasks, "epochs": 8, "random_state": 0}
from_files = SharedBottom(**options).fit(
    Shards(f"{place}/rows/*.parquet"), list(portal.tasks)
)
from_frame = SharedBottom(**options).fit(X, y)
scores = pl.DataFrame(
    {
        "task": list(portal.tasks),
        "from files": from_files.score_tasks(X_test, y_test).values(),
        "from a frame": from_frame.score_tasks(X_test, y_test).values(),
        "constant": [0.0, 0.0, 0.5],
    }
)
scores

# %%
# Other rows meet in a step, so that the two are not equal, only alike.
from tabmtl.inspection.plots import HistoryDisplay

HistoryDisplay.from_estimator(from_files)

# %%
# From files to files, with the columns that you want to keep:
scored = predict_files(
    from_files, f"{place}/rows/*.parquet", place / "scored", keep=["year", "species_id"]
)
print(len(scored), "files")
answers = pl.read_parquet(scored[0])
folder.cleanup()
answers.head(3)
