"""A network and models per task in folders, and refusals, which name the folder."""

import pytest
from forging import copy_of
from models_at_hand import fitted

import tabmtl
from tabmtl import IndependentTasks, ModelFileError, SharedBottom


@pytest.fixture(scope="module", params=[SharedBottom, IndependentTasks], ids=lambda cls: cls.__name__)
def stored(request, tmp_path_factory):
    """A folder that holds a model, the fitted model, and its features; not to be changed."""
    estimator, X, _ = fitted(request.param)
    folder = tmp_path_factory.mktemp("stored") / "model"
    estimator.save(folder)
    return folder, estimator, X


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of the stored model."""
    return copy_of(stored[0], tmp_path / "model")


@pytest.fixture
def refused():
    """Load a folder, which is refused in words that name it; gives the message."""

    def message_of(folder, *words, **options):
        with pytest.raises(ModelFileError) as caught:
            tabmtl.load(folder, **options)
        message = str(caught.value)
        for word in (str(folder), *words):
            assert word in message, message
        return message

    return message_of
