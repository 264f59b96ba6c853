"""Packages whose names load on first use."""

import pytest
from hints import check_hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SharedTree", "; did you mean SharedTrees?"),
        ("sharedtrees", "; did you mean SharedTrees?"),
        ("training", "; it is a module: import tabmtl.training"),
        ("Xyz", ""),
        ("shema.Task", ""),
    ],
)
def test_a_misspelt_name_has_a_hint(name, hint):
    check_hint("tabmtl", name, hint)
