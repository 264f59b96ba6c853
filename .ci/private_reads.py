"""Find reads of private attributes across the rooms: a model is asked by the names of `tabmtl.estimators`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

#: Rooms where models are made, whose modules know each other's models from inside.
ROOMS_OF_MODELS = ("tabmtl/estimators", "tabmtl/models", "tabmtl/sessions", "tabmtl/extras")
#: Private attributes of libraries, for which there is nothing public, and what they are read for.
OF_LIBRARIES = {
    "_exit": "os: end a worker at once",
    "_foreach_add": "torch: sum many gradients in one call",
    "_foreach_copy_": "torch: copy many weights in one call",
    "_foreach_lerp_": "torch: average many weights in one call",
    "_get_param_names": "scikit-learn: parameters of a class of which there is no object yet",
    "_getframe": "sys: whose call a warning is about, and which code runs",
    "_indices": "torch: rows of a sparse gradient that is not coalesced yet",
    "_init_callback_context": "scikit-learn: open a fit for its callbacks",
    "_is_amx_tile_supported": "torch: whether bfloat16 is fast on this CPU",
    "_is_avx512_bf16_supported": "torch: whether bfloat16 is fast on this CPU",
    "_model_impl": "MLflow: the model behind pyfunc",
    "_schema": "torch: which operator a kernel or a call is of",
    "_skl_callbacks": "scikit-learn: whether a fit has callbacks",
    "_values": "torch: values of a sparse gradient that is not coalesced yet",
}
_OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # public, in spite of their underscore
#: Names with an underscore that anybody may read.
PUBLIC = OF_LIBRARIES.keys() | _OF_NAMED_TUPLES
Scope = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_READERS = {"getattr", "hasattr", "attrgetter"}


def private_reads(file: Path, tree: ast.Module, rooms: tuple[str, ...] = ROOMS_OF_MODELS) -> Iterator[str]:
    """Name the reads of private attributes of what is neither the reader itself nor of a class of its module.

    Files of the rooms are exempt. A class that derives from a model of a room is no class of its module here: its
    attributes are those of any model. Without rooms, every file is read, and every class is one of its module.
    """
    if file.as_posix().startswith(rooms):
        return
    allowed = PUBLIC | _own_names(tree, rooms)
    for receiver, name, me in private_reads_in(tree):
        if name not in allowed and not is_self(receiver, me):
            yield (
                f"{file}:{receiver.lineno}: {name} is private to {ast.unparse(receiver)}; ask by a name that "
                "tabmtl/estimators/__init__.py lists, or make one public"
            )


def _own_names(tree: ast.Module, rooms: tuple[str, ...]) -> set[str]:
    """Return what the classes of a module define, methods and attributes, except those that derive from models."""
    nodes = [*ast.walk(tree)]
    packages = tuple(room.replace("/", ".") for room in rooms)
    of_models = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(packages)
        for alias in node.names
    }
    found: set[str] = set()
    for node in nodes:
        if not isinstance(node, ast.ClassDef):
            continue
        if any(isinstance(base, ast.Name) and base.id in of_models for base in node.bases):
            of_models.add(node.name)
        else:
            found |= defined_by(node)
    return found


@cache
def defined_by(owner: ast.ClassDef) -> frozenset[str]:
    """Return the names that a class defines in its body, or sets on `self`."""
    found = set()
    for node in owner.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    for inner, me in nodes_of(owner):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and is_self(inner.value, me):
            found.add(inner.attr)
    return frozenset(found)


def nodes_of(top: ast.AST, me: str | None = None) -> Iterator[tuple[ast.AST, str | None]]:
    """Yield all nodes below one, each with the name of the first parameter of the method around it."""
    waiting = [(top, me)]
    while waiting:
        parent, around = waiting.pop()
        for node in ast.iter_child_nodes(parent):
            yield node, around
            waiting.append((node, _me_inside(node, parent, around) if isinstance(node, Scope) else around))


def _me_inside(node: Scope, parent: ast.AST, me: str | None) -> str | None:
    """Return the name of the object of the method around the children of a node."""
    if isinstance(node, ast.ClassDef):
        return None
    names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    if isinstance(parent, ast.ClassDef) and not isinstance(node, ast.Lambda):
        is_static = any(ast.unparse(each) == "staticmethod" for each in node.decorator_list)
        return names[0] if names and not is_static else None
    return None if me in names else me  # another object of this name


def private_reads_in(top: ast.AST) -> Iterator[tuple[ast.expr, str, str | None]]:
    """Yield every private attribute that is read below a node, by a dot or by a function.

    First comes the object that it is read from, then its name, then the name of the object of the method around it.
    """
    for node, me in nodes_of(top):
        if isinstance(node, ast.Attribute):
            if _is_private(node.attr) and isinstance(node.ctx, ast.Load):
                yield node.value, node.attr, me
        elif isinstance(node, ast.Call) and called(node) in _READERS:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and _is_private(argument.value):
                    yield node.args[0], argument.value, me


def _is_private(name: object) -> TypeGuard[str]:
    """Tell whether a name is private, and none that Python itself reads."""
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def called(node: ast.Call) -> str:
    """Return the last part of the name of the called function, empty if it has none."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def is_self(receiver: ast.expr, me: str | None) -> bool:
    """Tell whether an expression is the object of the method around it, by its name there, or its ``super()``."""
    if isinstance(receiver, ast.Call):
        return isinstance(receiver.func, ast.Name) and receiver.func.id == "super"
    return isinstance(receiver, ast.Name) and receiver.id == me
