"""New tasks of fitted networks, and tasks that go: what stays to the bit, what is learned of few labels, refusals."""

from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import polars as pl
import pytest
from cases import quick
from conformance import FUNNELS, NETWORKS, answers, features, long_table, mixed_targets, same, targets_for, tiny
from models_at_hand import fitted
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from tabmtl import ESMM, MMoE, SharedBottom, SharedBottomClassifier
from tabmtl.training.penalised import Linear, learn_by_folds

pytestmark = pytest.mark.filterwarnings("ignore:y holds classes:tabmtl.base.schema.TabmtlWarning")
some_networks = pytest.mark.parametrize("cls", quick([*NETWORKS, *FUNNELS], "MMoE", "AITM"))


class OneTask:
    """A head that reads the last layer of the head of the first task."""

    def learn(self, blocks, labels, fold):
        before, lent, behind = blocks
        found = learn_by_folds(Linear(), lent[:, 0], labels, fold)
        rest = lent.shape[2] * (lent.shape[1] - 1) + behind.shape[1]
        return np.pad(found.linear, ((before.shape[1], rest), (0, 0))), found.bias


HEADS = {"head": None, "one task": OneTask()}
RNG = np.random.default_rng(0)


def new_labels(X: pl.DataFrame) -> pl.DataFrame:
    """Labels of three kinds, some missing."""
    z = X.select(pl.selectors.numeric()).fill_null(0).to_numpy()[:, 0]
    z = (z - z.mean()) / z.std() + 0.3 * RNG.normal(size=len(z))
    labels = {"paid": np.where(z > 0, "yes", "no"), "amount": z, "visits": np.maximum(np.round(z + 2), 0).astype(int)}
    return pl.DataFrame(labels).with_columns(pl.when(pl.int_range(pl.len()) % 5 > 0).then(pl.all()))


def with_new(model, X, **options):
    return model.add_task(X[:60], new_labels(X)[:60], tasks={"visits": "poisson"}, **options)


@some_networks
def test_old_tasks_keep_weights_moments_and_answers_to_the_bit(cls, reloaded):
    model, X, y = fitted(cls)
    before, old = model.__answers__(X), {name: array.copy() for name, array in model.weights_.items()}
    represented = model.transform(X)
    for method, head in HEADS.items():
        names = {name: f"{name} {method}" for name in ("paid", "amount", "visits")}
        model.add_task(X[:60], new_labels(X)[:60].rename(names), head=head, tasks={f"visits {method}": "poisson"})
    assert [task.name for task in model.tasks_][: len(before)] == y.columns
    assert all(np.array_equal(*pair) for pair in zip(before, model.__answers__(X), strict=False))
    assert all(np.array_equal(array, model.weights_[f"base.{name}"]) for name, array in old.items())
    assert np.array_equal(represented, model.transform(X))
    again = reloaded(model)
    assert same(answers(model, X), answers(again, X))
    alone = [
        np.concatenate(column) for column in zip(*(model.__answers__(X[i : i + 1]) for i in range(5)), strict=True)
    ]
    assert all(np.allclose(one, whole[:5], atol=1e-6) for one, whole in zip(alone, model.__answers__(X), strict=True))
    of_some = model.predict(X, tasks=["visits head", y.columns[0]])
    assert of_some.equals(model.predict(X).select(of_some.columns))
    removed = model.remove_task("amount head").remove_task(y.columns[-1]) if cls not in FUNNELS else model
    kept = [again.predict(X)[name] for name in removed.predict(X).columns]
    assert removed.predict(X).equals(pl.DataFrame(kept))
    assert reloaded(removed).predict(X).equals(removed.predict(X))


def test_batch_norm_keeps_its_moments():
    model, X, _ = fitted(MMoE)
    moments = {name: array.copy() for name, array in model.weights_.items() if "running" in name}
    with_new(model, X)
    assert moments
    assert all(np.array_equal(model.weights_[f"base.{name}"], array) for name, array in moments.items())


