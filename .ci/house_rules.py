"""Check the rules of the house that no linter knows: sizes, circles of imports, what unpickles, what is private.

Run it in the root of a checkout; `make lint` does. Every broken rule is a line, and the exit code is then 1.
``--size`` counts the lines of code by room instead, without docstrings, comments and blank lines.
"""

from __future__ import annotations

import ast
import gc
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from private_reads import called, private_reads

MOST_LINES = 40
MOST_NAMES = 29
#: Lines of code of a file of tabmtl/, and methods of a class.
MOST_OF_FILE, MOST_METHODS = 450, 28
#: A page to read in a quarter of an hour, and its words.
DESIGN, MOST_WORDS = Path("docs/design.md"), 6_000
#: Tokens that are no code.
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
UNPICKLES = re.compile(r"pickle(?!=False)|marshal|shelve|\bdill\b|^(torch|joblib)\.load$|_object(_list)?$")
MAY_PICKLE = {Path("tabmtl/testing/storage.py")}  # it checks that estimators can be pickled
PACKAGES = {"tabmtl": "tabmtl", "synth": "tabmtl.synth", "pipelines": "tabmtl.pipelines", "benchmarks": "benchmarks"}


def read_modules(packages: Mapping[str, str] = PACKAGES) -> dict[str, tuple[Path, ast.Module]]:
    """Read every module of the packages, by dotted name."""
    found = {}
    for folder, package in packages.items():
        for file in sorted(Path(folder).rglob("*.py")):
            parts = (package, *file.relative_to(folder).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = file, ast.parse(file.read_text())
    return found


def docstring_of(node: ast.AST) -> range:
    """Return the lines of the docstring of a module, class or function; none of other nodes."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return range(0)
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return range(first.lineno, (first.end_lineno or 0) + 1) if is_text else range(0)


def tokens_of(file: Path, tree: ast.Module) -> list[tokenize.TokenInfo]:
    """Return the tokens of the code of a file, without docstrings, comments and line ends."""
    silent_lines = {line for node in ast.walk(tree) for line in docstring_of(node)}
    with file.open("rb") as text:
        tokens = [token for token in tokenize.tokenize(text.readline) if token.type not in SILENT]
    return [token for token in tokens if token.start[0] not in silent_lines]


def lines_of(tokens: list[tokenize.TokenInfo]) -> int:
    """Count the lines on which tokens stand."""
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)})


def count_code(file: Path, tree: ast.Module) -> int:
    """Count the lines of code of a file, without docstrings, comments and blank lines."""
    return lines_of(tokens_of(file, tree))


def sizes() -> Counter[str]:
    """Count the lines of code by room; links are not followed."""
    rooms: Counter[str] = Counter()
    for file, tree in read_modules().values():
        if file.parts[0] != "synth":
            room = "/".join(file.parts[:2]) if file.parts[0] == "tabmtl" else file.parts[0]
            rooms[room] += count_code(file, tree)
    return rooms


def large_file(file: Path, tree: ast.Module) -> Iterator[str]:
    """Name a file of the package that has too much code."""
    lines = count_code(file, tree)
    if file.parts[0] == "tabmtl" and lines > MOST_OF_FILE:
        yield f"{file}: {lines} lines of code, at most {MOST_OF_FILE}; divide it by its reasons"


def large_classes(file: Path, tree: ast.Module) -> Iterator[str]:
    """Name the classes that have too many methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
            if methods > MOST_METHODS:
                yield f"{file}:{node.lineno}: {node.name} has {methods} methods, at most {MOST_METHODS}"


def long_functions(file: Path, tree: ast.Module) -> Iterator[str]:
    """Name the functions that are too long, their docstrings not counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1 - len(docstring_of(node))
            if lines > MOST_LINES:
                yield f"{file}:{node.lineno}: {node.name} has {lines} lines without its docstring, at most {MOST_LINES}"


def unpickling(file: Path, tree: ast.Module) -> Iterator[str]:
    """Name what would run code from a file or from the network."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
        names += [ast.unparse(node)] if isinstance(node, ast.keyword) and node.arg == "allow_pickle" else []
        for name in filter(UNPICKLES.search, names):
            yield f"{file}:{node.lineno}: {name} unpickles; send and store JSON and arrays"


def fits_at_import(file: Path, tree: ast.Module) -> Iterator[str]:
    """Name what is fitted when a file of tests is imported, which every worker does before its first test."""
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            if name in ("fit", "fitted", "partial_fit") and not owner.endswith("Coder"):
                yield f"{file}:{node.lineno}: {ast.unparse(node)} at import; fit in the test, or by models_at_hand"
        if isinstance(node, ast.FunctionDef):
            waiting.extend([*node.decorator_list, *node.args.defaults])
        elif not isinstance(node, ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def imports_of(
    name: str, tree: ast.Module, modules: dict[str, tuple[Path, ast.Module]], *, late: bool = False
) -> set[str]:
    """Return the modules that a module imports at its top, also for type checking.

    ``late`` adds the imports inside of functions, and ``import_module`` of a written name wherever it is called.
    """
    found = set()
    functions = [] if late else [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {child for node in functions for child in ast.walk(node)}
    for node in ast.walk(tree):
        if node in inside:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {part if part in modules else node.module for part in parts}
        elif late and isinstance(node, ast.Call):
            found |= _named_import(node)
    return (found & modules.keys()) - {name}


def _named_import(node: ast.Call) -> set[str]:
    """Return the name that a call of ``import_module`` imports, if it is written there."""
    is_import = called(node) == "import_module"
    names = [each.value for each in node.args[:1] if isinstance(each, ast.Constant)] if is_import else []
    return {name for name in names if isinstance(name, str)}


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield the groups of modules that import each other."""
    reach = {name: _reached(name, graph) for name in graph}
    seen: set[str] = set()
    for name in graph:
        circle = sorted(other for other in reach[name] if name in reach[other])
        if circle and name not in seen:
            seen.update(circle)
            yield circle


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph[name])
    return found


def first_floor(modules: Collection[str]) -> set[str]:
    """Return the names that stand right below the package."""
    return {name.split(".")[1] for name in modules if name.startswith("tabmtl.")} - {"__main__"}


def broken_rules() -> Iterator[str]:
    """Yield a line for every broken rule."""
    modules = read_modules()
    for file, tree in modules.values():
        yield from long_functions(file, tree)
        yield from large_file(file, tree)
        yield from large_classes(file, tree)
        yield from private_reads(file, tree)
        if file.parts[0] != "benchmarks" and file not in MAY_PICKLE:
            yield from unpickling(file, tree)
    for file in sorted(Path("tests").rglob("*.py")):
        yield from fits_at_import(file, ast.parse(file.read_text(encoding="utf-8")))
    graph = {name: imports_of(name, tree, modules) for name, (_, tree) in modules.items()}
    for circle in circles(graph):
        yield f"these modules import each other: {', '.join(circle)}"
    words = len(DESIGN.read_text(encoding="utf-8").split())
    if words > MOST_WORDS:
        yield f"{DESIGN}: {words} words, at most {MOST_WORDS}; what was tried goes to docs/lab.md"
    floor = first_floor(modules)
    if len(floor) > MOST_NAMES:
        yield f"{len(floor)} names stand on the first floor of tabmtl, at most {MOST_NAMES}: {', '.join(sorted(floor))}"


if __name__ == "__main__":
    gc.disable()  # every tree is needed to the end
    if sys.argv[1:] == ["--size"]:
        rooms = sizes()
        print("\n".join(f"{n:6} {room}" for room, n in [("in sum", rooms.total()), *rooms.most_common()]))
        sys.exit()
    broken = list(broken_rules())
    print("\n".join(broken) or "the rules of the house hold")
    sys.exit(bool(broken))
