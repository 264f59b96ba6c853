"""Objectives of two numbers that are made of the parameters, without a fit."""

from __future__ import annotations

from typing import Any

from tabmtl import MMoE
from tabmtl.tuning import Objective
from tabmtl.tuning.spaces import check_space

SPACE: dict[str, Any] = {
    "n_experts": {"low": 2, "high": 16},
    "dropout": {"low": 0.0, "high": 0.5},
    "expert_hidden": {"choices": ((64,), (128, 64))},
}


class Quick(Objective):
    """Few experts, or many."""

    def _fit_and_score(self, model):
        return {"few": 1 / model.n_experts, "many": model.n_experts * (1 - model.dropout)}

    def _chosen(self, scores):
        return tuple(scores[name] for name in self.names)


def quick(names=("few", "many"), est=None, space=SPACE, **facts) -> Quick:
    est = est or MMoE()
    return Quick(est=est, search_space=check_space(est, space), names=names, facts=facts)
