"""Whatever is done to LightGBM's text: what the check lets pass, LightGBM survives."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import lightgbm as lgb
import numpy as np
import pytest
from forging import sized, use_trees
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tabmtl.base.storage.lightgbm_text import TreeText, check_trees, constant_tree

NUMBERS = [
    *("0", "1", "2", "3", "-1", "-2", "-3", "-9", "9", "10", "12", "128", "257", "999999", "-999999", "2147483648"),
    *("-2147483648", "4294967297", "1e5", "1e300", "-1e999", "nan", "inf", "-inf", "", "x", "1.5", ".5", "5.", "1e"),
    *("--1", "1-2", "1,2", "0x1", "1_0", "\u0661", "1 1", "\0", "\r"),
]
# lines by which LightGBM finds its way
LINKS = ("left_child", "right_child", "split_feature", "decision_type", "threshold", "cat_boundaries", "num_cat")


def train(label: str, **params) -> str:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(200, 2)), rng.integers(0, 60, 200), rng.integers(0, 4, 200)])
    x[::7, 0] = np.nan
    y = {"binary": x[:, 1] + x[:, 2] % 3 > 1, "many": x[:, 3] % 3, "number": x[:, 1] * x[:, 0]}[label]
    params |= {"verbosity": -1, "num_threads": 1, "num_leaves": 6, "min_data_in_leaf": 5, "cat_smooth": 1}
    params |= {"min_data_per_group": 5, "max_cat_to_onehot": 2}
    y = np.nan_to_num(y.astype(float))
    return lgb.train(params, lgb.Dataset(x, label=y, categorical_feature=[2, 3], params=params), 3).model_to_string()


def bases() -> list[str]:
    many = train("many", objective="multiclass", num_class=3)
    header, trees = TreeText(train("number", objective="regression")).cut()
    found = [many, train("binary", objective="binary"), train("number", objective="regression", linear_tree=True)]
    found += [TreeText.joined(header, [constant_tree(0.5), *trees], 1), TreeText.joined(header, [], 1)]
    # parameters are many, of one form, and read by nobody
    return [
        text[: text.find("[boosting")] + text[text.find("[linear_tree") :] if "[boosting" in text else text
        for text in found
    ]


BASES = bases()


def damaged(seed: int) -> str:
    """A text with up to three lines, values or letters changed, and mostly with the right sizes of trees."""
    rng = random.Random(seed)
    text = rng.choice(BASES)
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        how = rng.choice(["value"] * 4 + ["link"] * 8 + ["swap", "repeat", "drop", "letter", "cut"])
        links = [k for k, line in enumerate(lines) if line.partition("=")[0] in LINKS]
        i, j = (rng.choice(links) if how == "link" and links else rng.randrange(len(lines)) for _ in range(2))
        if how in ("value", "link"):
            key, _, values = lines[i].partition("=")
            row = values.split(" ")
            k = rng.randrange(len(row))
            row[k : k + rng.choice([0, 1, 1, 1, 1])] = rng.choice([[rng.choice(NUMBERS)], [rng.choice(row)], []])
            lines[i] = f"{key}={' '.join(row)}"
        elif how == "swap":
            lines[i], lines[j] = lines[j], lines[i]
        elif how == "repeat":
            lines.insert(i, lines[j])
        elif how == "drop":
            del lines[i]
        elif how == "letter":
            place = rng.randint(0, len(lines[i]))
            lines[i] = lines[i][:place] + rng.choice("0159 -=.e[]:\n\r\0xé") + lines[i][place + 1 :]
        else:
            lines = lines[: i + 1]
        text = "\n".join(lines)
    return sized(text) if rng.random() < 0.8 else text


@pytest.fixture(scope="module")
def worker():
    """A process that uses texts, and may die of it."""
    pools = []

    def use(texts):
        if not pools:
            pools.append(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        try:
            return pools[0].submit(use_trees, texts).result()
        except BrokenProcessPool:
            pools.clear()
            raise AssertionError(f"LightGBM died of one of {texts}") from None

    yield use
    for pool in pools:
        pool.shutdown()


def accepted(text: str) -> bool:
    try:
        check_trees(text.encode())
    except ValueError:
        return False
    return True


@pytest.mark.all_faces
def test_the_worker_dies_of_what_the_check_refuses(worker):
    text = BASES[1][: len(BASES[1]) // 3]
    assert not accepted(text)
    with pytest.raises(AssertionError, match="LightGBM died"):
        worker([text])


@pytest.mark.all_faces  # ten seconds
@settings(max_examples=100, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(st.lists(st.integers(0, 2**64), min_size=25, max_size=25, unique=True))
def test_lightgbm_survives_all_that_is_accepted(worker, seeds):
    for error in worker([text for text in map(damaged, seeds) if accepted(text)]):
        # an answer, as the parameters behind the trees are not all of the types that LightGBM has for them
        assert "SHAP" in error or "JSON" in error or "Unknown token" in error, error


def test_undamaged_texts_are_accepted():
    assert all(accepted(text) for text in BASES)
