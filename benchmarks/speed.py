"""Speed and memory beside plain references and other libraries: one table of comparisons.

    python -m benchmarks.speed [--quick] [--only NAME ...] [--set SIZE=NUMBER ...] [--figure FILE]

Sides of a comparison run in turn, on one thread, and the first one is what the others are compared with: "2.00x" is
twice as fast, with the standard deviation of the rounds. Of CPU seconds, of wall milliseconds and of memory the least
of the rounds counts, of all else the mean does. Where memory is measured, each side has a process of its own; it is
anonymous memory, imports included. Goals are printed beside the measurements. ``--set`` changes sizes of the chosen
cases, by the names that the lines show: ``--only processes --set model=MMoE rows=1000000``.

Training of networks:

peer         an epoch of MMoE and of PLE against those of torch-rechub, of one architecture, and by our own training;
             ours always lets the rate fall along half a cosine, and scores 50 000 training rows
din          an epoch of SharedBottom with attention to a history against DIN of torch-rechub, of the same widths
home         an epoch of HoME and APEM against our MMoE
members      a step of SharedBottom with members against TabM, of one architecture, and against one member
long         a step of every network on a table with one task a row, by number of tasks
lists        a step of SharedBottom on tags, and on histories, of mean length 50 against one on 50 columns of categories
kinds        a step of SharedBottom on tasks of each kind, against squared errors
embeddings   a step of embeddings alone, by rows of the table and optimiser; ``--figure`` draws it

Boosted models:

plain        R-MTGB as released (stumps, ten tasks) against the same algorithm on scikit-learn's trees, by rows a task
shared       SharedTrees against one LightGBM of as many trees for a single task
vector       SharedTrees, R-MTGB, CatBoost and XGBoost's vector leaves against one LightGBM per task: time, memory, R²
kinds_trees  SharedTrees of tasks of each kind, against squared errors; several scores a task have no goal
one_row      one row of both, and of a task's exported model

Recommenders:

body, step   a training step over ids against ``nn.TransformerEncoder``, and over metadata by the items of the softmax
search       exact top 20, and all of `recommend`
epoch, fit   on real logs: against a plain SASRec, and against earlier defaults, with scores
memory       of a training run; reading: 10 million clicks to sessions

Files and processes:

files, clicks  fits of SharedBottom and M2TRec on `Shards` against those on a frame: a step with its share of loading,
               CPU seconds before the first one (survey and encoding), memory
predict        `predict_files` against `predict`
wide           memory of a fit and a prediction, by estimator, of 5 000 columns and 20 000 rows; ``--set table=float64``
               or ``table=codes`` has other values, ``models=HoME,STEM`` fewer estimators
processes      a fit by two processes of ``torchrun`` against one: CPU seconds of the slower one

Serving some tasks:

asked        CPU ms of `predict` of one of eight tasks against all, by estimator, of 1 and of 10 000 rows

Serving a row of flights, by p50:

in_process, onnx, http, parts   `predict`; the exported network; MLflow's server beside a constant; parts of a request
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from benchmarks.cases import boosted, files, networks, serving, sessions, wide
from benchmarks.harness import Case, Measures, speed_parser
from tabmtl.targets import KINDS

RECHUB, TABM = {"torch_rechub": "torch-rechub>=0.9,<0.10"}, {"tabm": "tabm>=0.0.3,<0.1"}
ONNX = dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "tabmtl[onnx]")
MLFLOW = {"mlflow": "tabmtl[mlflow]"}
VECTOR_LEAVES = {"catboost": "catboost>=1.2.7", "xgboost": "xgboost>=3.1"}
NETWORKS = ("SharedBottom", "MultiTabNet")
LONG = ("MMoE", "PLE", "HoME", "APEM", "STEM", "AdaTT", *NETWORKS)
ANY = (*LONG, "SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble")
OF_LISTS = {"lists, mean": 1 / 1.3, "history, mean": 1 / 1.3, "history, attention": 1 / 2.5}
#: Small sizes.
NEWEST = {"share": 0.001, "epochs": 1, "d_model": 8, "judges": 50}
EPOCHS, LOG = {"rows": 1000, "epochs": 2}, {"n_items": 300, "n_sessions": 16, "length": 3, "d_model": 8}
#: At most 1.2 times the CPU seconds of squared errors.
LOSSES = dict.fromkeys((name for name in KINDS if name != "regression"), 1 / 1.2)
OF_ONE_SCORE = {name: goal for name, goal in LOSSES.items() if not boosted.has_several_scores(KINDS[name])}
LISTS = {"length": 10, "batch_size": 64, "steps": 2}
ROW, ASKED = {"rows_to_fit": 1000}, {"requests": 3}
WIDE = {"rows": 60, "columns": 10, "models": "SharedBottom,SharedTrees"}

CASES = [
    *[
        Case("peer", networks.peer, {"name": name}, EPOCHS, 3, faster={"tabmtl": 2.0}, needs=RECHUB)
        for name in ("MMoE", "PLE")
    ],
    Case("din", networks.din, {}, EPOCHS, 3, faster={"tabmtl": 2.0}, needs=RECHUB),
    Case("home", networks.home, {}, EPOCHS, 3, faster={"HoME": 1 / 3, "HoME, no feature-gates": 1 / 2, "APEM": 1 / 5}),
    *[
        Case("members", networks.members, sizes, {"k": 3, "width": 8, "steps": 2}, 5, faster={"ours": 0.83}, needs=TABM)
        for sizes in ({"k": k, "width": width} for k, width in ((8, 256), (16, 128), (32, 256), (32, 512)))
    ],
    *[Case("long", networks.long, {"model": model}, {"rows": 512, "n_tasks": (2, 4)}, 3, True) for model in LONG],
    Case("lists", networks.lists, {}, LISTS, 5, True, OF_LISTS),
    Case("lists", networks.lists, {"steps": 976}, LISTS, 1, False, OF_LISTS),  # an epoch of a million rows
    Case("kinds", networks.kinds, {}, {"batch_size": 64, "steps": 2}, 5, True, LOSSES),
    *[
        Case("embeddings", networks.embeddings, {"rows": rows, "batch_size": batch_size}, {"batch_size": 64}, 5, True)
        for rows, batch_size in (*product((10_000, 100_000, 1_000_000, 3_280_000), (1024,)), (3_280_000, 8192))
    ],
    *[
        Case("plain", boosted.plain, {"rows": rows}, {"rows": 60, "rounds": 3}, 7, True, {"ours": goal})
        for rows, goal in {300: 10, 1000: 20, 3000: 30, 10_000: 30}.items()
    ],
    *[
        Case("shared", boosted.shared, sizes, {"rows": 500, "n_trees": 2}, 3, True, {"ours": 0.67})
        for sizes in ({"rows": 100_000}, {"rows": 25_000}, {"rows": 400_000}, {"n_tasks": 16}, {"kind": "binary"})
    ],
    Case("vector", boosted.vector, {}, {"rows": 500, "n_tasks": 2, "n_trees": 3}, 5, needs=VECTOR_LEAVES),
    Case("kinds_trees", boosted.kinds, {}, {"rows": 500, "n_trees": 2}, 5, True, OF_ONE_SCORE),
    Case("one_row", boosted.one_row, {}, ASKED, most={"R-MTGB, a task's exported model": 0.1, "SharedTrees": 0.3}),
    Case("body", sessions.body, {}, LOG, 3, faster={"float32, pooling=last": 1.7, "bf16, pooling=last": 3.0}),
    *[
        Case("step", sessions.step, {"precision": precision, "pooling": pooling}, LOG, faster={"8192": 0.83})
        for precision, pooling in product(("float32", "bf16"), ("mean", "last"))
    ],
    *[
        Case("search", sessions.search, {"n_sessions": n, "n_items": n_items}, LOG | ASKED, most={"search": most})
        for n, n_items, most in ((1, 100_000, 3.5), (32, 100_000, 28.8), (256, 100_000, 230.0), (1, 1_000_000, 30.0))
    ],
    Case("epoch", sessions.epoch, {}, NEWEST, faster={"M2TRec, float32": 3.0}),
    *[
        Case("fit", sessions.fit, {"name": name, "share": share}, {"share": 0.002}, faster={"defaults": 2.0})
        for name, share in {"complete_journey": 1.0, "diginetica": 0.05}.items()
    ],
    Case("memory", sessions.memory, {}, LOG, most={"fit": 1.5}),
    Case("reading", sessions.reading, {}, {"clicks": 5000}, most={"read": 30.0}),
    Case("files", files.from_files, {}, {"rows": 3000, "steps": 2}, faster={"from files": 0.95}),
    Case("clicks", files.from_clicks, {}, {"clicks": 3000, "steps": 2}),
    Case("wide", wide.fits, {}, WIDE, most=dict.fromkeys(wide.SHORT, 4.0)),
    Case("predict", files.predict, {}, {"rows": 3000}, faster={"from files": 0.95}),
    *[
        Case("processes", files.processes, {"model": model}, {"rows": 3000}, faster={"two processes, each": 1.5})
        for model in ("MMoE", "SharedBottom", "MultiTabNet")
    ],
    *[
        Case("in_process", serving.in_process, {"model": model, "rows": rows}, ROW | ASKED)
        for model, rows in product((*NETWORKS, "RMTGB", "IndependentTasks"), (1, 32, 1024))
    ],
    *[
        Case("asked", serving.asked, {"model": model, "rows": rows}, {"rows_to_fit": 300, "requests": 3}, 3)
        for model, rows in product(ANY, (1, 10_000))
    ],
    *[
        Case("onnx", serving.onnx, {"model": model, "rows": rows}, ROW | ASKED, needs=ONNX)
        for model, rows in product(NETWORKS, (1, 32, 1024))
    ],
    *[
        Case(name, sides, {"rows": rows}, ROW | ASKED, faster={"MultiTabNet": 0.77}, needs=MLFLOW)
        for rows, (name, sides) in product((1, 32, 1024), {"http": serving.over_http, "parts": serving.parts}.items())
    ],
]


def chosen(names: Sequence[str], given: Mapping[str, Any], *, quick: bool) -> list[Case]:
    """Return the cases of some names; a case whose sizes are given is there once, and with ``quick`` one of a name."""
    found: dict[str, Case] = {}
    for case in CASES:
        if case.name in names:
            sizes = {**case.sizes, **{size: value for size, value in given.items() if case.takes(size)}}
            found.setdefault(case.name if quick else f"{case.name} {sizes}", replace(case, sizes=sizes))
    return [*found.values()]


def size_of(text: str) -> tuple[str, Any]:
    """Read ``SIZE=VALUE``: a number, or a name."""
    size, _, value = text.partition("=")
    for kind in (int, float):
        with suppress(ValueError):
            return size, kind(value)
    return size, value


def draw_figure(found: Mapping[str, Mapping[str, Sequence[Measures]]], path: str) -> None:
    """Save a figure of the first unit of every side, by case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for side in next(iter(found.values())):
        least = [min(next(iter(each.values())) for each in sides[side]) for sides in found.values()]
        axes.semilogy([*found], least, marker="o", label=side)
    axes.tick_params(axis="x", rotation=20)
    axes.set(ylabel=next(iter(next(iter(next(iter(found.values())).values()))[0])))
    axes.legend()
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the chosen cases; the arguments are those of the command line."""
    parser = speed_parser("speed", __doc__, only=dict.fromkeys(case.name for case in CASES))
    parser.add_argument("--set", nargs="+", type=size_of, default=[], metavar="SIZE=VALUE", help="sizes of the cases")
    parser.add_argument("--figure", help="where to save a figure of the chosen cases")
    options = parser.parse_args(argv)
    given = dict(options.set)
    cases = chosen(options.only, given, quick=options.quick)
    unknown = [size for size in given if not any(case.takes(size) for case in cases)]
    if unknown:
        parser.error(f"no chosen case has the size {unknown[0]!r}")
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # torch imports its compiler with the first optimiser: no side's cost
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # as training does, so that freed gradients stay in the process
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"torch {torch.__version__}, 1 thread of {os.cpu_count()}, load {load}", flush=True)
    found = {case.title: case.run(given, quick=options.quick) for case in cases}
    if options.figure:
        draw_figure(found, options.figure)


if __name__ == "__main__":
    main()
