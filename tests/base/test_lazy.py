"""Packages whose names load on first use."""

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("package", "name", "hint"),
    [
        ("tabmtl", "SharedTree", "; did you mean SharedTrees?"),
        ("tabmtl", "sharedtrees", "; did you mean SharedTrees?"),
        ("tabmtl.sessions", "M2TREC", "; did you mean M2TRec?"),
        ("tabmtl.scale", "predict_fil", "; did you mean predict_file?"),
        ("tabmtl.serving.mlflow", "log_modl", "; did you mean log_model?"),
        ("tabmtl.tuning", "open_studi", "; did you mean open_study?"),
        ("tabmtl", "sessions", "; it is a module: import tabmtl.sessions"),
        ("tabmtl", "Xyz", ""),
        ("tabmtl", "shema.Task", ""),
    ],
)
def test_a_misspelt_name_has_a_hint(package, name, hint, monkeypatch):
    module = import_module(package)
    monkeypatch.delitem(vars(module), name, raising=False)  # as before its import
    with pytest.raises(AttributeError) as error:
        getattr(module, name)
    assert str(error.value) == f"module {package!r} has no attribute {name!r}{hint}"
