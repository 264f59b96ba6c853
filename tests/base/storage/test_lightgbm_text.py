"""LightGBM's text: what it writes is accepted, what would end, hang or mislead the process never reaches it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import lightgbm as lgb
import numpy as np
import pytest
from conformance import answers, same
from forging import copy_of, forge, parts_of, sized, use_trees
from models_at_hand import fitted

from tabmtl import RMTGB, IndependentTasks, SharedTrees
from tabmtl.base.storage.lightgbm_text import DEEPEST, TreeText, check_trees, constant_tree, scale_tree

rng = np.random.default_rng(0)
X = np.column_stack([rng.normal(size=(300, 2)), rng.integers(0, 60, 300), rng.integers(0, 4, 300)])
X[::7, 0] = np.nan
VALUES = 0.1 + X[:, 1] ** 2 + (X[:, 2] % 3 == 1) + rng.random(300)
LABELS = {"binary": VALUES > 1.5, "many": rng.integers(0, 3, 300), "number": VALUES, "missing": np.isnan(X[:, 0])}


def train(label: str = "number", rounds: int = 3, **params) -> str:
    params = {"verbosity": -1, "num_threads": 1, "num_leaves": 6, "min_data_in_leaf": 5} | params
    params |= {"cat_smooth": 1, "min_data_per_group": 5, "max_cat_to_onehot": 2}
    data = lgb.Dataset(X, label=LABELS[label].astype(float), categorical_feature=[2, 3], params=params)
    return lgb.train(params, data, rounds).model_to_string()


def joined(text: str, width: int, *, constants: bool = True, trees: bool = True) -> str:
    """What R-MTGB saves, and what it exports."""
    header, own = TreeText(text).cut()
    kept = [constant_tree(1.5)] * (width * constants) + [scale_tree(tree, -0.3) for tree in own] * trees
    return TreeText.joined(header, kept, width)


ONE = ("regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie")
PARAMS = {
    **{name: {"objective": name} for name in ONE},
    "binary": {"objective": "binary", "label": "binary"},
    "cross entropy": {"objective": "cross_entropy", "label": "binary"},
    "cross entropy lambda": {"objective": "cross_entropy_lambda", "label": "binary"},
    "many": {"objective": "multiclass", "num_class": 3, "label": "many"},
    "one against all": {"objective": "multiclassova", "num_class": 3, "label": "many"},
    "forest": {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    "dart": {"objective": "regression", "boosting": "dart", "rounds": 8},
    "linear": {"objective": "regression", "linear_tree": True},
    "root": {"objective": "regression", "reg_sqrt": True},
    "monotone": {"objective": "regression", "monotone_constraints": [1, -1, 0, 0]},
    "no split": {"objective": "regression", "min_data_in_leaf": 200},
    "infinite threshold": {"objective": "regression", "label": "missing"},
    "zero is missing": {"objective": "regression", "zero_as_missing": True},
    "lists": {"objective": "regression", "interaction_constraints": [[0, 1], [2, 3]], "metric": ["l1", "l2"]},
}
TEXTS = {name: train(**params) for name, params in PARAMS.items()}
TEXTS |= {
    "joined": joined(TEXTS["many"], 3),
    "exported": lgb.Booster(model_str=joined(TEXTS["huber"], 1)).model_to_string(),
    "constants": joined(TEXTS["huber"], 1, trees=False),
    "empty": joined(TEXTS["huber"], 1, constants=False, trees=False),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_lightgbm_and_the_package_write_is_accepted(name):
    for text in (TEXTS[name], lgb.Booster(model_str=TEXTS[name]).model_to_string()):
        shape, booster = check_trees(text.encode()), lgb.Booster(model_str=text)
        assert (shape.n_features, shape.width) == (booster.num_feature(), booster.num_model_per_iteration())
        assert shape.n_iterations == booster.current_iteration()


@pytest.mark.parametrize("cls", [RMTGB, SharedTrees, IndependentTasks])
def test_models_of_all_kinds_come_back(cls, reloaded):
    own = {"regressor": lgb.LGBMRegressor(linear_tree=True, n_estimators=5)} if cls is IndependentTasks else {}
    estimator, frame, _ = fitted(cls, **own)
    assert same(answers(estimator, frame), answers(reloaded(estimator), frame))


HEAD = """tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=1
objective=binary sigmoid:1
feature_names=a b
feature_infos=[-1.5:2] 0:3:1
tree_sizes=
"""
TREE = """Tree=0
num_leaves=4
num_cat=2
split_feature=0 1 1
split_gain=1 0.5 1e-05
threshold=0.5 0 1
decision_type=10 1 1
left_child=1 -1 -2
right_child=2 -3 -4
leaf_value=0.1 -2 3 4e-05
leaf_weight=1 1 1 1
leaf_count=1 1 1 1
internal_value=0 0 0
internal_weight=4 2 2
internal_count=4 2 2
cat_boundaries=0 1 2
cat_threshold=5 6
is_linear=0
shrinkage=0.1


