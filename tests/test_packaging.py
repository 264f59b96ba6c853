"""The wheel holds tabmtl and nothing else, and importing it is light."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

#: What a wheel is made of. It is built from a copy, for a build leaves traces that the next one reads.
SOURCES = ("tabmtl", "synth", "pipelines", "pyproject.toml", "README.md", "LICENSE")

HEAVY = ("torch", "lightgbm", "polars", "matplotlib", "rich", "pandas")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a freshly built wheel."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target)]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = target.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_the_wheel_has_one_top_level(wheel: list[str]) -> None:
    top_levels = {name.partition("/")[0] for name in wheel}
    info = {name for name in top_levels if name.startswith("tabmtl-") and name.endswith(".dist-info")}
    assert len(info) == 1
    assert top_levels == {"tabmtl"} | info


def test_the_wheel_holds_every_file_of_the_source(wheel: list[str]) -> None:
    expected = {"tabmtl/py.typed"}
    packages = {"tabmtl": "tabmtl", "synth": "tabmtl/synth", "pipelines": "tabmtl/pipelines"}
    for folder, package in packages.items():
        files = [
            file
            for pattern in ("*.py", "*.pyi", "*.parquet", "*.html", "*.css")
            for file in (ROOT / folder).rglob(pattern)
        ]
        expected |= {f"{package}/{file.relative_to(ROOT / folder).as_posix()}" for file in files}
    assert {name for name in wheel if name.startswith("tabmtl/")} == expected


@pytest.mark.parametrize(
    "name",
    [
        "tabmtl/synth/__init__.py",
        "tabmtl/pipelines/__init__.py",
        "tabmtl/pipelines/datasets/portal.parquet",
        "tabmtl/pipelines/datasets/flights_sample.parquet",
        "tabmtl/py.typed",
    ],
)
def test_the_wheel_holds(name: str, wheel: list[str]) -> None:
    assert name in wheel


def test_the_wheel_carries_the_licence(wheel: list[str]) -> None:
    assert [name for name in wheel if name.endswith(".dist-info/licenses/LICENSE")]


def test_extras_of_others_are_spelled_as_their_metadata_spells_them() -> None:
    """The pip of Python 3.11 finds no other spelling: it warns, and leaves out what the extra brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = {**project["project"]["optional-dependencies"], **project["dependency-groups"]}
    named = [Requirement(line) for group in groups.values() for line in group if isinstance(line, str)]
    extras = {extra for requirement in named for extra in requirement.extras}
    assert extras == {canonicalize_name(extra) for extra in extras}


def test_importing_the_package_is_light() -> None:
    code = f"import sys, tabmtl; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
