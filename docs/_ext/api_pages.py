"""Write the pages of the API reference: every public name, by what a user needs it for.

A module's public names are its `__all__`. Modules that authors of models read have none; there, every class and
function without an underscore that the module itself defines is public.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


#: Groups of the index: their page, their title, what they are for, and the rooms whose public names they hold.
PLACES = (
    ("estimators", "Estimators", "Models of tables.", ("models",)),
    ("ensembles", "Ensembles", "Several models, mixed or made one.", ("ensemble", "extras")),
    ("recommenders", "Recommenders", "The next click of a session.", ("sessions",)),
    ("data", "Data in", "Declared targets, files, data sets, warnings.", ("targets", "encode", "base", "pipelines")),
    (
        "scores",
        "Scores and comparison",
        "Scores, intervals, models side by side.",
        ("metrics", "inspection"),
    ),
    ("tuning", "Tuning", "Folds, scorers and searches.", ("model_selection", "tuning")),
    ("serving", "Serving", "Saved models, MLflow, ONNX, whole files.", ("serving", "scale")),
    ("testing", "Testing", "Checks of a model of your own.", ("testing",)),
    ("synth", "Synthetic data", "Generators with known truth.", ("synth",)),
)
#: The last group, whose names the index leaves out: modules for authors of models, and packages of them.
AUTHORS = ("authors", "For authors of models", "What a kind, a column, a network or a recommender is made of.")
FOR_AUTHORS = (
    *("tabmtl.columns", "tabmtl.encode", "tabmtl.estimators", "tabmtl.metrics.metric", "tabmtl.metrics.scores"),
    *("tabmtl.nn", "tabmtl.base.params", "tabmtl.pipelines.data", "tabmtl.sessions.recommender", "tabmtl.targets"),
    "tabmtl.training.balance",
)
#: Where estimators for targets of one sort differ from those they derive from.
FACES = "tabmtl.estimators.faces"
#: Titles of the groups of names on a page, in their order.
GROUPS = ("Estimators", "For targets of one sort", "Classes", "Functions", "Warnings and errors")
FOLDER = "api"
#: An absolute value, in a line of a docstring.
BARS = re.compile(r"(?<![`\w|])\|([^|`\s](?:[^|`]*[^|`\s])?)\|(?![`\w|])")


def public_modules() -> Iterator[tuple[ModuleType, list[str]]]:
    """Yield the modules with their public names, the package first; a name stands where it is met first."""
    names = ["tabmtl", *sorted(m.name for m in pkgutil.walk_packages(import_module("tabmtl").__path__, "tabmtl."))]
    modules = [import_module(name) for name in names if not any(part.startswith("_") for part in name.split("."))]
    doors = [module for module in modules if hasattr(module, "__all__")]
    behind = [m for m in modules if m not in doors and _is_within(m.__name__, FOR_AUTHORS)]
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


def own_methods(cls: type) -> list[str]:
    """Return the methods to list on the page of a class: those that the package documents.

    Methods of scikit-learn and torch are left out. An estimator for targets of one sort has those that make it one.
    """
    home = FACES if group_of(cls) == GROUPS[1] else "tabmtl"
    values = {name: getattr(cls, name, None) for name in dir(cls) if not name.startswith("_")}
    # not isroutine, which takes a cached_property for a method
    names = [name for name, value in values.items() if inspect.isfunction(value) or inspect.ismethod(value)]
    # scikit-learn adds set_fit_request and the like to every class
    return [name for name in names if _is_own(cls, name, home) and not name.endswith("_request")]


def free_sibling(cls: type) -> str | None:
    """Return the name of the estimator for targets of any sort that an estimator for one sort derives from."""
    free = [base.__name__ for base in cls.__mro__[1:] if group_of(base) == GROUPS[0]]
    return free[0] if group_of(cls) == GROUPS[1] else None


def object_page(module: str, name: str, value: Any) -> str:
    """Return the page of a class or function, as reStructuredText."""
    kind = {"Functions": "function", "Warnings and errors": "exception"}.get(group_of(value) or "", "class")
    lines = [name, "=" * len(name), "", f".. currentmodule:: {module}", "", f".. auto{kind}:: {name}", ""]
    methods = own_methods(value) if kind == "class" else []
    if methods:
        listed = [f"{name}.{method}" for method in methods]
        lines += ["   .. rubric:: Methods", "", "   .. autosummary::", "", *(f"      {each}" for each in listed), ""]
        lines += [f"   .. automethod:: {each}" for each in listed] + [""]
    if kind == "class" and free_sibling(value):
        lines += [f"   All other methods are those of :py:obj:`{module}.{free_sibling(value)}`.", ""]
    lines += [f".. minigallery:: {module}.{name}", "   :add-heading: Examples that use it", "   :heading-level: -", ""]
    return "\n".join(lines)


def place_of(module: str, value: Any) -> str:
    """Return the page of the group that a public name belongs to."""
    if _is_within(module, FOR_AUTHORS):
        return AUTHORS[0]
    room = (getattr(value, "__module__", module) if module == "tabmtl" else module).removeprefix("tabmtl.")
    found = [page for page, _, _, rooms in PLACES if _is_within(room, rooms)]
    if not found:
        raise ValueError(f"{module}: the room {room!r} has no group; add it to PLACES of {Path(__file__).name}")
    return found[0]


def names_by_kind(module: ModuleType, names: list[str]) -> dict[str, list[str]]:
    """Return the names by the titles of their kinds; constants are left out."""
    found = {kind: [name for name in names if group_of(getattr(module, name)) == kind] for kind in GROUPS}
    return {kind: members for kind, members in found.items() if members}


def module_part(module: ModuleType, names: list[str]) -> list[str]:
    """Return the lines of a group's page about the names of one module."""
    title = module.__name__
    lines = []
    if title != "tabmtl":
        lines += [title, "-" * len(title), "", f".. automodule:: {title}", "   :no-members:", ""]
    lines += [f".. currentmodule:: {title}", ""]
    for kind, members in names_by_kind(module, names).items():
        lines += [f".. rubric:: {kind}", "", ".. autosummary::", "", *(f"   {name}" for name in members), ""]
        lines += [".. toctree::", "   :hidden:", "", *(f"   generated/{title}.{name}" for name in members), ""]
    values = [name for name in names if group_of(getattr(module, name)) is None]
    if values:
        lines += [".. rubric:: Values", ""]
        for name in values:
            lines += [f".. py:data:: {name}", "", f"   ``{getattr(module, name)!r}``", ""]
    return lines


