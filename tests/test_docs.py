"""Every example is run: the doctests of all modules, and the ```python blocks of README.md,
CONTRIBUTING.md and docs/.

Nothing is passed over in silence: a doctest cannot be marked to be skipped, a fence that looks like Python is
run or refused, and an example whose optional dependency is missing is reported as skipped, with its name.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
from cases import later

#: Packages of the extras: without them some modules and examples cannot run.
OPTIONAL = {
    *("optuna", "mlflow", "torchjd", "cyclopts", "rich", "matplotlib"),
    *("onnx", "onnxscript", "onnxruntime", "usearch"),
}

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    # those in folders such as _build are made of the others
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "/_" not in page.relative_to(ROOT).as_posix()),
]

#: Pages that `make test` runs, one of each sort; `make test-all` runs all of them.
QUICK_PAGES = {ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "guide" / "choosing.md"}

#: Modules whose examples take a second or more.
LONG_MODULES = {
    f"tabmtl.{name}"
    for name in (
        *(
            "inspection.comparison.compare",
            "encode.drift.profile",
            "ensemble.distill",
            "estimators.drifting",
            "estimators.predicting",
        ),
        *(
            "estimators.tables",
            "inspection.importances",
            "metrics.own",
            "models.rmtgb.estimator",
            "models.shared_trees.estimator",
        ),
        *(
            "inspection.plots.comparison",
            "inspection.plots.drift",
            "inspection.plots.importances",
            "scale.files",
        ),
        "tuning.objectives",
    )
}

#: A fence: its indentation, its marks, what is said behind them, its text.
FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\n`]*)\n(.*?)^[ \t]*\2[`~]*[ \t]*$", re.M | re.S)


def module_names() -> list[str]:
    """All modules of the package."""
    path = importlib.import_module("tabmtl").__path__
    return ["tabmtl", *(module.name for module in pkgutil.walk_packages(path, "tabmtl."))]


@contextmanager
def optional_imports() -> Iterator[None]:
    """Skip, and say why, where a package of an extra is missing; any other missing module is an error."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL:
            raise
        pytest.skip(f"{package} is missing: the extras of pyproject.toml say how to install it")


def doctests(module: ModuleType) -> list[doctest.DocTest]:
    """Doctests of a module that hold at least one example, in the order of the source."""
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    return sorted((test for test in found if test.examples), key=lambda test: test.lineno or 0)


@pytest.mark.parametrize("name", later(module_names(), *LONG_MODULES))
def test_doctests(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with optional_imports():
        module = importlib.import_module(name)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        for test in doctests(module):
            assert not any(example.options.get(doctest.SKIP) for example in test.examples), test.name
            runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """Line number of the first line, and the text, of each block of a page that is Python."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for fence in FENCE.finditer(text):
        language = fence[3].strip()
        line = text.count("\n", 0, fence.start(4)) + 1
        if language == "python":
            blocks.append((line, dedent(fence[4])))
        looks_like_python = language.lower().lstrip("{.").startswith(("py", "ipython"))
        assert language == "python" or not looks_like_python, (
            f"{page.name}:{line - 1}: a block that says {language!r} is not run; say 'python', or 'text'"
        )
    unclosed = re.search(r"^[ \t]*(`{3}|~{3})", FENCE.sub("", text), re.M)
    assert not unclosed, f"{page.name}: a fence is not closed"
    return blocks


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=str(page.relative_to(ROOT)), marks=() if page in QUICK_PAGES else pytest.mark.all_faces)
        for page in PAGES
    ],
)
def test_pages(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    with optional_imports():
        for line, block in python_blocks(page):
            # Blank lines in front make a traceback name the line of the page.
            exec(compile("\n" * (line - 1) + block, str(page), "exec"), namespace)


def test_all_modules_are_walked():
    files = [file for folder in ("tabmtl", "synth", "pipelines") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) == len(module_names())


def test_blocks_are_found_with_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# a\n\n```python\nx = 1\n```\n\n```text\nno\n```\n\n- item\n  ```python\n  y = x\n  ```\n")
    assert python_blocks(page) == [(4, "x = 1\n"), (13, "y = x\n")]


@pytest.mark.parametrize("language", ["py", "Python", "python no-run", "pycon", "{python}", "ipython3"])
def test_a_block_that_would_be_passed_over_is_refused(language, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```{language}\nx = 1\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:1: .*is not run"):
        python_blocks(page)


def test_an_open_fence_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\ny = 1\n")
    with pytest.raises(AssertionError, match="a fence is not closed"):
        python_blocks(page)
