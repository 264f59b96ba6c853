"""Kinds of columns, one file each: how the columns of a frame become the features that networks and trees read.

A kind answers for its columns: what it reads and learns, the features that they become, what they held in fit, and the
kind that trees read in its place. Rooms outside ask the kind, and never which one it is. What a user says of columns
is in `tabmtl.columns.declared`: ``columns={"zip": "category", "when": Date(format="%m/%d/%Y")}``.
"""

from tabmtl.columns.category import Categories
from tabmtl.columns.date import Dates, Durations, Times
from tabmtl.columns.declared import Category, Date, Number, Sequence, Text
from tabmtl.columns.features import Features
from tabmtl.columns.kind import ColumnKind
from tabmtl.columns.number import Numbers
from tabmtl.columns.sequence import Sequences
from tabmtl.columns.tags import Tags
from tabmtl.columns.text import Texts
from tabmtl.columns.vector import Vectors

__all__ = ["KINDS", "Category", "ColumnKind", "Date", "Features", "Number", "Sequence", "Text"]

#: Kinds of the columns of X, and of items; the first that reads a column has it.
KINDS: tuple[type[ColumnKind], ...] = (Numbers, Categories, Sequences, Dates, Times, Durations, Tags, Texts, Vectors)
ColumnKind.known = KINDS
