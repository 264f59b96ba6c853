"""Write the pages of the API reference: every public name, at the first door that it is imported from.

A module's public names are its `__all__`. Modules that authors of models read have none; there, every class and
function without an underscore that the module itself defines is public.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


#: Modules without `__all__` for authors of models, and the packages that hold more of them.
FOR_AUTHORS = ("tabmtl.testing", "tabmtl.params", "tabmtl.onnx.export", "tabmtl.estimators", "tabmtl.nn")
#: Titles of the groups of names on a page, in their order.
GROUPS = ("Estimators", "For targets of one sort", "Classes", "Functions", "Warnings and errors")
FOLDER = "api"


def public_modules() -> Iterator[tuple[ModuleType, list[str]]]:
    """Yield the modules with their public names, the package first; a name stands where it is met first."""
    names = ["tabmtl", *sorted(m.name for m in pkgutil.walk_packages(import_module("tabmtl").__path__, "tabmtl."))]
    modules = [import_module(name) for name in names if not any(part.startswith("_") for part in name.split("."))]
    doors = [module for module in modules if hasattr(module, "__all__")]
    behind = [m for m in modules if m not in doors and m.__name__.startswith(FOR_AUTHORS)]
    seen: set[int] = set()
    for module in [*doors, *behind]:
        named = getattr(module, "__all__", None) or _defined(module)
        found = [name for name in named if id(getattr(module, name)) not in seen]
        seen.update(id(getattr(module, name)) for name in found)
        if found:
            yield module, found


def group_of(value: Any) -> str | None:
    """Return the group of a public value; None for constants and types made of others."""
    if inspect.isroutine(value):
        return "Functions"
    if not inspect.isclass(value):
        return None
    if issubclass(value, Exception):
        return "Warnings and errors"
    if not hasattr(value, "get_params"):
        return "Classes"
    return "Estimators" if getattr(value, "_target_kind", None) is None else "For targets of one sort"


def own_methods(fullname: str, methods: list[str]) -> list[str]:
    """Return the methods of a class that the package documents, those of scikit-learn and torch left out."""
    module, _, name = fullname.rpartition(".")
    cls = getattr(import_module(module), name)
    return [method for method in methods if _is_own(cls, method)]


def module_page(module: ModuleType, names: list[str]) -> str:
    """Return the page of a module, as reStructuredText."""
    title = module.__name__
    lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :no-members:", ""]
    lines += [f".. currentmodule:: {title}", ""]
    for group in GROUPS:
        members = [name for name in names if group_of(getattr(module, name)) == group]
        if members:
            lines += [group, "-" * len(group), "", ".. autosummary::", "   :toctree: generated", ""]
            lines += [f"   {name}" for name in members] + [""]
    values = [name for name in names if group_of(getattr(module, name)) is None]
    if values:
        lines += ["Values", "------", ""]
        for name in values:
            lines += [f".. py:data:: {name}", "", f"   ``{getattr(module, name)!r}``", ""]
    return "\n".join(lines)


def write_pages(folder: Path) -> None:
    """Write the index and the page of every module; pages that did not change are left alone."""
    folder.mkdir(exist_ok=True)
    pages = {module.__name__: module_page(module, names) for module, names in public_modules()}
    index = ["API reference", "=============", "", "Every public name, by the module that it is imported from.", ""]
    index += [".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in pages), ""]
    for name, text in {"index": "\n".join(index), **pages}.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
    for file in folder.glob("*.rst"):
        if file.stem not in {"index", *pages}:
            file.unlink()


def _defined(module: ModuleType) -> list[str]:
    members = vars(module).items()
    own = [n for n, v in members if getattr(v, "__module__", "") == module.__name__ and group_of(v)]
    return [name for name in own if not name.startswith("_")]


def _is_own(cls: type, method: str) -> bool:
    owner = next((base for base in cls.__mro__ if method in vars(base)), None)
    return owner is not None and owner.__module__.startswith("tabmtl") and bool(getattr(cls, method).__doc__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before autosummary looks for them."""
    app.config.autosummary_context = {"own_methods": own_methods}
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir, FOLDER)), priority=100)
    return {"parallel_read_safe": True}
