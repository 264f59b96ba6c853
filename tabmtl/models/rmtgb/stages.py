"""The three blocks of R-MTGB: how the functions of the tasks of one loss grow, each on what those before it leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit

from tabmtl.models.rmtgb.early_stopping import grow_together
from tabmtl.models.rmtgb.fitted import FittedGroup, normal_theta
from tabmtl.models.rmtgb.targets import BinnedRows, own_start, shrunk_start
from tabmtl.trees import LONGEST_STEP, Ensemble, Forest, Grown

Sides = tuple[BinnedRows, BinnedRows | None]

_LARGEST = 12.0  # |theta|, scale-free step
_LONGEST = 0.5  # one scale-free step of theta
_EVIDENCE = 4.0  # squared standard errors that a gradient of theta must exceed, scale-free step
_DOUBT = 1.0  # standard errors by which a task does better alone before it goes alone
_FLOOR = 1e-6  # of a Newton hessian


class SharedStage:
    """Functions of the rows that grow together on what the scores before them leave: F = scores + f.

    Block 1, and for each task alone block 3.

    Parameters
    ----------
    params : dict
        LightGBM's parameters of trees.
    rows : BinnedRows
        To grow on.
    valid : BinnedRows, optional
        To follow.
    n_functions : int, default=1
        Functions of as many outputs as the cells have.
    """

    def __init__(
        self, params: dict[str, Any], rows: BinnedRows, valid: BinnedRows | None, *, n_functions: int = 1
    ) -> None:
        self.rows, self.valid = rows, valid
        self.ensemble = Ensemble(
            params if rows.targets.kind == "regression" else params | {"max_delta_step": LONGEST_STEP},
            rows.data,
            None if valid is None else valid.data,
            width=n_functions * rows.targets.width,
            target=rows.plain_target() if n_functions == 1 else None,
        )

    def total(self, rows: BinnedRows, functions: np.ndarray) -> np.ndarray:
        """F at the cells, given the functions at the rows."""
        return rows.scores + rows.targets.at_cells(functions)

    def gradients(self, functions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Newton: g = -r, h = ∂²L/∂F², summed over the labels of a row."""
        cells = self.rows.targets
        residuals, hessians = cells.derivatives(self.total(self.rows, functions))
        return -cells.at_rows(residuals), cells.at_rows(hessians)

    @property
    def rounds(self) -> int:
        """Rounds grown so far."""
        return self.ensemble.rounds

    @property
    def valid_size(self) -> float:
        """Total weight of the validation labels."""
        return 0.0 if self.valid is None else float(self.valid.targets.weight.sum())

    def update(self) -> None:
        """One round; all of it sees the same F."""
        self.ensemble.update(self.gradients)

    def valid_cell_losses(self) -> np.ndarray:
        """Losses of the validation labels."""
        return np.zeros(0) if self.valid is None else self.valid.targets.cell_losses(self._valid_total(self.valid))

    def valid_loss(self) -> float:
        """Summed loss of all tasks on the validation rows."""
        return 0.0 if self.valid is None else self.valid.targets.total_loss(self._valid_total(self.valid))

    def keep(self, rounds: int) -> None:
        """Roll back to `rounds` rounds."""
        self.ensemble.cut(rounds)

    def after(self) -> Sides:
        """The rows, with scores that hold this block."""
        rows = replace(self.rows, scores=self.total(self.rows, self.ensemble.scores()))
        return rows, None if self.valid is None else replace(self.valid, scores=self._valid_total(self.valid))

    def _valid_total(self, valid: BinnedRows) -> np.ndarray:
        """F at the cells of the validation rows."""
        return self.total(valid, self.ensemble.scores(of_valid=True))


