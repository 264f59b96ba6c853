"""Kinds of columns: how the columns of a frame become the features that networks and trees read."""

from tabmtl.columns.category import Categories
from tabmtl.columns.features import Features
from tabmtl.columns.kind import ColumnKind
from tabmtl.columns.number import Numbers
from tabmtl.columns.tags import Tags
from tabmtl.columns.text import Texts
from tabmtl.columns.vector import Vectors

__all__ = ["KINDS", "TABLE_KINDS", "ColumnKind", "Features"]

#: Kinds of columns by their names in a file; the first that reads a column has it.
KINDS: dict[str, type[ColumnKind]] = {
    "numbers": Numbers,
    "categories": Categories,
    "tags": Tags,
    "texts": Texts,
    "vectors": Vectors,
}
#: Kinds of the columns of X; the others are those of items.
TABLE_KINDS: dict[str, type[ColumnKind]] = {name: KINDS[name] for name in ("numbers", "categories")}
