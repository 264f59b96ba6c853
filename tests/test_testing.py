"""The checks for authors of models find what is wrong, and name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conformance import tiny
from parted import Team
from torch import Tensor

from tabmtl.columns import Features
from tabmtl.estimators.network import VectorEstimator
from tabmtl.models.shared_bottom import SharedBottom, SharedBottomNetwork
from tabmtl.testing import check_multitask_estimator, multitask_checks
from tabmtl.testing.comparisons import parameters_of


class MeanOfBatchNetwork(SharedBottomNetwork):
    """Takes the mean of a batch from its rows."""

    def represent(self, x: Features, task: Tensor | None = None) -> Tensor:
        z = super().represent(x, task)
        return z - z.mean(dim=0)


class MeanOfBatch(SharedBottom):
    """A row's answer depends on those beside it."""

    def _network(self, columns: Any, tasks: Any) -> MeanOfBatchNetwork:
        return MeanOfBatchNetwork(columns, tasks, self)


class Unseeded(SharedBottom):
    """Draws from a global generator."""

    def _network(self, columns: Any, tasks: Any) -> SharedBottomNetwork:
        np.random.normal()
        return super()._network(columns, tasks)


@dataclass(kw_only=True, eq=False, repr=False)
class Undocumented(SharedBottom):
    """Says nothing of its width."""

    width: int = 3


@dataclass(kw_only=True, eq=False, repr=False)
class Named(VectorEstimator):
    """Says nothing below the name.

    Parameters
    ----------
    width : int, default=3
    """

    width: int = 3


class Careless(SharedBottom):
    """Without a type for its width."""

    width = 3


@pytest.mark.parametrize(
    ("cls", "name", "message"),
    [
        (MeanOfBatch, "check_a_row_is_answered_alike_in_any_batch", "in batches of 1 rows, answers differ by .* 1e-6"),
        (Unseeded, "check_the_same_seed_gives_the_same_bits_and_leaves_the_global_generators_alone", "has moved"),
        (Undocumented, "check_every_hyper_parameter_is_keyword_only_and_documented", "width has no entry"),
        (Named, "check_every_hyper_parameter_is_keyword_only_and_documented", "width has no description"),
        (Careless, "check_every_public_class_attribute_is_a_hyper_parameter", r"annotate \['width'\]"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_broken_promise_is_named(cls, name, message):
    check = {check.__name__: check for check in multitask_checks(tiny(cls))}[name]
    promise = name.removeprefix("check_").replace("_", " ")
    with pytest.raises(AssertionError, match=f"(?s){cls.__name__} fails {name}; promised is: {promise}.*{message}"):
        check()


PARAMETERS = "check_parameters_are_kept_and_cloned"
FILES = ("check_copies_and_files_give_the_same_bits", "check_a_second_generation_file_holds_the_same_bytes")


@pytest.mark.parametrize("name", [PARAMETERS, *FILES])
def test_estimators_among_the_parameters_are_compared_by_class_and_parameters(name):
    checks = {check.__name__: check for check in multitask_checks(Team(candidates={"net": tiny(SharedBottom)}))}
    checks[name]()


def test_another_estimator_among_the_parameters_is_noticed():
    found = [parameters_of(Team(candidates={"net": net})) for net in (tiny(SharedBottom), tiny(MeanOfBatch))]
    assert found[0] != found[1]
    assert found[0] == parameters_of(Team(candidates={"net": tiny(SharedBottom)}))
    assert found[0] != parameters_of(Team(candidates={"net": tiny(SharedBottom, epochs=9)}))


def test_the_first_failure_ends_all_checks():
    with pytest.raises(AssertionError, match="Careless fails"):
        check_multitask_estimator(Careless())


def test_an_estimator_is_checked_as_its_author_configured_it_and_left_alone():
    estimator = tiny(SharedBottom, random_state=7)
    params = estimator.get_params()
    multitask_checks(estimator)[2]()
    assert estimator.get_params() == params
    assert not hasattr(estimator, "tasks_")
