"""Text in files is found and learned as in frames."""

import numpy as np
import polars as pl
import pytest
from wired import run_ranks

from tabmtl import SharedTrees
from tabmtl.base.schema import TabmtlWarning
from tabmtl.columns import Text
from tabmtl.scale import Shards
from tabmtl.scale.blocks import Roles
from tabmtl.scale.survey import learn_table
from tabmtl.training.run import current

CODING = {"tasks": {"y": "regression"}, "force": None, "task_column": None, "columns": {}}
CODING |= {"encoding": {"finds_text": True}}


def test_text_is_looked_for_in_all_rows():
    texts = [f"a very friendly house by the river {k}" for k in range(20_000)]
    shards = Shards(pl.LazyFrame({"remark": ["no"] * 10_000 + texts, "y": range(30_000)}))
    roles = Roles.of(shards, "y")
    with pytest.warns(TabmtlWarning, match=r"the columns \['remark'\] are read as free text"):
        coders = run_ranks(2, lambda: learn_table(shards, roles, **CODING, group=current()))
    assert [coder.features.declared["remark"] for coder in coders] == [Text()] * 2


def test_files_teach_what_a_frame_teaches(tmp_path):
    rng = np.random.default_rng(0)
    is_good = rng.random(400) < 0.5
    words = [["lovely" if good else "dreadful", *rng.permutation(["window", "garden", "street"])] for good in is_good]
    remarks = [None if rng.random() < 0.05 else f"{' '.join(own)} {k % 97}" for k, own in enumerate(words)]
    X = pl.DataFrame({"size": rng.normal(size=400), "remark": remarks})
    Y = pl.DataFrame({"liked": is_good, "stars": is_good + 0.1 * rng.normal(size=400)})
    files = [tmp_path / f"{k}.parquet" for k in range(2)]
    for file, part in zip(files, (X.hstack(Y)[:150], X.hstack(Y)[150:]), strict=True):
        part.write_parquet(file)
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0)
    with pytest.warns(TabmtlWarning, match="read as free text"):
        shards = model.fit(Shards(files), Y.columns).predict_proba(X)["liked"]
    frame = model.set_params(columns={"remark": "text"}).fit(X, Y).predict_proba(X)["liked"]
    np.testing.assert_array_equal(frame, shards)
