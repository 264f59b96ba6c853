"""What models refuse: options out of range, by name, before anything is learned."""

import numpy as np
import polars as pl
import pytest

from tabmtl import AITM, APEM, PLE, STEM, AdaTT, MMoE, MultiTabNet, SharedTrees

STEPS = ["click", "buy"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (AdaTT(n_task_experts=0), "n_task_experts must be at least 1"),
        (AdaTT(n_shared_experts=-1), "n_shared_experts must be at least 0"),
        (AdaTT(expert_hidden=()), "expert_hidden"),
        (AITM(task_chain=STEPS, calibrator=-1), "calibrator must be at least 0, got -1"),
        (APEM(d_embedding=6, n_heads=4), r"d_embedding \(6\) must be a multiple of n_heads \(4\)"),
        (APEM(n_groups=0), "n_groups must be at least 1"),
        (APEM(n_points=0), "n_points must be at least 1"),
        (APEM(reduction=0.5), "reduction must be a whole number"),
        (APEM(task_chain=STEPS, chain_loss="product"), "chain_loss must be one of"),
        (APEM(task_chain=STEPS, calibrator=-1), "calibrator must be at least 0"),
        (APEM(numeric_embedding="none"), "numeric_embedding must be one of"),
        (MMoE(n_experts=0), "n_experts must be at least 1"),
        (MMoE(n_experts=2.5), "n_experts must be a whole number"),
        (MMoE(expert_hidden=()), "expert_hidden"),
        (MMoE(expert_hidden=64), "expert_hidden"),
        (MultiTabNet(row_layer="rope"), "row_layer must be one of .*'inducing_attention'.*got 'rope'"),
        (MultiTabNet(mask="tlm"), "mask must be one of .*'FxT_TxT'.*got 'tlm'"),
        (MultiTabNet(d_token=10), "multiple of n_heads, got 10 and 4"),
        *((PLE(**{name: 0}), name) for name in ("n_levels", "n_shared_experts", "n_task_experts", "expert_hidden")),
        *((STEM(**{name: 0}), name) for name in ("n_shared_experts", "n_task_experts", "gate_hidden", "expert_hidden")),
        *((SharedTrees(rho=rho), "rho must be") for rho in (1.1, -0.1)),
        (SharedTrees(n_estimators=0), "n_estimators must be at least 1"),
        (STEM(numeric_embedding="none"), "numeric_embedding must not be 'none'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_option_out_of_range_is_named(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(np.zeros((30, 2)), pl.DataFrame(dict.fromkeys(STEPS, [0, 1] * 15)))