def index_part(page: str, title: str, text: str, held: list[tuple[ModuleType, list[str]]]) -> list[str]:
    """Return the lines of the index about a group: what a user calls, by short names."""
    shown = [
        f"   ~{module.__name__}.{name}"
        for module, names in held
        for kind, members in names_by_kind(module, names).items()
        if kind in ("Estimators", "Classes", "Functions") and page != AUTHORS[0]
        for name in members
    ]
    lines = [title, "-" * len(title), "", f"{text} :doc:`All names <{page}>`", ""]
    return lines + ([".. autosummary::", "", *shown, ""] if shown else [])


def pages() -> dict[str, str]:
    """Return all pages: the index, one for every group, and one for every class and function."""
    texts: dict[str, str] = {}
    held: dict[str, list[tuple[ModuleType, list[str]]]] = {page: [] for page, *_ in (*PLACES, AUTHORS)}
    for module, names in public_modules():
        values = {name: getattr(module, name) for name in names}
        by_place: dict[str, list[str]] = {}
        for name, value in values.items():
            by_place.setdefault(place_of(module.__name__, value), []).append(name)
            if group_of(value):
                texts[f"generated/{module.__name__}.{name}"] = object_page(module.__name__, name, value)
        for page, members in by_place.items():
            held[page].append((module, members))
    index = ["API reference", "=============", ""]
    for page, title, text, *_ in (*PLACES, AUTHORS):
        lines = [title, "=" * len(title), "", text, ""]
        texts[page] = "\n".join([*lines, *(line for part in held[page] for line in module_part(*part))])
        index += index_part(page, title, text, held[page])
    index += [".. toctree::", "   :hidden:", "", *(f"   {page}" for page in held), ""]
    return {"index": "\n".join(index), **texts}


def write_pages(folder: Path) -> None:
    """Write all pages; those that did not change are left alone, and those of names that are gone are removed."""
    (folder / "generated").mkdir(parents=True, exist_ok=True)
    texts = {folder / f"{name}.rst": text for name, text in pages().items()}
    for file, text in texts.items():
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
    for file in {*folder.rglob("*.rst")} - texts.keys():
        file.unlink()


def escape_bars(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Escape the bars of an absolute value, which reStructuredText takes for a substitution; docstrings have none."""
    lines[:] = [line if line.lstrip().startswith(">>>") else BARS.sub(r"\\|\1\\|", line) for line in lines]


def leave_out_empty(
    app: Sphinx, kind: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Leave out the signature of a class without a constructor of its own, such as a protocol."""
    return ("", returns) if kind == "class" and signature == "(*args, **kwargs)" else None


def _is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _defined(module: ModuleType) -> list[str]:
    members = vars(module).items()
    own = [n for n, v in members if getattr(v, "__module__", "") == module.__name__ and group_of(v)]
    return [name for name in own if not name.startswith("_")]


def _is_own(cls: type, method: str, home: str) -> bool:
    owner = next((base for base in cls.__mro__ if method in vars(base)), None)
    return owner is not None and owner.__module__.startswith(home) and bool(getattr(cls, method).__doc__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for sources."""
    app.connect("config-inited", lambda app, config: write_pages(Path(app.srcdir, FOLDER)))
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-signature", leave_out_empty)
    return {"parallel_read_safe": True}
