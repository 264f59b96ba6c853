"""Networks that several ranks train: the weights, scores and stops of one process on all rows."""

import numpy as np
import polars as pl
import pytest
from conformance import features, mixed_targets, tiny
from polars.testing import assert_frame_equal
from ranks import assert_same_weights
from wired import read_small_parts, run_ranks

from tabmtl import (
    APEM,
    ESMM,
    PLE,
    RMTGB,
    STEM,
    AdaTT,
    HoME,
    IndependentTasks,
    MMoE,
    MultiTabNet,
    MultiTaskEnsemble,
    SharedBottom,
    SharedTrees,
)
from tabmtl.base.ranks import EndedElsewhereError, Ranks
from tabmtl.estimators import fitted_network, training
from tabmtl.nn import embeddings
from tabmtl.scale import Shards, cache, joined, rows
from tabmtl.training.run import current, entered

TARGETS = ["late", "size", "delay"]
WHO = {"who": "ignore"}
BOTH = WHO | {"weight": "ignore"}
EXACT = 1e-7  # of float64 weights after an epoch and more


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    read_small_parts(monkeypatch)


@pytest.fixture
def _float64(monkeypatch):
    """Compute in float64, where rounding does not grow from step to step."""
    on_device = training.on_device

    def on_device_in_float64(batch, device):
        return on_device(batch, device).map(lambda part: part.double() if part.is_floating_point() else part)

    for module in (training, fitted_network):
        monkeypatch.setattr(module, "on_device", on_device_in_float64)


@pytest.fixture(scope="module")
def table():
    """Rows sorted by a number, so that ranks see other ones, with one label only on the last of them."""
    X = features(400).sort("plain")
    rng = np.random.default_rng(1)
    targets = mixed_targets(X).with_columns(
        size=pl.when(pl.int_range(400) > 250).then("size"),
        weight=pl.Series(rng.random(400)),
        who=pl.int_range(400) // 9,
    )
    return pl.concat([X, targets], how="horizontal")


def double(cls):
    class Double(cls):
        def _network(self, columns, tasks):
            return super()._network(columns, tasks).double()

    Double.__name__ = cls.__name__
    return Double


def fit_ranks(table, cls, *, targets=TARGETS, float64=True, fit=None, **params):
    """The model of one rank, and those of two."""
    made = double(cls) if float64 else cls
    noiseless = {"dropout": 0.0, "attention_dropout": 0.0, "columns": BOTH}

    def work():
        model = tiny(made, **(noiseless | params))
        return model.fit(Shards(table.lazy()), targets, **(fit or {}))

    return run_ranks(1, work) + run_ranks(2, work)


NETWORKS = [(SharedBottom, {}), (SharedBottom, {"balance": [1.0, 2.0, 0.5]})]
MORE = [(cls, {}) for cls in (HoME, MultiTabNet, PLE, STEM, AdaTT, MMoE, APEM)]
MORE = [pytest.param(*case, marks=pytest.mark.all_faces) for case in MORE]


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(("cls", "params"), [*NETWORKS, *MORE])
def test_two_ranks_learn_the_weights_of_one(table, cls, params):
    one, first, second = fit_ranks(table, cls, **params)
    assert_same_weights(one, first, EXACT)
    assert_same_weights(first, second, 0)
    np.testing.assert_allclose(one.history_.to_numpy(), first.history_.to_numpy(), rtol=1e-5, atol=1e-5)
    assert_frame_equal(first.history_, second.history_, check_exact=True)
    assert one.history_["train/loss"][-1] < one.history_["train/loss"][0]


@pytest.mark.all_faces
def test_scores_of_float32_are_those_of_one_rank(table):
    options = {"sample_weight": "weight", "groups": "who"}
    one, first, _ = fit_ranks(table, HoME, float64=False, epochs=3, fit=options, columns=WHO)
    np.testing.assert_allclose(one.history_.to_numpy(), first.history_.to_numpy(), rtol=1e-4, atol=1e-4)
    X = table.drop("who", "weight", *TARGETS)
    ours, theirs = (model.predict_proba(X)["late"] for model in (one, first))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_one_rank_decides(table):
    seen, params = [], {"columns": BOTH, "on_epoch": lambda record: seen.append(record["epoch"]) or True}
    models = run_ranks(2, lambda: tiny(SharedBottom, **params).fit(Shards(table.lazy()), TARGETS))
    assert seen == [0.0]
    assert [model.history_.height for model in models] == [1, 1]


