"""Models whose texts go through an encoder: neither file holds it, and both say so."""

import polars as pl
import pytest

from tabmtl import SharedBottom
from tabmtl.columns import Text
from tabmtl.serving.mlflow import log_model
from tabmtl.serving.onnx import export


class Encoder:
    """Counts letters."""

    def encode(self, texts):
        return [[len(text), text.count("o")] for text in texts]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: export(model, "model.onnx"), r"no encoder of text, which makes vectors of \['remark'\]"),
        (log_model, r"as_pyfunc\(tabmtl.load\(path\)\.set_params\(columns=\.\.\.\)\)"),
    ],
    ids=["ONNX", "MLflow"],
)
def test_what_takes_no_encoder_says_so(call, message):
    X = pl.DataFrame({"remark": ["lovely", "dreadful"] * 50})
    columns = {"remark": Text(encoder=Encoder())}
    model = SharedBottom(hidden=(4,), epochs=1, columns=columns, random_state=0)
    with pytest.raises((TypeError, ValueError), match=message):
        call(model.fit(X, X.select(stars=pl.int_range(pl.len()) / 7)))
