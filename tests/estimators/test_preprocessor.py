"""A preprocessor of scikit-learn in front of every estimator of tables: the same rows, the same answers, one folder."""

import numpy as np
import polars as pl
import pytest
from cases import later
from forging import forge, parts_of
from joblib import Memory
from lightgbm import LGBMClassifier, LGBMRegressor
from safetensors.numpy import load, save
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomTreesEmbedding
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    SplineTransformer,
    StandardScaler,
)

import tabmtl
from tabmtl import (
    IndependentTasks,
    ModelFileError,
    MultiTaskEnsemble,
    SharedBottom,
    SharedTrees,
    SharedTreesRegressor,
    compare,
    distill,
)
from tabmtl.base.storage.transformers import Transformer

RNG, N = np.random.default_rng(0), 120
TABLE = pl.DataFrame(
    {
        "size": [None if i % 7 == 0 else v for i, v in enumerate(RNG.normal(size=N).tolist())],
        "rooms": RNG.integers(0, 9, N),
        "color": RNG.choice(["red", "blue", None], N).tolist(),
        "is_new": RNG.random(N) < 0.5,
        "zip": [f"{i:03}" for i in RNG.integers(0, 40, N)],
    }
)
Y = pl.DataFrame(
    {
        "sold": [None if i % 5 == 0 else "yes" if v > 4 else "no" for i, v in enumerate(TABLE["rooms"])],
        "price": TABLE["rooms"] + RNG.normal(size=N),
    }
)
NUMBERS = ["size", "rooms"]


def columns(**options):
    """A preprocessor that a data scientist would write, with sparse columns of text."""
    number = make_pipeline(SimpleImputer(), make_union(StandardScaler(), KBinsDiscretizer(3, encode="ordinal")))
    return ColumnTransformer(
        [
            ("number", number, NUMBERS),
            ("color", OneHotEncoder(handle_unknown="ignore"), ["color"]),
            ("zip", TfidfVectorizer(analyzer="char"), "zip"),
        ],
        remainder="passthrough",
        **options,
    )


def words(vectorizer):
    """Columns of the words that a vectorizer finds."""
    return ColumnTransformer([("words", vectorizer, "color")])


def own_function(X):
    return X


class Own(StandardScaler):
    """A transformer of a user."""


SMALL = {"n_estimators": 3, "verbosity": -1, "n_jobs": 1}
ALONE = IndependentTasks(classifier=LGBMClassifier(**SMALL), regressor=LGBMRegressor(**SMALL), early_stopping=False)
MODELS = [
    SharedTrees(n_estimators=8, n_estimators_task=5),
    SharedBottom(hidden=(8,), epochs=2),
    ALONE,
    MultiTaskEnsemble(models={"alone": ALONE, "together": SharedTrees(n_estimators=4, n_estimators_task=5)}, n_folds=2),
]


@pytest.mark.parametrize("library", ["polars", "pandas"])
@pytest.mark.parametrize(
    "model", later(MODELS, MODELS[-1]), ids=lambda model: type(getattr(model, "values", [model])[0])
)
def test_raw_rows_of_any_library_and_number_get_the_answers_of_a_saved_model(model, library, reloaded):
    X, y = (TABLE, Y) if library == "polars" else (TABLE.to_pandas(), Y.to_pandas())
    model = clone(model).set_params(preprocessor=columns(), random_state=0)
    model.fit(X[:90], y[:90], X_val=X[90:], y_val=y[90:])
    same = reloaded(model)
    answers = model.predict_proba(X)["sold"]
    assert type(same.predict(X)) is type(y)
    assert same.feature_names_in_.tolist() == TABLE.columns
    for rows in (TABLE.lazy(), TABLE.to_pandas(), TABLE.to_arrow(), TABLE.select(reversed(TABLE.columns))):
        np.testing.assert_array_equal(same.predict_proba(rows)["sold"], answers)
    single = [same.predict_proba(X[i : i + 1])["sold"] for i in range(5)]
    np.testing.assert_array_equal(np.concatenate(single), answers[:5])
    assert same.score_tasks(X, y) == model.score_tasks(X, y)
    assert same.score_intervals(X, y, groups="zip").equals(model.score_intervals(X, y, groups="zip"))
    assert repr(same.get_params()["preprocessor"]) == repr(clone(model.preprocessor_))


