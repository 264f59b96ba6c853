"""M2TRec and blends of it against neighbours and rules: real click logs, cold items, and a generator with a known law.

    python -m benchmarks.sessions [--sets ...] [--models ...] [--seeds 0 1 2] [--trials 20] [--tune ...] [--choose]

Train comes before test; every click after the first of a test session is a target, ranked among all items, ties
counted against the recommender. Differences to ``VSKNN`` (on baskets, without their items) are paired; their standard
errors are over sessions, and say nothing of other seeds. Every model runs with its defaults, which are the same on all
logs, and every model of ``--tune`` with the best of ``--trials`` trials of its own ``search_space`` too, the first of
them the defaults: judged by MRR@20 on at most 2 000 sessions of the newest tenth of train, then fitted on all of train.
No other setting was chosen. The trials are kept in ``sessions_studies.db`` beside the results, which a rerun reads:
remove it after a change of a model or of a log. Sets:

- ``diginetica``, and ``diginetica_cold``: 10 % of its items are never clicked in train;
- ``complete_journey``: baskets (simulated, says their owner), with six fields of metadata and natural cold items;
- ``generator``: :func:`tabmtl.synth.make_sessions`; the law itself scores the ceiling.

``--choose`` compares M2TRec, changed in one thing at a time, on the newest 25 % of train, judged by its newest tenth of
the sessions. ``--curves`` trains on the generator with and without category tasks, for equal steps: which learns
faster?
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from sklearn.base import clone

from benchmarks.datasets import ClickLog, load_sessions
from benchmarks.harness import Record, print_sets, print_table, score_parser, spreads
from tabmtl.sessions import STAN, VSKNN, Blend, CategoryPopularity, M2TRec, Popularity, SequentialRules, temporal_split
from tabmtl.sessions.ranking import Ranking, summarize
from tabmtl.synth import make_sessions
from tabmtl.tuning import open_study, run_study, session_objective, with_params

COLD, GENERATOR = "diginetica_cold", "generator"
SETS = ("diginetica", COLD, "complete_journey", GENERATOR)
TUNABLE = ("SequentialRules", "VSKNN", "STAN", "M2TRec")
MODELS = ("Popularity", "CategoryPopularity", *TUNABLE, "Blend")
K = 20
#: Share of the train sessions, the newest, that judges trials, and how many of these sessions do at most.
JUDGES, MOST_JUDGES = 0.1, 2_000
STUDIES = "sessions_studies.db"
#: Mark of models whose lists leave out the items of the session: a basket holds no item twice.
WITHOUT_SEEN = ", without seen"
#: All models are compared with it, on baskets without their items.
REFERENCE = "VSKNN"
#: Mark of models that fit without the items that train does not click, and then add them.
ADDED = ", new items added"
#: Columns of the item table that are text, for every setting.
TEXTS = {GENERATOR: {"name": "text"}}
#: Columns that could be text too, which ``--choose`` compares.
MORE_TEXTS = {"complete_journey": {"package_size": "text"}}
#: Changes that ``--choose`` makes to the defaults, one at a time.
CHANGES: tuple[dict[str, Any], ...] = (
    {"id_mode": "none"},
    *({"pooling": pooling} for pooling in ("items", "undirected", "mean", "last")),
    *({"category_weight": weight} for weight in (0, 0.1)),
    *({"id_dropout": share} for share in (0.0, 0.3)),
    *({"popularity": value} for value in (False, True)),
    *({"dropout": share} for share in (0.0, 0.2, 0.4)),
    {"n_layers": 2},
    {"temperature": 0.1},
    *({"learning_rate": rate} for rate in (1e-3, 4e-3)),
    *({"epochs": epochs} for epochs in (2, 5, 10)),
)


def open_set(name: str, seed: int, folder: Path | None) -> tuple[ClickLog, dict[str, float]]:
    """Open a log, which depends on the seed for the generator only, with the ceiling of its test scores if known."""
    if name != GENERATOR:
        data = load_sessions(name.removesuffix("_cold"), folder)
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
    )
    return log, drawn.truth.ceiling(test, K)


def baselines(data: ClickLog) -> dict[str, Any]:
    """Make the baselines, with their defaults."""
    columns: dict[str, Any] = dict(data.columns)
    return {
        "Popularity": Popularity(**columns),
        "CategoryPopularity": CategoryPopularity(category=data.categories[-1], **columns),
        "SequentialRules": SequentialRules(**columns),
        "VSKNN": VSKNN(**columns),
        "STAN": STAN(**columns),
    }


def m2trec(data: ClickLog, seed: int, *, make: Callable[..., M2TRec] = M2TRec, **settings: Any) -> M2TRec:
    """Make M2TRec for a set with its defaults, except for the given parameters; or another form of it."""
    common: dict[str, Any] = {"categories": data.categories, "columns": TEXTS.get(data.name)}
    return make(**common | {"random_state": seed} | data.columns | settings)


def networks(data: ClickLog, seed: int) -> dict[str, Any]:
    """Make the models that depend on a seed; the text behind the comma says how one differs from the defaults."""
    made: dict[str, Any] = {"M2TRec": m2trec(data, seed)}
    made["M2TRec, the paper's form"] = m2trec(data, seed, make=M2TRec.paper)
    if data.name in (GENERATOR, "complete_journey"):
        made["M2TRec, without ids"] = m2trec(data, seed, id_mode="none")
    if data.name in (GENERATOR, COLD):
        made["M2TRec" + ADDED] = m2trec(data, seed)
    columns: dict[str, Any] = dict(data.columns)
    made["Blend"] = Blend([m2trec(data, seed), STAN(), VSKNN()], **columns)
    made["Blend, without VSKNN"] = Blend([m2trec(data, seed), STAN()], **columns)
    return made


def tune(label: str, model: Any, data: ClickLog, args: Namespace) -> Any:
    """Return a model with the parameters of the best trial on the newest train sessions; see the top of this file."""
    older, newer = temporal_split(data.part("train"), test_size=JUDGES, time_column=data.columns["time_column"])
    names = newer["session_id"].unique(maintain_order=True)
    newer = newer.filter(pl.col("session_id").is_in(names.gather_every(-(-len(names) // MOST_JUDGES)).implode()))
    goal = session_objective(model, older, clicks_val=newer, items=data.items)
    study = open_study(label, goal, storage=args.output / STUDIES, seed=0)
    run_study(study, goal, n_trials=args.trials)
    print(f"{label}: validation mrr {study.best_value:.4f} of {study.best_params}", flush=True)
    return with_params(model, study.best_trial)


def score(
    facts: Record, model: Any, train: pl.DataFrame, test: pl.DataFrame, items: pl.DataFrame
) -> tuple[list[Record], Ranking]:
    """Fit, and return one record per bucket of training clicks, the facts and the scores; and the ranks."""
    start, listed = time.process_time(), items
    if facts["model"].endswith(ADDED):
        listed = items.filter(pl.col("item_id").is_in(train["item_id"].unique().implode()))
    model.fit(train, items=listed)
    if len(listed) < len(items):
        model.add_items(items.join(listed, on="item_id", how="anti"))
    facts = {**facts, "cpu_seconds": time.process_time() - start}
    ranking = model.rank(test, k=K, exclude_seen=facts["model"].endswith(WITHOUT_SEEN))
    scores = summarize(ranking, [K])
    recalls = " ".join(f"{recall or 0:.4f}" for recall in scores[f"recall@{K}"])
    print(
        f"{facts['set']} {facts['model']:50s} mrr {scores[f'mrr@{K}'][0]:.4f} recall, in all and by bucket {recalls} "
        f"{facts['cpu_seconds']:.0f} CPU s",
        flush=True,
    )
    return [facts | record for record in scores.to_dicts()], ranking


def difference(ranking: Ranking, reference: Ranking) -> Record:
    """Compare with the reference: differences of the measures at 20, and their standard errors over sessions."""
    found = ranking.compare(reference, K)
    return {
        f"{metric} {what}": value
        for what in ("difference", "standard_error")
        for metric, value in zip(found["metric"], found[what], strict=True)
    }


def run_seed(name: str, seed: int, args: Namespace, rankings: dict[str, Ranking]) -> list[Record]:
    """Run all models of one seed; baselines do not depend on it, and run with the first alone.

    The rankings are added to those of earlier seeds; all are compared with the reference, if it is among them.

    On a real log, trials run with the first seed, and other seeds take their parameters; the generator draws other
    logs, which have trials of their own.
    """
    data, ceiling = open_set(name, seed, args.folder)
    train, test = data.part("train"), data.part("test")
    made = networks(data, seed)
    if seed == args.seeds[0] or name == GENERATOR:
        made = baselines(data) | made
    rows: dict[str, Any] = {}
    for label, model in made.items():
        if label.partition(",")[0] in args.models:
            rows[label] = model
            if label in args.tune and args.trials:
                study = f"{name} {seed if name == GENERATOR else args.seeds[0]}: {label}"
                rows[f"{label}, best of {args.trials}"] = tune(study, model, data, args)
    if name == "complete_journey":
        rows |= {label + WITHOUT_SEEN: model for label, model in rows.items() if label.startswith(REFERENCE)}
    records: list[Record] = []
    for label, model in rows.items():
        facts = {"set": name, "model": label, "seed": seed}
        found, rankings[label] = score(facts, clone(model), train, test, data.items)
        records += found
    reference = REFERENCE + WITHOUT_SEEN if REFERENCE + WITHOUT_SEEN in rankings else REFERENCE
    for record in records:
        if record["bucket"] == "all" and reference in rankings:
            record |= difference(rankings[record["model"]], rankings[reference]) | {"reference": reference}
    if ceiling:
        records += [{"set": name, "model": "(the law)", "seed": seed, "bucket": "all", "n_targets": 0} | ceiling]
    return records


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield the records of every seed; the generator draws another log for each, so nothing is kept of the last."""
    rankings: dict[str, Ranking] = {}
    for seed in args.seeds:
        yield run_seed(name, seed, args, {} if name == GENERATOR else rankings)


