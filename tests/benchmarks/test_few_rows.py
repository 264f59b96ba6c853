"""Promises of few labelled rows: laws that are as they are called, and tables of every part."""

import numpy as np
import pytest

from benchmarks import few_rows as bench


@pytest.mark.parametrize(("law", "share"), [("calibrated", 1 / 7), ("even", 1 / 2)])
def test_answers_of_a_calibrated_law_are_the_shares_of_labels(law, share):
    rows = bench.drawn(np.random.default_rng(0), 20_000, law)
    assert rows.y.mean() == pytest.approx(share, abs=0.02)
    assert rows.p[:, 1].mean() == pytest.approx(rows.y.mean(), abs=0.01)


def test_true_calibration_errors_know_which_answers_hold():
    true = {law: bench.errors(np.random.default_rng(0), 100, law=law)["true"] for law in bench.LAWS}
    assert true["calibrated"] == pytest.approx(0, abs=1e-9)
    assert min(true["bold"], true["timid"]) > 0.05
