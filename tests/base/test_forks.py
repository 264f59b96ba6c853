"""Forked processes work, or say why not; none of them hangs.

The cases run in processes of their own, whose threads the forked ones lack: one fork a case.
"""

from __future__ import annotations

import os

import pytest
from forked import run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

NO_POOL = """
def fit_in_threads(cls, **options):
    model = cls(n_jobs=2, random_state=0, **options).fit(numbers, numbers)
    return np.isfinite(model.predict(numbers)).all().item()

cases = {
    "network": lambda: fit_in_threads(SharedBottom, epochs=1),
    "wide network": lambda: fit_in_threads(SharedBottom, epochs=1, hidden=(600, 600)),
    "trees": lambda: fit_in_threads(RMTGB, n_estimators_shared=5),
    "children": lambda: in_a_fork(lambda: fit_in_threads(IndependentTasks)),
}
print(json.dumps({name: in_a_fork(case) for name, case in cases.items()}))
"""

POOL = """
import polars as pl
from tabmtl.columns.values import as_fit, from_text
from conformance import answers, features, long_table, same, targets_for, tiny

X, many = features(), features(5_000)
y = targets_for(SharedBottom, X)
network, *trees = [tiny(cls, n_jobs=2).fit(X, y) for cls in (SharedBottom, RMTGB, IndependentTasks)]
table, grade = long_table()
long, plain = tiny(SharedBottom, task_column="school").fit(table, grade), tiny(SharedBottom).fit(numbers, numbers)
pandas = tiny(SharedBottom).fit(X.to_pandas(), y.to_pandas())
pairs = [(model, rows) for model in (network, *trees) for rows in (X[:1], X, many)]
pairs += [(long, table[:1]), (long, table), (plain, numbers), (pandas, X.to_pandas())]
before, copy = [answers(model, rows) for model, rows in pairs], pickle.dumps(network)
folder = tempfile.TemporaryDirectory()
network.save(folder.name)

def predict_a_copy():
    return same(answers(pickle.loads(copy), X), before[1])

cases = {
    "predict": lambda: all(same(answers(model, rows), old) for (model, rows), old in zip(pairs, before)),
    "copy": predict_a_copy,
    "load": lambda: same(answers(tabmtl.load(folder.name), X), before[1]),
    "fit": lambda: tiny(SharedBottom).fit(X, y),
    "fit trees": lambda: tiny(RMTGB).fit(numbers, numbers),
    "lazy": lambda: network.predict(X.lazy()),
    "score": lambda: network.score_tasks(X, y),
    "child of a child": lambda: in_a_fork(cases["fit"]),
    "text of dates": lambda: as_fit(pl.Series(["2024-02-29"] * 300), "dates"),
    "text of lists": lambda: from_text(pl.Series(["a|b"] * 300), "lists of text", "|"),
}
found = {name: in_a_fork(case) for name, case in cases.items()}
begun, stop = threading.Event(), threading.Event()
busy = tiny(SharedBottom, epochs=10**6, on_epoch=lambda record: begun.set() or stop.is_set())
fit = threading.Thread(target=busy.fit, args=(X, y))
fit.start()
begun.wait()
found["copy beside a fit"] = in_a_fork(predict_a_copy)
stop.set()
fit.join()
print(json.dumps(found))
"""