def report(records: pl.DataFrame) -> None:
    """Print Recall@20 and MRR@20, in all and by bucket of training clicks: mean ± standard deviation over the seeds."""
    mrr = spreads(records.filter(bucket="all").with_columns(bucket=pl.lit("mrr")), "model", "bucket", f"mrr@{K}")
    recall = spreads(records, "model", "bucket", f"recall@{K}")
    title = f"mrr@{K} of {records['set'][0]}, and recall@{K} in all and by training clicks of the target; defaults, or "
    title += "the best of equally many trials of each model"
    print_table(title, {model: mrr[model] | recall[model] for model in recall})
    if f"mrr@{K} difference" in records.columns:
        print_differences(records.filter(bucket="all").drop_nulls(f"mrr@{K} difference"))


def print_differences(records: pl.DataFrame) -> None:
    """Print differences to the reference and their standard errors, both as means over the seeds."""
    cells: dict[str, dict[str, str]] = {}
    compared = pl.col("^.* (difference|standard_error)$").mean()
    for row in records.group_by("model", maintain_order=True).agg(compared).drop_nulls().to_dicts():
        cells[row["model"]] = {
            metric: f"{row[f'{metric} difference']:+.4f} ± {row[f'{metric} standard_error']:.4f}"
            for metric in (f"recall@{K}", f"mrr@{K}")
        }
    [reference] = records["reference"].unique()
    print_table(f"difference to {reference} ± its standard error over sessions, both as means over the seeds", cells)


