"""An ensemble of quick candidates, fitted once, and quick linear models where their quality does not matter."""

from __future__ import annotations

import pytest
from conformance import CANDIDATES, features, mixed_targets

from tabmtl import MultiTaskEnsemble
from tabmtl.ensemble import stack


@pytest.fixture
def one_penalty():
    """Try one penalty: much of the time of a fit of quick candidates on a tiny table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "_INVERSE_PENALTIES", [0.1])
        yield


@pytest.fixture(scope="session")
def mixed():
    """Fit tasks of three kinds; fitted models are to be left as they are."""
    X = features()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "_INVERSE_PENALTIES", [0.1])
        return MultiTaskEnsemble(models=CANDIDATES, n_folds=2, random_state=0).fit(X, mixed_targets(X))
