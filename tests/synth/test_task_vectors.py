"""WWᵀ = P, exactly, by the published algorithm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.synth import make_multitab_bench
from tabmtl.synth.task_vectors import task_vectors


@st.composite
def correlation_matrices(draw):
    n_tasks = draw(st.integers(1, 6))
    rank = draw(st.integers(1, 6))
    vectors = np.random.default_rng(draw(st.integers(0, 10**6))).standard_normal((n_tasks, rank))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    P = vectors @ vectors.T
    np.fill_diagonal(P, 1)
    return P


class TestTaskVectors:
    @given(P=correlation_matrices(), extra=st.integers(0, 20), seed=st.integers(0, 99))
    def test_full_matrix_is_met_exactly_whatever_its_rank(self, P, extra, seed):
        bench = make_multitab_bench(3, len(P) + extra, len(P), correlation=P, random_state=seed)
        assert np.abs(bench.truth.W @ bench.truth.W.T - P).max() < 1e-10
        assert np.abs(bench.truth.P - P).max() < 1e-10

    @given(n_tasks=st.integers(2, 12), share=st.floats(0, 1))
    def test_scalar_is_met_over_its_whole_range(self, n_tasks, share):
        rho = -1 / (n_tasks - 1) * (1 - share) + share
        truth = make_multitab_bench(1, 12, n_tasks, correlation=rho, random_state=0).truth
        expected = np.full((n_tasks, n_tasks), rho)
        np.fill_diagonal(expected, 1)
        assert np.abs(truth.P - expected).max() < 1e-10

    @pytest.mark.parametrize("turn", [0.0, 0.7])
    def test_equal_eigenvalues_leave_nothing_to_the_processor(self, turn, monkeypatch):
        """Two of three eigenvalues are equal: whatever basis of their plane eigh picks, W is the same."""
        P = np.full((3, 3), 0.4) + 0.6 * np.eye(3)
        expected = task_vectors(P, 6, np.random.default_rng(5))
        values, Q = np.linalg.eigh(P)
        plane = np.eye(3)
        plane[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        monkeypatch.setattr(np.linalg, "eigh", lambda _: (values, -Q @ plane))
        np.testing.assert_allclose(task_vectors(P, 6, np.random.default_rng(5)), expected, atol=1e-12)

    def test_equals_the_algorithm_written_out(self):
        P = np.full((3, 3), 0.4) + 0.6 * np.eye(3)
        U = np.random.default_rng(5).standard_normal((3, 6))
        for i in range(3):  # modified Gram-Schmidt
            for k in range(i):
                U[i] -= (U[i] @ U[k]) * U[k]
            U[i] /= np.linalg.norm(U[i])
        values, Q = np.linalg.eigh(P)
        W = Q @ np.diag(np.sqrt(values)) @ Q.T @ U
        np.testing.assert_allclose(task_vectors(P, 6, np.random.default_rng(5)), W, atol=1e-12)
