"""A network distilled from an ensemble, beside the ensemble, where one target has few labels and many rows have none.

Run it by ``python -m benchmarks.distillation``; ``--help`` lists the options. Rows to fit and to test are those of the
part "labels" of :mod:`benchmarks.evidence`, whose part "full" has the same network at all labels. The network reads
6 000 further rows without labels, as far as a set has them. A table shows, for every target, the score of the ensemble
minus that of the network, and the share of the variance of the ensemble's answers that the network has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence import FIT_ROWS, TARGETS, open_draw
from benchmarks.harness import parser, print_table
from benchmarks.problems import Case, Distilled, answers_of, score_answers
from tabmtl import MultiTaskEnsemble

UNLABELLED = 6_000


def measure(case: Case, make: Any, seed: int) -> dict[str, dict[str, str]]:
    """Fit a model and a network, and return what the table shows of every target, by its name."""
    both = Distilled(make, tasks=case.tasks, random_state=seed)
    both.fit(*case.train, case.groups)
    X, y = case.test
    answers = answers_of(both.teacher, X), both.answer_tasks(X)
    scores, of_network = (score_answers(case.tasks, y, each) for each in answers)
    found = {}
    for task, score in scores.items():
        missed = np.square(answers[0][task] - answers[1][task]).mean() / answers[0][task].var()
        difference = score - of_network[task]
        found[task] = {"ensemble": f"{score:.4f}", "- network": f"{difference:+.4f}", "share": f"{1 - missed:.3f}"}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    options = parser("distillation", __doc__, sets=TARGETS)
    options.add_argument("--labels", nargs="+", type=int, default=[150, 500], help="default: 150 500")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="default: 0 1")
    options.add_argument("--folder", type=Path, help="the data folder; default $TABMTL_DATA")
    args = options.parse_args(argv)
    for name in args.sets:
        target = TARGETS[name][0]
        for n_labels in args.labels:
            for seed in args.seeds:
                case = open_draw(name, seed, FIT_ROWS["labels"], args.folder, UNLABELLED).scarce(target, n_labels, seed)
                title = f"{name}, {n_labels} labels of {target}, draw {seed}"
                print_table(title, measure(case, MultiTaskEnsemble, seed))


if __name__ == "__main__":
    main()
