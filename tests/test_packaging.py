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
SOURCES = ("tabmtl", "synth", "pipelines", "pyproject.toml", "README.md", "LICENSE")

HEAVY = ("torch", "lightgbm", "polars", "matplotlib", "rich", "pandas")


@dataclass(frozen=True)
class Built:
    """The output of a build, and the names of the files in an sdist, and in the wheel made of it."""

    said: str
    sdist: list[str]
    wheel: list[str]


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
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as in_wheel, tarfile.open(sdist) as in_sdist:
        names = [member.name.partition("/")[2] for member in in_sdist.getmembers() if member.isfile()]
        return Built(said=run.stdout + run.stderr, sdist=names, wheel=in_wheel.namelist())


def test_a_build_warns_of_nothing_and_an_sdist_holds_what_the_wheel_does(built):
    warned = [line for line in built.said.splitlines() if "warning" in line.lower() and "byte-compiling" not in line]
    assert warned == []
    assert {name for name in built.wheel if name.startswith("tabmtl/")} <= {*built.sdist}


def test_an_editable_install_warns_of_nothing(built, source, tmp_path):
    code = f"from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "absent from" not in run.stdout + run.stderr


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
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
