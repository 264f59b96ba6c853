"""Independent tasks: one single-task model per target, the reference of every multi-task gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import lightgbm as lgb
import narwhals.stable.v2 as nw
import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import has_fit_parameter

from tabmtl.encode import TableCoder, take_rows
from tabmtl.encode.labels import both_classes
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.tables import MultiTaskEstimator, TableState
from tabmtl.forks import count_threads
from tabmtl.model_selection import train_valid_split
from tabmtl.params import NonNegative, WholeShare
from tabmtl.schema import Batch, Columns, Task
from tabmtl.storage.lightgbm_text import TreeText
from tabmtl.trees import LONGEST_STEP, ROWS_TO_SPLIT, Leaves, LightGBMOptions, dataset, tree_matrix

_MOST_TREES = 1_000
_METRICS = {"binary": "auc", "multiclass": "multi_logloss", "regression": "rmse"}


def _check_estimator(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, type) or not (hasattr(value, "fit") and hasattr(value, "get_params"))):
        raise TypeError(f"{name} must be an estimator such as RandomForestRegressor(), or None, got {value!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class IndependentState(TableState):
    """Fitted attributes that a file keeps: the trees of every task, in task order."""

    trees: tuple[TreeText, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks, columns = self._coder.labels.tasks, self._coder.features.columns
        found = [trees.shape[:2] for trees in self.trees]
        expected = [(columns.n_features, task.width) for task in tasks]
        if found != expected:
            raise ValueError(f"the trees have columns and outputs {found[:5]}, expected {expected[:5]}")


@dataclass(kw_only=True, eq=False, repr=False)
class IndependentTasks(LightGBMOptions, MultiTaskEstimator):
    """One model per task, each trained on its own labelled rows only.

    The default is LightGBM with native categories, native missing values and, for every task, its own early stopping.
    Any scikit-learn estimator can take its place. It gets X as it was given, without the rows that have no label, and
    is fitted on all others.

    The default LightGBM grows at most 1000 trees. Its options have the defaults of the published reference scores. With
    many classes a leaf adds at most 20 logits before the learning rate (``max_delta_step``); without that bound, a few
    rows of a rare class end the training early.

    Parameters
    ----------
    classifier, regressor : estimator, optional
        Cloned for every classification and regression task. A LightGBM estimator is trained like the default, with
        its own parameters, ``class_weight`` and ``random_state`` among them.
    early_stopping : bool, default=True
        Stop LightGBM where a task's validation score (ROC AUC, log loss for many classes, RMSE) has not improved
        for ``patience`` trees. Without X_val and y_val, fit sets ``validation_fraction`` of the rows aside.

    Attributes
    ----------
    tasks_ : tuple of Task
    estimators_ : dict of str to estimator
        The fitted model of every task: a LightGBM Booster, or a scikit-learn estimator.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import IndependentTasks
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.column_stack([X[:, 0], X[:, 1] * 10])
    >>> y[:50, 1] = np.nan  # unlabelled
    >>> IndependentTasks(random_state=0).fit(X, y).predict(X).shape
    (200, 2)
    """

    classifier: Annotated[BaseEstimator | None, _check_estimator] = None
    regressor: Annotated[BaseEstimator | None, _check_estimator] = None
    num_leaves: Leaves = 31
    colsample_bytree: WholeShare = 0.8
    reg_lambda: NonNegative = 0.0

    _stored: ClassVar[type] = IndependentState

    def _fit(self, X: Any, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int) -> dict[str, Any]:
        estimators: dict[str, Any] = {}
        for t, task in enumerate(coder.labels.tasks):
            index, rows = _labelled_rows(batch, t)
            base = self.classifier if task.is_classification else self.regressor
            if base is None or isinstance(base, lgb.LGBMModel):
                held_out = None if valid is None else _labelled_rows(valid, t)[1]
                estimators[task.name] = self._fit_lightgbm(base, task, rows, held_out, coder.features.columns, seed)
            else:
                estimators[task.name] = self._fit_foreign(base, task, self._foreign_rows(X, index), rows, seed)
        return {"estimators_": estimators}

    def _fit_lightgbm(
        self, base: lgb.LGBMModel | None, task: Task, rows: Batch, valid: Batch | None, columns: Columns, seed: int
    ) -> lgb.Booster:
        if valid is None and self.early_stopping and len(rows) >= ROWS_TO_SPLIT:
            rng = np.random.default_rng(seed)
            share = self.validation_fraction
            kept, held_out = train_valid_split(rows.y[:, None], (task,), share, rng, group=rows.group)
            rows, valid = rows.rows(kept), rows.rows(held_out)
        params = self._lightgbm_params(base, task, seed)
        n_trees = params.pop("n_estimators")
        data = dataset(rows, columns, label=rows.y, weight=rows.weight, free_raw_data=False)
        _weigh_classes(data, task, params.pop("class_weight", None))
        watched: list[lgb.Dataset] = []
        callbacks: list[Callable[..., Any]] = []
        if self.early_stopping and valid is not None and len(valid):
            if params["metric"] == "auc" and len(np.unique(valid.y)) < 2:
                params["metric"] = "binary_logloss"  # one class has no AUC, and LightGBM calls it perfect
            watched = [dataset(valid, columns, label=valid.y, weight=valid.weight, reference=data, free_raw_data=False)]
            callbacks = [lgb.early_stopping(self.patience, verbose=False)]
        booster = lgb.train(params, data, n_trees, valid_sets=watched, callbacks=callbacks)
        # the text is what save writes: a loaded model is then the fitted one
        return lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration or -1))

    def _lightgbm_params(self, base: lgb.LGBMModel | None, task: Task, seed: int) -> dict[str, Any]:
        """Return parameters of `lightgbm.train`; those of a given estimator take precedence."""
        own = self._tree_options() | {"n_estimators": _MOST_TREES}
        if task.kind == "multiclass":
            own["max_delta_step"] = LONGEST_STEP
        given = own if base is None else base.get_params()
        params = {name: value for name, value in given.items() if value is not None}
        if callable(params.get("objective")):
            raise ValueError(f"task {task.name!r}: the objective of LightGBM must be a name, got a function")
        if params.pop("importance_type", "split") != "split":
            raise ValueError("importance_type has no effect here; ask estimators_[task].feature_importance(...) for it")
        params["num_threads"] = count_threads(params.pop("n_jobs", self.n_jobs))
        ours = {"random_state": seed, "verbosity": -1, "deterministic": True, "force_col_wise": True}
        return {**ours, "objective": task.kind, "metric": _METRICS[task.kind], **params, "num_class": task.width}

    def _fit_foreign(self, base: BaseEstimator, task: Task, X: Any, rows: Batch, seed: int) -> BaseEstimator:
        y = np.array(task.classes)[rows.y.astype(np.int64)] if task.is_classification else rows.y
        weight = {} if rows.weight is None else {"sample_weight": rows.weight}
        if weight and not has_fit_parameter(base, "sample_weight"):
            raise ValueError(f"task {task.name!r}: {type(base).__name__}.fit takes no sample_weight; leave it out")
        model = clone(base)
        unset = [name for name, value in model.get_params().items() if value is None and name.endswith("random_state")]
        return model.set_params(**dict.fromkeys(unset, seed)).fit(X, y, **weight)

    def _foreign_rows(self, X: Any, rows: np.ndarray) -> Any:
        """Take rows of X in its own container, without the task column."""
        X = take_rows(X, rows)
        if self.task_column is None or not nw.dependencies.is_into_dataframe(X):
            return X
        return nw.from_native(X, eager_only=True).drop(self.task_column).to_native()

    def _outputs(self, X: Any, batch: Batch) -> list[np.ndarray]:
        matrix = tree_matrix(batch)
        if batch.task is None:
            return [self._answer(task, X, matrix) for task in self.tasks_]
        classes = self.tasks_[0].classes
        output = np.empty((len(batch), len(classes)) if classes else len(batch))
        for t in np.unique(batch.task).tolist():
            rows, task = np.flatnonzero(batch.task == t), self.tasks_[t]
            is_foreign = not isinstance(self.estimators_[task.name], lgb.Booster)
            output[rows] = self._answer(task, self._foreign_rows(X, rows) if is_foreign else X, matrix[rows])
        return [output]

    def _answer(self, task: Task, X: Any, matrix: np.ndarray) -> np.ndarray:
        estimator = self.estimators_[task.name]
        if isinstance(estimator, lgb.Booster):
            answer = np.asarray(estimator.predict(matrix, num_threads=self._n_threads))
            return both_classes(answer) if task.kind == "binary" else answer
        if not task.is_classification:
            return np.asarray(estimator.predict(X), dtype=np.float64)
        probabilities = np.zeros((len(matrix), len(task.classes or ())))
        own = {label: k for k, label in enumerate(task.classes or ())}
        if hasattr(estimator, "predict_proba"):
            probabilities[:, [own[label] for label in estimator.classes_.tolist()]] = estimator.predict_proba(X)
        else:
            probabilities[np.arange(len(matrix)), [own[label] for label in estimator.predict(X).tolist()]] = 1
        return probabilities

    def _state(self) -> IndependentState:
        for name, model in self.estimators_.items():
            if not isinstance(model, lgb.Booster):
                raise TypeError(
                    f"save writes LightGBM models and networks; the model of task {name!r} is a "
                    f"{type(model).__name__}, which only pickle could write: use joblib.dump, or skops, on files you "
                    "trust"
                )
        texts = (TreeText(model.model_to_string()) for model in self.estimators_.values())
        return IndependentState(_coder=self._coder, trees=tuple(texts))

    def _restore(self, state: Any) -> None:
        boosters = [lgb.Booster(model_str=trees) for trees in state.trees]
        names = [task.name for task in state._coder.labels.tasks]
        self._set_fitted(state._coder, {"estimators_": dict(zip(names, boosters, strict=True))})


class IndependentTasksClassifier(ClassifierFace, IndependentTasks):
    """`IndependentTasks` whose every task is a classification."""


class IndependentTasksRegressor(RegressorFace, IndependentTasks):
    """`IndependentTasks` whose every task is a regression."""


def _weigh_classes(data: lgb.Dataset, task: Task, class_weight: Any) -> None:
    """Multiply weights by those of the classes, as LightGBM's own classifier does."""
    if class_weight is None or not task.is_classification:
        return
    factor = compute_sample_weight(class_weight, np.array(task.classes)[np.asarray(data.label, dtype=np.int64)])
    data.set_weight(factor if data.weight is None else np.asarray(data.weight) * factor)


def _labelled_rows(batch: Batch, t: int) -> tuple[np.ndarray, Batch]:
    """Return the numbers of the rows with a label of task t, and these rows with its labels and weights (n,) alone."""
    column = t if batch.task is None else 0
    labelled = ~np.isnan(batch.y[:, column])
    index = np.flatnonzero(labelled if batch.task is None else labelled & (batch.task == t))
    rows = batch.rows(index)
    return index, replace(rows, y=rows.y[:, column], weight=None if rows.weight is None else rows.weight[:, column])
