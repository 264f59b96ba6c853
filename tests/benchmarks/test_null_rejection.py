"""The count of null rejections: equal models stay level, and a better one would not."""

import numpy as np
import pytest

from benchmarks import null_rejection as benchmark


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "ROWS", 120)
    monkeypatch.setattr(benchmark, "RIVALS", (1, 5))
    monkeypatch.setattr(benchmark, "SIZES", ("1", "10", benchmark.UNEQUAL))


@pytest.mark.parametrize("metric", benchmark.METRICS)
def test_equal_models_are_seldom_told_apart(metric):
    """It would be 20 % and more if groups were ignored, or if every interval held by itself alone."""
    cells = benchmark.report(metric, "10", 1, 40)
    assert list(cells) == ["1 on average", "5 on average", "1 on some task", "5 on some task"]
    assert float(cells["5 on some task"].split(" ± ")[0]) <= 10


def test_equal_models_of_two_seeds_are_seldom_told_apart(monkeypatch):
    monkeypatch.setattr(benchmark, "SPREAD", 0.5)
    cells = benchmark.report("r2", "1", 2, 40)  # Satterthwaite's degrees of freedom alone reject 22 %
    assert float(cells["5 on average"].split(" ± ")[0]) <= 10


def test_rows_of_a_group_share_half_of_their_errors():
    found = benchmark.shared(np.random.default_rng(0), np.arange(4_000) // 2, 1)[:, 0]
    assert found.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(found[::2], found[1::2])[0, 1] == pytest.approx(0.5, abs=0.05)


def test_a_better_model_is_told_apart(monkeypatch):
    real = benchmark.draw

    def draw(*arguments):
        reference, *rivals = real(*arguments)
        return [reference, *([fit._replace(outputs=list(fit.labels.T)) for fit in each] for each in rivals)]

    monkeypatch.setattr(benchmark, "draw", draw)
    assert {told for _, *both in benchmark.rejections("r2", "10", 1, range(2)) for told in both} == {True}