# a kind by itself, twice, and all: polars deals the parts of an expression to its threads if these are more
KINDS = """
import datetime
import polars as pl
from conformance import answers, same, tiny
from tabmtl import SharedTrees

drawn, n = np.random.default_rng(0), 60
number, word = drawn.normal(size=n), drawn.choice(["red", "blue", "green"], n).tolist()
hours = drawn.integers(0, 20_000, n).tolist()
moment = [datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=own) for own in hours]
lists = [word[k : k + 1 + k % 3] for k in range(n)]
values = {
    "number": number.tolist(),
    "whole": drawn.integers(0, 50, n).tolist(),
    "boolean": (number > 0).tolist(),
    "category": word,
    "moment": moment,
    "day": [each.date() for each in moment],
    "clock": [each.time() for each in moment],
    "time": [each - moment[0] for each in moment],
    "tags": lists,
    "vector": drawn.normal(size=(n, 3)).tolist(),
    "text": [f"{own} house of a {own} car {k}" for k, own in enumerate(word)],
    "sequence": lists,
    "beside": [[float(len(each)) for each in own] for own in lists],
}
every = pl.DataFrame({name: [None, *own[1:]] for name, own in values.items()}, strict=False)
every = every.with_columns(levels=pl.col("category").cast(pl.Categorical))
y = pl.DataFrame({"amount": number, "class": word})

def table(*names):
    return every.select(name for name in every.columns if name in names)

def fit(cls, X):
    columns = {name: "text" for name in X.columns if name.startswith("text")}
    columns |= {"sequence": "sequence", "beside": "sequence:sequence"} if "sequence" in X.columns else {}
    return tiny(cls, columns=columns).fit(X, y)

tables = {name: table(name) for name in every.columns if name not in ("sequence", "beside")}
tables |= {f"two of {name}": own.with_columns(pl.all().name.suffix("_")) for name, own in tables.items()}
tables |= {"sequence": table("sequence", "beside"), "all": every, "mixed": table("number", "category")}
cases = {name: (fit(SharedBottom, X), X) for name, X in tables.items()}
cases |= {f"trees of {name}": (fit(SharedTrees, X), X) for name, X in tables.items() if "two" not in name}
frame = table("number", "whole", "levels", "tags", "day").to_pandas().convert_dtypes()
cases["pandas"] = fit(SharedBottom, table("number", "whole", "levels", "tags", "day")), frame
zoned = pl.DataFrame({"number": number, "at": moment}).cast({"at": pl.Datetime("us", "Europe/Berlin")})
for name, X in (("pandas", zoned.to_pandas()), ("pyarrow", zoned.to_arrow())):
    cases[f"zone of {name}"] = tiny(SharedBottom).fit(X, y), X
rows = every[1:].select("category", "number")
cases["long"] = tiny(SharedBottom, task_column="category").fit(rows, y["amount"][1:]), rows
found = {}
for name, (model, X) in cases.items():
    before = answers(model, X), model.drift(X)
    found[name] = in_a_fork(lambda: same(answers(model, X), before[0]) and model.drift(X).equals(before[1]))
    found[f"partial_fit: {name}"] = in_a_fork(lambda: model.partial_fit(X, y["amount"][1:] if name == "long" else y))
print(json.dumps(found))
"""


@pytest.mark.all_faces
def test_a_fork_before_polars_has_threads_fits_and_predicts():
    assert run(NO_POOL) == {"network": "True", "wide network": "True", "trees": "True", "children": "'True'"}


@pytest.mark.all_faces  # nine forks, each of which imports
def test_a_fork_after_polars_has_threads_predicts_and_refuses_the_rest():
    found = run(POOL)
    for name in ("predict", "copy", "load", "copy beside a fit"):
        assert found.pop(name) == "True", name
    refused = {"fit", "fit trees", "lazy", "score", "child of a child"}
    assert set(found) == refused | {"text of dates", "text of lists"}
    for name, said in found.items():
        assert "RuntimeError: this process was forked after polars had started its threads" in said, name
        assert "start processes by 'spawn' or 'forkserver'" in said


@pytest.mark.all_faces  # 45 models, and two forks of each
def test_a_fork_reads_columns_of_every_kind_and_refuses_to_learn_them():
    found = run(KINDS, POLARS_MAX_THREADS="8")
    learned = {name: found.pop(name) for name in [*found] if name.startswith("partial_fit: ")}
    assert {name: said for name, said in found.items() if said != "True"} == {}
    started = "RuntimeError: this process was forked after polars had started its threads"
    assert {name: said for name, said in learned.items() if not said.startswith(started)} == {}
    assert len(found) == len(learned) > 40
