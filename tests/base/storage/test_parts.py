"""Folders of models made of other models: the parts come back, and keep every promise of a folder."""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import resource
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conformance import answers, features, same, tiny
from forging import DAMAGES, copy_of, damage, forge, forge_facts, parts_of, saved
from parted import Team, fit_team, fitted_team, forge_part, part_of
from sklearn.linear_model import LinearRegression, LogisticRegression

import tabmtl
from tabmtl import IndependentTasks, ModelFileError, SharedBottom, SharedTrees
from tabmtl.base.storage import persist
from tabmtl.base.storage.atomic import MOST_DEPTH
from tabmtl.base.storage.persist import read_folder, write_folder
from tabmtl.base.storage.stored import Saved, put_together, take_apart

X = features()


@pytest.fixture
def refuses(refused):
    """Refusals of a folder of a team."""
    return partial(refused, cls=Team)


class OwnNet(SharedBottom):
    """A network of a user."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder that holds a team; not to be changed."""
    folder = tmp_path_factory.mktemp("stored") / "team"
    fitted_team()[0].save(folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    return copy_of(stored, tmp_path / "team")


# what comes back


def test_a_model_of_models_comes_back_bit_for_bit_and_so_does_every_part(stored):
    team = fitted_team()[0]
    loaded = tabmtl.load(stored, cls=Team)
    assert same(answers(team, X), answers(loaded, X))
    assert {name: [type(part) for part in parts] for name, parts in loaded.members_.items()} == {
        "net": [SharedBottom] * 2,
        "trees v1.0": [SharedTrees] * 2,
        "single": [IndependentTasks] * 2,
    }
    parts = [part for parts in team.members_.values() for part in parts]
    for k, part in enumerate(parts):
        alone = tabmtl.load(part_of(stored, f"part{k}"))
        assert same(answers(part, X), answers(alone, X))
        assert alone.get_params() == part.get_params()


@pytest.mark.all_faces
def test_the_candidates_of_a_loaded_model_are_unfitted_and_fit_again(stored):
    team, _, y = fitted_team()
    loaded = tabmtl.load(stored, cls=Team)
    for name, candidate in loaded.candidates.items():
        assert type(candidate) is type(team.candidates[name])
        assert candidate.get_params() == team.candidates[name].get_params()
        assert not hasattr(candidate, "tasks_")
    assert same(answers(team, X), answers(loaded.fit(X, y), X))


def test_a_model_without_parts_names_none(stored):
    manifests = [json.loads((place / "manifest.json").read_text()) for place in (stored, part_of(stored))]
    assert [list(manifest) for manifest in manifests] == [
        ["format", "tabmtl", "class", "files", "parts", "sha256"],
        ["format", "tabmtl", "class", "files", "sha256"],
    ]


def chain(depth: int) -> Saved:
    """Contents of models that lie inside each other."""
    return Saved(facts={"depth": depth}, parts={"part0": (f"M{depth - 1}", chain(depth - 1))} if depth else {})


def test_parts_inside_parts_come_back(tmp_path):
    write_folder(tmp_path / "deep", f"M{MOST_DEPTH}", chain(MOST_DEPTH))
    name, found = read_folder(tmp_path / "deep")
    for depth in range(MOST_DEPTH, 0, -1):
        assert (name, found.facts) == (f"M{depth}", {"depth": depth})
        name, found = found.parts["part0"]
    assert (name, found.facts, found.parts) == ("M0", {"depth": 0}, {})


def test_more_parts_inside_parts_are_neither_written_nor_read(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"more than 4 models lie inside each other"):
        write_folder(tmp_path / "deep", "M", chain(MOST_DEPTH + 1))
    assert not (tmp_path / "deep").exists()
    with monkeypatch.context() as patch:
        patch.setattr(persist._lay_out, "__defaults__", (MOST_DEPTH + 1,))
        write_folder(tmp_path / "deep", "M", chain(MOST_DEPTH + 1))
    with pytest.raises(ModelFileError, match="more than 4 models lie inside each other"):
        read_folder(tmp_path / "deep")


# what is not saved


def test_a_part_of_a_class_of_the_user_is_named(tmp_path):
    team, _, _ = fit_team(mine=tiny(OwnNet))
    message = (
        r"members\.mine\.0 is a OwnNet, which is no class of tabmtl.*save it by itself, or leave it out of the models"
    )
    with pytest.raises(TypeError, match=message):
        team.save(tmp_path / "team")
    del team.members_["mine"]
    with pytest.raises(TypeError, match=r"the parameter candidates\['mine'\] is a OwnNet, which is no class of tabmtl"):
        team.save(tmp_path / "team")
    assert not (tmp_path / "team").exists()


def test_a_class_of_the_user_with_a_name_of_the_package_is_named(tmp_path):
    team = fit_team(net=tiny(type("SharedBottom", (SharedBottom,), {})))[0]
    with pytest.raises(TypeError, match=r"members\.net\.0 is a SharedBottom, which is no class of tabmtl"):
        team.save(tmp_path / "team")


def test_a_part_that_cannot_be_saved_says_why_and_where(tmp_path):
    plain = IndependentTasks(classifier=LogisticRegression(), regressor=LinearRegression())
    numbers = X.select("plain", "count")
    y = fitted_team()[2].fill_null(strategy="forward").fill_null(strategy="backward")
    team = Team(candidates={"linear": plain}, random_state=0).fit(numbers, y)
    with pytest.raises(TypeError, match=r"members\.linear\.0: .*'late' is a LogisticRegression.*(joblib|skops)"):
        team.save(tmp_path / "team")


def test_a_parameter_of_a_candidate_is_named_with_its_candidate(tmp_path):
    team = copy.deepcopy(fitted_team()[0])
    team._fitted_params["candidates"]["net"].set_params(monitor=print)
    with pytest.raises(TypeError, match=r"the parameter candidates\['net'\]\.monitor=.*cannot be saved without pickle"):
        team.save(tmp_path / "team")
    team._fitted_params["candidates"]["net"].set_params(monitor=None, n_jobs=10**6)
    with pytest.raises(ValueError, match=r"n_jobs must be a whole number from 1 to"):
        team.save(tmp_path / "team")


def test_what_load_would_refuse_is_not_saved_over_a_model(folder):
    broken = tabmtl.load(folder, cls=Team)
    net = broken.members_["net"][1]
    name = min(net.weights_)
    net._model = replace(
        net._model, fitted=net._fitted.with_weights(net.weights_ | {name: np.full_like(net.weights_[name], np.nan)})
    )
    with pytest.raises(ValueError, match=rf"weights\.{name} has a value that is not finite"):
        broken.save(folder)
    assert same(answers(fitted_team()[0], X), answers(tabmtl.load(folder, cls=Team), X))


# damage, links, lies


@pytest.mark.parametrize("how", ["truncated", "emptied", "edited"])
def test_a_damaged_file_of_a_part_is_refused_and_reaches_no_reader(folder, how, monkeypatch, refuses):
    for cls in (Team, SharedBottom, SharedTrees, IndependentTasks):
        monkeypatch.setattr(cls, "_restore", None)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 20
    for file in files:
        content = file.read_bytes()
        file.write_bytes(DAMAGES[how](content))
        refuses(folder)
        file.unlink()
        refuses(folder)
        file.write_bytes(content)


def test_a_part_of_another_model_in_its_place_is_refuses(folder, tmp_path, refuses):
    place, other = part_of(folder, "part0"), part_of(folder, "part1")
    shutil.rmtree(place)
    shutil.copytree(other, place)
    refuses(folder, f"{place.name} was edited (the checksum of its manifest.json differs)")


@pytest.mark.parametrize("make", [Path.symlink_to, Path.mkdir, Path.write_text, None])
def test_a_part_that_is_a_link_or_no_folder_is_refuses(folder, tmp_path, make, refuses):
    place = part_of(folder)
    place.rename(tmp_path / "outside")
    if make is not None:
        make(place, *{Path.symlink_to: (tmp_path / "outside",), Path.write_text: ("x",)}.get(make, ()))
    refuses(folder, "it has no readable manifest.json" if make is Path.mkdir else "is missing, or is a link")


def test_a_link_inside_a_part_is_refuses(folder, tmp_path, refuses):
    for file in parts_of(part_of(folder)).values():
        file.rename(tmp_path / "outside")
        file.symlink_to(tmp_path / "outside")
        refuses(folder, file.name, "is a link")
        file.unlink()
        (tmp_path / "outside").rename(file)


PATHS = [
    *("..", ".", "", "/", "part0", "part0-x", "\0", 7, None, [], "model-0123456789abcdef.json"),
    *("../part0-0123456789abcdef", "part0-0123456789abcdef/", "part0-0123456789abcdef\n"),
]


@pytest.mark.parametrize("name", PATHS)
def test_a_manifest_does_not_lead_out_of_its_folder(folder, name, refuses):
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    parts["part0"]["folder"] = name
    refuses(forge(folder, parts=parts), "manifest.json", "which is no part of a model")


def test_a_folder_is_of_one_part_only(folder, refuses):
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    for name in ("part99", "part00", "model.json", "../part0", ""):
        refuses(forge(folder, parts=parts | {name: parts["part0"]}), f"as {name!r}, which is no part of a model")


@pytest.mark.parametrize(
    "parts", [[], None, "x", 3, {"part0": 1}, {"part0": {}}, {"part0": {"folder": "x"}}, {"a": []}]
)
def test_a_forged_list_of_parts_is_refuses(folder, parts, refuses):
    refuses(forge(folder, parts=parts))


@pytest.mark.parametrize("checksum", [None, "", 0, "0" * 64])
def test_a_part_has_the_checksum_that_the_model_around_it_names(folder, checksum, refuses):
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    parts["part0"]["sha256"] = checksum
    refuses(forge(folder, parts=parts), "was edited")


@pytest.mark.parametrize(
    ("members", "word"),
    [
        (["part0", "part0"], "expected the name of a part"),
        (["part0", "part9"], "expected the name of a part"),
        (["part0", None], "expected the name of a part"),
        (["part0", {}], "TypeError"),
        (["part0"], "the model declares no part1"),
    ],
)
def test_a_part_is_named_once_by_the_facts(folder, members, word, refuses):
    refuses(forge_facts(folder, lambda facts: facts["members"].update(net=members)), word, "save it again")


def test_a_part_that_the_facts_name_is_there(folder, refuses):
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    parts.pop("part1")
    refuses(forge(folder, parts=parts), "expected the name of a part")


@pytest.mark.parametrize("name", ["Task", "load", "OwnNet", "Team", "Popularity", "multitask_gain", "", None, [], {}])
def test_a_part_of_what_is_no_estimator_of_tables_is_refuses(folder, name, refuses):
    forge_part(folder, lambda part: forge(part, **{"class": name}))
    refuses(folder, "members.net.0 holds", "expected a MultiTaskEstimator of tabmtl")


def test_a_part_of_another_class_is_refuses(folder, refuses):
    forge_part(folder, lambda part: forge(part, **{"class": "SharedTrees"}))
    refuses(folder, "save it again")


@pytest.mark.parametrize(("name", "value"), [("d_embedding", 10**9), ("hidden", {"tuple": [8] * 3_000})])
def test_a_network_in_a_part_is_not_larger_than_its_weights(folder, name, value, refuses):
    forge_part(folder, lambda part: forge_facts(part, lambda facts: facts["params"].update({name: value})))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuses(folder, "save it again")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


def test_all_parts_together_fit_the_memory(folder, monkeypatch, refuses):
    weights = {"model.json": 5}
    sizes = [
        entry["bytes"] * weights.get(name, 1)
        for file in folder.rglob("manifest.json")
        for name, entry in json.loads(file.read_text())["files"].items()
    ]
    sizes += [len(gzip.decompress(file.read_bytes())) for file in folder.rglob("*.gz")]
    monkeypatch.setattr(persist, "most_bytes", lambda: sum(sizes))
    assert same(answers(fitted_team()[0], X), answers(tabmtl.load(folder, cls=Team), X))
    monkeypatch.setattr(persist, "most_bytes", lambda: sum(sizes) - 1)
    refuses(folder, "that can be read")


NESTED = [
    *(("no estimator", {"class": name, "params": {}}) for name in ("Task", "load", "os", "", None)),
    ("no class", {"params": {}}),
    ("a bad parameter", {"class": "MMoE", "params": {"epochs": -1}}),
    ("an unknown parameter", {"class": "MMoE", "params": {"colour": 3}}),
    ("too many threads", {"class": "MMoE", "params": {"n_jobs": 10**6}}),
    ("no parameters", {"class": "MMoE", "params": None}),
    ("another kind of estimator", {"class": "Popularity", "params": {}}),
    ("no object", []),
]


@pytest.mark.parametrize(("what", "content"), NESTED)
def test_candidates_that_no_save_describes_are_refuses(folder, what, content, refuses):
    forged = {"dict": {"net": {"estimator": content}}}
    refuses(forge_facts(folder, lambda facts: facts["params"].update(candidates=forged)), "save it again")


def test_candidates_without_end_are_refuses(folder, refuses):
    facts = parts_of(folder)["model.json"].read_text()
    head, tail = '{"estimator": {"class": "IndependentTasks", "params": {"classifier": ', "}}}"
    net = json.dumps(json.loads(facts)["params"]["candidates"]["dict"]["net"])
    assert net in facts
    for depth in (400, 100_000):
        content = facts.replace(net, head * depth + "null" + tail * depth).encode()
        refuses(forge(folder, {"model.json": content}), "RecursionError" if depth == 400 else "recursion")


@pytest.mark.all_faces  # test_stored damages those of models without parts
def test_damaged_facts_are_a_model_or_one_kind_of_error(folder):
    rng, errors = random.Random(0), []
    places = [None, "part0", "part2", "part4"]
    whole = {
        name: json.loads(parts_of(part_of(folder, name) if name else folder)["model.json"].read_text())
        for name in places
    }
    for _ in range(60):
        name = rng.choice(places)
        facts = copy.deepcopy(whole[name])
        for _ in range(rng.randint(1, 3)):
            damage(facts, rng)
        content = {"model.json": json.dumps(facts).encode()}
        original = {"model.json": json.dumps(whole[name]).encode()}
        try:
            tabmtl.load(
                forge(folder, content) if name is None else forge_part(folder, lambda p, c=content: forge(p, c), name),
                cls=Team,
            )
        except ModelFileError as error:
            errors.append(str(error))
        forge(folder, original) if name is None else forge_part(folder, lambda p, c=original: forge(p, c), name)
    assert same(answers(fitted_team()[0], X), answers(tabmtl.load(folder, cls=Team), X))
    assert len(errors) > 20
    assert max(map(len, errors)) < 3_000


# what else lies in a folder


def listing(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_a_save_over_a_model_of_models_leaves_only_the_new_one(folder):
    before = listing(folder)
    net = fitted_team()[0].members_["net"][0]
    net.save(folder)
    assert len(listing(folder)) == 3
    assert same(answers(net, X), answers(tabmtl.load(folder), X))
    fitted_team()[0].save(folder)
    assert listing(folder) == before


def test_parts_that_did_not_change_keep_their_place(folder):
    team = tabmtl.load(folder, cls=Team)
    before = listing(folder)
    team.members_["single"] = team.members_["single"][::-1]
    team.save(folder)
    kept = [part_of(folder, f"part{k}").name for k in range(4)]
    assert set(kept) <= before
    assert len(listing(folder)) == len(before)
    assert same(answers(team, X), answers(tabmtl.load(folder, cls=Team), X))


def test_files_of_the_user_in_a_part_stay_and_those_of_killed_saves_go(tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, "M", saved(1, depth=2))
    place = part_of(part_of(folder))
    notes = [folder / "notes.md", place / "notes.md", place / "trees.txt", place / "part7" / "notes.md"]
    left = [
        place / "model-0123456789abcdef.json",
        place / ".manifest.json.7",
        folder / "part5-0123456789abcdef" / "manifest.json",
    ]
    for file in [*notes, *left]:
        file.parent.mkdir(exist_ok=True)
        file.write_text("years of work")
    (folder / "part6-0123456789abcdef").mkdir()
    write_folder(folder, "M", saved(2))
    assert read_folder(folder)[1].facts == {"value": 2}
    assert all(file.read_text() == "years of work" for file in notes)
    assert len([file for file in folder.rglob("*") if file.is_file()]) == 4 + len(notes)
    assert not (folder / "part5-0123456789abcdef").exists()
    assert not (folder / "part6-0123456789abcdef").exists()


def test_a_folder_of_killed_saves_is_written_to_and_one_of_the_user_is_not(tmp_path):
    place = tmp_path / "model" / "part0-0123456789abcdef"
    place.mkdir(parents=True)
    for name in ("manifest.json", "model-0123456789abcdef.json"):
        (place / name).write_text("half")
    (place / "notes.md").write_text("years of work")
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_folder(tmp_path / "model", "M", saved(1))
    assert len(list(place.iterdir())) == 3
    (place / "notes.md").unlink()
    write_folder(tmp_path / "model", "M", saved(1))
    assert len(listing(tmp_path / "model")) == 4


def test_a_save_does_not_write_or_remove_through_a_link_that_lies_in_wait(stored, tmp_path):
    precious = copy_of(part_of(stored), tmp_path / "precious")
    before = {file.name: file.read_bytes() for file in precious.iterdir()}
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "part0-0123456789abcdef").symlink_to(precious)
    with pytest.raises(FileExistsError, match="choose another folder"):
        fitted_team()[0].save(tmp_path / "team")
    (tmp_path / "team" / "part0-0123456789abcdef").unlink()
    write_folder(tmp_path / "team", "M", saved(1))
    (tmp_path / "team" / part_of(stored).name).symlink_to(precious)
    with pytest.raises(OSError, match=r"unchanged: part0-\w+ is a link; .*save to another folder"):
        fitted_team()[0].save(tmp_path / "team")
    assert {file.name: file.read_bytes() for file in precious.iterdir()} == before
    assert read_folder(tmp_path / "team")[1].facts == {"value": 1}


def test_a_failed_first_save_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="make room"):
        write_folder(tmp_path / "model", "M", saved(1, depth=2))
    assert not (tmp_path / "model").exists()


# taken apart


def test_parts_are_rebuilt_from_their_own_content_alone():
    team = fitted_team()[0]
    content = take_apart(team._state())
    assert content.facts["members"] == {
        "net": ["part0", "part1"],
        "trees v1.0": ["part2", "part3"],
        "single": ["part4", "part5"],
    }
    assert [name for name, _ in content.parts.values()] == [
        *("SharedBottom", "SharedBottom", "SharedTrees", "SharedTrees", "IndependentTasks", "IndependentTasks")
    ]
    assert not any(name.startswith("weights") for name in content.arrays)
    again = put_together(Team._stored, content)
    assert same(answers(again.members_["net"][1], X), answers(team.members_["net"][1], X))
    with pytest.raises(ValueError, match="the model declares no part6"):
        put_together(Team._stored, replace(content, parts=content.parts | {"part6": content.parts["part0"]}))