class MixedStage(SharedStage):
    """Block 2: F = scores + (1 - s) B + s A with s = sigmoid(θ) of the task, which is learned along.

    Parameters
    ----------
    params, rows, valid
        As in `SharedStage`.
    theta : ndarray of shape (T,)
        Where θ starts.
    rate : float or None
        Rate of θ's step on the summed gradient; None = the scale-free step.
    """

    def __init__(
        self,
        params: dict[str, Any],
        rows: BinnedRows,
        valid: BinnedRows | None,
        *,
        theta: np.ndarray,
        rate: float | None,
    ) -> None:
        super().__init__(params, rows, valid, n_functions=2)
        self.theta, self.rate = theta, rate
        self._thetas = {0: theta}
        self._hessian: np.ndarray | None = None  # of squared error: the same in all rounds

    @property
    def is_flipped(self) -> bool:
        """Whether most tasks are on A's side, so that A and B must change places."""
        return bool((self.theta > 0).sum() > len(self.theta) / 2)

    def total(self, rows: BinnedRows, functions: np.ndarray) -> np.ndarray:
        """F at the cells, given B and A at the rows."""
        B, A = np.split(functions, 2)
        return rows.scores + rows.targets.at_cells(B) + rows.targets.at_cells(A - B, expit(self.theta))

    def gradients(self, functions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A: g = -s r; B: g = -(1 - s) r. h = 1 for squared error, else Newton's s² h and (1 - s)² h."""
        cells, s = self.rows.targets, expit(self.theta)
        B, A = np.split(functions, 2)
        residuals, hessians = cells.derivatives(self.total(self.rows, functions))
        for_A = cells.at_rows(residuals, s)
        gradient = np.empty(functions.shape, dtype=np.float32)
        np.subtract(for_A, cells.at_rows(residuals), out=gradient[: len(B)], casting="same_kind")
        np.negative(for_A, out=gradient[len(B) :], casting="same_kind")
        if cells.kind != "regression":
            hessian = np.concatenate([cells.at_rows(hessians, (1 - s) ** 2), cells.at_rows(hessians, s**2)]) + _FLOOR
        elif self._hessian is None:
            hessian = self._hessian = np.concatenate([cells.at_rows(hessians)] * 2).astype(np.float32)
        else:
            hessian = self._hessian
        self._move_theta(cells.inner(residuals, A - B))
        return gradient, hessian

    def _move_theta(self, inner: np.ndarray) -> None:
        """One step down ∂L/∂θ_t = -s (1 - s) w_t Σ ⟨r, A - B⟩, given the inner products of the cells.

        The weight w_t of the task lengthens the step "sum"; the scale-free one does without.
        """
        per_task, s = self.rows.targets.per_task, expit(self.theta)
        total = per_task(inner)
        if self.rate is not None:
            weight = self.rows.targets.task_weight
            self.theta = self.theta + self.rate * s * (1 - s) * (total if weight is None else weight * total)
            return
        tiny = np.finfo(float).tiny
        step = 4 * s * (1 - s) * total / (per_task(np.abs(inner)) + tiny)
        certain = np.maximum(0, 1 - _EVIDENCE * per_task(inner**2) / (total**2 + tiny))
        self.theta = np.clip(self.theta + _LONGEST * certain * step, -_LARGEST, _LARGEST)

    def update(self) -> None:
        """One round; A, B and θ all see the same F. Without a split θ stays, too."""
        theta, rounds = self.theta, self.rounds
        super().update()
        if self.rounds == rounds:
            self.theta = theta
        self._thetas[self.rounds] = self.theta

    def keep(self, rounds: int) -> None:
        """Take back all later rounds, and the steps of θ in them."""
        super().keep(rounds)
        self.theta = self._thetas[self.rounds]

    def check_sides(self) -> np.ndarray:
        """Validation labels of every task, their mean loss, and the same with the θ of a normal task: (T, 3)."""
        if self.valid is None or not self.rounds:
            return np.full((len(self.theta), 3), np.nan)
        cells, theta, sign = self.valid.targets, self.theta, -1 if self.is_flipped else 1
        own = cells.losses(self._valid_total(self.valid))
        self.theta = np.full(len(theta), sign * normal_theta(sign * theta))
        normal = cells.losses(self._valid_total(self.valid))
        self.theta = theta
        weight = cells.per_task(cells.weight)
        with np.errstate(invalid="ignore"):  # a task without validation labels
            return np.stack([cells.per_task(cells.weight > 0), own / weight, normal / weight], axis=1)


@dataclass(frozen=True, kw_only=True)
class TreeParams:
    """LightGBM's parameters, of data and of trees."""

    data: dict[str, Any]
    trees: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """How the three blocks of a family are grown.

    Attributes
    ----------
    params : TreeParams
    rounds : ndarray of int, shape (2 + T,)
        The most rounds of block 1, block 2, and block 3 of every task.
    patience : int or None
        Rounds without a lower validation loss that end a block; None = all rounds.
    has_own : bool
        Whether there is a block 3, which begins with constants.
    alone : ndarray of bool, shape (T,), or None
        Tasks without the shared part; None = the validation rows decide.
    theta_rate : float or None
        Rate of θ's step on the summed gradient; None = the scale-free step.
    """

    params: TreeParams
    rounds: np.ndarray
    patience: int | None
    has_own: bool
    goes_alone: np.ndarray | None
    theta_rate: float | None

    def fit(
        self, members: np.ndarray, rows: BinnedRows, valid: BinnedRows | None, theta: np.ndarray
    ) -> tuple[FittedGroup, list[np.ndarray]]:
        """Fit the tasks of one loss, and return the losses of their validation labels too."""
        start = rows.targets.start()
        rows = replace(rows, scores=rows.targets.constant(start))
        valid = None if valid is None else replace(valid, scores=valid.targets.constant(start))
        shared, sides = self._grow_shared(rows, valid)
        mixed, theta, side_losses, sides = self._grow_mixed(*sides, theta)
        own, own_start, losses, goes_alone = self._fit_own((rows, valid), sides)
        group = FittedGroup(
            members=members,
            rounds=np.array([shared.rounds, mixed.rounds, *(grown.rounds for grown in own)]),
            goes_alone=goes_alone,
            start=start,
            own_start=own_start,
            theta=theta,
            side_losses=side_losses,
            importances=np.stack([shared.gains, mixed.gains, np.sum([grown.gains for grown in own], axis=0)]),
            forest=Forest.join([shared, mixed, *own], rows.targets.width),
        )
        return group, losses

    def _grow_shared(self, rows: BinnedRows, valid: BinnedRows | None) -> tuple[Grown, Sides]:
        """SharedStage 1, and the rows with it in their scores."""
        block = SharedStage(self.params.trees, rows, valid)
        grow_together([block], self.rounds[:1], self.patience)
        return block.ensemble.finish(), block.after()

    def _grow_mixed(
        self, rows: BinnedRows, valid: BinnedRows | None, theta: np.ndarray
    ) -> tuple[Grown, np.ndarray, np.ndarray, Sides]:
        """Block 2 with its θ and the check of it, and the rows with it in their scores; most tasks are on B's side."""
        block = MixedStage(self.params.trees, rows, valid, theta=theta, rate=self.theta_rate)
        grow_together([block], self.rounds[1:2], self.patience)
        grown, theta = block.ensemble.finish(2), block.theta
        if block.is_flipped:
            grown, theta = replace(grown, ensembles=grown.ensembles[::-1]), -theta
        return grown, theta, block.check_sides(), block.after()

    def _fit_own(self, before: Sides, after: Sides) -> tuple[list[Grown], np.ndarray, list[np.ndarray], np.ndarray]:
        """Block 3 of every task, on what the shared part leaves, or for those that go alone from the start.

        Returns
        -------
        grown : list of Grown
        start : ndarray of shape (T, K)
        losses : list of ndarray
            Of the validation labels of every task.
        alone : ndarray of bool, shape (T,)
        """
        n_tasks = before[0].targets.n_tasks
        none, every = np.zeros(n_tasks, dtype=bool), np.ones(n_tasks, dtype=bool)
        if self.goes_alone is not None or not self.rounds[:2].any():
            goes_alone = every if self.goes_alone is None else self.goes_alone
            return *self._grow_own(before, after, goes_alone), goes_alone
        own, own_start, losses = self._grow_own(before, after, none)
        if before[1] is None or not self.has_own:
            return own, own_start, losses, none
        solo, solo_start, solo_losses = self._grow_own(before, after, every)
        goes_alone = is_better(solo_losses, losses)
        grown = [solo[t] if goes_alone[t] else own[t] for t in range(n_tasks)]
        losses = [solo_losses[t] if goes_alone[t] else losses[t] for t in range(n_tasks)]
        return grown, np.where(goes_alone[:, None], solo_start, own_start), losses, goes_alone

    def _grow_own(
        self, before: Sides, after: Sides, goes_alone: np.ndarray
    ) -> tuple[list[Grown], np.ndarray, list[np.ndarray]]:
        """Ensembles of the tasks, their constants (T, K), and the losses of their validation labels."""
        starts = np.where(goes_alone[:, None], own_start(before[0].targets), shrunk_start(after[0])) * self.has_own
        sides = [before if each else after for each in goes_alone]
        if self.patience is None:  # one after the other, which needs the least memory
            grown, losses = [], []
            for t, start in enumerate(starts):
                block = self._own_block(t, start, sides[t])
                grow_together([block], self.rounds[2 + t :][:1], None)
                grown.append(block.ensemble.finish())
                losses.append(block.valid_cell_losses())
            return grown, starts, losses
        blocks = [self._own_block(t, start, sides[t]) for t, start in enumerate(starts)]
        grow_together(blocks, self.rounds[2:], self.patience)
        return [block.ensemble.finish() for block in blocks], starts, [block.valid_cell_losses() for block in blocks]

    def _own_block(self, t: int, start: np.ndarray, sides: Sides) -> SharedStage:
        """Block 3 of one task; what LightGBM holds against small leaves and groups is cut to its rows."""
        rows, valid = sides[0].of_task(t, start, self.params.data), sides[1]
        if valid is not None:
            valid = valid.of_task(t, start, self.params.data) if len(valid.targets.rows_of(t)) else None
        params, n_rows = self.params.trees, rows.scores.shape[1]
        least = max(1, min(params["min_data_in_leaf"], n_rows // 10))
        small = {
            "min_data_in_leaf": least,
            "num_leaves": max(2, min(params["num_leaves"], 2 * n_rows // least)),  # beyond, memory is kept for nothing
            "bagging_freq": params["bagging_freq"] if n_rows * params["bagging_fraction"] >= 1 else 0,
            "min_data_per_group": max(1, min(100, n_rows // 10)),
            "cat_smooth": min(10, n_rows / 100),
            "cat_l2": min(10, n_rows / 100),
        }
        return SharedStage(params | small, rows, valid)


def is_better(losses: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    """Whether losses of the tasks' labels are below others beyond chance: (T,).

    Random effects (DerSimonian and Laird, 1986): the gain of a task, in units of its loss, is shrunk to that of all as
    far as chance explains the differences between the tasks, and must exceed one standard error. A task with less than
    two labels gains nothing.
    """
    size = np.array([len(each) for each in losses])
    known = np.flatnonzero(size > 1)
    found = np.zeros(len(size), dtype=bool)
    if not len(known):
        return found
    gains = [
        (others[t] - losses[t]) / max((others[t] + losses[t]).mean() / 2, np.finfo(float).tiny) for t in known.tolist()
    ]
    gain, square = np.array([g.mean() for g in gains]), np.array([np.square(g - g.mean()).sum() for g in gains])
    n = size[known]
    # variances of few labels lean on that of all, as if on ten more
    variance = (square + 10 * square.sum() / max((n - 1).sum(), 1)) / (n + 9) / n + np.finfo(float).tiny
    weight = 1 / variance
    spread = weight @ np.square(gain - weight @ gain / weight.sum()) - (len(n) - 1)
    between = max(0.0, spread / max(weight.sum() - (weight @ weight) / weight.sum(), np.finfo(float).tiny))
    weight = 1 / (variance + between)
    trust = between / (between + variance)
    judged = trust * gain + (1 - trust) * (weight @ gain / weight.sum())
    error = np.sqrt(trust * variance + (1 - trust) ** 2 / weight.sum())
    found[known] = judged > _DOUBT * error
    return found