def choose(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Compare settings on the newest part of train, judged by the newest tenth of its sessions."""
    seed, share = args.seeds[0], args.share
    data, _ = open_set(name, seed, args.folder)
    newest = data.newest(share).part("train") if share < 1 else data.part("train")
    train, judged = temporal_split(newest, test_size=0.1, time_column=data.columns["time_column"])
    plain = m2trec(data, seed).get_params(deep=False)
    changes = [*CHANGES, {"columns": MORE_TEXTS.get(name, plain["columns"])}]
    models = baselines(data)
    for change in ({}, *(change for change in changes if plain | change != plain)):
        models[f"M2TRec {change or ''}"] = m2trec(data, seed, **change)
    for label, model in models.items():
        yield score({"set": name, "model": label, "seed": seed}, model, train, judged, data.items)[0]


def curves(seeds: Sequence[int], output: Path) -> None:
    """Compare validation recall after every epoch, with and without category tasks, at equal steps of the generator."""
    rows = []
    for seed in seeds:
        data, _ = open_set(GENERATOR, seed, None)
        train, judged = temporal_split(data.part("train"), test_size=0.1)
        for mode in ("none", "full"):
            for weight in (0.5, 0.0):
                model = m2trec(data, seed, id_mode=mode, category_weight=weight, patience=100)
                model.fit(train, items=data.items, clicks_val=judged)
                kept = model.history_.select("epoch", "val/recall@20", "val/mrr@20")
                rows.append(kept.with_columns(seed=pl.lit(seed), id_mode=pl.lit(mode), weight=pl.lit(weight)))
    table = pl.concat(rows)
    output.mkdir(parents=True, exist_ok=True)
    table.write_csv(output / "sessions_curves.csv")
    lines = pl.format("id_mode={}, epoch {}", "id_mode", "epoch").alias("line")
    recalls = spreads(table.with_columns(lines), "line", "weight", "val/recall@20")
    print_table("generator: validation recall@20 by category_weight (0: item task only), at equal steps", recalls)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("sessions", __doc__, sets=SETS, models=MODELS, tune=TUNABLE)
    parser.add_argument("--trials", type=int, default=20, help="of each model of --tune; 0: none (default: 20)")
    parser.add_argument("--choose", action="store_true", help="compare settings on validation sessions instead")
    parser.add_argument("--share", type=float, default=0.25, help="newest share of train for --choose (default: 0.25)")
    parser.add_argument("--curves", action="store_true", help="category tasks against none at equal steps instead")
    args = parser.parse_args(argv)
    if args.curves:
        curves(args.seeds, args.output)
    else:
        compared, file = (choose, "sessions_settings.csv") if args.choose else (runs, "sessions.csv")
        print_sets(args.sets, partial(compared, args), report, args.output / file, [])


if __name__ == "__main__":
    main()
