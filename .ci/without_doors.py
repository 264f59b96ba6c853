"""Run the tests of the core in a copy of the checkout without doors: the same ones run, and all pass.

    python .ci/without_doors.py

A door is a room that takes from the core, and no line of the core knows one. The exit code is 1 if a test of the core
does:

- Tests of the core are those in `tests` but for folders of doors and ``OTHERS``, which test the checkout.
- They run in a copy without all doors. None fails, and only those skip that skip in the checkout too.
- In a copy without each single door, they are only collected: there are the same ones. A test that passes without all
  doors asks none of them, so it misses no single one. It could only look which ones there are.
- No code is read. Imports of doors in the core, in ``try`` too, and texts that name one are a measure (`measures.py`).
  It alone holds the core apart from ``TOOLS``, which tests of the core take.

Further options go to pytest, in place of ``-n 2 --dist worksteal -m "not all_faces"``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from source_measures import DOORS

#: Doors that make data, check models, and hold the commands.
TOOLS = {"testing", "synth", "pipelines"}
#: Tests of the checkout.
OTHERS = {"benchmarks", "test_docs.py", "test_packaging.py", "test_site.py"}
OTHERS |= {"test_measures.py", "test_run_measures.py", "test_private_reads.py", "test_without_doors.py"}
OPTIONS = ["-n", "2", "--dist", "worksteal", "-m", "not all_faces"]


def pytest_collection_finish(session: Any) -> None:
    """Note which tests there are; pytest calls it, of which this module is a plugin."""
    if session.config.option.collectonly:
        _note({item.nodeid: "collected" for item in session.items})


def pytest_runtest_logreport(report: Any) -> None:
    """Note how a test ended."""
    if "PYTEST_XDIST_WORKER" not in os.environ and (report.when == "call" or not report.passed):
        _note({report.nodeid: report.outcome})


def _note(ends: dict[str, str]) -> None:
    with open(os.environ["ENDS_OF_TESTS"], "a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(end)}\n" for end in ends.items())


def ends_of(tests: Collection[str], options: Sequence[str], root: Path) -> dict[str, str]:
    """Run tests of a checkout, or collect them, and return how each ended."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "ends")
        file.touch()
        paths = os.pathsep.join([str(root), str(Path(__file__).parent)])
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "without_doors"]
        environment = os.environ | {"PYTHONPATH": paths, "ENDS_OF_TESTS": str(file)}
        subprocess.run([*command, *options, *tests], cwd=root, env=environment)
        return dict(map(json.loads, file.read_text(encoding="utf-8").splitlines()))


@contextmanager
def copy_without(doors: Collection[str]) -> Iterator[Path]:
    """Give a copy of this checkout without doors and their tests."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    left = tuple(f"{top}/{door}/" for top in ("tabmtl", "tests") for door in doors)
    with TemporaryDirectory(prefix="tabmtl-without-") as folder:
        for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
            if name and os.path.lexists(name) and not name.startswith(left):
                place = Path(folder, name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(name, place, follow_symlinks=False)
        yield Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what differs without doors, and return the exit code."""
    places = sorted(str(path) for path in Path("tests").iterdir() if path.name not in DOORS | OTHERS)
    places = [place for place in places if place.startswith("tests/test_") or any(Path(place).rglob("test_*.py"))]
    asked = argparse.ArgumentParser(prog="python .ci/without_doors.py", description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("--doors", nargs="+", choices=sorted(DOORS - TOOLS), default=sorted(DOORS - TOOLS))
    asked.add_argument("--tests", nargs="+", default=places, help="files and folders; by default all of the core")
    given, options = asked.parse_known_args(argv)
    options, collect = options or OPTIONS, ["--collect-only", "-qq"]
    expected, wrong = ends_of(given.tests, [*options, *collect], Path.cwd()), []
    singly = [([door], collect) for door in given.doors] if len(given.doors) > 1 else []
    for doors, more in [(given.doors, []), *singly]:
        with copy_without(doors) as copy:
            found = ends_of(given.tests, [*options, *more], copy)
        skipped = [test for test, end in found.items() if end == "skipped"]
        usual = ends_of(skipped, options, Path.cwd()) if skipped else {}
        ends = dict.fromkeys(expected, "missing") | found
        as_ever = {test for test in expected if ends[test] in ("passed", "collected", usual.get(test, "passed"))}
        wrong += [f"{ends[test]} without {', '.join(doors)}: {test}" for test in sorted(ends.keys() - as_ever)]
    print(*wrong, f"{len(expected)} tests of the core, and {len(wrong)} that differ without doors", sep="\n")
    return bool(wrong) or not expected


if __name__ == "__main__":
    sys.exit(main())
