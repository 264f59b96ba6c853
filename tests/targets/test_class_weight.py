"""Weights of classes: those that scikit-learn gives the rows, in the losses of every method, and in no score."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from cases import later
from conformance import CANDIDATES, tiny
from forging import forge_facts
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

import tabmtl
from tabmtl import ESMM, IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees, Task, load
from tabmtl.base.schema import Batch
from tabmtl.encode.class_factors import ClassFactors
from tabmtl.encode.labels import LabelCoder
from tabmtl.ensemble.models import MIXTURE
from tabmtl.testing.storage import reload

rng = np.random.default_rng(0)
N = 500
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N)})
Y = pl.DataFrame(
    {
        "late": np.where(X["a"] + rng.normal(size=N) > 1.8, "yes", "no"),
        "size": rng.choice(["s", "m", "l"], N, p=[0.7, 0.2, 0.1]),
        "delay": X["b"] + rng.normal(size=N),
    }
).with_columns(pl.when(pl.int_range(N) % 5 > 0).then("late"))
KINDS = {"late": "binary", "size": "multiclass"}
METHODS = ["SharedBottom", "SharedTrees", "RMTGB", "IndependentTasks"]


def weighed(**weights):
    return {name: Task(name=name, kind=KINDS[name], class_weight=weight) for name, weight in weights.items()}


def fitted(name, tasks=None, y=Y, **options):
    stays = {"early_stopping": False} if name != "MultiTaskEnsemble" else {}
    return tiny(getattr(tabmtl, name), tasks=tasks, **stays).fit(X, y, **options)


def rows_weighed(name, weight):
    """Weights of cells: those of scikit-learn for one task, else 1."""
    known = Y[name].is_not_null().to_numpy()
    own = np.ones(N)
    own[known] = compute_sample_weight(weight, Y[name].drop_nulls().to_numpy())
    return pl.DataFrame({task: np.ones(N) for task in Y.columns}).with_columns(pl.Series(name, own))


def gap(one, other):
    one, other = one.predict_proba(X), other.predict_proba(X)
    return max(np.abs(one[name] - other[name]).max() for name in KINDS)


@pytest.mark.parametrize("name", later(METHODS, "IndependentTasks"))
def test_labels_weigh_what_scikit_learn_gives_their_rows(name):
    plain = fitted(name)
    for task, weight in (("late", {"yes": 10.0, "no": 1.0}), ("size", "balanced")):
        found = fitted(name, weighed(**{task: weight}))
        assert gap(found, fitted(name, sample_weight=rows_weighed(task, weight))) < 1e-4
        assert gap(found, plain) > 0.01
    assert found.tasks_[1].class_weight == "balanced"
    same = fitted(name, weighed(late={"yes": 1.0}, size={"s": 3, "m": 3, "l": 3}))
    assert same.predict(X).equals(plain.predict(X)) and gap(same, plain) == 0


def test_ordered_classes_and_steps_of_a_funnel_weigh_too():
    sizes = Y.with_columns(size=pl.col("size").cast(pl.Enum(["s", "m", "l"])))
    ordered = {"size": Task(name="size", kind="ordinal", class_weight={"l": 20.0})}
    rows = rows_weighed("size", {"l": 20.0, "m": 1.0, "s": 1.0})
    found = fitted("SharedTrees", ordered, y=sizes)
    assert gap(found, fitted("SharedTrees", {"size": "ordinal"}, y=sizes, sample_weight=rows)) < 1e-4
    steps = pl.DataFrame({"click": X["a"] > 0, "sale": (X["a"] > 0) & (X["b"] > 1)})
    rare = {"sale": Task(name="sale", kind="binary", class_weight={True: 30.0})}
    options = {"task_chain": ["click", "sale"], "epochs": 5, "random_state": 0}
    shares = [ESMM(tasks=tasks, **options).fit(X, steps).predict_proba(X)["sale"][:, 1] for tasks in (rare, None)]
    assert shares[0].mean() > 1.5 * shares[1].mean()


def test_the_weight_of_a_class_that_is_left_out_is_1_and_those_of_rows_are_kept():
    rows = rng.uniform(0.5, 2, N)
    both = rows_weighed("late", {"yes": 10.0}).with_columns(pl.all() * rows)
    found = fitted("SharedTrees", weighed(late={"yes": 10.0}), sample_weight=rows)
    assert gap(found, fitted("SharedTrees", sample_weight=both)) < 1e-5


@pytest.mark.parametrize("scale", [2.0**-1020, 2.0**1020], ids=["tiny", "huge"])
@pytest.mark.parametrize("name", ["SharedTrees", "SharedBottom"])
def test_weights_of_any_size_are_those_of_order_one(name, scale):
    ordinary = {"no": 1.0, "yes": 5.0}
    found = fitted(name, weighed(late={label: weight * scale for label, weight in ordinary.items()}))
    assert gap(found, fitted(name, weighed(late=ordinary))) == 0


def test_a_long_table_weighs_each_task_by_its_own_labels():
    late = Y["late"].fill_null("no")
    table = X.with_columns(site=np.where(X["a"] > 0, "x", "y"))
    balanced = {"late": Task(name="late", kind="binary", class_weight="balanced")}
    options = {"task_column": "site", "early_stopping": False, "tasks": balanced}
    long = tiny(SharedTrees, **options).fit(table, late)
    own = np.ones(N)
    for site in ("x", "y"):
        rows = (table["site"] == site).to_numpy()
        own[rows] = compute_sample_weight("balanced", late.filter(rows).to_numpy())
    by_hand = tiny(SharedTrees, **options | {"tasks": None}).fit(table, late, sample_weight=own)
    np.testing.assert_allclose(long.predict_proba(table), by_hand.predict_proba(table), atol=1e-5)


def test_factors_keep_the_mean_weight_of_a_task_and_scores_do_not_know_them():
    tasks = [Task(name="late", kind="binary", classes=(0, 1), class_weight={1: 9.0}), Task(name="n", kind="regression")]
    y = np.array([[0, 2.0], [0, np.nan], [1, -7.5], [np.nan, 1.0]])
    batch = Batch(x=None, y=y, weight=np.array([[2.0, 1], [0.5, 0], [0.5, 1], [0, 1]]))
    found = ClassFactors.learn(LabelCoder.fit(y, tasks=tasks), [batch]).weighed(batch)
    assert found.weight[:, 0].sum() == pytest.approx(3) and found.weight[2, 0] / found.weight[1, 0] == pytest.approx(9)
    np.testing.assert_array_equal(found.weight[:, 1], batch.weight[:, 1])
    np.testing.assert_allclose(found.score_weight, batch.weight)


def test_a_task_of_a_long_table_may_lack_a_class_that_others_have():
    late = Task(name="y0", kind="binary", class_weight={"yes": 3.0})
    labels = LabelCoder.fit(np.array(["no", "yes", "no"]), tasks=[late], task_levels=("a", "b"))
    batch = Batch(x=None, y=np.array([[0.0], [1], [0]]), task=np.array([0, 0, 1]))
    np.testing.assert_allclose(ClassFactors.learn(labels, [batch]).of(batch.y, batch.task), [[0.5], [1.5], [1]])


def test_validation_scores_know_no_weights_of_classes():
    tasks = {"late": Task(name="late", kind="binary", metric="accuracy", class_weight={"yes": 30.0})}
    y = Y[["late"]]
    model = tiny(SharedBottom, tasks=tasks).fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    watched = model.history_["val/late/accuracy"][model.best_iteration_ - 1]
    assert watched == pytest.approx(model.score(X[300:], y[300:]))
    assert model.predict_proba(X)["late"][:, 1].mean() > 0.4


def test_an_ensemble_weighs_classes_once_and_shows_plain_scores():
    tasks = weighed(late={"yes": 10.0})
    both = {"models": CANDIDATES, "n_folds": 3, "random_state": 0}
    models = [MultiTaskEnsemble(tasks=tasks, **both), MultiTaskEnsemble(**both), tiny(SharedTrees, tasks=tasks)]
    late = (Y["late"][350:] == "yes").fill_null(False).to_numpy()
    weight = np.where(late, 10.0, 1.0) * Y["late"][350:].is_not_null().to_numpy()
    found = [model.fit(X[:350], Y[:350]).predict_proba(X[350:])["late"][:, 1] for model in models]
    losses = [log_loss(late, p, sample_weight=weight) for p in found]
    assert losses[0] < losses[1] - 0.1 and losses[0] < losses[2] + 0.02  # judged as its candidates are trained
    assert found[0].mean() > 2 * found[1].mean()
    scores = [model.leaderboard_.filter(task="late", model=MIXTURE)["score"][0] for model in models[:2]]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)


def test_files_keep_weights_of_classes_and_older_files_have_none(tmp_path):
    model = fitted("SharedTrees", weighed(late={"yes": 10, "no": 0.5}, size="balanced"))
    loaded = reload(model, tmp_path / "model")
    assert loaded.tasks_ == model.tasks_ and loaded.tasks == model.tasks
    assert loaded.tasks_[0].class_weight == (("yes", 10.0), ("no", 0.5))

    def as_before(facts):
        for task in facts["coder"]["labels"]["tasks"]:
            del task["class_weight"], task["monotone"]

    assert load(forge_facts(tmp_path / "model", as_before)).tasks_[0].class_weight is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"class_weight": {"yes": 0}}, "the weight of the class 'yes' must be a finite number above 0, got 0; .* null"),
        ({"class_weight": {"yes": np.inf}}, "above 0, got inf"),
        ({"class_weight": {"yes": 10**400}}, "above 0, got 10000"),
        ({"class_weight": {"yes": "10"}}, "above 0, got '10'"),
        ({"class_weight": {"yes": True}}, "above 0, got True"),
        (
            {"kind": "multiclass", "classes": ("no", "maybe", "yes"), "class_weight": {"maybe": 2.0}},
            "names the class 'maybe', of which there is no label to fit; leave it out of class_weight, or label",
        ),
        ({"class_weight": "balance"}, "class_weight must be 'balanced', or map classes to numbers .* got 'balance'"),
        ({"class_weight": 10.0}, "must be 'balanced', or map .* got 10.0"),
        ({"class_weight": {"maybe": 2.0}}, r"names the class 'maybe', which its labels lack; .* \['no', 'yes'\]"),
        ({"class_weight": {"Yes": 2.0}}, "'Yes', which its labels lack; near is 'yes'"),
        ({"kind": "poisson", "class_weight": "balanced"}, "a poisson task has none, got 'balanced'; weigh rows by"),
    ],
)
def test_weights_that_do_not_fit_are_named(facts, words):
    with pytest.raises(ValueError, match=f"task 'late': .*{words}"):
        fitted("SharedTrees", {"late": Task(**{"name": "late", "kind": "binary"} | facts)})


def test_a_model_that_takes_no_weights_names_those_of_classes():
    class Plain(LogisticRegression):
        def fit(self, X, y):
            return super().fit(X, y)

    model = IndependentTasks(tasks=weighed(late="balanced"), classifier=Plain())
    with pytest.raises(
        ValueError, match=r"'late': Plain\.fit takes no sample_weight; leave it and class_weight of the"
    ):
        model.fit(X, Y[["late"]])
