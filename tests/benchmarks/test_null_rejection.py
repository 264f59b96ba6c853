"""The count of null rejections: equal models stay level, and a better one would not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import null_rejection as benchmark


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "ROWS", 120)
    monkeypatch.setattr(benchmark, "RIVALS", (1, 2))


@pytest.mark.parametrize("metric", benchmark.METRICS)
def test_every_number_of_rivals_has_its_shares(metric: str) -> None:
    cells = benchmark.report(metric, 5, 4)
    assert list(cells) == ["1 on average", "2 on average", "1 on some task", "2 on some task"]
    assert all(float(cell.split(" ± ")[0]) <= 50 for cell in cells.values())


def test_rows_of_a_group_share_half_of_their_errors() -> None:
    found = benchmark.shared(np.random.default_rng(0), np.arange(4_000) // 2, 1)[:, 0]
    assert found.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(found[::2], found[1::2])[0, 1] == pytest.approx(0.5, abs=0.05)


def test_a_better_model_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    real = benchmark.draw

    def draw(*arguments):
        tasks, (reference, *rivals) = real(*arguments)
        return tasks, [reference, *(each._replace(fits=[list(each.y.T)]) for each in rivals)]

    monkeypatch.setattr(benchmark, "draw", draw)
    assert {told for _, *both in benchmark.rejections("r2", 1, range(2)) for told in both} == {True}
