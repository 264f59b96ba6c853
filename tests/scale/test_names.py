"""Names of the package load on first use."""

from hints import check_hint


def test_a_misspelt_name_has_a_hint():
    check_hint("tabmtl.scale", "predict_fil", "; did you mean predict_file?")
