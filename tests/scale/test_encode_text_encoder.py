"""Text of files through an encoder of the user's own."""

import numpy as np
import polars as pl
from sklearn.base import clone

from tabmtl import SharedTrees
from tabmtl.columns import Text
from tabmtl.scale import Shards, predict_files

WORDS = ["lovely", "dreadful", "window", "garden", "kitchen"]


class Encoder:
    """Counts words, as sentence-transformers would be called."""

    def encode(self, texts):
        return [[text.count(word) for word in WORDS] + [len(text) / 10] for text in texts]


def test_files_teach_what_a_frame_teaches(tmp_path):
    rng = np.random.default_rng(0)
    remarks = [None if k % 19 == 0 else " ".join(rng.choice(WORDS, 4)) for k in range(200)]
    X = pl.DataFrame({"remark": remarks, "size": rng.normal(size=200), "id": range(200)})
    Y = X.select(liked=pl.col("remark").str.contains("lovely").fill_null(False), stars=pl.col("size") + 1)
    for k in range(2):
        X.hstack(Y)[100 * k : 100 * k + 100].write_parquet(tmp_path / f"{k}.parquet")
    columns = {"remark": Text(encoder=Encoder()), "id": "ignore"}
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0, columns=columns)
    files = clone(model).fit(Shards([tmp_path / "0.parquet", tmp_path / "1.parquet"]), Y.columns)
    expected = model.fit(X.lazy(), Y).predict(X)
    assert files.predict(X).equals(expected)
    answers = predict_files(files, tmp_path / "*.parquet", tmp_path / "answers")
    assert pl.concat([pl.read_parquet(file) for file in answers]).equals(expected)
