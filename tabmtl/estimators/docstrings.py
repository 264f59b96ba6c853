"""Docstrings of estimators: every parameter and attribute, from the class that declares it."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

#: Sections with entries, in their order; numpydoc's name for the second one.
_OWN, _SHARED, _FITTED = _SECTIONS = ("Parameters", "Other Parameters", "Attributes")
_HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_NAMES = re.compile(r"(\w+(?:, \w+)*)(?: :.*)?")
_DEFAULT = re.compile(r"default=.*")


def complete_docstring(cls: type) -> str | None:
    """Complete the docstring of a class by the parameters and attributes that its bases document.

    An entry of the class itself beats that of a base. Parameters of bases stand under "Other Parameters", unless the
    class has none of its own: then the nearest base with parameters stands in. Where the class only changes the default
    of an inherited parameter, the entry shows the new one.

    Parameters
    ----------
    cls : type
        Its bases are complete already.
    """
    if cls.__doc__ is None:
        return None
    doc = inspect.cleandoc(cls.__doc__)
    for title, entries in _missing_entries(cls, doc).items():
        doc = _with_entries(doc, title, entries)
    return doc


def documented(doc: str) -> dict[str, str]:
    """Return the entries of all parameters by name; names that share an entry each get it."""
    return {name: entry for title in (_OWN, _SHARED) for names, entry in _entries(doc, title) for name in names}


class DocumentedSignature:
    """Signature of a class as help shows it: the parameters in the order of their documents, without types."""

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        _, *params = inspect.signature(owner.__init__).parameters.values()
        names = [*documented(owner.__doc__ or ""), *(param.name for param in params)]
        params.sort(key=lambda param: (param.kind, param.kind == param.KEYWORD_ONLY and names.index(param.name)))
        return inspect.Signature([param.replace(annotation=param.empty) for param in params])


def _missing_entries(cls: type, doc: str) -> dict[str, str]:
    """Return by section the entries that only bases have."""
    known = {name for title in _SECTIONS for names, _ in _entries(doc, title) for name in names}
    places = {title: title for title in _SECTIONS} | ({_OWN: _SHARED} if documented(doc) else {})
    found = dict.fromkeys(_SECTIONS, "")
    for base in cls.__mro__[1:]:
        for title in _SECTIONS:
            for names, entry in _entries(inspect.cleandoc(base.__doc__ or ""), title):
                if not known.issuperset(names):
                    found[places[title]] += _with_default(entry, cls, base, names)
                known.update(names)
    return found


@cache  # every class asks all its bases
def _entries(doc: str, title: str) -> list[tuple[tuple[str, ...], str]]:
    """Return names and text of every entry of a section."""
    start, end = _span(doc, title)
    entries = re.split(r"^(?=\w)", doc[start:end], flags=re.MULTILINE)
    found = [(_NAMES.match(entry), entry.rstrip() + "\n") for entry in entries]
    return [(tuple(names[1].split(", ")), entry) for names, entry in found if names]


def _span(doc: str, title: str) -> tuple[int, int]:
    """Return begin and end of the entries of a section; if there is none, the place for them."""
    headings = list(_HEADING.finditer(doc))
    for i, heading in enumerate(headings):
        if heading[1] == title:
            return heading.end(), headings[i + 1].start() if i + 1 < len(headings) else len(doc)
    before = _SECTIONS[: _SECTIONS.index(title)]
    later = [heading.start() for heading in headings if heading[1] not in before]
    return (later[0], later[0]) if later else (len(doc), len(doc))


def _with_entries(doc: str, title: str, entries: str) -> str:
    if not entries:
        return doc
    start, end = _span(doc, title)
    before, own = doc[:start].rstrip(), doc[start:end].rstrip()
    if not own:
        before += f"\n\n{title}\n{'-' * len(title)}"
    return "\n".join(filter(None, [before, own, entries, doc[end:]])).rstrip() + "\n"


def _with_default(entry: str, cls: type, base: type, names: tuple[str, ...]) -> str:
    """Add the default of this class, if it is not that of the base."""
    defaults = [getattr(cls, name, None) for name in names]
    if defaults == [getattr(base, name, None) for name in names]:
        return entry
    return _DEFAULT.sub("default=" + ", ".join(map(_shown, defaults)), entry, count=1)


def _shown(default: object) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)
