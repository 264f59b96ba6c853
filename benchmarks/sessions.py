"""M2TRec against neighbours, rules and popularity: real click logs, cold items, and a generator whose law is known.

    python -m benchmarks.sessions [--sets ...] [--models ...] [--seeds 0 1 2] [--choose]

Train comes before test; every click after the first of a test session is a target, ranked among all items, ties
counted against the recommender. ``--choose`` compares `CHOSEN`, changed in one thing at a time, on the newest 25 % of
train, of which the newest tenth of the sessions judges. What runs on all of train, for a fixed number of epochs, is
`CHOSEN`. Sets:

- ``diginetica``, and ``diginetica_cold``: 10 % of its items are never clicked in train;
- ``complete_journey``: baskets (simulated, says their owner), with six fields of metadata and natural cold items;
- ``generator``: :func:`tabmtl.synth.make_sessions`; the law itself scores the ceiling.

``--curves`` trains on the generator with and without category tasks, for equal steps: which learns faster?
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.scores import mean_and_spread
from tabmtl.pipelines.datasets import ClickLog, load_sessions
from tabmtl.sessions import STAN, VSKNN, CategoryPopularity, M2TRec, Popularity, SequentialRules, temporal_split
from tabmtl.synth import make_sessions

COLD, GENERATOR = "diginetica_cold", "generator"
SETS = ("diginetica", COLD, "complete_journey", GENERATOR)
K = 20
#: Of models whose lists leave out what the session holds: in a basket nothing is put twice.
WITHOUT_SEEN = ", without seen"
#: More clicks than any item has: items without clicks are not lowered.
AS_OTHERS = 1e6
#: What differs from the defaults of M2TRec, chosen on validation sessions; docs/design.md has the comparisons. But the
#: ``cold_prior`` of cold Diginetica is an analogy (it lowers cold items as much as one click does on the newest
#: quarter: items that were taken out of train cannot be validated), and the pooling of the generator was judged on test
#: clicks of a smaller log of it.
CHOSEN: dict[str, dict[str, Any]] = {
    "diginetica": {"epochs": 6, "learning_rate": 4e-3, "category_weight": 0, "id_dropout": 0.0},
    COLD: {"epochs": 5, "category_weight": 0, "cold_prior": 5.0},
    "complete_journey": {"epochs": 3, "hierarchy": True, "popularity": True, "repeats": True},
    GENERATOR: {"epochs": 10, "pooling": "items+linear"},
}
#: Columns of the item table that are text, for every setting.
TEXTS = {GENERATOR: ["name"]}
#: Columns that could be text too, which ``--choose`` compares.
MORE_TEXTS = {"complete_journey": ["package_size"]}
#: What ``--choose`` changes in the chosen setting, one thing at a time.
CHANGES: tuple[dict[str, Any], ...] = (
    {"id_mode": "delta"},
    {"id_mode": "none"},
    {"pooling": "items"},
    {"pooling": "items+linear"},
    {"pooling": "mean"},
    {"pooling": "last"},
    {"category_weight": 0},
    {"category_weight": 0.1},
    {"category_weight": 0.1, "hierarchy": True},
    {"id_dropout": 0.0},
    {"id_dropout": 0.3},
    {"popularity": False},
    {"popularity": True},
    {"repeats": False},
    {"repeats": True},
    {"hierarchy": False},
    {"dropout": 0.2, "item_dropout": 0.2},
    {"dropout": 0.4, "item_dropout": 0.4},
    {"dropout": 0.6, "item_dropout": 0.6},
    {"n_layers": 2},
    {"temperature": 0.1},
    {"learning_rate": 1e-3},
    {"learning_rate": 4e-3},
    {"epochs": 2},
    {"epochs": 5},
    {"epochs": 10},
)


def open_set(name: str, seed: int, folder: Path | None) -> tuple[ClickLog, dict[str, float]]:
    """A log, which only the generator draws by the seed, and the ceiling of its test scores where it is known."""
    if name != GENERATOR:
        data = load_sessions(name.removesuffix("_cold"), folder=folder)
        return (data.with_cold_items(0.1, random_state=0) if name == COLD else data), {}
    drawn = make_sessions(20_000, 1_000, random_state=seed)
    train, test = drawn.split()
    parts = [part.with_columns(split=pl.lit(split)) for split, part in (("train", train), ("test", test))]
    log = ClickLog(
        name=name,
        clicks=pl.concat(parts),
        items=drawn.items,
        columns={"time_column": "time"},
        categories=("category", "subcategory"),
        licence="none needed",
        source="tabmtl.synth",
    )
    return log, drawn.truth.ceiling(test, K)


def baselines(data: ClickLog) -> dict[str, Callable[[], Any]]:
    """Everything that M2TRec has to beat."""
    columns: dict[str, Any] = dict(data.columns)
    return {
        "Popularity": lambda: Popularity(**columns),
        "CategoryPopularity": lambda: CategoryPopularity(category=data.categories[-1], **columns),
        "SequentialRules": lambda: SequentialRules(**columns),
        "SequentialRules, last 5": lambda: SequentialRules(n_last=5, **columns),
        "VSKNN": lambda: VSKNN(**columns),
        "STAN": lambda: STAN(**columns),
    }


def m2trec(data: ClickLog, seed: int, **settings: Any) -> M2TRec:
    """M2TRec of a set with its defaults, but for what is given."""
    common: dict[str, Any] = {"categories": data.categories, "text_features": TEXTS.get(data.name, [])}
    common |= {"precision": "bf16", "random_state": seed}
    return M2TRec(**common | data.columns | settings)


def score(
    model: Any, train: pl.DataFrame, test: pl.DataFrame, items: pl.DataFrame, exclude_seen: bool = False
) -> list[dict[str, Any]]:
    """Fit, and give one record a bucket of training clicks."""
    start = time.process_time()
    model.fit(train, items=items)
    seconds = time.process_time() - start
    return [
        record | {"cpu_seconds": seconds} for record in model.evaluate(test, K, exclude_seen=exclude_seen).to_dicts()
    ]


def run(name: str, models: Sequence[str], seed: int, folder: Path | None, *, first: bool) -> list[dict[str, Any]]:
    """All models of one seed; baselines do not depend on it, and run once."""
    data, ceiling = open_set(name, seed, folder)
    train, test = data.part("train"), data.part("test")
    made = dict(baselines(data)) if first or name == GENERATOR else {}
    chosen = CHOSEN[name]
    if made and name == "complete_journey":
        made["VSKNN" + WITHOUT_SEEN] = made["VSKNN"]
    made |= {"M2TRec": lambda: m2trec(data, seed, early_stopping=False, **chosen)}
    if name == GENERATOR or (first and name == "complete_journey"):
        made |= {"M2TRec, id-free": lambda: m2trec(data, seed, early_stopping=False, **chosen | {"id_mode": "none"})}
    if name == GENERATOR:
        launched = chosen | {"cold_prior": AS_OTHERS}
        made |= {"M2TRec, launching": lambda: m2trec(data, seed, early_stopping=False, **launched)}
    records = []
    for label, make in made.items():
        if label.split(",")[0] in models:
            found = score(make(), train, test, data.items, label.endswith(WITHOUT_SEEN))
            records += [{"set": name, "model": label, "seed": seed} | record for record in found]
            print(
                f"{name} seed {seed} {label}: recall {found[0][f'recall@{K}']:.4f} mrr {found[0][f'mrr@{K}']:.4f}",
                flush=True,
            )
    if ceiling:
        records += [{"set": name, "model": "(the law)", "seed": seed, "bucket": "all", "n_targets": 0} | ceiling]
    return records


def report(records: pl.DataFrame) -> None:
    """Print Recall@20 and MRR@20, in all and by bucket of training clicks: mean ± standard deviation over the seeds."""
    buckets = records["bucket"].unique(maintain_order=True).to_list()
    print(f"\n{records['set'][0]}: recall@{K} and mrr@{K}, in all and by training clicks of the target")
    print("  ".join([f"{'model':26s}", f"{'mrr':>17s}", *(f"{bucket:>17s}" for bucket in buckets)]))
    for model in records["model"].unique(maintain_order=True):
        own = records.filter(pl.col("model") == model)
        cells = [own.filter(pl.col("bucket") == "all")[f"mrr@{K}"]]
        cells += [own.filter(pl.col("bucket") == bucket)[f"recall@{K}"] for bucket in buckets]
        print("  ".join([f"{model:26s}", *(f"{_cell(cell.drop_nulls().to_numpy()):>17s}" for cell in cells)]))


def _cell(values: np.ndarray) -> str:
    return mean_and_spread(values) if len(values) else ""


def choose(name: str, seed: int, folder: Path | None, share: float) -> None:
    """Compare settings on the newest part of train; the newest tenth of its sessions judges, no more."""
    data, _ = open_set(name, seed, folder)
    newest = data.newest(share).part("train") if share < 1 else data.part("train")
    train, judged = temporal_split(newest, test_size=0.1, time_column=data.columns["time_column"])
    chosen = CHOSEN[name]
    plain = m2trec(data, seed, **chosen).get_params(deep=False)
    changes = [*CHANGES, {"text_features": MORE_TEXTS.get(name, plain["text_features"])}]
    settings = [{}, *(change for change in changes if plain | change != plain)]
    models: dict[str, Callable[[], Any]] = baselines(data) | {
        f"M2TRec {change or ''}": lambda change=change: m2trec(data, seed, early_stopping=False, **chosen | change)
        for change in settings
    }
    for label, make in models.items():
        found = score(make(), train, judged, data.items)
        recalls = " ".join(f"{record[f'recall@{K}'] or 0:.4f}" for record in found)
        print(
            f"{name} {label:50s} mrr {found[0][f'mrr@{K}']:.4f} recall, in all and by bucket {recalls} "
            f"{found[0]['cpu_seconds']:.0f} CPU s",
            flush=True,
        )


def curves(seeds: Sequence[int], output: Path) -> None:
    """Generator: validation recall after every epoch, with and without category tasks, at equal steps."""
    rows = []
    for seed in seeds:
        data, _ = open_set(GENERATOR, seed, None)
        train, judged = temporal_split(data.part("train"), test_size=0.1)
        for mode in ("none", "full"):
            for weight in (0.5, 0.0):
                model = m2trec(data, seed, **CHOSEN[GENERATOR], id_mode=mode, category_weight=weight, patience=100)
                model.fit(train, items=data.items, clicks_val=judged)
                kept = model.history_.select("epoch", "val/recall@20", "val/mrr@20")
                rows.append(kept.with_columns(seed=pl.lit(seed), id_mode=pl.lit(mode), weight=pl.lit(weight)))
    table = pl.concat(rows)
    table.write_csv(output / "sessions_curves.csv")
    means = table.group_by("id_mode", "epoch", "weight", maintain_order=True).agg(
        pl.col("val/recall@20").mean().alias("mean"), pl.col("val/recall@20").std().alias("sd")
    )
    print("\ngenerator: validation recall@20 by epoch, category_weight 0.5 against 0 (item task only), equal steps")
    with pl.Config(tbl_rows=-1):
        print(means.pivot("weight", index=["id_mode", "epoch"], values=["mean", "sd"]).sort("id_mode", "epoch"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the arguments are those of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description=(__doc__ or "").split("\n")[0])
    models = ("Popularity", "CategoryPopularity", "SequentialRules", "VSKNN", "STAN", "M2TRec")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--choose", action="store_true", help="compare settings on validation sessions instead")
    parser.add_argument("--share", type=float, default=0.25, help="newest share of train for --choose (default: 0.25)")
    parser.add_argument("--curves", action="store_true", help="category tasks against none at equal steps instead")
    parser.add_argument("--folder", type=Path, help="the data folder; default $TABMTL_DATA")
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"), help="default: ./benchmark_output")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.curves:
        curves(args.seeds, args.output)
        return 0
    for name in args.sets:
        try:
            if args.choose:
                choose(name, args.seeds[0], args.folder, args.share)
                continue
            records: list[dict[str, Any]] = []
            for seed in args.seeds:
                records += run(name, args.models, seed, args.folder, first=seed == args.seeds[0])
                pl.DataFrame(records, infer_schema_length=None).write_csv(args.output / f"sessions_{name}.csv")
        except FileNotFoundError as error:
            print(f"\nskipped: {error}")
            continue
        if records:
            report(pl.DataFrame(records, infer_schema_length=None))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
