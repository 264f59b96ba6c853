"""Conformance for authors of models: the promises of every estimator, as checks that run outside this package.

>>> from tabmtl import SharedBottom
>>> from tabmtl.testing import multitask_checks
>>> checks = multitask_checks(SharedBottom(hidden=(8,), epochs=1))
>>> checks[0].__name__
'check_every_public_class_attribute_is_a_hyper_parameter'

`check_multitask_estimator` runs them all. With pytest, every check is a test of its own::

    @pytest.mark.parametrize("check", multitask_checks(MyNet(epochs=2)))
    def test_my_net(check):
        check()

Checks of frames of other libraries need pandas and pyarrow.
"""

from tabmtl.testing.comparisons import answers, finite, largest_gap, same
from tabmtl.testing.estimators import check_multitask_estimator, multitask_checks
from tabmtl.testing.recommenders import check_recommender, recommender_checks
from tabmtl.testing.tables import features, long_table, mixed_targets

__all__ = [
    "answers",
    "check_multitask_estimator",
    "check_recommender",
    "features",
    "finite",
    "largest_gap",
    "long_table",
    "mixed_targets",
    "multitask_checks",
    "recommender_checks",
    "same",
]