def test_validation_rows_go_through_the_steps_that_learned_from_the_others():
    shifted, y = TABLE.with_columns(pl.col("rooms") + 1000), Y.select("price")
    scaler = make_column_transformer((StandardScaler(), ["rooms"]))
    model = SharedTrees(preprocessor=scaler, random_state=0).fit(TABLE, y, X_val=shifted, y_val=y)
    assert model.preprocessor_.named_transformers_["standardscaler"].mean_ == pytest.approx(TABLE["rooms"].mean())
    by_hand = scaler.fit(TABLE)
    plain = SharedTrees(random_state=0).fit(by_hand.transform(TABLE), y, X_val=by_hand.transform(shifted), y_val=y)
    np.testing.assert_array_equal(model.predict(TABLE), plain.predict(by_hand.transform(TABLE)))


def test_an_array_stays_an_array():
    X, y = TABLE.select(NUMBERS).to_numpy(), Y["price"].to_numpy()
    prepared = make_pipeline(SimpleImputer(), StandardScaler(), PCA(1))
    model = SharedTreesRegressor(preprocessor=prepared, n_estimators=4, n_estimators_task=5, random_state=0).fit(X, y)
    assert (model.n_features_in_, model.coder_.features.names) == (2, ("pca0",))
    assert model.predict(X).shape == (N,)
    with pytest.raises(ValueError, match="X has 3 features"):
        model.predict(np.zeros((2, 3)))


def test_cells_of_an_array_may_be_arrays_and_missing():
    X = np.empty((N, 2), dtype=object)
    X[:, 0] = np.arange(N)
    X[:, 1] = [None if k % 9 == 0 else np.array([k, 0.5]) for k in range(N)]
    seen = []
    model = SharedTrees(
        preprocessor=FunctionTransformer(lambda X: seen.append(X[0, 1]) or X), n_estimators=4, n_estimators_task=5
    )
    assert model.fit(X, Y["price"].to_numpy()).predict(X).shape == (N,)
    assert model.coder_.features.columns.numeric == ("x0", "x1: 0", "x1: 1")
    assert np.isnan(seen).all()


