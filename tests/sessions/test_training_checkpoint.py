"""Trainings of a recommender that are cut off and go on."""

import pytest
from cutting import assert_equal, cut_and_resumed
from recommenders import ITEMS, TEST, TRAIN, all_scores, tiny


@pytest.mark.all_faces
def test_a_training_goes_on_as_if_nothing_had_been(tmp_path):
    def fit(on_epoch):
        model = tiny("M2TRec", epochs=3, on_epoch=on_epoch)
        return model.fit(TRAIN, items=ITEMS)

    whole, resumed = fit(None), cut_and_resumed(tmp_path, fit, 1)
    assert_equal(whole, resumed)
    assert all_scores(whole, TEST).equals(all_scores(resumed, TEST))
