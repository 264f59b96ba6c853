"""What a fitted model is worth later: which days each way sees, and the table of a part."""

import numpy as np
import polars as pl
import pytest

from benchmarks import after as bench
from benchmarks import after_shifts
from benchmarks.after import ANSWERED, FIRST, MONTH, WAYS, WEEK, followed


class Remembering:
    """Model that answers the last day it has seen, and counts the rows of every learning."""

    def __init__(self):
        self.fitted, self.gone_on = [], []

    def fit(self, X, y, groups):
        assert [*groups] == [*X["day"]]
        self.fitted.append(len(X))
        self.last = X["day"].max()
        return self

    def partial_fit(self, X, y):
        self.gone_on.append(len(X))
        self.last = X["day"].max()
        return self

    def answer_tasks(self, X):
        assert self.last < X["day"].min()
        return {"last": np.full(len(X), self.last)}


DAYS = [(pl.DataFrame({"day": [day] * 2}), pl.DataFrame({"y": [0, 1]}), np.full(2, day)) for day in range(120)]


@pytest.mark.parametrize(
    ("way", "fits", "steps", "first_answers"),
    [
        ("as fitted", [], [], [FIRST - 1] * 3),
        ("partial_fit each day", [], [2] * (ANSWERED - 1), [FIRST - 1, FIRST, FIRST + 1]),
        ("partial_fit each week", [], [2 * WEEK] * ((ANSWERED - 1) // WEEK), [FIRST - 1] * 3),
        ("fitted anew each month", [2 * (FIRST + MONTH)], [], [FIRST - 1] * 3),
    ],
)
def test_a_way_sees_the_days_that_are_over(way, fits, steps, first_answers):
    model = bench.learned(Remembering(), DAYS[:FIRST])
    answers, seconds = followed(model, DAYS, WAYS[way].step)
    assert (model.fitted[1:], model.gone_on) == (fits, steps)
    assert answers["last"][:6:2].tolist() == first_answers
    assert len(answers["last"]) == 2 * ANSWERED
    assert 0 <= seconds < 1


def test_the_table_compares_ways_with_the_first_one(monkeypatch, tmp_path, capsys):
    def generated(folder, seed):
        yield "Net", "as fitted", "AUC", 0.5 + seed
        yield "Net", "gone on", "AUC", 0.75 + seed

    monkeypatch.setattr(bench, "PARTS", {"generated": generated})
    bench.main(["--seeds", "0", "1", "--output", str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith("Net: gone on 1.2500 ± 0.7071 Net: gone on - as fitted +0.2500 ± 0.0000")


def test_shifts_are_shares_of_the_move(monkeypatch):
    class Follower:
        def __init__(self, random_state):
            self.mean = 0.0

        def fit(self, X, y):
            return self

        def predict(self, X):
            return np.full(len(X), self.mean)

        def partial_fit(self, X, y):
            assert len(X) == len(y) == after_shifts.NEW
            self.mean += 0.25 * np.round(y.mean() / 3) * 3
            return self

    monkeypatch.setattr(after_shifts, "FAMILIES", ("IndependentTasks",))
    monkeypatch.setattr(after_shifts, "SHIFTS", (3.0, 6.0))
    monkeypatch.setattr(after_shifts.tabmtl, "IndependentTasks", Follower)
    found = [(measure, value) for _, _, measure, value in after_shifts.shifts(None, 0)]
    assert found == [("3 sd", 0.25), ("6 sd", 0.25)]
