"""What the ranks of a group decide alike."""

import pytest
from ranks import run_ranks

from tabmtl.base.ranks import ALONE, EndedElsewhereError, answer, check_same
from tabmtl.training.run import current


def test_ranks_must_agree_on_facts():
    check_same(ALONE, {"a": object()})
    run_ranks(2, lambda: check_same(current(), {"a": float("nan"), "b": [1]}))
    with pytest.raises(
        ValueError, match=r"^b is 2 on rank 1 of the group and 'absent' on rank 0; give every rank the sa"
    ):
        run_ranks(2, lambda: check_same(current(), {"a": 1} | ({"b": 2} if current().rank else {})))


def test_rank_0_answers_for_all_or_ends_all():
    assert run_ranks(2, lambda: answer(current(), lambda: f"of rank {current().rank}")) == ["of rank 0"] * 2
    assert answer(ALONE, lambda: [1]) == [1]

    def work():
        try:
            answer(current(), lambda: [][0])
        except (IndexError, EndedElsewhereError) as error:
            return type(error)

    assert run_ranks(2, work) == [IndexError, EndedElsewhereError]