def test_a_cache_is_used_again_by_its_rank(table, tmp_path, monkeypatch):
    written = []
    write = cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: written.append(args[-1]) or write(*args))
    table.write_parquet(tmp_path / "rows.parquet")

    def fit():
        source = Shards(tmp_path / "rows.parquet", cache=tmp_path / "cache")
        return tiny(SharedBottom, epochs=1, columns=BOTH).fit(source, TARGETS)

    run_ranks(2, fit)
    run_ranks(2, fit)
    assert sorted(folder.name for folder in (tmp_path / "cache").iterdir()) == ["part-1-of-2", "part-2-of-2"]
    assert sorted(rows.start for rows in written) == [0, 200]


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    "case", ["large tables", "few validation rows", "times", "long", "funnel", "lists", "large lists"]
)
def test_ranks_learn_the_weights_of_one_from_other_tables(table, case, monkeypatch):
    rng, options, cls = np.random.default_rng(0), {}, SharedBottom
    if case == "large tables":
        monkeypatch.setattr(embeddings, "DENSE_ROWS", 1)
    elif case == "few validation rows":  # fewer than ranks have chunks
        options["fit"] = {"X_val": Shards(table.tail(3).lazy()), "y_val": TARGETS}
    elif case == "times":
        options["fit"] = {"time": "who"}
    elif "lists" in case:
        monkeypatch.setattr(embeddings, "DENSE_ROWS", 1 if case == "large lists" else 100)
        tags = [None if own < 0 else rng.integers(0, 9, own).tolist() for own in rng.integers(-1, 5, 400)]
        vectors = pl.Series(rng.normal(size=(400, 3)).tolist())
        table = table.with_columns(tags=pl.Series(tags), vectors=pl.when(pl.int_range(400) % 7 > 0).then(vectors))
        table = table.with_columns(remark=pl.format("row {} of a long day", pl.int_range(400) % 50))
        options["columns"] = BOTH | {"remark": "text"}
    elif case == "long":
        table = pl.DataFrame({"plain": np.tile(rng.normal(size=100), 3), "task": np.repeat(["a", "b", "c"], 100)})
        table = table.with_columns(y=pl.col("plain") * pl.col("task").replace_strict({"a": 1.0, "b": -1.0, "c": 2.0}))
        cls, options = HoME, {"targets": "y", "task_column": "task", "columns": None}
    else:
        click = rng.integers(0, 2, 400)
        steps = {"click": pl.Series(click), "buy": pl.Series(click * rng.integers(0, 2, 400))}
        table, cls = table.select("plain", "text").with_columns(**steps), ESMM
        options = {"tasks": None, "task_chain": ["click", "buy"], "targets": ["click", "buy"], "columns": None}
    one, first, _ = fit_ranks(table, cls, **options)
    assert_same_weights(one, first, EXACT)
    np.testing.assert_allclose(one.history_.to_numpy(), first.history_.to_numpy(), rtol=1e-5, atol=1e-5)