def test_the_task_column_and_dropped_columns_pass_by():
    X = TABLE.with_columns(task=pl.Series(["a", "b", "c"] * (N // 3)))
    encoder = make_column_transformer((OrdinalEncoder(), ["color"]), remainder="passthrough").set_output(
        transform="polars"
    )
    for rows in (X, X.to_pandas()):
        encoder.set_output(transform="polars" if rows is X else "pandas")
        model = SharedTrees(
            preprocessor=encoder,
            task_column="task",
            columns={"zip": "ignore"},
            n_estimators=4,
            n_estimators_task=5,
            random_state=0,
        )
        answers = model.fit(rows, Y["price"].to_numpy()).predict(rows)
        assert not any("zip" in name or "task" in name for name in model.coder_.features.names)
        np.testing.assert_array_equal(model.predict(X.drop("zip")), answers)


@pytest.mark.all_faces
def test_tools_set_its_parameters_and_leave_the_users_own_alone():
    prepared = columns()
    search = GridSearchCV(
        SharedTrees(preprocessor=prepared, n_estimators=4, n_estimators_task=5, random_state=0),
        {"preprocessor__number__simpleimputer__strategy": ["mean", "median"]},
        cv=2,
    ).fit(TABLE, Y)
    assert search.best_estimator_.preprocessor_.named_transformers_["number"][0].strategy in ("mean", "median")
    assert not hasattr(prepared, "transformers_")
    models = {"raw": ALONE, "pre": SharedTrees(preprocessor=prepared, n_estimators=4, n_estimators_task=5)}
    comparison = compare(models, TABLE, Y, random_state=0)
    assert comparison.frame["error"].null_count() == 4
    student = distill(comparison.models["pre"], TABLE, network=SharedBottom(epochs=1), random_state=0)
    assert student.predict(TABLE).columns == Y.columns


def test_a_failed_fit_changes_nothing_and_a_random_state_seeds_it():
    steps = make_column_transformer((KMeans(3), ["rooms"]))
    fits = [
        SharedTrees(preprocessor=steps, n_estimators=2, n_estimators_task=5, random_state=0).fit(TABLE, Y)
        for _ in range(2)
    ]
    assert fits[0].predict(TABLE).equals(fits[1].predict(TABLE))
    before = fits[0].preprocessor_
    fits[0].set_params(preprocessor=make_column_transformer((StandardScaler(), ["color"])))
    with pytest.raises(ValueError, match="the preprocessor ColumnTransformer cannot be fitted: could not convert"):
        fits[0].fit(TABLE, Y)
    assert fits[0].preprocessor_ is before


PIPE = make_pipeline(columns(), SharedTrees())
CURE = r"; give SharedTrees the steps in front of it.*: pipeline\[-1\]\.set_params\(preprocessor=pipeline\[:-1\]\)"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda fit: fit(StandardScaler), r"preprocessor must be a transformer.*write StandardScaler\(\)"),
        (lambda fit: fit("scale"), "preprocessor must be a transformer of scikit-learn.*got 'scale'"),
        (lambda fit: fit(LinearRegression()), "it predicts, and a preprocessor makes columns"),
        (lambda fit: fit(PIPE), r"it predicts.*pipeline\[:-1\]"),
        (lambda fit: fit(make_column_transformer((SelectKBest(k=1), ["rooms"]))), "learns from X alone"),
        (lambda fit: fit(FunctionTransformer(lambda X: X[:3])), "expected a table with a row for each"),
        (lambda fit: fit(columns()).predict(TABLE.to_numpy()[:, :1]), "expecting|columns, expected those of fit"),
        (lambda fit: MultiTaskEnsemble(models={"a": SharedTrees(preprocessor=columns())}).fit(TABLE, Y),
         r"models\['a'\] has a preprocessor.*MultiTaskEnsemble\(preprocessor=...\)"),
        (lambda fit: compare({"a": PIPE}, TABLE, Y), CURE),
        (lambda fit: fit(make_column_transformer((FunctionTransformer(own_function), ["rooms"]))).save("never"),
         r"holds \S+\.own_function, which cannot be saved without pickle"),
        (lambda fit: fit(make_pipeline(columns(), memory=Memory(None))).save("never"), "a cache of pickles, memory"),
        (lambda fit: Transformer(words(HashingVectorizer(input="filename"))).to_array(),
         "input='filename', which opens the files .*: read the texts into a column before fit"),
        (lambda fit: fit(FunctionTransformer(lambda X: X)).save("never"), r"<lambda>, which cannot be saved"),
        (lambda fit: fit(make_column_transformer((Own(), ["rooms"]))).save("never"), r"\.Own, which cannot be saved"),
        (lambda fit: fit(make_column_transformer((SplineTransformer(), ["rooms"]))).save("never"), "BSpline"),
        (lambda fit: fit(make_column_transformer((RandomTreesEmbedding(2), ["rooms"]))).save("never"), "_tree.Tree"),
    ],
)  # fmt: skip
def test_what_is_refused_names_the_cure(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=words):
        call(
            lambda preprocessor: SharedTrees(preprocessor=preprocessor, n_estimators=2, n_estimators_task=5).fit(
                TABLE, Y
            )
        )
    assert not [*tmp_path.iterdir()]


def test_a_forged_folder_runs_nothing(tmp_path):
    from skops.io import dumps

    model = SharedTrees(preprocessor=columns(), n_estimators=2, n_estimators_task=5, random_state=0).fit(TABLE, Y)
    model.save(tmp_path)
    arrays = load(parts_of(tmp_path)["arrays.safetensors"].read_bytes())
    (name,) = [name for name in arrays if "transformer" in name]
    turned = words(CountVectorizer()).fit(TABLE.select(pl.col("color").fill_null("")).to_pandas())
    turned.transformers_[0][1].input = "filename"  # the fitted step alone
    forged = {
        "own_function": dumps(FunctionTransformer(own_function)),
        "a cache of pickles": dumps(make_pipeline(columns(), memory="x")),
        "input='filename'": dumps(words(CountVectorizer(input="filename"))),
        "input='file'": dumps(make_pipeline(words(TfidfVectorizer(input="file")))),
        "opens the files": dumps(turned),
        "packed": dumps(columns(), compression=8),
        "not a zip": b"PK nothing",
    }
    for word, content in forged.items():
        changed = arrays | {name: np.frombuffer(content, np.uint8)}
        with pytest.raises(ModelFileError, match=word):
            tabmtl.load(forge(tmp_path, {"arrays.safetensors": save(changed)}))