def hidden_factor(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Twenty columns, and what four tasks rest on: two waves of them."""
    X = np.random.default_rng(seed).normal(size=(n, 20)).astype(np.float32)
    one, two = np.sin(X[:, :3].sum(axis=1)), np.abs(X[:, 3] - X[:, 4])
    return X, np.column_stack([one, two, one + two, one - two])


@pytest.fixture(scope="module")
def of_waves():
    """A network of three tasks of two waves, the rows, and labels of a fourth one."""
    X, z = hidden_factor(2_000, 0)
    z = z + 0.2 * np.random.default_rng(1).normal(size=z.shape)
    model = SharedBottom(hidden=(64, 32), epochs=8, batch_size=64, learning_rate=5e-3, random_state=0)
    model.fit(X, z[:, :3].astype(np.float32))
    return model, X, 0.5 * z[:, 3].astype(np.float32)


def test_forty_labels_teach_by_way_of_other_tasks(of_waves):
    model, X, y = of_waves
    X_test, z_test = hidden_factor(1_000, 2)
    y_test, rows = 0.5 * z_test[:, 3], slice(40)
    grown = deepcopy(model).add_task(X[rows], y[rows])
    alone = RidgeCV(np.logspace(-2, 4, 13)).fit(X[rows], y[rows])
    assert r2_score(y_test, alone.predict(X_test)) < 0.2  # a constant has 0
    assert r2_score(y_test, grown.predict(X_test)[:, 3]) > 0.6


def test_labels_of_chance_are_answered_by_about_their_mean():
    model, X, _ = fitted(SharedBottom)
    chance = pl.DataFrame(np.random.default_rng(3).normal(size=(50, 4)), ["a", "b", "c", "d"])
    answers = model.add_task(X[:50], chance).predict(X).select(chance.columns)
    assert (answers.to_numpy() - chance.mean().to_numpy()).std() < 0.4


def test_the_same_call_gives_the_same_bits_and_a_failed_one_changes_nothing():
    first, second = (fitted(SharedBottom)[0] for _ in range(2))
    X = features()
    labels = new_labels(X)[:60].select("amount")
    assert same(answers(first.add_task(X[:60], labels), X), answers(second.add_task(X[:60], labels), X))
    before = vars(first).copy()
    with pytest.raises(ValueError, match="'amount'"):
        first.add_task(X[:60], labels)
    assert vars(first) == before


def test_decisions_of_old_tasks_stay():
    model, X, _ = fitted(SharedBottom)
    fresh = features(n=200, seed=7)
    labels = mixed_targets(fresh, seed=7)
    model.conformalize(fresh, labels).tune_thresholds(fresh, labels, tasks=["late"])
    before, spans = model.thresholds_, model.predict_interval(X)
    with_new(model, X)
    assert model.thresholds_.equals(before)
    assert model.predict_interval(X).equals(spans)
    model.remove_task("size")
    assert model.predict_interval(X).equals(spans.select(pl.all().exclude("size_set")))


def shares(answer: np.ndarray, n: int) -> np.ndarray:
    """Answers among the first n classes."""
    return answer[:, :n] / answer[:, :n].sum(axis=1, keepdims=True) if answer.ndim == 2 else answer


@pytest.mark.filterwarnings("ignore:.* experts have collapsed:tabmtl.base.schema.TabmtlWarning")
@some_networks
def test_nights_bring_new_levels_and_classes_and_quarters_new_tasks(cls, reloaded):
    own = {"expert_norm": "none"} if "expert_norm" in cls._get_param_names() else {}
    model, X, _ = fitted(cls, **own)
    rate, more = model.learning_rate, features(60, seed=1)
    nightly = targets_for(cls, more)
    for quarter, head in enumerate(HEADS.values()):
        task, town, label = f"shade {quarter}", f"violet {quarter}", f"class {quarter}"
        kinds = np.array(["u", "v", "w"])
        model.add_task(X, pl.DataFrame({task: kinds[X["count"] % 3]}), head=head)
        nightly = nightly.with_columns(pl.Series(task, [label, *kinds[more["count"] % 3][1:]]))
        nightly = nightly.with_columns(size=pl.when(pl.int_range(pl.len()) == 1).then(pl.lit(label)).otherwise("size"))
        rows = more.with_columns(text=pl.lit(town))
        before, unseen = model.__answers__(X), model.__answers__(X.with_columns(text=pl.lit("mauve")))
        model.set_params(learning_rate=0.0, weight_decay=0.0).partial_fit(rows, nightly)
        assert town in model.coder_.levels["text"]
        assert model.tasks_[-1].classes == ("u", "v", "w", label)
        after, new = model.__answers__(X), model.__answers__(X.with_columns(text=pl.lit(town)))
        for old, now in zip(before + unseen, after + new, strict=True):
            np.testing.assert_allclose(shares(old, old.shape[-1]), shares(now, old.shape[-1]), rtol=1e-3, atol=1e-6)
        model.set_params(learning_rate=rate / 5).partial_fit(rows, nightly)
        moved = [np.abs(old - now).max() / np.ptp(old) for old, now in zip(after, model.__answers__(X), strict=True)]
        assert 0 < max(moved) < 0.2
        again = reloaded(model)
        assert same(answers(model, X), answers(again, X))
        assert same(*(answers(each.partial_fit(rows, nightly), X) for each in (model, again)))
    if cls not in FUNNELS:
        said = model.predict(X)
        for name in ("shade 0", "size"):
            model.remove_task(name)
        assert model.predict(X).equals(said.drop("shade 0", "size"))
        assert not any(name.startswith("added.1.") for name in model.weights_)
        model.partial_fit(more.with_columns(text=pl.lit("pink")), nightly.drop("shade 0", "size"))
        assert "pink" in reloaded(model).coder_.levels["text"]
        model.set_params(warm_start=True).fit(X.with_columns(text=pl.lit("grey")), model.predict(X))
        assert "grey" in model.coder_.levels["text"] and len(model.tasks_) == 3


def test_classes_of_a_long_table_join_all_its_tasks(reloaded):
    X, _ = long_table()
    y = pl.Series("mark", np.array(["a", "b", "c"])[np.arange(len(X)) % 3])
    model = tiny(MMoE, task_column="school").fit(X, y)
    for name in ("first", "second"):
        model.add_task(X[:60].with_columns(school=pl.lit(name)), y[:60])
    for name in ("first", "east"):
        model.remove_task(name)
    rows = X.with_columns(school=pl.lit("second"), text=pl.lit("violet"))
    rows = pl.concat([rows[:60], rows[:60].with_columns(school=pl.lit("west"))])
    model.partial_fit(rows, pl.Series("mark", ["d"] * 60 + ["a"] * 60))
    assert [task.classes for task in model.tasks_] == [("a", "b", "c", "d")] * 3
    assert same(answers(model, rows), answers(reloaded(model), rows))
    assert model.__answers__(rows)[0].shape == (120, 4)


def test_rows_of_fit_and_of_new_tasks_judge_nothing():
    X, y = features(), mixed_targets(features())
    model = tiny(SharedBottom).fit(X, y)  # copies know no rows
    new, fresh = new_labels(X), X.with_columns(plain=pl.col("plain").reverse())
    model.add_task(X[:60], new[:60], tasks={"visits": "poisson"})
    for rows, labels in ((X, y.hstack(new)), (X[:60], y.clear(60).hstack(new[:60]))):
        with pytest.raises(ValueError, match="rows that fit has not seen"):
            model.conformalize(rows, labels)
    model.remove_task("paid")
    with pytest.raises(ValueError, match="rows that fit has not seen"):
        model.conformalize(X, y.hstack(new))
    model.conformalize(fresh, y.hstack(new))


@pytest.mark.parametrize("cls", quick(NETWORKS, "SharedBottom", "PLE"))
def test_a_long_table_takes_rows_of_a_new_task(cls, reloaded):
    model, X, y = fitted(cls, "long")
    before, represented = model.__answers__(X)[0], model.transform(X)
    new = X.with_columns(school=pl.lit("new"))
    model.add_task(new[:50], y[:50])
    both = pl.concat([X, new])
    assert not model.drift(both)["is_drift"].any()
    assert np.array_equal(model.__answers__(both)[0][: len(X)], before)
    assert np.array_equal(model.transform(both)[: len(X)], represented)
    assert same(answers(model, both), answers(reloaded(model), both))
    first = model.tasks_[0].name
    others = both.filter(pl.col("school") != first)
    whole = model.__answers__(both)[0][(both["school"] != first).to_numpy()]
    assert np.array_equal(model.remove_task(first).__answers__(others)[0], whole)


def test_a_classifier_knows_the_new_classes():
    X = features()
    z = X.select(pl.selectors.numeric()).fill_null(0).to_numpy()[:, 0]
    y = np.where(z > z.mean(), "a", "b")
    model = SharedBottomClassifier(hidden=(8,), epochs=1).fit(X, y)
    model.add_task(X[:40], np.where(z > 0, "u", "v")[:40])
    assert [list(classes) for classes in model.classes_] == [["a", "b"], ["u", "v"]]
    assert model.predict(X).shape == (len(X), 2)


@pytest.mark.parametrize("cls", quick(NETWORKS, "MMoE"))
def test_a_network_that_is_not_frozen_trains_on_and_goes_on_later(cls, reloaded):
    model, X, y = fitted(cls)
    fresh = features(n=200, seed=7)
    model.conformalize(fresh, mixed_targets(fresh, seed=7))
    before = model.__answers__(X)
    labels = pl.concat([y, new_labels(X).select("amount")], how="horizontal")
    with pytest.warns(UserWarning, match="freeze=None changes the answers"):
        model.add_task(X, labels, freeze=None)
    assert not np.array_equal(before[0], model.__answers__(X)[0])
    with pytest.raises(ValueError, match="conformalize"):
        model.predict_interval(X)
    for copied in (reloaded(model), pickle.loads(pickle.dumps(model))):
        assert same(answers(model, X), answers(copied, X))
    said = model.__answers__(X)
    model.partial_fit(X, labels)
    assert [task.name for task in model.tasks_] == labels.columns
    assert not np.array_equal(said[3], model.__answers__(X)[3])
    assert len(model.fit(X, y).tasks_) == len(y.columns)


X, Y = features(), new_labels(features())
REFUSED = {
    "a task that is there": (lambda m: m.add_task(X, Y.select(late="paid")), ValueError, "'late'.*remove_task"),
    "one of them": (lambda m: m.add_task(X, Y.select("paid", late="paid")), ValueError, "'late'.*freeze=None"),
    "other columns": (lambda m: m.add_task(X[:, 1:], Y.select("paid")), ValueError, X.columns[0]),
    "no labels": (lambda m: m.add_task(X, Y.select(pl.col("amount") * None)), ValueError, "'amount'.*no observed"),
    "another library": (lambda m: m.add_task(X, Y["amount"].to_numpy()), ValueError, "numpy.*polars"),
    "another number of rows": (lambda m: m.add_task(X, Y[:50].select("paid")), ValueError, "50"),
    "a head": (lambda m: m.add_task(X, Y.select("paid"), head="scale"), TypeError, "head must be an object with"),
    "a freeze": (lambda m: m.add_task(X, Y.select("paid"), freeze="all"), ValueError, "freeze must be one of"),
    "a kind of no task": (
        lambda m: m.add_task(X, Y.select("paid"), tasks={"amount": "poisson"}),
        ValueError,
        "'amount'",
    ),
    "an unknown task to remove": (lambda m: m.remove_task("lat"), ValueError, "'lat'.*'late'"),
}


@pytest.fixture(scope="module")
def shared_bottom():
    return fitted(SharedBottom)[0]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_task_and_the_cure(shared_bottom, call, error, words):
    with pytest.raises(error, match=words):
        call(shared_bottom)


def test_a_step_of_a_funnel_and_the_only_task_stay():
    model, _, y = fitted(ESMM)
    with pytest.raises(ValueError, match="step of the funnel"):
        model.remove_task(y.columns[0])
    alone = SharedBottom(hidden=(8,), epochs=1).fit(X, Y.select("amount").fill_null(0))
    with pytest.raises(ValueError, match="only task"):
        alone.remove_task("amount")


def test_rows_of_known_tasks_of_a_long_table_are_refused():
    model, X_long, y_long = fitted(SharedBottom, "long")
    with pytest.raises(ValueError, match="no new task"):
        model.add_task(X_long, y_long)
    mixed = X_long.with_columns(school=pl.when(pl.int_range(pl.len()) > 50).then("school").otherwise(pl.lit("new")))
    with pytest.raises(ValueError, match="which the model has already"):
        model.add_task(mixed, y_long)
