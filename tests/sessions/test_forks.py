"""A forked process does not recommend, and says why; see tests/base/test_forks.py."""

import os

import pytest
from forked import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

POOL = """
import recommenders

popular = recommenders.fitted("Popularity")
cases = {
    "recommend": lambda: popular.recommend(recommenders.TEST, k=3),
    "fit a log": lambda: recommenders.tiny("M2TRec").fit(recommenders.TRAIN, items=recommenders.ITEMS),
}
print(json.dumps({name: in_a_fork(case) for name, case in cases.items()}))
"""


@pytest.mark.all_faces
def test_a_fork_after_polars_has_threads_recommends_nothing():
    found = run(POOL)
    assert list(found) == ["recommend", "fit a log"]
    for name, said in found.items():
        assert "RuntimeError: this process was forked after polars had started its threads" in said, name
