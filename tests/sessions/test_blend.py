"""Blend: its likelihood against a general optimiser, laws whose weights are known, new items, files and refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from cases import later
from forging import forge_facts
from recommenders import ITEMS, TEST, TINY, TRAIN, all_scores, fitted, params_of, renamed, sessions_of, tiny
from scipy.optimize import minimize
from sklearn.base import clone

import tabmtl
from tabmtl import ModelFileError
from tabmtl.sessions import STAN, VSKNN, Blend, CategoryPopularity, M2TRec, Popularity, SequentialRules
from tabmtl.sessions.blend import BlendWeights, UnionChoices, put_below, stack_shares
from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.recommender import Recommender, SessionState
from tabmtl.sessions.repeats import RepeatWeights, keep_clear_steps
from tabmtl.synth import make_sessions

N, TOP = 30, 6
#: Weights of two parts, those for own items, what items are worth that they have not found, seen, last, all outside.
LAW = np.array([0.9, 0.4, 0.3, 0.6, -3.6, -1.1, 1.5, -1.0, -1.2])
TIED = np.array([0.9, 0.4, 0.9, 0.4, -3.6, -1.1, 1.5, -1.0, -1.2])


@dataclass(kw_only=True, eq=False, repr=False)
class Chain(Recommender):
    """The share of items after the last click, by a table that the seed draws; two thirds are not found."""

    seed: int = 0
    n_fits: ClassVar[list[int]] = []
    n_stopping: ClassVar[list[int]] = []
    _stored: ClassVar[type] = SessionState

    def _learn(self, sessions: Sessions, catalogue: Catalogue, valid: Sessions | None) -> dict[str, Any]:
        self.n_stopping.append(0 if valid is None else len(valid))
        return super()._learn(sessions, catalogue, valid)

    def _fit(self, sessions: Sessions, catalogue: Catalogue) -> dict[str, Any]:
        self.n_fits.append(len(sessions))
        return {"_table": table(self.seed, len(catalogue))}

    def _scores(self, sessions: Sessions) -> np.ndarray:
        return self._table[np.maximum(sessions.last_items() - 1, 0)].copy()


def table(seed: int, n_items: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shares = rng.gamma(0.5, size=(n_items, n_items)) * (rng.random((n_items, n_items)) < 1 / 3)
    return (shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32)


def alternatives(clicks: list[int], tables: list[np.ndarray], top: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """The items of the lists after these clicks, from 0, and the factors of all numbers but the last (m, 3 P + 2)."""
    rows = [shares[clicks[-1]] for shares in tables]
    best = [[i for i in np.argsort(-row, kind="stable")[:top] if row[i] > 0] for row in rows]
    items = sorted(set().union(*best))
    terms = [
        [np.log(row[i]) if row[i] > 0 and i not in clicks else 0.0 for row in rows]
        + [np.log(row[i]) if row[i] > 0 and i in clicks else 0.0 for row in rows]
        + [float(row[i] == 0) for row in rows]
        + [float(i in clicks), float(i == clicks[-1])]
        for i in items
    ]
    return np.array(items), np.array(terms)


def draw(numbers: np.ndarray, tables: list[np.ndarray], n_sessions: int, seed: int = 0, top: int = TOP) -> Sessions:
    """Sessions of five clicks by the law of the blend."""
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(n_sessions):
        session = [int(rng.integers(N))]
        for _ in range(4):
            items, terms = alternatives(session, tables, top)
            weights = np.exp(np.append(terms @ numbers[:-1], numbers[-1]))
            found = rng.choice(len(weights), p=weights / weights.sum())
            others = np.setdiff1d(np.arange(N), items)
            session.append(int(items[found]) if found < len(items) else int(rng.choice(others)))
        drawn.append([item + 1 for item in session])
    return sessions_of(*drawn)


def parts_of(tables: list[np.ndarray]) -> list[Chain]:
    parts = []
    for shares in tables:
        part = Chain()
        catalogue = Catalogue(ids=pl.Series(np.arange(N)), counts=np.ones(N, dtype=np.int64))
        part._set_fitted(catalogue, {"_table": shares})
        parts.append(part)
    return parts


def frame(sessions: Sessions) -> pl.DataFrame:
    owner = np.repeat(np.arange(len(sessions)), sessions.lengths)
    return pl.DataFrame({"session_id": owner, "item_id": sessions.items - 1, "time": np.arange(len(owner))})


TABLES = [table(1, N), table(2, N)]


def full_likelihoods(sessions: Sessions, numbers: np.ndarray) -> np.ndarray:
    """Log probability of every click, one by one."""
    found = []
    for clicks in np.split(sessions.items - 1, sessions.offsets[1:-1]):
        for n in range(1, len(clicks)):
            items, terms = alternatives(clicks[:n].tolist(), TABLES)
            utilities = np.append(terms @ numbers[:-1], numbers[-1])
            place = np.flatnonzero(items == clicks[n])
            found.append(utilities[place[0] if len(place) else -1] - np.log(np.exp(utilities).sum()))
    return np.array(found)


@pytest.fixture(scope="module")
def law():
    return draw(LAW, TABLES, 500)


def test_likelihoods_are_those_of_every_click_by_itself(law):
    choices = UnionChoices.of(law, parts_of(TABLES), N, TOP)
    for numbers in (LAW, np.array([0, 2.0, 1, 0, 0.3, -4, -1, 2, 1]), np.array([1, 1, 1, 1, 0, 0, 0, 0, -30.0])):
        np.testing.assert_allclose(choices.log_likelihoods(numbers), full_likelihoods(law, numbers), atol=1e-5)


@pytest.mark.parametrize("step", later(range(4), 1, 2, 3))
def test_the_fit_is_that_of_a_general_optimiser(law, step):
    few, free = law.take(np.arange(40)), np.ones(9, dtype=bool)
    free[[2, 3]], free[6], free[7] = step > 2, step > 0, step > 1

    def all_numbers(some):
        numbers = np.zeros(9)
        numbers[free] = some
        numbers[2:4] = numbers[2:4] if step > 2 else numbers[:2]
        return numbers

    def loss(some):
        away = (all_numbers(some) - [0.5, 0.5, 0.5, 0.5, -np.log(N) / 2, -np.log(N) / 2, 0, 0, 0])[:-1]
        return away @ away / 2 - full_likelihoods(few, all_numbers(some)).sum()

    bounds = np.array([(0, None)] * 4 + [(None, None)] * 5)[free].tolist()
    expected = minimize(loss, np.ones(free.sum()), method="L-BFGS-B", bounds=bounds).x
    choices = UnionChoices.of(few, parts_of(TABLES), N, TOP)
    found = choices.fit(step, np.ones(len(choices.session), dtype=bool))
    np.testing.assert_allclose(found, all_numbers(expected), atol=0.01)


def test_the_numbers_of_a_law_are_found(law):
    choices = UnionChoices.of(law, parts_of(TABLES), N, TOP)
    found = keep_clear_steps(choices, 3)
    assert found == pytest.approx(LAW, abs=0.45)  # about three standard errors of 2 000 clicks
    weights, own = choices.weights(found)
    assert weights.parts.tolist() == found[:2].tolist()
    assert weights.own.tolist() == found[2:4].tolist()
    assert weights.missing.tolist() == found[4:6].tolist()
    assert own == RepeatWeights(seen=found[6], last=found[7])
    assert weights.outside == found[-1]


def test_ranks_are_those_of_the_scores_with_ties_against_the_blend(law):
    parts = parts_of([np.round(shares, 1) for shares in TABLES])
    choices = UnionChoices.of(law, parts, N, TOP)
    weights, own = choices.weights(LAW)
    model = Blend([Chain(), Chain()], k=TOP)
    catalogue = parts[0]._catalogue
    fitted = {"estimators_": {"a": parts[0], "b": parts[1]}, "_weights": weights, "_repeats": own}
    model._set_fitted(catalogue, fitted)
    prefixes, targets = law.prefixes()
    scores = model._scores_of(prefixes, exclude_seen=False).astype(np.float64)
    own_scores = scores[np.arange(len(targets)), targets - 1]
    ranks = (scores >= own_scores[:, None] - 1e-5).sum(axis=1)  # rounding must not separate equal ones
    is_inside = choices.clicked >= 0
    np.testing.assert_array_equal(
        choices.reciprocal_ranks(LAW)[is_inside], np.where(ranks <= 20, 1 / ranks, 0)[is_inside]
    )
    sizes = np.bincount(choices.row)
    assert (ranks[~is_inside] > sizes[~is_inside]).all()
    assert (~is_inside).mean() > 0.05


def test_a_part_that_is_right_on_its_half_is_trusted_there_and_noise_is_not():
    """One knows the law after even items, the other after odd ones; the third draws by chance."""
    truth, even = np.random.default_rng(3).dirichlet(np.full(N, 0.5), size=N), np.arange(N) % 2 == 0
    truth = np.maximum(truth, 1e-6).astype(np.float32)
    halves = [np.where((even == parity)[:, None], truth, np.float32(1 / N)) for parity in (True, False)]
    noise = np.random.default_rng(0).dirichlet(np.full(N, 0.3), size=N).astype(np.float32)
    log = draw(np.array([1.0, 1, 0, 0, 0, -20.0]), [truth], 300, top=N)
    choices = UnionChoices.of(log, parts_of([*halves, noise]), N, N)
    numbers = keep_clear_steps(choices, 3)
    assert numbers[:3] == pytest.approx([1, 1, 0], abs=0.15)
    assert (numbers[:3] >= 0).all()
    alone = (UnionChoices.of(log, parts_of([half]), N, N) for half in halves)
    best = max(each.reciprocal_ranks(keep_clear_steps(each, 0)).mean() for each in alone)
    assert best < choices.reciprocal_ranks(numbers).mean() - 0.1


def test_few_clicks_teach_nothing_and_steps_only_what_gains():
    for law, n_own in ((np.array([0.7, 0.7, 0.7, 0.7, -2, -2, 0, 0, -2]), 0), (TIED, 2)):
        numbers = keep_clear_steps(UnionChoices.of(draw(law, TABLES, 300), parts_of(TABLES), N, TOP), 3)
        assert numbers[:2].tolist() == numbers[2:4].tolist()
        assert np.count_nonzero(numbers[6:8]) == n_own
    model = Blend([Chain(seed=1), Chain(seed=2)]).fit(frame(draw(LAW, TABLES, 90)))
    assert model.blend_weights_["weight"].to_list() == [0.5, 0.5]
    assert model.blend_weights_["missing"].to_list() == pytest.approx([-np.log(N) / 2] * 2)


def test_parts_learn_from_older_sessions_and_then_from_all(law):
    def fits(model, **more):
        Chain.n_fits.clear()
        Chain.n_stopping.clear()
        model.fit(frame(law), **more)
        assert not any(Chain.n_stopping)  # what teaches the weights stops no part
        return list(Chain.n_fits)

    parts = [Chain(seed=1), Chain(seed=2)]
    assert fits(Blend(parts, k=TOP)) == [450, 450, 500, 500]
    assert fits(Blend(parts, k=TOP, validation_fraction=0.2, refit=False)) == [400, 400]
    later = frame(draw(LAW, TABLES, 200, seed=1)).with_columns(pl.col("session_id") + 1000)
    model = Blend(parts, k=TOP)
    assert fits(model, clicks_val=later) == [500, 500]
    assert list(model.estimators_) == ["Chain", "Chain2"]
    assert model.blend_weights_["weight"].to_list() == pytest.approx(LAW[:2], abs=0.4)
    assert model.repeat_weights_["seen"] == pytest.approx(LAW[6], abs=0.8)


def test_probabilities_sum_to_one_and_are_those_of_later_sessions():
    law = np.append(LAW[:-1], -3.0)  # so that items outside of the lists are less likely than all inside
    model = Blend([Chain(seed=1), Chain(seed=2)], k=TOP).fit(frame(draw(law, TABLES, 500)))
    later = frame(draw(law, TABLES, 400, seed=5))
    place = pl.int_range(pl.len()).over("session_id")
    found = model.recommend(later.filter(place < 4), k=N, probability=True)
    totals = found.group_by("session_id").agg(pl.col("probability").sum())["probability"]
    assert totals.to_numpy() == pytest.approx(1, abs=1e-4)
    last = later.filter(place == 4).select("session_id", target="item_id")
    told = found.join(last, on="session_id").with_columns(hit=pl.col("item_id") == pl.col("target"))
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 1)):
        some = told.filter(pl.col("probability").is_between(low, high))
        error = (some["hit"] - some["probability"]).std() / len(some) ** 0.5
        assert some["probability"].mean() == pytest.approx(some["hit"].mean(), abs=0.01 + 3 * error)
        assert error < 0.06


def test_items_outside_of_the_lists_are_below_and_share_what_is_theirs():
    scores = np.array([[-1.0, -2, -3, -9, -8], [-1, -2, -3, 5, 4], [-1, -2, -3, -4, -5]], dtype=np.float32)
    inside = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    found = put_below(scores, inside, np.log(0.01))
    for row in (0, 1):
        assert np.exp(found[row, 3:]).sum() == pytest.approx(0.01, rel=1e-4)
    assert found[0, 4] - found[0, 3] == pytest.approx(1)
    assert put_below(scores, inside, 0.0)[1, 3:].tolist() == pytest.approx([-3.001, -4.001], abs=1e-4)
    assert (found[inside] == scores[inside]).all()


def test_what_no_part_finds_comes_last_by_popularity():
    log = pl.DataFrame({"session_id": [1, 1, 2, 2, 3, 3, 3], "item_id": list("abcdccd"), "time": [0, 1, 2, 3, 4, 5, 6]})
    model = Blend([SequentialRules(), VSKNN()]).fit(log)
    found = model.recommend(pl.DataFrame({"session_id": [9], "item_id": ["a"], "time": [9]}), k=4)
    assert found["item_id"].to_list() == ["b", "a", "c", "d"]  # only VSKNN finds a


def test_a_part_that_does_not_know_an_item_is_no_evidence_against_it():
    catalogue = Catalogue(ids=pl.Series(["a", "b", "c"]), counts=np.array([2, 0, 0]))
    shorter = Catalogue(ids=pl.Series(["a", "b"]), counts=np.array([2, 0]))
    parts = []
    for row in ([0.5, 0.5], [0.8, 0.0, 0.2], [0.0, 0.1, 0.9]):
        part = Chain()
        shares = np.tile(np.array(row, dtype=np.float32), (3, 1))
        part._set_fitted(shorter if len(row) < 3 else catalogue, {"_table": shares})
        parts.append(part)
    one = sessions_of([3, 1])
    found = stack_shares(parts, one, 3)[:, 0]
    assert found[0, 2] == pytest.approx((np.log(0.2) + np.log(0.9)) / 2)
    assert np.isneginf(found[1, 1])  # it was known, though never clicked
    assert np.isneginf(found[2, 0])
    assert np.isneginf(stack_shares(parts[:1], one, 3)[0, 0, 2])


def test_new_items_are_scored_by_the_parts_that_know_them(tmp_path):
    model = tiny("Blend").fit(TRAIN, items=ITEMS)
    before, new = all_scores(model, TEST), renamed(ITEMS.head(2))
    assert model.add_items(new) is model
    assert model.item_ids_.to_list() == [*ITEMS["item_id"], *new["item_id"]]
    assert model.recommend(TEST, k=1, candidates=new["item_id"])["score"].is_finite().all()
    again = all_scores(model, TEST).filter(~pl.col("item_id").is_in(new["item_id"].implode()))
    lost = (before["score"] - again["score"]).to_numpy().reshape(-1, len(ITEMS))  # of log p, to the new items
    assert lost.std(axis=1).max() < 1e-5
    assert (lost > 0).all()
    log = pl.DataFrame({"session_id": 0, "item_id": ["i00", "new i00", "i01"], "time": [1.0, 2.0, 3.0]})
    assert np.isfinite(model.rank(log).ranks).all()
    assert [part.n_items_ for part in model.estimators_.values()] == [len(ITEMS) + 2, len(ITEMS)]
    model.save(tmp_path / "model")
    after = all_scores(model, TEST)
    assert all_scores(tabmtl.load(tmp_path / "model"), TEST).equals(after)
    with pytest.raises(ValueError, match="the catalogue holds"):
        model.add_items(new)
    with pytest.raises(ValueError, match="lacks the column 'category'"):
        model.add_items(renamed(new, "newer ").drop("category"))
    assert all_scores(model, TEST).equals(after)


def test_a_blend_of_baselines_knows_no_new_items():
    model = Blend([STAN(), VSKNN()])
    assert not hasattr(model, "add_items")
    assert not hasattr(model.fit(TRAIN), "add_items")
    assert hasattr(Blend(), "add_items")


def test_every_part_has_a_folder_of_its_own(tmp_path):
    fitted("Blend").save(tmp_path)
    folders = sorted(folder for folder in tmp_path.iterdir() if folder.is_dir())
    assert [type(tabmtl.load(folder)) for folder in folders] == [M2TRec, STAN]
    assert tabmtl.load(tmp_path).blend_weights_.equals(fitted("Blend").blend_weights_)


def test_a_file_whose_parts_do_not_fit_is_refused(tmp_path):
    model = Blend([STAN(), Popularity()]).fit(TRAIN)
    model.save(tmp_path / "model")

    with pytest.raises(ModelFileError, match="outside"):
        tabmtl.load(forge_facts(tmp_path / "model", lambda facts: facts["weights"].update(outside="much")))
    other = STAN().fit(TRAIN.with_columns(item_id="x" + pl.col("item_id")))
    state = model._state()
    with pytest.raises(ValueError, match="the part 'STAN' has other items than the blend"):
        replace(state, estimators_=state.estimators_ | {"STAN": other})
    with pytest.raises(ValueError, match="there are 2 parts and 3 weights"):
        replace(state, _weights=BlendWeights.equal(3, N))


def test_a_part_of_a_class_of_ones_own_is_blended_but_not_saved(tmp_path):
    log = frame(draw(LAW, TABLES, 60))
    model = Blend([Chain(seed=1), STAN()]).fit(log)
    assert model.score(log) > 0
    with pytest.raises(TypeError, match=r"Chain, which is no class of tabmtl"):
        model.save(tmp_path / "model")


NO_PART = r"models\[1\] must be a recommender of tabmtl.sessions, .* got "
REFUSED: list[tuple[Any, type[Exception], str]] = [
    ([], TypeError, r"models must be a list of recommenders, such as \[M2TRec\(\), STAN\(\)\], or None, got \[\]"),
    (STAN(), TypeError, "models must be a list of recommenders"),
    ([STAN(), STAN], TypeError, f"{NO_PART}<class "),
    ([STAN(), 3], TypeError, f"{NO_PART}int: 3"),
    ([VSKNN(), STAN(item_column="sku")], ValueError, "the part STAN has item_column='sku', the blend 'item_id': set"),
    ([VSKNN(n_neighbors=0)], ValueError, "the part VSKNN: n_neighbors must be at least 1, got 0"),
]


@pytest.mark.parametrize(("parts", "error", "message"), REFUSED)
def test_parts_that_cannot_be_are_refused_at_fit(parts, error, message):
    with pytest.raises(error, match=message):
        Blend(parts).fit(TRAIN)


def test_parts_get_the_columns_and_the_seed_of_the_blend():
    names = {"session_id": "visit", "item_id": "sku", "time": "when"}
    columns = {"session_column": "visit", "item_column": "sku", "time_column": "when"}
    given = [M2TRec(**TINY), M2TRec(**TINY), SequentialRules(item_column="sku")]
    model = Blend(given, random_state=7, **columns).fit(TRAIN.rename(names), items=ITEMS.rename({"item_id": "sku"}))
    assert list(model.estimators_) == ["M2TRec", "M2TRec2", "SequentialRules"]
    assert [model.estimators_[name].random_state for name in ("M2TRec", "M2TRec2")] == [7, 8]
    assert all(part.get_params().items() >= columns.items() for part in model.estimators_.values())
    assert given[0].session_column == "session_id"


def test_parts_that_are_changed_after_fit_wait_for_the_next_one(reloaded):
    given = [STAN(), Popularity()]
    model = Blend(given, k=30).fit(TRAIN)
    before = all_scores(model, TEST)
    given[0].set_params(n_neighbors=1)
    given.append(VSKNN())
    assert all_scores(model, TEST).equals(before)
    loaded = reloaded(model)
    assert params_of(loaded) == params_of(Blend([STAN(), Popularity()], k=30))
    assert all_scores(loaded, TEST).equals(before)
    assert list(model.fit(TRAIN).estimators_) == ["STAN", "Popularity", "VSKNN"]
    assert model.estimators_["STAN"].n_neighbors == 1


def test_parameters_of_parts_are_those_of_the_blend():
    model = Blend([STAN(n_neighbors=7), VSKNN(), STAN(), Blend([Popularity()])])
    params = model.get_params()
    assert list(model.get_params(deep=False)) == list(Blend._get_param_names())
    assert [params[name] for name in ("STAN", "VSKNN", "STAN2", "Blend")] == model.models
    default = STAN().n_neighbors
    assert [params[f"{name}"] for name in ("STAN__n_neighbors", "STAN2__n_neighbors", "Blend__k")] == [7, default, 100]
    assert params["Blend__Popularity"] is model.models[3].models[0]
    again = clone(model).set_params(STAN2__n_neighbors=9, Blend__Popularity__repeats=False, k=50)
    assert (again.models[2].n_neighbors, again.models[3].models[0].repeats, again.k) == (9, False, 50)
    before = params_of(model)
    assert model.models[2].n_neighbors == default
    assert params_of(model.set_params(**params)) == before


def test_a_part_is_replaced_by_its_name_and_the_default_ones_become_a_list():
    model = Blend([STAN(), Popularity()])
    given = model.models
    model.set_params(STAN=VSKNN(), STAN__n_neighbors=9)
    assert [type(part) for part in model.models] == [VSKNN, Popularity]
    assert model.get_params()["VSKNN__n_neighbors"] == 9
    assert [type(part) for part in given] == [STAN, Popularity]
    model.set_params(models=[SequentialRules()], SequentialRules__n_last=3)
    assert model.models[0].n_last == 3
    model = Blend()
    assert model.get_params()["M2TRec__epochs"] == M2TRec().epochs
    assert model.models is None
    model.set_params(M2TRec__epochs=2)
    assert [type(part) for part in model.models] == [M2TRec, STAN, VSKNN]
    assert model.models[0].epochs == 2


def test_what_is_no_parameter_and_no_part_is_refused_with_what_is_near():
    model = Blend([STAN(), VSKNN()])
    for name in ("SPAN", "SPAN__k"):
        with pytest.raises(ValueError, match=r"no parameter 'SPAN'; near is 'STAN'; .* parts \['STAN', 'VSKNN'\]"):
            model.set_params(**{"k": 7, name: 3})
    assert model.k == 100
    with pytest.raises(ValueError, match=r"VSKNN has no parameter 'neighbors'; near is 'n_neighbors'"):
        model.set_params(VSKNN__neighbors=3)
    assert not any("__" in name for name in Blend(STAN()).get_params())  # which fit refuses


def test_the_search_space_is_that_of_the_parts():
    space = Blend([VSKNN(), Popularity(), VSKNN()]).search_space
    assert space == {f"{n}__{inner}": entry for n in ("VSKNN", "VSKNN2") for inner, entry in VSKNN.search_space.items()}


def test_a_part_that_fails_leaves_the_blend_as_it_was():
    model = Blend([STAN(), Popularity()]).fit(TRAIN)
    before = all_scores(model, TEST)
    model.set_params(models=[STAN(), M2TRec(categories=["category"])])
    with pytest.raises(ValueError, match="item table"):
        model.fit(TRAIN)
    assert all_scores(model, TEST).equals(before)
    assert list(model.estimators_) == ["STAN", "Popularity"]


def test_a_blend_may_be_a_part():
    inner = Blend([STAN(), VSKNN()], validation_fraction=0.3)
    model = Blend([inner, Popularity()], validation_fraction=0.3).fit(TRAIN)
    assert model.score(TEST) > Popularity().fit(TRAIN).score(TEST) + 0.05


@pytest.mark.all_faces
def test_a_blend_beats_its_parts_on_later_sessions():
    """MRR@20: .107 by popularity, .430 by rules and .421 by the category, own items weighed, .452 by the blend."""
    log = make_sessions(3000, 300, random_state=0)
    train, test = log.split()
    parts = [SequentialRules(), CategoryPopularity(category="subcategory")]
    model = Blend(parts).fit(train, items=log.items)
    best = max(part.fit(train, items=log.items).score(test) for part in parts)
    assert Popularity(repeats=False).fit(train).score(test) + 0.2 < best < model.score(test) - 0.01
