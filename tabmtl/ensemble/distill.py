"""Train one network on the answers of another model, such as an ensemble, to answer for it at less cost."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone, is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import RandomState
from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.distillation import learn_answers
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.shared_bottom import SharedBottom, SharedBottomClassifier, SharedBottomRegressor


def distill(
    teacher: MultiTaskEstimator,
    X: Any,
    *,
    network: NetworkEstimator | None = None,
    random_state: RandomState = None,
    verbose: int | None = None,
) -> NetworkEstimator:
    """Train one network on the answers of a fitted estimator to all its tasks.

    Parameters
    ----------
    teacher : MultiTaskEstimator
        Fitted: an ensemble, or any other estimator of the package.
    X : frame or array of shape (n, p)
        Rows with the columns of the teacher's fit: its training rows, and all unlabelled rows that there are. More rows
        bring the network nearer to the teacher.
    network : NetworkEstimator, optional
        Network whose copy is trained; by default a `SharedBottom` without dropout. The copy takes tasks and roles of
        columns from the teacher. ``validation_fraction`` of the rows of X tell when to stop.
    random_state : int, RandomState or None, default=None
        Random seed.
    verbose : int, optional
        1 shows the epochs of the network; by default the ``verbose`` of ``network``.

    Returns
    -------
    student : NetworkEstimator
        Fitted network with the tasks, classes and containers of the teacher. The losses in ``history_`` are distances
        to the teacher: 0 if both answer alike, 1 for the teacher's mean answer. Scores are undefined, since no label is
        read.

    Raises
    ------
    TypeError
        If `network` is no network.
    ValueError
        If X has other columns than the teacher's fit, or the network has a loss of its own or another face.

    Notes
    -----
    A classification loses the Kullback-Leibler divergence KL(p || q) from the teacher's probabilities p to the
    network's q, a regression (p - q)². Each task's loss is divided by that of the teacher's mean answer, so that tasks
    whose answers vary little are learned like the others.

    Unlabelled rows matter most. For ensembles of 1200 rows of two tables, 6 of 13 test scores of the default network
    were at most .003 below the ensemble's; with 2400 unlabelled rows more, all 13 were. So were all 23 of four
    ensembles of 2000 rows, with 6000 unlabelled ones (one draw; docs/lab.md, "Distillation").

    References
    ----------
    Bucilă, Caruana, Niculescu-Mizil (2006), "Model Compression", KDD.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom, SharedTrees, distill
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.column_stack([X[:, 0], X[:, 0] > X[:, 1]])
    >>> trees = SharedTrees(n_estimators=20, random_state=0).fit(X, y)
    >>> student = distill(trees, X, network=SharedBottom(epochs=2), random_state=0)
    >>> student.predict(X).shape
    (200, 2)
    """
    check_is_fitted(teacher)
    network = _default_network(teacher) if network is None else network
    if not isinstance(network, NetworkEstimator):
        raise TypeError(f"network must be a network of this package, such as SharedBottom(), got {network!r}")
    student = clone(network) if verbose is None else clone(network).set_params(verbose=verbose)
    learn_answers(student, teacher, X, draw_seed(random_state))
    return student


def _default_network(teacher: MultiTaskEstimator) -> SharedBottom:
    """Return the network that is trained by default, with the face of the teacher."""
    faces = SharedBottomClassifier, SharedBottomRegressor, SharedBottom
    face = faces[0 if is_classifier(teacher) else 1 if is_regressor(teacher) else 2]
    return face(dropout=0.0)  # the answers are without noise, so dropout has nothing to average out