def test_ranks_leave_out_newest_rows_of_known_groups(table, monkeypatch):
    said = []
    monkeypatch.setattr(rows, "warn_of_known_groups", lambda n, what: said.append(n))  # threads would lose warnings
    days = table.with_columns(shop=pl.int_range(400) % 390, day=pl.int_range(400) // 4)

    def work():
        given = {"time": "day", "groups": "shop"}
        return tiny(SharedBottom, epochs=1, columns=BOTH).fit(Shards(days.lazy()), TARGETS, **given)

    run_ranks(2, work)
    assert said == [10]


REFUSED = [
    (2, r"the number of rows of each file is \[399\] on rank 1 .* \[400\] on rank 0; give", {"rows": 399}, {}),
    (2, r"the parameter learning_rate is 0.5 on rank 1 of the group and 0.002 on rank 0", {"learning_rate": 0.5}, {}),
    (2, r"the parameter columns is .*'who': 'ignore'}} on rank 1 .* 'weight': .* on rank 0", {"columns": WHO}, {}),
    (2, r"the parameter time_limit is 60.0 on rank 1 .* None on rank 0; give every rank", {"time_limit": 60.0}, {}),
    (2, r"y is \['late'\] on rank 1 of the group and \['late', 'size', 'delay'\] on", {"targets": TARGETS[:1]}, {}),
    (2, r"looks at all rows of a step at once.* fit it in one process", {}, {"row_layer": "batch_attention"}),
    (3, r"400 rows are too few for 3 processes.* rank 0 has none; start fewer", {}, {}),
]


def fit_rank(table, own, params):
    """Fit on a rank, which has parameters, rows and targets of its own if it is not the first."""
    options = {"epochs": 1, "columns": BOTH} | params | (own if current().rank else {})
    targets, frame = options.pop("targets", TARGETS), table.head(options.pop("rows", 400))
    model = tiny(MultiTabNet if "row_layer" in options else SharedBottom, **options)
    return model.fit(Shards(frame.lazy().drop(set(TARGETS) - set(targets))), targets)


@pytest.mark.parametrize(("size", "message", "own", "params"), REFUSED)
def test_mistakes_are_told(table, monkeypatch, size, message, own, params):
    if size == 3:
        monkeypatch.setattr(cache, "CHUNK_ROWS", 256)
    with pytest.raises(ValueError, match=message):
        run_ranks(size, lambda: fit_rank(table, own, params))


def test_ranks_of_other_seeds_take_that_of_the_first(table):
    first, second = run_ranks(2, lambda: fit_rank(table, {"random_state": 1}, {}))
    assert_same_weights(first, second, 0)


@pytest.mark.parametrize("cls", [RMTGB, SharedTrees, IndependentTasks, MultiTaskEnsemble, SharedBottom])
def test_what_ranks_cannot_share_is_refused_before_anything_is_read(table, cls):
    group = Ranks()
    group.size = 2  # of which the fit asks nothing
    end = r" on a frame is .* has 2; give Shards" if cls is SharedBottom else r" is .* has 2; .*n_jobs\); several"
    source = table if cls is SharedBottom else Shards(table.lazy())
    with entered(group), pytest.raises(ValueError, match=f"a fit of {cls.__name__}{end}"):
        cls().fit(source, TARGETS)
    fitted = tiny(SharedTrees, columns=BOTH).fit(table.drop(TARGETS), table.select(TARGETS))
    with entered(group), pytest.raises(ValueError, match="add_task is for one process, and this group has 2; call"):
        fitted.add_task(table.drop(TARGETS), table["delay"].alias("later"))


@pytest.mark.all_faces
@pytest.mark.usefixtures("_float64")
def test_a_rank_without_rows_of_a_step(table):
    few, steps = table.gather_every(4), {"batch_size": 3, "early_stopping": False, "epochs": 1}
    one, first, _ = fit_ranks(few, HoME, **steps)
    assert_same_weights(one, first, EXACT)
    one, first, _ = fit_ranks(few, MMoE, **steps | {"batch_size": 1, "expert_hidden": (4, 4)})  # or without any row
    assert_same_weights(one, first, EXACT)
    long = few.select("plain", y=pl.col("plain") ** 2, task=pl.col("count").rank("ordinal") % 3)
    one, first, _ = fit_ranks(long, PLE, targets="y", task_column="task", columns=None, **steps)
    assert_same_weights(one, first, EXACT)


def test_a_script_that_no_launcher_started_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with joined() as group:
        assert (group.rank, group.size, group.gather("a")) == (0, 1, ["a"])


def test_an_error_of_a_hook_ends_training_on_all_ranks(table):
    def fail(record):
        raise KeyError("mine")

    def work():
        try:
            tiny(SharedBottom, columns=BOTH, on_epoch=fail).fit(Shards(table.lazy()), TARGETS)
        except Exception as error:
            return type(error)

    assert run_ranks(2, work) == [KeyError, EndedElsewhereError]
