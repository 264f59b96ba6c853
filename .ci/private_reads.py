"""Find reads of private attributes across the rooms: a model is asked by the names of `tabmtl.estimators`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

#: Rooms where models are made, whose modules know each other's models from inside.
ROOMS_OF_MODELS = ("tabmtl/estimators", "tabmtl/models", "tabmtl/sessions", "tabmtl/slimming")
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
_READERS = {"getattr", "hasattr", "attrgetter"}


def private_reads(file: Path, tree: ast.Module) -> Iterator[str]:
    """Name the reads of private attributes of what is neither the reader itself nor of a class of its module.

    A class that derives from a model is no class of its module here: its attributes are those of any model.
    """
    if file.as_posix().startswith(ROOMS_OF_MODELS):
        return
    allowed = OF_LIBRARIES.keys() | _OF_NAMED_TUPLES | _own_names(tree)
    for node, me in _nodes(tree, None):
        for receiver, name in _read(node):
            is_private = name.startswith("_") and not name.startswith("__")
            if is_private and name not in allowed and not _is_self(receiver, me):
                yield (
                    f"{file}:{node.lineno}: {name} is private to {ast.unparse(receiver)}; ask by a name that "
                    "tabmtl/estimators/__init__.py lists, or make one public"
                )


def _own_names(tree: ast.Module) -> set[str]:
    """Return what the classes of a module define, methods and attributes, except those that derive from models."""
    rooms = tuple(room.replace("/", ".") for room in ROOMS_OF_MODELS)
    of_models = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(rooms)
        for alias in node.names
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        if any(isinstance(base, ast.Name) and base.id in of_models for base in node.bases):
            of_models.add(node.name)
        else:
            found |= set(_defined(node))
    return found


def _defined(owner: ast.ClassDef) -> Iterator[str]:
    """Yield the names that a class defines in its body, or sets on `self`."""
    for node in owner.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
    for inner, me in _nodes(owner, None):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and _is_self(inner.value, me):
            yield inner.attr


def _nodes(parent: ast.AST, me: str | None) -> Iterator[tuple[ast.AST, str | None]]:
    """Yield all nodes below one, each with the name of the first parameter of the method around it."""
    for node in ast.iter_child_nodes(parent):
        inside = me
        if isinstance(node, ast.ClassDef):
            inside = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if isinstance(parent, ast.ClassDef):
                is_static = any(ast.unparse(each) == "staticmethod" for each in node.decorator_list)
                inside = names[0] if names and not is_static else None
            elif me in names:  # another object of this name
                inside = None
        yield node, me
        yield from _nodes(node, inside)


def _read(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yield the object and the name of an attribute that a node reads, by a dot or by a function."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield node.value, node.attr
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _READERS:
        for argument in node.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.args[0], argument.value


def _is_self(receiver: ast.expr, me: str | None) -> bool:
    if isinstance(receiver, ast.Call):
        return isinstance(receiver.func, ast.Name) and receiver.func.id == "super"
    return isinstance(receiver, ast.Name) and receiver.id == me
