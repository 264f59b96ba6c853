"""The command that runs the tests of the core without doors finds those that need one."""

import subprocess

import pytest
import without_doors

DOOR = "tabmtl.scale"
TESTS = {
    "alone": "def test(): pass",
    "skips": "import pytest\ndef test(): pytest.skip('as ever')",
    "imports": f"def test(): import {DOOR}",
    "skips_without": f"import pytest\ndef test(): pytest.importorskip('{DOOR}')",
    "is_left_out": f"import pytest\npytest.importorskip('{DOOR}')\ndef test(): pass",
    "is_new": f"from importlib.util import find_spec\nif find_spec('{DOOR}') is None:\n    def test(): pass",
}


@pytest.mark.all_faces
def test_tests_that_need_a_door_are_found(tmp_path, monkeypatch, capfd):
    files = {f"tests/base/test_{name}.py": text for name, text in TESTS.items()}
    files |= {"tabmtl/__init__.py": "", "tabmtl/scale/__init__.py": "", "tests/scale/test_x.py": "def test(): pass"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # or the runs within take themselves for its workers
    assert without_doors.main(["--doors", "scale", "-n", "0"]) == 1
    *_, imports, left_out, new, skips, told = capfd.readouterr().out.splitlines()
    found = [line.replace(" without scale: tests/base/test_", " ") for line in (imports, left_out, new, skips)]
    assert found == [
        "failed imports.py::test",
        "missing is_left_out.py::test",
        "passed is_new.py::test",
        "skipped skips_without.py::test",
    ]
    assert told == "5 tests of the core, and 4 that differ without doors"