"""
TAIL = "end of trees\n\nparameters:\n[boosting: gbdt]\n\nend of parameters\n\npandas_categorical:null\n"
GOOD = f"{HEAD}\n{TREE}{TREE.replace('Tree=0', 'Tree=1')}{TAIL}"


def changed(key: str, value: str, text: str = GOOD) -> str:
    """The last line of a key, which is in the second tree if it is of trees, with another value."""
    before, _, after = text.rpartition(f"\n{key}=")
    return sized(f"{before}\n{key}={value}\n" + after.partition("\n")[2])


LINES = {
    "num_leaves": ["0", "-4", "3", "5", "1", "2000000000", "4294967300", "", "x"],
    "num_cat": ["0", "1", "3", "-1", "2000000000"],
    "split_feature": ["0 1 2", "0 1 -1", "0 1 100000000", "0 1", "0 1 1 1", "0 1 x", "0  1 1"],
    "threshold": ["0.5 0 2", "0.5 1 0", "nan 0 1", "x 0 1", "1e999 0 1", "0.5 0 1e9", "0.5,0 1"],
    "decision_type": ["10 1 0", "1 1 1", "12 1 1", "10 1 129", "10 1 257", "10 1 3", "10 1"],
    "left_child": ["0 -1 -2", "1 1 -2", "2 -1 -2", "1 -1 -1", "1 -1 -5", "1 -1 3", "1 -1 -2000000000"],
    "right_child": ["1 -3 -4", "2 -3 1", "2 -3 -2", "2 -3", "2 -3 1000000", "2 -3 -4.0", "2 -3 --4"],
    "leaf_value": ["1 2 3", "1 2 3 nan", "1 2 3 inf", "1 2 3 1e999", "1 2 3 4 5", "1 2 3 +", ""],
    "leaf_weight": ["1 1 1", "1 1 1 x", "1 1 1 1e", "1 1 1 1."],
    "leaf_count": ["1 1 1", "1 1 1 -1", "1 1 1 1.5"],
    "split_gain": ["1 2", "1 2 --1", "1 2 zzz", "1 2 3\x00"],
    "internal_value": ["0 0", "0 0 0x1"],
    "cat_boundaries": ["0 1", "0 1 3", "0 2 1", "1 1 2", "0 -1 2", "0 100000000 2", "0 1 2000000000"],
    "cat_threshold": ["5", "5 6 7", "5 x", "5 -1", "5 99999999999"],
    "is_linear": ["1", "2", ""],
    "shrinkage": ["zz", "", "1 1"],
}
HEADER = {
    "num_class": ["0", "-1", "2", "1000000000", "x", ""],
    "num_tree_per_iteration": ["0", "4", "-1", ""],
    "max_feature_idx": ["-1", "0", "2", "1000000000"],
    "objective": ["", "multiclass num_class:9", "multiclassova num_class:9 sigmoid:1", "lambdarank", "x"],
    "feature_names": ["a", "a b c", "a=b c", "a\tb", ""],
    "feature_infos": ["[5 [", "none", "[1:2] a:b", ""],
    "label_index": ["-1", "x"],
    "version": ["v3", ""],
}


def pairs(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(key, value) for key, values in table.items() for value in values]


def test_the_example_is_one():
    assert check_trees(sized(GOOD).encode()) == (2, 1, 2, 1)
    assert use_trees([]) == []
    assert lgb.Booster(model_str=sized(GOOD)).num_trees() == 2


@pytest.mark.parametrize(("key", "value"), pairs(LINES))
def test_a_malformed_tree_is_refused_by_line_and_tree(key, value):
    with pytest.raises(ValueError, match=r"^line \d+ \(tree 1\): "):
        check_trees(changed(key, value).encode())


@pytest.mark.parametrize(("key", "value"), pairs(HEADER))
def test_a_malformed_header_is_refused(key, value):
    with pytest.raises(ValueError, match=rf"{key}|line \d+|num_class|max_feature_idx"):
        check_trees(changed(key, value).encode())


def chain(size: int) -> str:
    """A tree that goes on to one side only."""
    n = size - 1
    lines = {"num_leaves": [size], "num_cat": [0]} | {
        key: [0] * n for key in ("split_feature", "split_gain", "threshold")
    }
    lines |= {"decision_type": [2] * n, "left_child": [*range(1, n), -1], "right_child": range(-2, -size - 1, -1)}
    lines |= {key: [1] * size for key in ("leaf_value", "leaf_weight", "leaf_count")}
    lines |= {f"internal_{key}": [1] * n for key in ("value", "weight", "count")} | {"is_linear": [0], "shrinkage": [1]}
    tree = "".join(f"{key}={' '.join(map(str, values))}\n" for key, values in lines.items())
    return sized(f"{HEAD}\nTree=0\n{tree}\n\n{TAIL}")


def test_a_tree_is_as_deep_as_its_shap_values_allow():
    assert use_trees([chain(DEEPEST + 1)]) == []
    check_trees(chain(DEEPEST + 1).encode())
    for size in (DEEPEST + 2, 131_072, 200_000):
        with pytest.raises(ValueError, match=r"\(tree 0\): (left_child makes a tree deeper than|num_leaves is above)"):
            check_trees(chain(size).encode())


BROKEN = {
    "emptied": lambda text: "",
    "cut in the header": lambda text: text[:60],
    "cut in a tree": lambda text: text[: text.index("Tree=1") + 60],
    "cut at a tree": lambda text: text[: text.index("Tree=1")],
    "without sizes": lambda text: re.sub(r"tree_sizes=.*\n", "", text),
    "sizes beyond the end": lambda text: re.sub(r"tree_sizes=.*", "tree_sizes=99999999999 1", text),
    "negative sizes": lambda text: re.sub(r"tree_sizes=.*", "tree_sizes=-5 9", text),
    "a million sizes": lambda text: re.sub(r"tree_sizes=.*", "tree_sizes=" + "0 " * 10**6 + "0", text),
    "a line more": lambda text: sized(text.replace("num_cat=", "junk\nnum_cat=", 1)),
    "a line twice": lambda text: sized(text.replace("num_cat=2\n", "num_cat=2\nnum_cat=2\n", 1)),
    "a line less": lambda text: sized(text.replace("leaf_value=0.1 -2 3 4e-05\n", "", 1)),
    "another order": lambda text: sized(text.replace("is_linear=0\nshrinkage=0.1", "shrinkage=0.1\nis_linear=0", 1)),
    "carriage returns": lambda text: text.replace("\n", "\r\n"),
    "a parameter without colon": lambda text: text.replace("[boosting: gbdt]", "[boosting gbdt]"),
    "a parameter with quotes": lambda text: text.replace("gbdt]", 'g"b]'),
    "deep categories": lambda text: text.replace("categorical:null", "categorical:" + "[" * 100_000),
    "something behind": lambda text: text + "parser:\n{}\nend of parser\n",
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_texts_are_refused(how):
    with pytest.raises(ValueError, match=r"line \d+|lacks"):
        check_trees(BROKEN[how](sized(GOOD)).encode())


LOAD = """
import sys, tabmtl
for folder in sys.argv[1:]:
    try:
        tabmtl.load(folder)
    except tabmtl.ModelFileError as error:
        print(error)
