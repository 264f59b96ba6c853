"""How often `compare` calls a model ahead of, or behind, its twin that differs by the seed only: in at most 5 %.

Run it by ``python -m benchmarks.twins``; ``--help`` lists the options. Every draw of a synthetic table has 300 rows to
fit and 1 500 to test, which tell fits apart that differ by their seeds. Trees and epochs are few. "One fit" is
``seeds=1``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from sklearn.base import clone

from benchmarks.harness import print_table, speed_parser
from tabmtl import MMoE, SharedBottom, SharedTrees, compare
from tabmtl.synth import make_multitab_bench

MODELS = {"SharedTrees": SharedTrees(n_estimators=40), "SharedBottom": SharedBottom(epochs=5), "MMoE": MMoE(epochs=5)}
ROWS, TO_FIT = 1_800, 300
SEEDS = {"one fit": 1, "further seeds": None}


def is_told_apart(model: str, draw: int, seeds: int | None) -> bool:
    """Return whether twins are called ahead or behind, on average or on a task."""
    bench = make_multitab_bench(ROWS, 6, 3, random_state=draw)
    twins = {f"twin {t}": clone(MODELS[model]).set_params(random_state=100 * draw + 10 * t) for t in range(2)}
    given = {"X_test": bench.X[TO_FIT:], "y_test": bench.y[TO_FIT:], "seeds": seeds, "n_jobs": 1}
    with warnings.catch_warnings(action="ignore"):
        found = compare(twins, bench.X[:TO_FIT], bench.y[:TO_FIT], **given)
    low, high = (
        [*found.frame[f"difference_{end}"].drop_nulls(), *found.overall[f"mean_difference_{end}"]]
        for end in ("low", "high")
    )
    return max(low) > 0 or min(high) < 0


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    options = speed_parser("twins", __doc__, models=MODELS)
    options.add_argument("--draws", type=int, default=8, help="default: 8; 2 with --quick")
    chosen = options.parse_args(argv)
    draws = range(2 if chosen.quick else chosen.draws)
    cells: dict[str, dict[str, str]] = {}
    for model in chosen.models:
        told = {how: [is_told_apart(model, draw, seeds) for draw in draws] for how, seeds in SEEDS.items()}
        cells[model] = {how: f"{sum(own)} of {len(own)}" for how, own in told.items()}
    print_table("twins that are called ahead or behind", cells)


if __name__ == "__main__":
    main()
