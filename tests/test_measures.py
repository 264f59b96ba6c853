"""What the measures of the redesign count, and that their limits only fall."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import measures
import pytest
from source_measures import Sources

ROOT = Path(__file__).parents[1]
MMOE = "class A:\n    def f(self): return self._x, self._y\nclass B:\n    _y = 1\nclass MMoE(A):\n    _x = 1\n"
OPENING = "class A(SavableEstimator): pass\ndef f(a: A | None): a._x\ndef g(model): getattr(model, '_x')\n"
NOT_OPENING = "def h(model): return model.x, b._x\nclass C:\n    def f(self, model): return model._x\n"
LATE = {"tabmtl/a/b.py": "def f():\n    import tabmtl.a.c\n", "tabmtl/a/c.py": "import_module('tabmtl.a.b')\n"}
CASES = [  # a measure, what the file tabmtl/estimators/a.py holds, and the value
    ("lines of code, all", '"""Doc."""\n\nx = [\n    1,\n]  # why\n', 3),
    ("tokens of code, estimators", 'def f():\n    """Doc."""\n    return 1  # why\n', 7),
    ("conditionals in 1 000 lines", "x = 1 if y else 2\nz = 3\n", 500),
    ("parallel assignments in 1 000 lines", "a, b = 1, 2\nc, d = e\n", 500),
    ("private names of another object", "m._a, getattr(m, '_b'), m.c\n", 2),
    ("private names through self, MMoE", MMOE, 1),
    ("private names through self, all", MMOE, 2),
    ("if TYPE_CHECKING in a class", "class A:\n    if TYPE_CHECKING: x: int\nif TYPE_CHECKING: y = 1\n", 1),
    ("methods of MMoE", MMOE + "    def f(self): pass\n", 2),
    ("functions that open an estimator", OPENING + NOT_OPENING, 2),
    ("calls of setattr", "setattr(a, 'b', 1)\ngetattr(a, 'b')\n", 1),
    ("definitions of __getattr__", "class A:\n    def __getattr__(self, name): pass\n", 1),
    (
        "imports of doors by the core",
        '"""tabmtl.serving"""\n"tabmtl.serving", f"{__name__}.scale"\nimport tabmtl.nn\n',
        2,
    ),
    ("imports of doors by the core", "def f():\n    from tabmtl.serving import a, b\n", 2),
    ("class decorators of the package", "def add(c): pass\n@add\n@dataclass\nclass A: pass\n", 1),
]
ROOMS = {f"{room}/a.py": "x = 1\n" for room in ("tabmtl", "tabmtl/nn", "tabmtl/serving", "pipelines", "benchmarks")}


@pytest.mark.parametrize(
    ("name", "files", "value"),
    [("lines of code, core", ROOMS, 2), ("names on the first floor", ROOMS, 4), ("circles of modules", LATE, 1)]
    + [(name, {"tabmtl/estimators/a.py": code}, value) for name, code, value in CASES],
)
def test_a_measure_counts_as_it_says(name, files, value, tmp_path, monkeypatch):
    for path, code in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(code)
    monkeypatch.chdir(tmp_path)
    assert measures.value_of(Sources().measures()[name]) == value


def test_limits_only_fall():
    assert [*measures.read_limits()] == [*measures.GOALS, *measures.GOALS_OF_RUNS]
    log = ["git", "-C", str(ROOT), "log", "-p", "-m", "--full-history", "--format=commit %h", "--", ".ci/limits.json"]
    has_history = shutil.which("git") and (ROOT / ".git").exists() and not (ROOT / ".git/shallow").exists()
    if not has_history or (told := subprocess.run(log, capture_output=True, text=True)).returncode:
        pytest.skip("the history of the limits is not at hand")
    for change in told.stdout.split("\ncommit "):
        before, after = (dict(re.findall(rf'^\{sign}  "(.+)": \[([\d.]+), ', change, re.MULTILINE)) for sign in "-+")
        assert all(float(after[name]) <= float(before[name]) for name in before.keys() & after.keys()), change
        assert measures.read_limits().keys().isdisjoint(before.keys() - after.keys()), change
