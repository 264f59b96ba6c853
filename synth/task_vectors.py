"""Task vectors with a given correlation: the geometry of a synthetic multi-task table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TOLERANCE = 1e-10


def correlation_matrix(correlation: float | Sequence | np.ndarray, n_tasks: int) -> np.ndarray:
    """Return a correlation matrix, from one number for all pairs or checked as given.

    Parameters
    ----------
    correlation : float or array-like of shape (n_tasks, n_tasks)
        ρ in [-1/(n_tasks - 1), 1], or symmetric, positive semidefinite and with ones on the diagonal.
    n_tasks : int
        Number of tasks.

    Returns
    -------
    ndarray of shape (n_tasks, n_tasks)

    Raises
    ------
    ValueError
        If it is no correlation matrix: which of the demands fails, and by how much.
    """
    P = np.array(correlation, dtype=float)
    if P.ndim == 0:
        low = -1 / max(n_tasks - 1, 1)
        if not low - _TOLERANCE <= P <= 1:
            raise ValueError(
                f"correlation must lie in [{low:.6g}, 1] for {n_tasks} tasks, got {correlation!r}: "
                "no vectors have a cosine below -1/(n_tasks - 1) with each other"
            )
        return np.where(np.eye(n_tasks, dtype=bool), 1.0, P)
    if P.shape != (n_tasks, n_tasks):
        raise ValueError(f"correlation must be a number or of shape {(n_tasks, n_tasks)}, got shape {P.shape}")
    if not np.isfinite(P).all():
        raise ValueError(f"correlation must be finite, got {P.tolist()}")
    if (apart := np.abs(P - P.T).max()) > _TOLERANCE:
        raise ValueError(f"correlation must be symmetric, got mirrored entries {apart:.3g} apart")
    if np.abs(P.diagonal() - 1).max() > _TOLERANCE:
        raise ValueError(f"correlation must have ones on its diagonal, got {P.diagonal().tolist()}")
    if (smallest := np.linalg.eigvalsh(P)[0]) < -_TOLERANCE:
        raise ValueError(
            f"correlation must be positive semidefinite, got the eigenvalue {smallest:.6g}; "
            "clip the eigenvalues at 0 and rescale to a unit diagonal"
        )
    return P


def task_vectors(P: np.ndarray, n_features: int, rng: np.random.Generator) -> np.ndarray:
    """Draw W with WWᵀ = P: with P = QΛQᵀ and random orthonormal rows U, W = QΛ^{1/2}QᵀU.

    The symmetric root of P is unique, while eigenvectors have any sign, and any direction where eigenvalues are equal:
    with W = QΛ^{1/2}U, of the same law, a seed would give another world on another kind of processor.

    Parameters
    ----------
    P : ndarray of shape (n_tasks, n_tasks)
        Correlation matrix.
    n_features : int
        Length of a task vector, at least ``n_tasks``.
    rng : numpy.random.Generator
        Source of the n_tasks × n_features normal numbers that Gram-Schmidt turns into U.

    Returns
    -------
    ndarray of shape (n_tasks, n_features)

    Raises
    ------
    ValueError
        If there are more tasks than features.
    """
    _check_room(len(P), n_features)
    # Householder's QR with a positive diagonal of R is Gram-Schmidt, without its loss of orthogonality.
    Q, R = np.linalg.qr(rng.standard_normal((len(P), n_features)).T)
    U = (Q * np.sign(R.diagonal())).T
    eigenvalues, eigenvectors = np.linalg.eigh(P)
    return (eigenvectors * np.sqrt(np.clip(eigenvalues, 0, None))) @ eigenvectors.T @ U


def checked_vectors(weights: np.ndarray, n_tasks: int, n_features: int) -> np.ndarray:
    """Return a copy of W, with the promised shape.

    Parameters
    ----------
    weights : array-like of shape (n_tasks, n_features)
        Task vectors, such as an earlier call made.
    n_tasks, n_features : int
        The shape to check.

    Returns
    -------
    ndarray of shape (n_tasks, n_features)

    Raises
    ------
    ValueError
        If the shape is another, or there are more tasks than features.
    """
    _check_room(n_tasks, n_features)
    W = np.array(weights, dtype=float)
    if W.shape != (n_tasks, n_features):
        raise ValueError(f"weights must have the shape {(n_tasks, n_features)} of (n_tasks, n_features), got {W.shape}")
    return W


def _check_room(n_tasks: int, n_features: int) -> None:
    if n_tasks > n_features:
        raise ValueError(
            f"n_features must be at least n_tasks, got {n_features} features for {n_tasks} tasks: "
            "a smaller space does not hold vectors of every correlation"
        )