"""
PLAIN = "import sys, lightgbm; lightgbm.Booster(model_file=sys.argv[1])"


@pytest.mark.all_faces
def test_texts_that_end_the_process_end_in_errors(tmp_path):
    model, _, _ = fitted(IndependentTasks, early_stopping=False)
    model.save(tmp_path / "model")
    text = parts_of(tmp_path / "model")["trees0.txt"].read_text()
    killers = [text[: len(text) // 3], sized(text.replace("left_child=", "left_child=9", 1))]
    folders = [copy_of(tmp_path / "model", tmp_path / f"forged{i}") for i in range(2)]
    for folder, killer in zip(folders, killers, strict=True):
        forge(folder, {"trees0.txt": killer.encode()})
    ours = subprocess.run([sys.executable, "-c", LOAD, *folders], capture_output=True, text=True, check=True)
    for folder, line in zip(folders, ours.stdout.splitlines(), strict=True):
        assert re.search(rf"{folder}.*save it again.*trees\.0 is no model of LightGBM: line \d+ \(tree \d+\)", line)
    (tmp_path / "killer.txt").write_text(killers[0])
    theirs = subprocess.run([sys.executable, "-c", PLAIN, tmp_path / "killer.txt"], capture_output=True, check=False)
    assert -theirs.returncode in (signal.SIGABRT, signal.SIGSEGV)  # which one depends on the memory behind the text
