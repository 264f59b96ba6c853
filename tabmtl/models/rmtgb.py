"""R-MTGB: robust multi-task gradient boosting, on LightGBM's trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightgbm as lgb
import numpy as np
import polars as pl
from joblib import effective_n_jobs
from scipy.special import expit
from sklearn.utils.validation import check_is_fitted

from tabmtl.base import ClassifierFace, MultiTaskEstimator, RegressorFace
from tabmtl.cells import Cells, Rows, labelled_rows, rows_of_tasks
from tabmtl.checks import check_at_least, check_choice, check_count, check_positive, check_share
from tabmtl.dealing import train_valid_split
from tabmtl.encode import TableCoder
from tabmtl.family import Family, normal_theta
from tabmtl.growing import PRIOR_ROWS, grow
from tabmtl.persist import Saved
from tabmtl.schema import Batch, Task
from tabmtl.trees import Ensemble, Forest, bin_rows, tree_matrix

Sides = tuple[Rows, Rows | None]

_ROWS_TO_SPLIT = 50
_SPREAD = 0.1  # standard deviation of theta at the start
_LARGEST = 12.0  # |theta|, scale-free step
_LONGEST = 0.5  # one scale-free step of theta
_EVIDENCE = 4.0  # squared standard errors that a gradient of theta must exceed, scale-free step
_FLOOR = 1e-6  # of a Newton hessian
_LONGEST_START = 2.0  # first step of block 3, in logits


class Block:
    """One block of R-MTGB: functions of the rows that grow together on what the scores before it leave.

    Block 1 and, for each task alone, block 3 are F = scores + f. With theta, block 2 is
    F = scores + (1 - s) B + s A with s = sigmoid(theta) of the task.
    """

    def __init__(
        self,
        params: dict[str, Any],
        rows: Rows,
        valid: Rows | None,
        *,
        theta: np.ndarray | None = None,
        theta_rate: float | None = None,
    ) -> None:
        self.rows, self.valid = rows, valid
        self.theta, self.theta_rate = theta, theta_rate
        self.thetas = {0: theta}
        width = rows.cells.width * (1 if theta is None else 2)
        self.ensemble = Ensemble(params, rows.data, None if valid is None else valid.data, width=width)

    def total(self, rows: Rows, functions: np.ndarray) -> np.ndarray:
        """F at the cells, given the functions at the rows: f, or B and then A."""
        if self.theta is None:
            return rows.scores + rows.cells.at_cells(functions)
        B, A = np.split(functions, 2)
        return rows.scores + rows.cells.at_cells(B) + rows.cells.at_cells(A - B, expit(self.theta))

    def update(self) -> None:
        """One round; all of it sees the same F."""
        self.ensemble.update(self._gradients if self.theta is None else self._mixed_gradients)
        self.thetas[self.ensemble.rounds] = self.theta

    def _gradients(self, functions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Newton: g = -r, h = ∂²L/∂F², summed over the labels of a row."""
        cells = self.rows.cells
        residuals, hessians = cells.derivatives(self.total(self.rows, functions))
        return -cells.at_rows(residuals), cells.at_rows(hessians)

    def _mixed_gradients(self, functions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A: g = -s r; B: g = -(1 - s) r. h = 1 for squared error, else Newton's s² h and (1 - s)² h."""
        cells, s = self.rows.cells, expit(self.theta)
        residuals, hessians = cells.derivatives(self.total(self.rows, functions))
        gradient = np.concatenate([cells.at_rows(residuals, s - 1), cells.at_rows(residuals, -s)])
        if cells.kind == "regression":
            hessian = np.concatenate([cells.at_rows(hessians)] * 2)
        else:
            hessian = np.concatenate([cells.at_rows(hessians, (1 - s) ** 2), cells.at_rows(hessians, s**2)]) + _FLOOR
        B, A = np.split(functions, 2)
        self._move_theta((residuals * cells.at_cells(A - B)).sum(axis=-2))
        return gradient, hessian

    def _move_theta(self, inner: np.ndarray) -> None:
        """One step down ∂L/∂θ_t = -s (1 - s) Σ ⟨r, A - B⟩, given the inner products of the cells."""
        per_task, s = self.rows.cells.per_task, expit(self.theta)
        total = per_task(inner)
        if self.theta_rate is not None:
            self.theta = self.theta + self.theta_rate * s * (1 - s) * total
            return
        tiny = np.finfo(float).tiny
        step = 4 * s * (1 - s) * total / (per_task(np.abs(inner)) + tiny)
        certain = np.maximum(0, 1 - _EVIDENCE * per_task(inner**2) / (total**2 + tiny))
        self.theta = np.clip(self.theta + _LONGEST * certain * step, -_LARGEST, _LARGEST)

    @property
    def rounds(self) -> int:
        """Rounds grown so far."""
        return self.ensemble.rounds

    @property
    def valid_size(self) -> float:
        """Total weight of the validation labels."""
        return 0.0 if self.valid is None else float(self.valid.cells.weight.sum())

    def valid_losses(self) -> np.ndarray:
        """Summed loss of every task on the validation rows, 0 without any."""
        if self.valid is None:
            return np.zeros(self.rows.cells.n_tasks)
        return self.valid.cells.losses(self.total(self.valid, self.ensemble.scores(of_valid=True)))

    def valid_loss(self) -> float:
        """Summed loss of all tasks on the validation rows."""
        return float(self.valid_losses().sum())

    def keep(self, rounds: int) -> None:
        """Take back all later rounds."""
        self.ensemble.cut(rounds)
        self.theta = self.thetas[self.ensemble.rounds]

    def after(self) -> Sides:
        """The rows, with scores that hold this block."""
        rows = replace(self.rows, scores=self.total(self.rows, self.ensemble.scores()))
        if self.valid is None:
            return rows, None
        return rows, replace(self.valid, scores=self.total(self.valid, self.ensemble.scores(of_valid=True)))

    def check_sides(self) -> np.ndarray:
        """Validation labels of every task, their mean loss, and the same with the θ of a normal task: (T, 3)."""
        if self.valid is None or not self.rounds:
            return np.full((self.rows.cells.n_tasks, 3), np.nan)
        theta, sign = self.theta, -1 if flips(self.theta) else 1
        size = self.valid.cells.per_task(self.valid.cells.weight)
        own = self.valid_losses()
        self.theta = np.full(len(theta), sign * normal_theta(sign * theta))
        normal = self.valid_losses()
        self.theta = theta
        with np.errstate(invalid="ignore"):  # a task without validation labels
            return np.stack([size, own / size, normal / size], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """How the three blocks of a family are grown.

    Attributes
    ----------
    params, options : dict
        LightGBM's parameters of trees, and of data.
    rounds : ndarray of int, shape (2 + T,)
        The most rounds of block 1, block 2, and block 3 of every task.
    patience : int or None
        Rounds without a lower validation loss that end a block; None = all rounds.
    alone : ndarray of bool, shape (T,), or None
        Tasks without the shared part; None = the validation rows decide.
    theta_rate : float or None
        Rate of θ's step on the summed gradient; None = the scale-free step.
    """

    params: dict[str, Any]
    options: dict[str, Any]
    rounds: np.ndarray
    patience: int | None
    alone: np.ndarray | None
    theta_rate: float | None

    def fit(self, members: np.ndarray, rows: Rows, valid: Rows | None, theta: np.ndarray) -> Family:
        """Fit the tasks of one loss."""
        start = rows.cells.start()
        rows = replace(rows, scores=rows.cells.constant(start))
        valid = None if valid is None else replace(valid, scores=valid.cells.constant(start))
        shared = Block(self.params, rows, valid)
        grow([shared], self.rounds[:1], self.patience)
        mixed = Block(self.params, *shared.after(), theta=theta, theta_rate=self.theta_rate)
        grow([mixed], self.rounds[1:2], self.patience)
        shares = shared.rounds + mixed.rounds > 0
        own, own_start, alone = self._fit_own((rows, valid), mixed.after() if shares else None)
        functions = mixed.ensemble.trees(2)
        if flips(mixed.theta):
            functions.reverse()
        blocks = ([shared], [mixed], own)
        return Family(
            members=members,
            rounds=np.array([block.rounds for part in blocks for block in part]),
            alone=alone,
            start=start,
            own_start=own_start,
            theta=-mixed.theta if flips(mixed.theta) else mixed.theta,
            checks=mixed.check_sides(),
            importances=np.stack([sum(block.ensemble.gains() for block in part) for part in blocks]),
            forest=Forest.join(
                shared.ensemble.text(),
                [*shared.ensemble.trees(), *functions, *(block.ensemble.trees()[0] for block in own)],
                rows.cells.width,
            ),
        )

    def _fit_own(self, before: Sides, after: Sides | None) -> tuple[list[Block], np.ndarray, np.ndarray]:
        """Block 3 of every task, on what the shared part leaves, or for those that go alone from the start."""
        n_tasks = before[0].cells.n_tasks
        none, every = np.zeros(n_tasks, dtype=bool), np.ones(n_tasks, dtype=bool)
        if after is None:
            return *self._grow_own(before, before, every)[:2], every
        if self.alone is not None or self.patience is None:
            alone = none if self.alone is None else self.alone
            return *self._grow_own(before, after, alone)[:2], alone
        (own, start, losses), (solo, solo_start, solo_losses) = (
            self._grow_own(before, after, choice) for choice in (none, every)
        )
        gain = losses - solo_losses
        size = sum(block.valid_size for block in own)
        alone = gain + PRIOR_ROWS * gain.sum() / size > 0
        blocks = [solo[t] if alone[t] else own[t] for t in range(n_tasks)]
        return blocks, np.where(alone[:, None], solo_start, start), alone

    def _grow_own(self, before: Sides, after: Sides, alone: np.ndarray) -> tuple[list[Block], np.ndarray, np.ndarray]:
        """Blocks of the tasks, their constants (T, K), and their validation losses (T,)."""
        starts = np.where(alone[:, None], own_start(before[0].cells), shrunk_start(after[0]))
        blocks = []
        for t in range(len(alone)):
            rows, valid = (
                None if side is None else side.of_task(t, self.options) for side in (before if alone[t] else after)
            )
            for side in (rows, valid):
                if side is not None:
                    side.scores += starts[t][:, None]
            least = max(1, min(self.params["min_data_in_leaf"], rows.scores.shape[1] // 10))
            blocks.append(Block(self.params | {"min_data_in_leaf": least}, rows, valid))
        losses = grow(blocks, self.rounds[2:], self.patience)
        return blocks, starts, losses


def own_start(cells: Cells) -> np.ndarray:
    """What makes the common constant of the tasks the best one of each: (T, K)."""
    own = [cells.of_task(t, cells.rows_of(t)).start()[0] for t in range(cells.n_tasks)]
    return np.stack(own) - cells.start()


def shrunk_start(rows: Rows) -> np.ndarray:
    """Newton step of a constant for every task, shrunk to 0 as far as chance explains the differences: (T, K).

    With step u and error v² of each task, τ² = mean(u² - v²) is left for the tasks, and u τ² / (τ² + v²) is taken.
    """
    cells = rows.cells
    residuals, hessians = cells.derivatives(rows.scores)
    hessians = np.broadcast_to(hessians, residuals.shape)
    r, r2, h = (
        np.stack([cells.per_task(values[..., k, :]) for k in range(cells.width)], axis=1)
        for values in (residuals, residuals**2, hessians)
    )
    limit = np.inf if cells.kind == "regression" else _LONGEST_START
    tiny = np.finfo(float).tiny
    step, error = np.clip(r / (h + tiny), -limit, limit), r2 / (h**2 + tiny)
    between = np.maximum(0, (step**2 - error).mean(axis=0))
    return step * between / (between + error + tiny)


def flips(theta: np.ndarray) -> bool:
    """Whether most tasks are on A's side, so that A and B must change places."""
    return (theta > 0).sum() > len(theta) / 2


@dataclass(kw_only=True, eq=False, repr=False)
class RMTGB(MultiTaskEstimator):
    """Robust multi-task gradient boosting (R-MTGB) of Emami et al., with LightGBM's trees.

    For the tasks of one loss (all regressions; all binary tasks; tasks of the same many classes)::

        F(x, t) = F1(x) + (1 - s_t) B(x) + s_t A(x) + G_t(x),        s_t = sigmoid(theta_t)

    grown in three blocks, each on the pseudo-residuals r = -∂L/∂F that the blocks before it leave:

    1. F1, shared by all tasks.
    2. B and A, mixed for every task: B is fitted to (1 - s) r, A to s r, and θ takes one step down
       ∂L/∂θ_t = -s_t (1 - s_t) Σ ⟨r, A - B⟩ over the rows of the task. All three see the same F. Tasks that are not
       like most of them move to the other side: :attr:`outlier_score_`.
    3. G_t, one ensemble for each task.

    Rows are binned once. Categories and missing values are LightGBM's own. A wide table is not melted: the gradient of
    a shared function at a row is the sum over the row's labels. Each block stops where the validation loss does not
    fall; in block 3 every task stops where its own and the loss of all tasks say, the latter with the weight of
    10 000 labels, and tasks which do better without the shared part, judged likewise, go without it.

    Parameters
    ----------
    n_estimators_shared, n_estimators_outlier, n_estimators_task : int, default=500, 300, 300
        The most rounds of block 1, 2 and 3; 0 leaves a block out. Block 2 grows two trees a round, and each one as many
        as there are classes beyond two. A loss with a single task has block 3 only: plain boosting.
    learning_rate : float, default=0.05
    num_leaves : int, default=8
        Most leaves of a tree.
    min_child_samples : int, default=20
        Least rows of a leaf; in block 3 at most a tenth of the rows of the task, so that small tasks have splits.
    subsample, colsample_bytree : float, default=1.0
        Share of rows, drawn anew each round, and of columns, for every tree.
    reg_lambda : float, default=0.0
        L2 penalty of the leaf values.
    max_bin : int, default=255
        Most bins of a column.
    theta_step : {"scale-free", "sum"}, default="scale-free"
        How θ moves. "sum": learning rate times the summed gradient, as in the released code; it depends on the rows of a
        task and on the scale of y. "scale-free": by 2 Σ / Σ|·| of the inner products times s (1 - s), at most 0.5, and
        only as far as the sum is beyond two standard errors of it; |θ| is at most 12.
    unknown_task : {"shared", "error"}, default="shared"
        Long layout: what ``predict`` says for a task that fit did not see, or a missing one. "shared": the shared part
        with the θ of a normal task, the median of the majority.
    early_stopping : bool, default=True
        Without X_val and y_val in fit, ``validation_fraction`` of the rows is set aside to find the rounds, and then all
        rows are fitted with these: no row is lost. Below 50 rows all rounds are grown.
    validation_fraction : float, default=0.15
    patience : int, default=30
        Rounds without a lower validation loss after which a block ends.
    n_jobs : int, optional
        Threads of LightGBM, as scikit-learn counts them; more than one pays from about 50 000 rows.
    **options
        The fields of :class:`tabmtl.base.MultiTaskEstimator`; ``task_column`` for tables with a task per row.

    Attributes
    ----------
    tasks_ : tuple of Task
    outlier_score_ : polars.DataFrame
        A row per task. ``outlier_score``: sigmoid(θ), with sides named so that most tasks are at or below 0.5; null
        where block 2 has no trees. ``n_labels``: labels in fit. ``shares``: whether the task uses the shared part.
        The measured check: ``check_labels`` validation labels have the mean loss ``check_loss`` after block 2, and
        ``check_loss_if_normal`` with the θ of a normal task instead; null without validation rows.
    block_rounds_ : polars.DataFrame
        Rounds of every task: ``shared``, ``outlier``, ``own``.
    feature_importances_ : polars.DataFrame
        Per feature the share of the total gain of all splits in block 1 (``shared``), 2 (``outlier``), 3 (``own``).

    Notes
    -----
    The formulas are those of the released code, of which the paper's abstract differs in words: there is no
    regularisation of θ. Ours differs from it so: F starts at the mean (or log odds), not at 0; leaves are Newton steps
    where the loss is not squared, and plain means where it is; block 3 begins with a constant for each task, shrunk to 0
    as far as chance explains the differences; trees have more than two leaves; θ is drawn from the estimator's own
    generator; predict never renumbers tasks. Mixed kinds are learned as one family of functions per loss.

    What the outlier score finds, and what not: one group of tasks that follow another function (or the flipped one, or
    have shuffled or shifted labels) is told apart. Several outliers which each follow their own function share one A,
    and may be missed; mere noise in the labels is not found reliably; and after many rounds of block 1 the score is
    about what is left, so that some tasks may move though none is an outlier. So compare the two check losses.

    References
    ----------
    Emami, Martínez-Muñoz, Hernández-Lobato (2025), "Robust Multi-Task Gradient Boosting", arXiv:2507.11411.

    Examples
    --------
    >>> from tabmtl import RMTGB
    >>> from tabmtl.synth import make_outlier_tasks
    >>> bench = make_outlier_tasks(n_tasks=5, n_outliers=1, random_state=0)
    >>> model = RMTGB(task_column="task", random_state=0).fit(bench.X, bench.y)
    >>> model.outlier_score_.filter(model.outlier_score_["outlier_score"] > 0.5)["task"].to_list() == [*bench.outliers]
    True
    """

    n_estimators_shared: int = 500
    n_estimators_outlier: int = 300
    n_estimators_task: int = 300
    learning_rate: float = 0.05
    num_leaves: int = 8
    min_child_samples: int = 20
    subsample: float = 1.0
    colsample_bytree: float = 1.0
    reg_lambda: float = 0.0
    max_bin: int = 255
    theta_step: Literal["scale-free", "sum"] = "scale-free"
    unknown_task: Literal["shared", "error"] = "shared"
    early_stopping: bool = True
    validation_fraction: float = 0.15
    patience: int = 30
    n_jobs: int | None = None

    def export_task(self, task: str) -> lgb.Booster:
        """Everything for one task as one plain LightGBM model.

        It predicts what this estimator does, values in own units or probabilities, from the matrix of `encode`; its
        ``pred_contrib`` (SHAP values) sums to the prediction, of a classification to the log odds or scores.

        Parameters
        ----------
        task : str
            Name of a task.

        Returns
        -------
        lightgbm.Booster

        Raises
        ------
        ValueError
            If there is no such task.
        """
        check_is_fitted(self)
        names = [each.name for each in self.tasks_]
        if task not in names:
            raise ValueError(f"expected task to be one of {names}, got {task!r}")
        index = names.index(task)
        family = next(family for family in self._families if index in family.members)
        labels, own = self._coder.labels, self.tasks_[index]
        objectives = {"binary": "binary sigmoid:1", "multiclass": f"multiclass num_class:{own.width}"}
        column = 0 if labels.task_levels is not None else index
        return family.export(
            int(np.flatnonzero(family.members == index)[0]),
            objectives.get(own.kind, "regression"),
            float(labels.scale[column]),
            float(labels.center[column]),
        )

    def encode(self, X: Any) -> np.ndarray:
        """Rows as the models of `export_task` take them.

        Returns
        -------
        matrix : ndarray of float32, shape (n, p)
            The numeric columns of X, then the categorical ones as codes from 0; missing and unseen are NaN. The task
            column of a long table is left out.
        """
        check_is_fitted(self)
        self._check_columns(X)
        return tree_matrix(self._read_rows(X))

    def _check_params(self) -> None:
        for name in ("n_estimators_shared", "n_estimators_outlier", "n_estimators_task"):
            check_count(name, getattr(self, name), 0)
        for name in ("min_child_samples", "patience"):
            check_count(name, getattr(self, name))
        for name in ("num_leaves", "max_bin"):
            check_count(name, getattr(self, name), 2)
        check_positive("learning_rate", self.learning_rate)
        check_at_least("reg_lambda", self.reg_lambda, 0)
        check_share("subsample", self.subsample, whole=True)
        check_share("colsample_bytree", self.colsample_bytree, whole=True)
        check_share("validation_fraction", self.validation_fraction)
        check_choice("theta_step", self.theta_step, ("scale-free", "sum"))
        check_choice("unknown_task", self.unknown_task, ("shared", "error"))

    def _read_rows(self, X: Any) -> Batch:
        return self._coder.read(X, unknown_task=self.unknown_task)

    def _fit(self, X: Any, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int) -> dict[str, Any]:
        batch = labelled_rows(batch)
        found: list[Family] = []
        if not self.early_stopping:
            valid = None
        elif valid is not None:
            valid = labelled_rows(valid)
        elif len(batch) >= _ROWS_TO_SPLIT:
            rng = np.random.default_rng(seed)
            kept, held_out = train_valid_split(batch.y, coder.labels.tasks, self.validation_fraction, rng, batch.task)
            found = self._fit_families(coder, batch.rows(kept), batch.rows(held_out), seed)
        families = self._fit_families(coder, batch, valid, seed, found)
        if batch.task is None:
            counts = (~np.isnan(batch.y)).sum(axis=0)
        else:
            counts = np.bincount(batch.task, minlength=len(coder.labels.tasks))
        return {"_families": families, **_tables(coder, families, counts)}

    def _fit_families(
        self, coder: TableCoder, batch: Batch, valid: Batch | None, seed: int, found: Sequence[Family] = ()
    ) -> list[Family]:
        """Fit every loss; what an earlier fit found on validation rows is taken over."""
        options, params = self._lightgbm_params(seed)
        columns, rng = coder.features.columns, np.random.default_rng(seed)
        data = bin_rows(batch, columns, options)
        held_out = None if valid is None else bin_rows(valid, columns, options, data)
        families = []
        for i, members in enumerate(_members_by_loss(coder.labels.tasks)):
            watched = None
            if valid is not None and held_out is not None:
                watched = rows_of_tasks(held_out, valid, coder, members, options)
            shares = len(members) > 1
            caps = [self.n_estimators_shared * shares, self.n_estimators_outlier * shares]
            recipe = Recipe(
                params=params,
                options=options,
                rounds=found[i].rounds if found else np.array(caps + [self.n_estimators_task] * len(members)),
                patience=None if watched is None else self.patience,
                alone=found[i].alone if found else None,
                theta_rate=self.learning_rate if self.theta_step == "sum" else None,
            )
            theta = _SPREAD * rng.standard_normal(len(members))
            family = recipe.fit(members, rows_of_tasks(data, batch, coder, members, options), watched, theta)
            families.append(replace(family, checks=found[i].checks) if found else family)
        return families

    def _lightgbm_params(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters of data, and of trees."""
        options = {
            "max_bin": self.max_bin,
            "feature_pre_filter": False,
            "num_threads": effective_n_jobs(self.n_jobs),
            "verbosity": -1,
        }
        return options, {
            **options,
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_child_samples,
            "bagging_fraction": self.subsample,
            "bagging_freq": int(self.subsample < 1),
            "feature_fraction": self.colsample_bytree,
            "lambda_l2": self.reg_lambda,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
        }

    def _outputs(self, X: Any, batch: Batch) -> list[np.ndarray]:
        matrix, n_threads = tree_matrix(batch), effective_n_jobs(self.n_jobs)
        scores: list[Any] = [None] * len(self.tasks_)
        for family in self._families:
            shared = family.shared(matrix, n_threads)
            if batch.task is not None:
                own = np.empty((len(matrix), family.forest.width))
                for t in np.unique(batch.task).tolist():
                    rows = np.flatnonzero(batch.task == t)
                    own[rows] = family.scores(shared[:, :, rows], matrix[rows], None if t < 0 else t, n_threads)
                return self._coder.labels.outputs([own])
            for t, member in enumerate(family.members):
                scores[member] = family.scores(shared, matrix, t, n_threads)
        return self._coder.labels.outputs(scores)

    def _state(self) -> Saved:
        arrays, texts, ends = {"counts": self.outlier_score_["n_labels"].to_numpy()}, {}, []
        for i, family in enumerate(self._families):
            own, texts[f"family{i}"], end = family.to_state()
            arrays |= {f"{i}.{name}": array for name, array in own.items()}
            ends.append(end)
        return Saved(facts={"ends": ends}, arrays=arrays, texts=texts)

    def _fitted_from(self, coder: TableCoder, saved: Saved) -> dict[str, Any]:
        families = []
        for i, ends in enumerate(saved.facts["ends"]):
            own = {name.partition(".")[2]: array for name, array in saved.arrays.items() if name.startswith(f"{i}.")}
            families.append(Family.from_state(own, saved.texts[f"family{i}"], ends))
        return {"_families": families, **_tables(coder, families, saved.arrays["counts"])}


class RMTGBClassifier(ClassifierFace, RMTGB):
    """`RMTGB` whose every task is a classification."""


class RMTGBRegressor(RegressorFace, RMTGB):
    """`RMTGB` whose every task is a regression."""


def _members_by_loss(tasks: Sequence[Task]) -> list[np.ndarray]:
    """Indices of the tasks that share functions: of one kind and, with many classes, of the same classes."""
    found: dict[Any, list[int]] = {}
    for t, task in enumerate(tasks):
        found.setdefault((task.kind, task.classes if task.kind == "multiclass" else None), []).append(t)
    return [np.array(members) for members in found.values()]


def _tables(coder: TableCoder, families: Sequence[Family], counts: np.ndarray) -> dict[str, pl.DataFrame]:
    """The public tables of a fit."""
    names = [task.name for task in coder.labels.tasks]
    parts = [family.table([names[t] for t in family.members]) for family in families]
    order = np.argsort(np.concatenate([family.members for family in families]))
    whole = pl.concat(parts)[order].with_columns(n_labels=pl.Series(counts))
    columns = coder.features.columns
    gains = np.sum([family.importances for family in families], axis=0)
    blocks = dict(zip(("shared", "outlier", "own"), gains / max(gains.sum(), 1e-300), strict=True))
    return {
        "outlier_score_": whole.select(
            "task", "outlier_score", "n_labels", "shares", "check_labels", "check_loss", "check_loss_if_normal"
        ),
        "block_rounds_": whole.select("task", "shared", "outlier", "own"),
        "feature_importances_": pl.DataFrame({"feature": [*columns.numeric, *columns.categorical], **blocks}),
    }
