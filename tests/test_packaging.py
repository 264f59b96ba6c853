"""The wheel holds tabmtl and nothing else, and importing it is light."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

#: What a wheel is made of. It is built from a copy, for a build leaves traces that the next one reads.
SOURCES = ("tabmtl", "synth", "pipelines", "pyproject.toml", "setup.py", "README.md", "LICENSE")

HEAVY = ("torch", "lightgbm", "polars", "matplotlib", "rich", "pandas")


@dataclass(frozen=True)
class Built:
    """The output of a build, and the names of the files in an sdist, and in the wheel made of it."""

    said: str
    sdist: list[str]
    wheel: list[str]


def run(folder: Path, *arguments: str) -> str:
    """Run Python in a folder, and return what it prints."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def warnings_of(said: str) -> list[str]:
    """Lines that warn, and those of a box; without a line of setuptools where Python writes no bytecode."""
    lines = [line for line in said.splitlines() if "byte-compiling is disabled" not in line]
    return [line for line in lines if "warning" in line.lower() or "*****" in line]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("built")
    said = run(source, "-m", "build", "--no-isolation", "--outdir", str(target))
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as in_wheel, tarfile.open(sdist) as in_sdist:
        names = [member.name.partition("/")[2] for member in in_sdist.getmembers() if member.isfile()]
        return Built(said=said, sdist=names, wheel=in_wheel.namelist())


def test_a_build_warns_of_nothing_and_an_sdist_holds_what_the_wheel_does(built):
    assert warnings_of(built.said) == []
    assert {name for name in built.wheel if name.startswith("tabmtl/")} <= {*built.sdist}


def test_an_editable_install_warns_of_nothing(built, source, tmp_path):
    said = run(source, "-c", f"from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})")
    assert warnings_of(said) == []


def test_a_checkout_without_links_gives_the_same_wheel(built, source, tmp_path):
    """A zip, and git on Windows, have files of text in place of links."""
    checkout, target = tmp_path / "checkout", tmp_path / "target"
    shutil.copytree(source, checkout, symlinks=True, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    for name in ("synth", "pipelines"):
        (checkout / "tabmtl" / name).unlink()
        (checkout / "tabmtl" / name).write_text(f"../{name}")
    said = run(checkout, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target))
    assert warnings_of(said) == []
    with zipfile.ZipFile(next(target.iterdir())) as wheel:
        assert {*wheel.namelist()} == {*built.wheel}


def test_the_wheel_has_one_top_level(built):
    top_levels = {name.partition("/")[0] for name in built.wheel}
    info = {name for name in top_levels if name.startswith("tabmtl-") and name.endswith(".dist-info")}
    assert len(info) == 1
    assert top_levels == {"tabmtl"} | info


def test_the_wheel_holds_every_file_of_the_source(built):
    expected = {"tabmtl/py.typed"}
    packages = {"tabmtl": "tabmtl", "synth": "tabmtl/synth", "pipelines": "tabmtl/pipelines"}
    for folder, package in packages.items():
        files = [
            file
            for pattern in ("*.py", "*.pyi", "*.parquet", "*.html", "*.css")
            for file in (ROOT / folder).rglob(pattern)
        ]
        expected |= {f"{package}/{file.relative_to(ROOT / folder).as_posix()}" for file in files}
    assert {name for name in built.wheel if name.startswith("tabmtl/")} == expected


def test_the_wheel_carries_the_licence(built):
    assert [name for name in built.wheel if name.endswith(".dist-info/licenses/LICENSE")]


def test_extras_of_others_are_spelled_as_their_metadata_spells_them():
    """The pip of Python 3.11 finds no other spelling: it warns, and leaves out what the extra brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = {**project["project"]["optional-dependencies"], **project["dependency-groups"]}
    named = [Requirement(line) for group in groups.values() for line in group if isinstance(line, str)]
    extras = {extra for requirement in named for extra in requirement.extras}
    assert extras == {canonicalize_name(extra) for extra in extras}


def test_importing_the_package_is_light():
    code = f"import sys, tabmtl; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(ROOT, "-c", code).strip() == "[]"
