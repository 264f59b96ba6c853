"""Fits of recommenders that are over leave nothing behind."""

import pytest
from cases import later
from leaks import assert_nothing_stays
from recommenders import FORMS, ITEMS, TRAIN, tiny


@pytest.mark.parametrize("form", later(FORMS, *(form for form in FORMS if form != "STAN")))
def test_a_fit_on_a_click_log_leaves_nothing_behind(form):
    log = TRAIN.head(200)
    assert_nothing_stays(lambda: tiny(form, epochs=1).fit(log, items=ITEMS).recommend(log, k=3))
