"""Count what the source of the packages says about their shape; nothing is imported.

A measure is a number, or a list with a line for everything that it counts. The packages are tabmtl, pipelines and
synth. The last two lie outside of ``tabmtl/``, whose links to them are not followed. Stubs (``.pyi``) are not read.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from house_rules import PACKAGES, circles, docstring_of, first_floor, imports_of, lines_of, read_modules, tokens_of
from private_reads import PUBLIC, called, defined_by, is_self, private_reads, private_reads_in

#: A number, lines of what is counted, or numbers by name, of which the largest counts.
Measure = float | list[str] | dict[str, int]
Function = ast.FunctionDef | ast.AsyncFunctionDef

#: Rooms that take from the core, and that the core does not know. The rest of tabmtl is the core.
DOORS = {"scale", "sessions", "serving", "tuning", "testing", "extras", "synth", "pipelines"}
#: Name of a module of a door, also as ``f"{__name__}.sessions"``.
OF_DOOR = re.compile(rf"(?:\btabmtl|{{__(?:name|package)__}})\.(?:{'|'.join(sorted(DOORS))})\b")
#: What is counted apart: everything, the core, and one room of the core.
PARTS = ("all", "core", "estimators")
#: Bases of everything that can be fitted, and usual names of a parameter that takes such an object.
BASES_OF_ESTIMATORS, NAMES_OF_ESTIMATORS = {"MultiTaskEstimator", "SavableEstimator"}, {"estimator", "model", "est"}


@dataclass(frozen=True, eq=False)
class Owner:
    """Class of the packages.

    Parameters
    ----------
    file : Path
        File that defines the class.
    node : ast.ClassDef
        Its source.
    """

    file: Path
    node: ast.ClassDef

    @property
    def name(self) -> str:
        """Name of the class; a few classes share one."""
        return self.node.name

    @property
    def defined(self) -> frozenset[str]:
        """Names that the class defines in its body or sets on ``self``, without those of its bases."""
        return defined_by(self.node)

    @property
    def bases(self) -> list[str]:
        """Last parts of the names of its bases."""
        written = [base.value if isinstance(base, ast.Subscript) else base for base in self.node.bases]
        return [ast.unparse(base).rpartition(".")[2] for base in written]

    @property
    def methods(self) -> list[str]:
        """Lines for the functions of its body, with properties and class methods."""
        functions = [node for node in self.node.body if isinstance(node, Function)]
        return [f"{self.file}:{node.lineno}: {self.name}.{node.name}" for node in functions]

    @cached_property
    def borrowed(self) -> list[tuple[int, str]]:
        """Line and name of every private attribute that it reads from its object and does not define."""
        return [
            (receiver.lineno, name)
            for receiver, name, me in private_reads_in(self.node)
            if is_self(receiver, me) and name not in self.defined
        ]


class Sources:
    """Packages of the checkout in the current folder, and the measures of their source."""

    def __init__(self) -> None:
        packages = {folder: package for folder, package in PACKAGES.items() if folder != "benchmarks"}
        self.modules = read_modules(packages)
        self.nodes = [(file, node) for file, tree in self.modules.values() for node in ast.walk(tree)]
        self.owners = [Owner(file, node) for file, node in self.nodes if isinstance(node, ast.ClassDef)]

    def measures(self) -> dict[str, Measure]:
        """Return all measures by name, in the order in which they are printed."""
        mmoe = self.lineage("MMoE")
        return {
            **self.sizes(),
            "names on the first floor": sorted(first_floor(self.modules)),
            "private names of another object": self.foreign_reads(),
            "private names through self, MMoE": borrowed_reads(mmoe),
            "private names through self, all": borrowed_reads(self.owners),
            "if TYPE_CHECKING in a class": self.declared_for_types(),
            "methods of MMoE": [line for owner in mmoe for line in owner.methods],
            "functions that open an estimator": self.opening_functions(),
            "calls of setattr": self.calls_of("setattr"),
            "definitions of __getattr__": self.definitions_of("__getattr__"),
            "class decorators of the package": self.decorated(),
            "circles of modules": self.circles(),
            "imports of doors by the core": self.door_imports(),
        }

    def sizes(self) -> dict[str, Measure]:
        """Count lines and tokens of code, and two habits in 1 000 lines of it.

        A conditional expression counts by itself, wherever it stands. A parallel assignment has a tuple on each side.
        """
        lines: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for name, (file, tree) in self.modules.items():
            of_file = tokens_of(file, tree)
            for part in _parts_of(name):
                lines[part] += lines_of(of_file)
                tokens[part] += len(of_file)
        conditionals = sum(isinstance(node, ast.IfExp) for _, node in self.nodes)
        parallel = sum(isinstance(node, ast.Assign) and _is_parallel(node) for _, node in self.nodes)
        return {
            **{f"lines of code, {part}": lines[part] for part in PARTS},
            **{f"tokens of code, {part}": tokens[part] for part in PARTS},
            "conditionals in 1 000 lines": round(1000 * conditionals / max(lines["all"], 1), 1),
            "parallel assignments in 1 000 lines": round(1000 * parallel / max(lines["all"], 1), 1),
        }

    def foreign_reads(self) -> list[str]:
        """List the reads of private names of an object that is not the reader's own; no room is exempt.

        Names that any class of the same file defines do not count, nor do those of libraries in ``private_reads.py``.
        """
        found = [line for file, tree in self.modules.values() for line in private_reads(file, tree, ())]
        return [line.partition(";")[0] for line in found]

    def lineage(self, name: str) -> list[Owner]:
        """Return the classes of the packages that a class derives from, itself first, by the names of the bases."""
        found: list[Owner] = []
        waiting = [owner for owner in self.owners if owner.name == name][:1]
        while waiting:
            owner = waiting.pop()
            if owner not in found:
                found.append(owner)
                waiting += [base for each in owner.bases for base in self._named(each, owner.file)]
        return found

    def _named(self, name: str, file: Path) -> list[Owner]:
        """Return the class of a name as a list, one of the same file first; an empty list for one of a library."""
        owners = [owner for owner in self.owners if owner.name == name]
        return sorted(owners, key=lambda owner: owner.file != file)[:1]

    def declared_for_types(self) -> list[str]:
        """List the blocks inside of classes that only a type checker reads."""
        return [
            f"{owner.file}:{node.lineno}: {owner.name}"
            for owner in self.owners
            for node in ast.walk(owner.node)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]

    def opening_functions(self) -> list[str]:
        """List the functions outside of classes that read private names of a parameter that is an estimator.

        Such a parameter has a usual name, or a type that names a class deriving from one of ``BASES_OF_ESTIMATORS``.
        """
        estimators = self._estimators()
        found = []
        for file, tree in self.modules.values():
            for function in _functions_outside_classes(tree):
                params = _parameters_of(function, estimators)
                read = {
                    name
                    for receiver, name, _ in (private_reads_in(function) if params else ())
                    if isinstance(receiver, ast.Name) and receiver.id in params and name not in PUBLIC
                }
                if read:
                    found.append(f"{file}:{function.lineno}: {function.name} reads {', '.join(sorted(read))}")
        return found

    def _estimators(self) -> set[str]:
        """Return the names of all classes that derive from an estimator."""
        found = {*BASES_OF_ESTIMATORS}
        while more := {owner.name for owner in self.owners if found.intersection(owner.bases)} - found:
            found |= more
        return found

    def calls_of(self, name: str) -> list[str]:
        """List the calls of a function by its name."""
        calls = [(file, node) for file, node in self.nodes if isinstance(node, ast.Call) and called(node) == name]
        return [f"{file}:{node.lineno}: {ast.unparse(node)}" for file, node in calls]

    def definitions_of(self, name: str) -> list[str]:
        """List the definitions of a function in classes and modules; a name that is assigned does not count."""
        functions = [(file, node) for file, node in self.nodes if isinstance(node, Function)]
        return [f"{file}:{node.lineno}" for file, node in functions if node.name == name]

    def decorated(self) -> list[str]:
        """List the decorators of classes that have the name of a function of the packages: they may add methods."""
        trees = [tree for _, tree in self.modules.values()]
        functions = {node.name for tree in trees for node in tree.body if isinstance(node, Function)}
        return [
            f"{owner.file}:{owner.node.lineno}: {owner.name} by {ast.unparse(each)}"
            for owner in self.owners
            for each in owner.node.decorator_list
            if ast.unparse(each).partition("(")[0].rpartition(".")[2] in functions
        ]

    def circles(self) -> list[str]:
        """List the groups of modules that import each other; imports inside of functions count, too.

        So does ``import_module`` of a name that is written there, and no name that is put together.
        """
        graph = {name: imports_of(name, tree, self.modules, late=True) for name, (_, tree) in self.modules.items()}
        return [", ".join(circle) for circle in circles(graph)]

    def door_imports(self) -> list[str]:
        """List the imports of doors in the core, at the top or in functions, and texts that name a module of one.

        ``tabmtl.__main__``, the command line, may. The stub of the first floor, whose names load on first use, counts.
        """
        stubs = [(file, ast.parse(file.read_text(encoding="utf-8"))) for file in Path("tabmtl").glob("*.pyi")]
        core = [each for name, each in self.modules.items() if "core" in _parts_of(name) and name != "tabmtl.__main__"]
        return [
            f"{file}:{line}: {text}"
            for file, tree in [*core, *stubs]
            for line, text in _named_modules(tree)
            if OF_DOOR.search(text)
        ]


def borrowed_reads(owners: Sequence[Owner]) -> list[str]:
    """List the reads through ``self`` of private names that the class around lacks and another of the classes has."""
    definers: dict[str, list[str]] = {}
    for owner in owners:
        for name in owner.defined:
            definers.setdefault(name, []).append(owner.name)
    return [
        f"{owner.file}:{line}: {owner.name} reads {name} of {', '.join(definers[name])}"
        for owner in owners
        for line, name in owner.borrowed
        if name in definers
    ]


def _parts_of(module: str) -> Iterator[str]:
    """Yield the parts that a module belongs to."""
    _, *below = module.split(".")
    yield "all"
    if DOORS.isdisjoint(below[:1]):
        yield "core"
    if below[:1] == ["estimators"]:
        yield "estimators"


def _named_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and name of every import, those of stubs are relative, and all texts but docstrings."""
    documents = {line for node in ast.walk(tree) for line in docstring_of(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            of = ".".join(["tabmtl"] * (node.level > 0) + [node.module] * bool(node.module))
            yield from ((node.lineno, f"{of}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) or (_is_text(node) and node.lineno not in documents):
            yield node.lineno, ast.unparse(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant | ast.JoinedStr)


def _is_parallel(node: ast.Assign) -> bool:
    return isinstance(node.value, ast.Tuple) and any(isinstance(target, ast.Tuple) for target in node.targets)


def _functions_outside_classes(tree: ast.Module) -> Iterator[Function]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function):
            yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.ClassDef)]


def _parameters_of(function: Function, types: Collection[str]) -> set[str]:
    """Return the parameters of a function that take an object of the types, by name or by annotation."""
    args = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {each.arg for each in args if each.arg in NAMES_OF_ESTIMATORS or _names_in(each.annotation) & {*types}}


def _names_in(annotation: ast.expr | None) -> set[str]:
    """Return the last parts of the names in an annotation, one that is a text included."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    nodes = [*ast.walk(annotation)] if annotation is not None else []
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
