"""Random sequences of calls to recommenders keep the laws of `fuzzing`."""

from fuzzing import check_walks, starts
from session_walks import SessionWalk


@starts(200)
def test_calls_to_recommenders_in_any_order_keep_the_laws(start):
    check_walks(SessionWalk, start)
