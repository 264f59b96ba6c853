"""Every parameter of every recommender is documented and checked: type, range and name."""

import pytest
from parameters import check_bad_values, check_defaults, check_documents, check_unknown_name, each_parameter
from recommenders import ITEMS, RECOMMENDERS, TRAIN, tiny

every_class = pytest.mark.parametrize("cls", RECOMMENDERS)


@each_parameter(RECOMMENDERS)
def test_a_bad_value_is_refused_with_name_expectation_and_value(cls, name, hint):
    check_bad_values(name, hint, lambda **params: tiny(cls.__name__, **params).fit(TRAIN, items=ITEMS))


@each_parameter(RECOMMENDERS)
def test_an_unknown_name_is_refused_with_a_near_one(cls, name, hint):
    check_unknown_name(cls, name)


@every_class
def test_defaults_are_allowed(cls):
    check_defaults(cls)


@every_class
def test_every_parameter_is_described_with_its_default_in_the_order_of_the_signature(cls):
    check_documents(cls)
