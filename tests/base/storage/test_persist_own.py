"""What belongs to the user: files in the folder of a model, and classes with their own ways."""

import numpy as np
import pytest
import torch
from conformance import answers, same, tiny
from models_at_hand import fitted

import tabmtl
from tabmtl import ModelFileError, SharedBottom
from tabmtl.base.storage.persist import read_folder, write_folder
from tabmtl.base.storage.stored import Saved
from tabmtl.models.shared_bottom import SharedBottomNetwork

NOTES = ["chunk-0123456789abcdef.json", "notes-fedcba9876543210.txt", "task-0123456789abcdef.txt", "model.json"]
LEFT = [
    *("model-0123456789abcdef.json", ".model-0123456789abcdef.json.77", "arrays-0123456789abcdef.safetensors"),
    *("trees12-0123456789abcdef.txt", "trees0-0123456789abcdef.txt", ".manifest.json.5"),
]


def contents(**texts):
    return Saved(facts={}, arrays={"a": np.ones(3)}, texts=texts)


@pytest.mark.parametrize("name", [*NOTES, "model-0123456789abcdef.txt", ".chunk-0123456789abcdef.json.7"])
def test_a_folder_of_the_user_is_not_written_to(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    (tmp_path / LEFT[0]).write_text("{}")
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_folder(tmp_path, "M", contents())
    assert {file.name for file in tmp_path.iterdir()} == {name, LEFT[0]}


def test_files_of_the_user_beside_a_model_stay_and_those_of_killed_saves_go(tmp_path):
    write_folder(tmp_path, "M", contents(trees7="old"))
    for name in (*NOTES, *LEFT, "trees7-0123456789abcdef.txt"):
        (tmp_path / name).write_text("years of work")
    write_folder(tmp_path, "M", contents(trees7="new", trees0="x"))
    assert len(list(tmp_path.iterdir())) == len(NOTES) + 5
    assert all((tmp_path / name).read_text() == "years of work" for name in NOTES)
    assert read_folder(tmp_path)[1].texts == {"trees7": "new", "trees0": "x"}


def test_a_folder_of_killed_saves_is_written_to(tmp_path):
    for name in LEFT:
        (tmp_path / name).write_text("half")
    write_folder(tmp_path, "M", contents())
    assert len(list(tmp_path.iterdir())) == 3


class Slow(SharedBottomNetwork):
    """Draws its beginning in many small steps."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.start = torch.zeros(3)
        for _ in range(4_000):
            self.start = self.start + 1


class SlowNet(SharedBottom):
    def _network(self, columns, tasks):
        return Slow(columns, tasks, self)


class VastNet(SharedBottom):
    def _network(self, columns, tasks):
        torch.zeros(2**32)
        return SharedBottomNetwork(columns, tasks, self)


def test_a_class_of_the_user_may_take_its_time(tmp_path):
    _, X, y = fitted(SharedBottom)
    model = tiny(SlowNet).fit(X, y)
    model.save(tmp_path / "model")
    assert same(answers(tabmtl.load(tmp_path / "model", cls=SlowNet), X), answers(model, X))


def test_but_not_all_the_memory(tmp_path, monkeypatch):
    _, X, y = fitted(SharedBottom)
    with monkeypatch.context() as patch:
        patch.setattr(VastNet, "_network", SharedBottom._network)
        tiny(VastNet).fit(X, y).save(tmp_path / "model")
    with pytest.raises(ModelFileError, match=r"another version of the class.*takes more than \d+ bytes"):
        tabmtl.load(tmp_path / "model", cls=VastNet)


def test_a_class_of_the_package_that_is_named_is_held_to_its_limits(tmp_path, monkeypatch):
    model, X, _ = fitted(SharedBottom)
    model.save(tmp_path / "model")
    assert same(answers(tabmtl.load(tmp_path / "model", cls=SharedBottom), X), answers(model, X))
    monkeypatch.setattr(SharedBottom, "_network", SlowNet._network)
    with pytest.raises(ModelFileError, match=r"takes more than \d+ operations of torch"):
        tabmtl.load(tmp_path / "model", cls=SharedBottom)
