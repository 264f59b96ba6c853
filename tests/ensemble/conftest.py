"""An ensemble of quick candidates, fitted once, and a selection that is quick where its quality does not matter."""

from __future__ import annotations

import pytest
from conformance import CANDIDATES, features, mixed_targets

from tabmtl import MultiTaskEnsemble
from tabmtl.ensemble import selection, stack


@pytest.fixture
def few_picks():
    """Try few picks and one penalty: most of the time of a fit of quick candidates on a tiny table."""
    with pytest.MonkeyPatch.context() as patch:
        _try_few(patch)
        yield


@pytest.fixture(scope="session")
def mixed():
    """Fit tasks of three kinds; fitted models are to be left as they are."""
    X = features()
    with pytest.MonkeyPatch.context() as patch:
        _try_few(patch)
        return MultiTaskEnsemble(models=CANDIDATES, n_folds=2, random_state=0).fit(X, mixed_targets(X))


def _try_few(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(selection, "_MOST_PICKS", 4)
    patch.setattr(stack, "_INVERSE_PENALTIES", [0.1])
