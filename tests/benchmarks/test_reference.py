"""The bench of the reference: plain LightGBM on text, and differences with their interval."""

from __future__ import annotations

import polars as pl

from benchmarks.reference import MODELS, Plain, cases, report


def test_plain_lightgbm_takes_text_and_unseen_levels():
    X = pl.DataFrame({"level": ["a", "b"] * 30, "x": [float(i) for i in range(60)]})
    model = Plain(tasks={"late": "binary"}, random_state=0, n_estimators=5)
    model.fit(X, pl.DataFrame({"late": [0, 1] * 30}), None)
    answer = model.answer(X[:3].with_columns(level=pl.lit("new")))["late"]
    assert answer.shape == (3,)


def test_behind_is_by_the_t_quantile_of_the_draws(capsys):
    facts = next(cases(["wq"], [0]))
    records = [
        {**facts, "seed": seed, "model": model, "score": 0.5 + 0.01 * seed + (model in ("LightGBM",)) * 0.1}
        for seed in range(5)
        for model in MODELS
    ]
    report(records)
    out = capsys.readouterr().out
    assert "IndependentTasks less LightGBM: ahead in 0, behind in 1, open in 0" in out
