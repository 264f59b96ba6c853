"""The three stages of R-MTGB for the tasks of one loss, and the schedule that grows one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from tabmtl.estimators.boosted.border import Ensemble, Grown, small_limits
from tabmtl.estimators.boosted.rounds import BestRounds
from tabmtl.models.rmtgb.evidence import is_better
from tabmtl.models.rmtgb.fitted import FittedGroup, Forest, normal_theta
from tabmtl.models.rmtgb.targets import BinnedRows
from tabmtl.training.watch import SHOWN_ROUNDS, Step, Watch, describe_loss

_IDLE = 10  # rounds without a split after which a stage ends
_PRIOR_LABELS = 10_000  # weight, in labels, of the loss of all stages in the stop of each
_LARGEST = 12.0  # |theta|, scale-free step and penalty
_LONGEST = 0.5  # one scale-free step of theta
_EVIDENCE = 4.0  # squared standard errors that a gradient of theta must exceed, scale-free step and penalty
_FREE = 1.0  # learning rate times the rounds without penalty, in which A and B begin to tell the tasks apart
_COMMON = (1.0, 3.0)  # least and largest |theta| of the value that the penalty draws to: apart from 0, free to move
_FLOOR = 1e-6  # of a Newton hessian
_TINY = np.finfo(float).tiny


class Stage:
    """Functions of the rows that grow together on the residuals of the scores before them: F = scores + f.

    It serves stage 1, and stage 3 of each task, with one function of K outputs. ``params`` are LightGBM's parameters
    of trees. Where a round finds no split for an output, the constants of the tasks ``moved`` (T,), none by default,
    take a Newton step instead: a shift that all rows share gives no split. ``constants`` (T, K) are the steps so far.
    """

    def __init__(
        self, params: dict[str, Any], rows: BinnedRows, *, n_functions: int = 1, moved: np.ndarray | None = None
    ) -> None:
        self.rows, self._params, self._moved = rows, params, moved
        self.constants, self._n_moves = np.zeros((rows.targets.n_tasks, rows.targets.width)), 0
        self.ensemble = Ensemble(
            params if rows.targets.kind.is_quadratic else params | {"max_delta_step": rows.targets.kind.longest_step},
            rows.data,
            None if rows.valid is None else rows.valid.data,
            width=n_functions * rows.targets.width,
            target=rows.plain_residuals() if n_functions == 1 else None,
        )

    def total(self, rows: BinnedRows, functions: np.ndarray) -> np.ndarray:
        """Return F at the cells, given the functions at the rows."""
        return rows.scores + rows.targets.at_cells(functions)

    def gradients(self, functions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return Newton's g = -r and h = ∂²L/∂F², summed over the labels of a row."""
        targets = self.rows.targets
        residuals, hessians = targets.derivatives(self.total(self.rows, functions))
        return -targets.at_rows(residuals), targets.at_rows(hessians)

    @property
    def rounds(self) -> int:
        """Rounds so far: of trees, and of steps of the constants alone."""
        return self.ensemble.rounds + self._n_moves

    @property
    def valid_size(self) -> float:
        """Total weight of the validation labels."""
        valid = self.rows.valid
        return 0.0 if valid is None else float(valid.targets.weight.sum())

    def update(self) -> None:
        """Grow one round; all functions see the same F."""
        rounds = self.ensemble.rounds
        self.ensemble.update(self.gradients)
        if self._moved is not None and self._moved.any():
            width, grows = self.rows.targets.width, self.ensemble.rounds > rounds
            idle = self.ensemble.idle_outputs().reshape(-1, width).all(axis=0) if grows else np.ones(width, dtype=bool)
            self._n_moves += not grows
            if idle.any():
                self._move_constants(self._moved[:, None] & idle)

    def _move_constants(self, moved: np.ndarray) -> None:
        """Take a Newton step of some constants (T, K)."""
        targets, params = self.rows.targets, self._params
        residuals, hessians = targets.derivatives(self.total(self.rows, self.ensemble.scores()))
        r, h = (targets.per_output(np.broadcast_to(cells, residuals.shape)) for cells in (residuals, hessians))
        limit = targets.kind.longest_step
        step = np.clip(r / np.maximum(h + params["reg_lambda"], _TINY), -limit, limit)
        step *= params["learning_rate"] * moved
        self.rows = replace(self.rows, scores=self.rows.scores + targets.spread(step))
        self.constants += step
        self.ensemble.follows_target = False  # it knows no constants

    def valid_cell_losses(self) -> np.ndarray:
        """Return the losses of the validation labels of one task."""
        valid = self.rows.valid
        return np.zeros(0) if valid is None else valid.targets.cell_losses(self._valid_total(valid))

    def valid_loss(self) -> float:
        """Sum the loss of all tasks on the validation rows."""
        valid = self.rows.valid
        return 0.0 if valid is None else valid.targets.total_loss(self._valid_total(valid))

    def roll_back(self, rounds: int) -> None:
        """Roll back to `rounds` rounds."""
        self.ensemble.roll_back(rounds)

    def finish(self) -> Grown:
        """Return the grown trees; other stages may use the data then."""
        return self.ensemble.finish()

    def after(self) -> BinnedRows:
        """Return the rows with this stage in their scores."""
        valid = self.rows.valid
        if valid is not None:
            valid = replace(valid, scores=self._valid_total(valid))
        return replace(self.rows, scores=self.total(self.rows, self.ensemble.scores()), valid=valid)

    def _valid_total(self, valid: BinnedRows) -> np.ndarray:
        """Return F at the cells of the validation rows."""
        return self.total(valid, self.ensemble.scores(of_valid=True))


