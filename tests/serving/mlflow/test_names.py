"""Names of the package load on first use."""

from hints import check_hint


def test_a_misspelt_name_has_a_hint():
    check_hint("tabmtl.serving.mlflow", "log_modl", "; did you mean log_model?")
