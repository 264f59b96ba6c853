"""Watched fits of recommenders."""

import pytest
import recommenders

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions import STAN, Blend, SequentialRules


def test_recommenders_end_in_time():
    with pytest.warns(TabmtlWarning, match=r"epoch 1 of 2\."):
        recommenders.tiny("M2TRec", time_limit=1e-3).fit(recommenders.TRAIN, items=recommenders.ITEMS)
    with pytest.warns(TabmtlWarning, match=r"cut short the fit, which took .* seconds: step 1 of 10\."):
        Blend([STAN(), SequentialRules()], time_limit=1e-3).fit(recommenders.TRAIN)


def test_recommenders_tell_what_they_learn(capsys):
    SequentialRules(verbose=1).fit(recommenders.TRAIN)
    first, *steps, last = capsys.readouterr().out.splitlines()
    assert first.startswith("SequentialRules  ") and first.endswith(" 53 items")
    assert steps[0].startswith("SequentialRules  step ") and " rules  " in steps[0]
    assert last.startswith("SequentialRules  worth of a session's own items: scale ")
