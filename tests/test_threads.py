"""Fits and predictions in threads of one process: the same as one after the other, and nobody waits for long."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from at_once import N_THREADS, PATIENCE, in_threads
from conformance import answers, features, same, targets_for, tiny
from models_at_hand import fitted

from tabmtl import APEM, ESMM, MMoE, MultiTabNet, SharedBottom
from tabmtl.training.device import threads


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        (SharedBottom, {}),
        pytest.param(MMoE, {}, marks=pytest.mark.all_faces),
        (MultiTabNet, {"attention_dropout": 0.1}),
        pytest.param(APEM, {}, marks=pytest.mark.all_faces),
        (ESMM, {}),
    ],
)
def test_fits_in_threads_are_those_of_one_after_the_other(cls, params):
    X = features()
    y = targets_for(cls, X)
    alone = answers(tiny(cls, **params).fit(X, y), X)
    states = torch.get_rng_state(), torch.get_num_threads()
    found = in_threads(lambda: answers(tiny(cls, **params).fit(X, y), X))
    assert all(same(alone, each) for each in found)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == torch.get_num_threads()


def test_the_hook_may_wait_for_fits_in_threads():
    quiet, X, y = fitted(SharedBottom)
    alone = answers(quiet, X)
    within = []

    def fit_in_threads(record):
        within.extend(in_threads(lambda: answers(tiny(SharedBottom).fit(X, y), X)))

    around = tiny(SharedBottom, on_epoch=fit_in_threads).fit(X, y)
    assert same(alone, answers(around, X))
    assert len(within) == 2 * N_THREADS
    assert all(same(alone, each) for each in within)


def test_the_hook_draws_from_the_generator_of_the_caller():
    quiet, X, y = fitted(SharedBottom)
    drawn = []
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = torch.rand(3).tolist()
        torch.manual_seed(5)
        loud = tiny(SharedBottom, on_epoch=lambda record: drawn.append(torch.rand(()).item())).fit(X, y)
        drawn.append(torch.rand(()).item())
    assert drawn == expected
    assert same(answers(quiet, X), answers(loud, X))


@pytest.mark.all_faces  # ten seconds
def test_a_copy_predicts_between_two_steps_of_a_fit_in_another_thread():
    model, X, _ = fitted(MMoE)
    said, copies = answers(model, X), [pickle.loads(pickle.dumps(model)) for _ in range(5)]
    begun, enough, epochs = threading.Event(), threading.Event(), []

    def on_epoch(record):
        epochs.append(record)
        begun.set()
        return enough.is_set()

    many = features(1_000)
    endless = tiny(SharedBottom, batch_size=1, epochs=100_000, on_epoch=on_epoch)
    fit = threading.Thread(target=endless.fit, args=(many, targets_for(SharedBottom, many)), daemon=True)
    fit.start()
    assert begun.wait(PATIENCE)
    before = len(epochs)
    try:
        with ThreadPoolExecutor(1) as pool:
            found = [pool.submit(answers, copy, X).result(PATIENCE) for copy in copies]
        assert len(epochs) - before < len(copies)  # else every copy had waited for the end of an epoch
    finally:
        enough.set()
        fit.join(PATIENCE)
    assert not fit.is_alive()
    assert all(same(said, each) for each in found)


def test_a_failed_fit_lets_the_next_one_begin():
    _, X, y = fitted(SharedBottom)
    state = torch.get_rng_state()
    for params in ({"learning_rate": 1e20}, {"on_epoch": lambda record: 1 / 0}):
        with pytest.raises((ValueError, ZeroDivisionError)):
            tiny(SharedBottom, epochs=5, **params).fit(X, y)
        in_threads(lambda: tiny(SharedBottom).fit(X, y))
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture
def three_threads():
    """Torch with three threads, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_the_number_of_threads_outside_stays_whoever_leaves_first():
    network = torch.nn.Linear(2, 2)
    left, inside = threading.Event(), threading.Event()
    numbers = []

    def work():
        with threads(None, network):
            inside.set()
            assert left.wait(PATIENCE)
            numbers.append(torch.get_num_threads())
        numbers.append(torch.get_num_threads())

    other = threading.Thread(target=work)
    with threads(1, network):
        other.start()
        assert inside.wait(PATIENCE)
    assert torch.get_num_threads() == 3
    left.set()
    other.join(PATIENCE)
    assert numbers == [1, 3]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_prediction_in_a_hook_leaves_the_threads_of_the_fit():
    network = torch.nn.Linear(2, 2)
    with threads(1, network):
        with threads(2, network):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
