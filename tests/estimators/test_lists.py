"""Lists, text and dates in every estimator: one fit, files, single rows, other libraries, and dropped columns."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from cases import quick
from conformance import ESTIMATORS, features, same, targets_for, tiny

BASE = features()
N = BASE.height
WORDS = ["old", "new", "warm", "cold", "house", "river"]
START = dt.datetime(2023, 12, 29, 22, 15, tzinfo=dt.UTC)
LISTS = pl.DataFrame(
    {
        "tags": [None if k % 11 == 0 else WORDS[k % 3 : k % 3 + k % 4] for k in range(N)],
        "vector": [None if k % 13 == 0 else [k / N, 1.0, -k / 7] for k in range(N)],
        "remark": [None if k % 17 == 0 else f"a {WORDS[k % 6]} room, number {k}" for k in range(N)],
        "history": [None if k % 19 == 0 else WORDS[k % 5 : k % 5 + k % 3] for k in range(N)],
        "when": [None if k % 23 == 0 else START + k * dt.timedelta(hours=31) for k in range(N)],
        "took": [k * dt.timedelta(seconds=77.5) for k in range(N)],
    }
)
X = pl.concat([BASE, LISTS], how="horizontal")


@pytest.mark.filterwarnings("ignore::tabmtl.base.schema.TabmtlWarning")
@pytest.mark.parametrize("cls", quick(ESTIMATORS, "SharedTrees", "RMTGB", "SharedBottom"))
def test_every_estimator_reads_lists_and_text(cls, reloaded):
    model = tiny(cls, columns={"remark": "text", "history": "sequence"}).fit(X, targets_for(cls, BASE))
    expected = model.predict(X)
    loaded = reloaded(model)
    assert same(loaded.predict(X), expected)
    assert same(loaded.predict(X.to_arrow()), expected)
    row = loaded.predict(X[12:13].to_pandas())
    for name in expected.columns:
        is_number = expected[name].dtype.is_float()
        compare = np.testing.assert_allclose if is_number else np.testing.assert_array_equal
        compare(row[name].to_numpy(), expected[name][12:13].to_numpy(), **({"rtol": 1e-5} if is_number else {}))
    kinds = [model.coder_.features.kind_of(name).removeprefix("flat ") for name in LISTS.columns]
    assert kinds == ["tags", "vectors", "texts", "sequences", "dates", "durations"]
    without = tiny(cls, columns=dict.fromkeys(LISTS.columns, "ignore")).fit(X, targets_for(cls, BASE))
    assert without.n_features_in_ == BASE.width