class MixedStage(Stage):
    """Stage 2: F = scores + (1 - s) B + s A with s = sigmoid(θ) of the task; A, B and θ are learned together.

    ``theta`` (T,) is the start of θ, and ``rate`` that of its step on the summed gradient; None = the scale-free step,
    0 holds θ. ``penalty`` draws θ to its common value.
    """

    def __init__(
        self,
        params: dict[str, Any],
        rows: BinnedRows,
        *,
        theta: np.ndarray,
        rate: float | None,
        penalty: float = 0.0,
        moved: np.ndarray | None = None,
    ) -> None:
        super().__init__(params, rows, n_functions=2, moved=moved)
        self.theta, self.rate, self.penalty = theta, rate, penalty
        self._free_rounds = _FREE / params["learning_rate"]
        self._thetas = {0: theta}
        self._hessian: np.ndarray | None = None  # of squared error: the same in all rounds

    @property
    def sign(self) -> int:
        """-1 where most tasks are on A's side, so that A and B must change places, else 1."""
        return -1 if (self.theta > 0).sum() > len(self.theta) / 2 else 1

    def total(self, rows: BinnedRows, functions: np.ndarray) -> np.ndarray:
        """Return F at the cells, given B and A at the rows."""
        return self._mixed(rows, functions, self.theta)

    def _mixed(self, rows: BinnedRows, functions: np.ndarray, theta: np.ndarray) -> np.ndarray:
        B, A = np.split(functions, 2)
        return rows.scores + rows.targets.at_cells(B) + rows.targets.at_cells(A - B, expit(theta))

    def gradients(self, functions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return g = -(1 - s) r of B and -s r of A; h is 1 for squared error, else Newton's (1 - s)² h and s² h.

        With a penalty, Newton's h is max((1 - s)², s²) h for both. With an h of its own, a function grows faster the
        less weight it has, so that all tasks drift to the middle.
        """
        targets, s = self.rows.targets, expit(self.theta)
        B, A = np.split(functions, 2)
        residuals, hessians = targets.derivatives(self.total(self.rows, functions))
        for_A = targets.at_rows(residuals, s)
        gradient = np.empty(functions.shape, dtype=np.float32)
        np.subtract(for_A, targets.at_rows(residuals), out=gradient[: len(B)], casting="same_kind")
        np.negative(for_A, out=gradient[len(B) :], casting="same_kind")
        if not targets.kind.is_quadratic:
            factors = [(1 - s) ** 2, s**2]
            if self.penalty:
                factors = [np.maximum(*factors)] * 2
            hessian = np.concatenate([targets.at_rows(hessians, factor) for factor in factors])
            hessian += _FLOOR
        elif self._hessian is None:
            hessian = self._hessian = np.concatenate([targets.at_rows(hessians)] * 2).astype(np.float32)
        else:
            hessian = self._hessian
        self._move_theta(targets.inner(residuals, A - B))
        return gradient, hessian

    def _move_theta(self, inner: np.ndarray) -> None:
        """Take one step down ∂L/∂θ_t = -s (1 - s) w_t Σ ⟨r, A - B⟩, given the inner products of the cells.

        The weight w_t of the task lengthens the step "sum"; the scale-free one does without. Then the penalty
        draws θ, less where the gradient of a task is beyond two standard errors from the median one.
        """
        targets, s = self.rows.targets, expit(self.theta)
        total, size = targets.per_task(inner), targets.per_task(np.abs(inner)) + _TINY
        needed = _EVIDENCE * targets.per_task(inner**2)
        if self.rate is not None:
            weight = targets.task_weight
            self.theta = self.theta + self.rate * s * (1 - s) * (total if weight is None else weight * total)
        else:
            step = 4 * s * (1 - s) * total / size
            certain = np.maximum(0, 1 - needed / (total**2 + _TINY))
            self.theta = np.clip(self.theta + _LONGEST * certain * step, -_LARGEST, _LARGEST)
        if self.penalty and self.rate != 0 and self.rounds >= self._free_rounds:
            apart = total - np.median(total / size) * size
            self._draw_theta(self.penalty * (needed + _TINY) / (np.maximum(needed, apart**2) + _TINY))

    def _draw_theta(self, strength: np.ndarray) -> None:
        """Draw θ of every task to the median θ by a proximal step of a strength (T,); the median keeps to one side.

        The level of θ is free: A and B can make up for it. So where the median is far from 0, all tasks move back with
        it; otherwise, a task could hardly leave the others.
        """
        median = np.median(self.theta)
        common = np.copysign(np.clip(abs(median), *_COMMON), median)
        apart = self.theta - (median if abs(median) > abs(common) else common)
        self.theta = np.clip(common + apart / (1 + strength), -_LARGEST, _LARGEST)

    def update(self) -> None:
        """Grow one round; A, B and θ all see the same F. Without a split θ stays too."""
        theta, rounds = self.theta, self.rounds
        super().update()
        if self.rounds == rounds:
            self.theta = theta
        self._thetas[self.rounds] = self.theta

    def roll_back(self, rounds: int) -> None:
        """Roll back to `rounds` rounds, and take back the later steps of θ.

        Where that takes back all steps of the penalty, chance has dealt the sides: all tasks get the median θ.
        """
        drawn = self.penalty and self.rate != 0 and self.rounds > self._free_rounds
        super().roll_back(rounds)
        self.theta = self._thetas[self.rounds]
        if drawn and self.rounds <= self._free_rounds:
            self.theta = np.full_like(self.theta, np.median(self.theta))

    def finish(self) -> Grown:
        """Return the grown trees of B and A, most tasks on B's side; other stages may use the data then."""
        grown = self.ensemble.finish(2)
        return replace(grown, ensembles=grown.ensembles[:: self.sign])

    def side_losses(self) -> np.ndarray:
        """Return validation labels of every task, their mean loss, and that with the θ of a normal task: (T, 3)."""
        valid = self.rows.valid
        if valid is None or not self.rounds:
            return np.full((len(self.theta), 3), np.nan)
        targets, functions = valid.targets, self.ensemble.scores(of_valid=True)
        normal = np.full(len(self.theta), self.sign * normal_theta(self.sign * self.theta))
        losses = [targets.losses(self._mixed(valid, functions, theta)) for theta in (self.theta, normal)]
        with np.errstate(invalid="ignore"):  # a task without validation labels
            mean = [loss / targets.per_task(targets.weight) for loss in losses]
        return np.stack([targets.n_labels, *mean], axis=1)


def grow_together(
    stages: Sequence[Stage], n_rounds: Sequence[int] | np.ndarray, patience: int | None, step: Step | None = None
) -> None:
    """Grow stages side by side; with patience, each until its validation loss no longer falls, and keep its best round.

    Losses are in units of a stage's loss per label at the start. `BestRounds` judges them, with the loss of all stages
    as that of `_PRIOR_LABELS` labels.

    Parameters
    ----------
    stages : sequence of Stage
    n_rounds : sequence of int
        The most rounds of each stage.
    patience : int or None
        Rounds without a lower loss after which a stage stops; None grows all to the end.
    step : callable, optional
        Called after every round with the validation loss of all stages, as a share of it at the start, or None; a true
        answer ends the growth.
    """
    caps, best = np.asarray(n_rounds), None if patience is None else _best_rounds(stages)
    rounds, idle = np.zeros((2, len(stages)), dtype=int)
    active = caps > 0
    while active.any():
        chosen = np.flatnonzero(active)
        for i in chosen.tolist():
            stages[i].update()
            idle[i] = idle[i] + 1 if stages[i].rounds == rounds[i] else 0
            rounds[i] = stages[i].rounds
        active &= (idle < _IDLE) & (rounds < caps)
        if best is not None and patience is not None:
            best.judge(np.array([stages[i].valid_loss() for i in chosen.tolist()]), rounds, chosen)
            active &= rounds - best.kept < patience
        active &= not (step is not None and step(None if best is None else best.loss))
    for stage, last in zip(stages, rounds if best is None else best.kept, strict=True):
        stage.roll_back(int(last))


def _best_rounds(stages: Sequence[Stage]) -> BestRounds:
    starts = np.array([stage.valid_loss() for stage in stages])
    sizes = np.array([stage.valid_size for stage in stages])
    units = np.where(starts > 0, starts, 1) / np.maximum(sizes, _TINY)
    return BestRounds(starts, sizes, units, _PRIOR_LABELS)


class OwnFunction(NamedTuple):
    """Stage 3 of one task, grown: its trees, the constant (K,) before them, and the losses of the validation labels."""

    trees: Grown
    start: np.ndarray
    valid_losses: np.ndarray


class OwnRows(NamedTuple):
    """Rows that stage 3 grows on, before stage 1 or after stage 2, and the constants (T, K) before the trees."""

    rows: BinnedRows
    start: np.ndarray


class GroupFit(NamedTuple):
    """A fitted group, and the losses of the validation labels of every task."""

    group: FittedGroup
    valid_losses: list[np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """The order and the options in which the three stages of a group are grown.

    Attributes
    ----------
    params : dict
        LightGBM's parameters of trees.
    rounds : ndarray of int, shape (2 + T,)
        The most rounds of stage 1, of stage 2, and of stage 3 for every task.
    patience : int or None
        Rounds without a lower validation loss that end a stage; None = all rounds.
    has_own : bool
        Whether there is a stage 3, which begins with constants.
    goes_alone : ndarray of bool, shape (T,), or None
        Tasks without the shared part; None = the validation rows decide.
    theta_rate : float or None
        Rate of θ's step on the summed gradient; None = the scale-free step, 0 holds θ.
    theta_penalty : float
        Strength of θ's penalty towards its common value.
    watch : Watch
    """

    params: dict[str, Any]
    rounds: np.ndarray
    patience: int | None
    has_own: bool
    goes_alone: np.ndarray | None
    theta_rate: float | None
    theta_penalty: float
    watch: Watch

    def fit(self, members: np.ndarray, rows: BinnedRows, theta: np.ndarray) -> GroupFit:
        """Grow the stages of the tasks ``members``, which share the rows; θ starts at ``theta`` (T,)."""
        start = rows.targets.start()
        rows = rows.with_constants(start)
        shared = Stage(self.params, rows)
        self._grow([shared], self.rounds[:1], "stage 1")
        trees = [shared.finish()]
        mixed = MixedStage(self.params, shared.after(), theta=theta, rate=self.theta_rate, penalty=self.theta_penalty)
        self._grow([mixed], self.rounds[1:2], "stage 2")
        trees.append(mixed.finish())
        theta, side_losses, after = mixed.sign * mixed.theta, mixed.side_losses(), mixed.after()
        n_labels, width = rows.targets.n_labels, rows.targets.width
        alone, joined = OwnRows(rows, rows.targets.own_start()), OwnRows(after, after.shrunk_start())
        del shared, mixed, rows, after  # stage 3 needs memory of its own
        own, goes_alone = self._fit_own(alone, joined)
        trees += [function.trees for function in own]
        gains = [each.gains for each in trees]
        group = FittedGroup(
            members=members,
            n_labels=n_labels,
            rounds=np.array([each.rounds for each in trees]),
            goes_alone=goes_alone,
            start=start,
            own_start=np.stack([function.start for function in own]),
            theta=theta,
            side_losses=side_losses,
            importances=np.stack([*gains[:2], np.sum(gains[2:], axis=0)]),
            forest=Forest.join(trees, width),
        )
        return GroupFit(group, [function.valid_losses for function in own])

    def _grow(self, stages: Sequence[Stage], n_rounds: np.ndarray, name: str) -> None:
        with self.watch.steps(int(n_rounds.max()), f"{name} round", describe_loss, every=SHOWN_ROUNDS) as step:
            grow_together(stages, n_rounds, self.patience, step)

    def _fit_own(self, alone: OwnRows, joined: OwnRows) -> tuple[list[OwnFunction], np.ndarray]:
        """Grow stage 3 on what the shared part leaves, or from the start for the tasks that go alone: (T,)."""
        none, every = np.zeros(len(alone.start), dtype=bool), np.ones(len(alone.start), dtype=bool)
        decided = self.goes_alone
        if decided is None and not self.rounds[:2].any():
            decided = every
        if decided is not None:
            return self._grow_own(alone, joined, decided), decided
        after = self._grow_own(alone, joined, none)
        if self.patience is None or not self.has_own:
            return after, none
        before = self._grow_own(alone, joined, every)
        chosen = is_better([each.valid_losses for each in before], [each.valid_losses for each in after])
        return [one if is_alone else other for one, other, is_alone in zip(before, after, chosen, strict=True)], chosen

    def _grow_own(self, alone: OwnRows, joined: OwnRows, goes_alone: np.ndarray) -> list[OwnFunction]:
        """Grow stage 3 of every task, given which of them go alone."""
        starts = np.where(goes_alone[:, None], alone.start, joined.start) * self.has_own
        rounds, every = self.rounds[2:], list(range(len(starts)))
        batches, most = [every], int(rounds.max())
        if self.patience is None and not self.watch.is_limited:  # one after the other, which needs the least memory
            batches, most = [[t] for t in every], int(rounds.sum())
        functions: list[OwnFunction] = []
        name = "stage 3 without the shared part, round" if goes_alone.all() else "stage 3 round"
        with self.watch.steps(most, name, describe_loss, every=SHOWN_ROUNDS) as step:
            for together in batches:
                rows = [(alone if goes_alone[t] else joined).rows.of_task(t, starts[t]) for t in together]
                stages = [Stage(small_limits(self.params, own.scores.shape[1]), own) for own in rows]
                grow_together(stages, rounds[together], self.patience, step)
                done = zip(stages, starts[together], strict=True)
                functions += [OwnFunction(each.finish(), start, each.valid_cell_losses()) for each, start in done]
        return functions
