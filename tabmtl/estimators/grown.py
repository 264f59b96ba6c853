"""Estimators of networks that take new tasks, and part with tasks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import torch
from sklearn.utils.validation import check_is_fitted

from tabmtl.encode import TableCoder
from tabmtl.estimators.added import Freeze, Method, TakesTasks
from tabmtl.estimators.rows import FrameRows
from tabmtl.estimators.trained import weight_arrays
from tabmtl.estimators.training import NetworkTraining, on_device
from tabmtl.model_selection.stratify import Strata, deal_groups
from tabmtl.nn.grown import GrownNetwork, NewHead, Reading, ScaledHead, read_network, sources_of
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.schema import Batch, Columns
from tabmtl.targets import Task
from tabmtl.training.device import threads
from tabmtl.training.penalised import Labels, Linear, Scaled, learn_by_folds
from tabmtl.training.predict import apply_rows

_FOLDS = 5
_MOST_ROWS = 20_000  # of a new task that its head learns from

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """How the network of a model came to be: the tasks of its fit, those added later, and those that are left.

    Attributes
    ----------
    base : tuple of Task
        Tasks of the network that was fitted.
    methods : tuple of str
        Method of every task that was added and is left.
    kept : tuple of int
        Places of the tasks of the model, among those of the base and those added.
    """

    base: tuple[Task, ...]
    methods: tuple[Literal["head", "scalearn", "scalearn_uniform"], ...] = ()
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        n = len(self.base) + len(self.methods)
        if not self.kept or list(self.kept) != sorted({*self.kept}) or not 0 <= self.kept[0] <= self.kept[-1] < n:
            raise ValueError(f"the tasks that are left have the places {self.kept}, expected rising ones below {n}")

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> Lineage:
        """Return the lineage of a network that was fitted to tasks."""
        return cls(base=tuple(tasks), kept=tuple(range(len(tasks))))

    def with_tasks(self, methods: tuple[Any, ...]) -> Lineage:
        """Return the lineage with tasks that come behind the others."""
        n = len(self.base) + len(self.methods)
        return replace(self, methods=self.methods + methods, kept=(*self.kept, *range(n, n + len(methods))))

    def without(self, place: int) -> Lineage:
        """Return the lineage without a task of the model; one of the fit stays in the base, which computes it."""
        gone = self.kept[place]
        if gone < len(self.base):
            return replace(self, kept=tuple(at for at in self.kept if at != gone))
        number = gone - len(self.base)
        methods = self.methods[:number] + self.methods[number + 1 :]
        return replace(self, methods=methods, kept=tuple(at - (at > gone) for at in self.kept if at != gone))

    @property
    def added(self) -> list[tuple[int, int, str]]:
        """Number among the added tasks, place among those of the model, and method of those added."""
        n = len(self.base)
        return [(at - n, place, self.methods[at - n]) for place, at in enumerate(self.kept) if at >= n]

    def base_tasks(self, tasks: Sequence[Task], *, is_long: bool) -> tuple[Task, ...]:
        """Return the tasks of the base, as the model has them now; those that it has no longer stay as they were.

        The tasks of a long table have the same classes, all of them.
        """
        now = dict(zip(self.kept, tasks, strict=True))
        gone = [replace(tasks[0], name=task.name) if is_long else task for task in self.base]
        return tuple(now.get(place, task) for place, task in enumerate(gone))

    def grow(self, base: Any, weights: Weights, tasks: Sequence[Task]) -> GrownNetwork:
        """Return a network of tasks around its base, with heads that read what those of the weights do."""
        return GrownNetwork(base, list(self._heads(weights, tasks)), self.kept)

    def _heads(self, weights: Weights, tasks: Sequence[Task]) -> Iterator[torch.nn.Module]:
        for number, place, method in self.added:
            start, width = f"added.{number}.", tasks[place].width
            own = {name.removeprefix(start): array for name, array in weights.items() if name.startswith(start)}
            yield NewHead.like(own, width) if method == "head" else ScaledHead.like(own, width)


class GrowingNetwork(TakesTasks):
    """Estimator of a network that takes new tasks.

    Attributes
    ----------
    task_transfer_ : polars DataFrame
        What the tasks of the fit lend the tasks that `add_task` has added by "scalearn" or "scalearn_uniform": columns
        ``task``, ``source``, ``scale`` (mean of the numbers by which the features of the source are multiplied, which
        begin at 2 over the number of sources) and ``share`` (mean size of them, over the sum of all sources).
    """

    _task_methods: ClassVar[tuple[str, ...]] = ("head", "scalearn", "scalearn_uniform")

    _task_freezes: ClassVar[tuple[str | None, ...]] = ("shared", None)

    _lineage: Lineage | None = None

    if TYPE_CHECKING:
        tasks_: tuple[Task, ...]
        task_weights_: tuple[dict[str, np.ndarray], ...]
        task_snapshot_: np.ndarray
        weights_: dict[str, np.ndarray]
        precision: Any
        n_jobs: Any
        batch_size_: int
        _optimizer: dict[str, np.ndarray]

        def fitted_network(self) -> tuple[Any, torch.device]: ...

        def _network(self, columns: Columns, tasks: Sequence[Task]) -> torch.nn.Module: ...

        def _loss(self, tasks: Sequence[Task]) -> Any: ...

        def _measure(self) -> None: ...

    @property
    def task_transfer_(self) -> pl.DataFrame:
        """Tell what the tasks of the fit lend those added by ScaLearn; see the attributes."""
        check_is_fitted(self)
        lineage = self._lineage
        found = [] if lineage is None else [own for own in lineage.added if own[2] != "head"]
        if lineage is None or not found:
            raise AttributeError("task_transfer_ is of tasks added by add_task(X, y, method='scalearn'), and none was")
        is_long = self.coder_.task_column is not None
        names = [lineage.base[t].name for t in sources_of(len(lineage.base), is_long=is_long)]
        frames = []
        for number, place, _ in found:
            scale = self.weights_[f"added.{number}.scale"].astype(np.float64)
            size = np.abs(scale).mean(axis=1)
            own = {"source": names, "scale": scale.mean(axis=1), "share": size / max(size.sum(), 1e-300)}
            frames.append(pl.DataFrame({"task": [self.tasks_[place].name] * len(names)} | own))
        return pl.concat(frames)

    def _built(self, maker: Self, columns: Columns, tasks: Sequence[Task]) -> Any:
        """Build the network of tasks by the parameters of a maker, with the heads of those that came later."""
        lineage = self._lineage_of(tasks)
        if lineage is None:
            return self._base(maker, columns, tasks)
        return lineage.grow(self._base(maker, columns, lineage.base), self.weights_, tasks)

    def _base(self, maker: Self, columns: Columns, tasks: Sequence[Task]) -> Any:
        """Build the network without the heads that came later."""
        return maker._network(columns, tasks)

    def _ancestry(self, tasks: Sequence[Task], *, begins: bool) -> dict[str, Any]:
        """Return the fitted attributes that tell how the network came to be; ``begins`` as in `NetworkTraining`."""
        return {"_lineage": None if begins else self._lineage_of(tasks)}

    def _lineage_of(self, tasks: Sequence[Task]) -> Lineage | None:
        """Return the lineage of the network, whose tasks may have more classes now."""
        lineage, is_long = self._lineage, self.coder_.task_column is not None
        return lineage and replace(lineage, base=lineage.base_tasks(tasks, is_long=is_long))

    def _grown(self) -> GrownNetwork:
        """Return the fitted network as one that may grow."""
        network, _ = self.fitted_network()
        if isinstance(network, GrownNetwork):
            return network
        if not isinstance(network, TaskNetwork):
            raise ValueError(
                f"the network of {type(self).__name__} has no heads that tasks could join or leave; derive it from "
                "tabmtl.nn.task_network.TaskNetwork"
            )
        return GrownNetwork(network, [], range(len(self.tasks_)))

    def _add_tasks(self, coder: TableCoder, batch: Batch, method: Method, freeze: Freeze, seed: int) -> dict[str, Any]:
        network, lineage = self._grown(), self._lineage or Lineage.of(self.tasks_)
        new = range(len(self.tasks_), len(coder.labels.tasks))
        with threads(self.n_jobs, network):
            heads = [self._learn_head(network.base, coder, batch, t, method, seed) for t in new]
        lineage = lineage.with_tasks((method,) * len(new))
        fitted = self._regrown(coder, lineage, GrownNetwork(network.base, [*network.added, *heads], lineage.kept))
        snapshot = self.task_snapshot_
        if len(snapshot):
            fitted["task_snapshot_"] = np.append(snapshot, np.zeros(len(new), dtype=snapshot.dtype))
        return fitted if freeze is not None else fitted | self._trained_on(coder, batch, fitted, seed)

    def _trained_on(self, coder: TableCoder, batch: Batch, fitted: dict[str, Any], seed: int) -> dict[str, Any]:
        """Train the whole network on from fitted attributes, as a warm start does, and return the new ones."""
        now = copy.copy(self)
        now._take_over(coder, fitted | {"coder_": coder})
        rows = FrameRows(batch, coder.labels.tasks)
        trained = NetworkTraining(estimator=now, coder=coder, seed=seed, begins=False).fit(rows, None)
        del trained["answered"]  # by which a fit makes its profile; it is no attribute
        return trained

    def _remove_task(self, coder: TableCoder, t: int) -> dict[str, Any]:
        network, lineage = self._grown(), self._lineage or Lineage.of(self.tasks_)
        gone, snapshot = lineage.kept[t] - len(lineage.base), self.task_snapshot_
        lineage, heads = lineage.without(t), [head for number, head in enumerate(network.added) if number != gone]
        fitted = self._regrown(coder, lineage, GrownNetwork(network.base, heads, lineage.kept), gone)
        return fitted | {"task_snapshot_": np.delete(snapshot, t) if len(snapshot) else snapshot}

    def _regrown(self, coder: TableCoder, lineage: Lineage, network: GrownNetwork, gone: int = -1) -> dict[str, Any]:
        """Return the fitted attributes of a network around the base of this one, without one of its added heads."""
        self._measure()  # while the validation rows of fit and the network fit each other
        weights, tasks = weight_arrays(network.state_dict()), coder.labels.tasks
        of_heads = {name: array for name, array in weights.items() if name.startswith("added.")}
        return {
            "_lineage": lineage,
            "weights_": weights,
            "task_weights_": tuple(of_heads | self._inside(own, gone) for own in self.task_weights_),
            "_task_modules": None,
            "_optimizer": self._inside(self._optimizer, gone),
            "_judged": None,
            "_link": self.unfitted()._loss(tasks).link_rows,
            "_module": network.eval(),
        }

    def _inside(self, arrays: Weights, gone: int) -> dict[str, np.ndarray]:
        """Return weights, or moments of them, by their names in a grown network that lacks one of the added heads."""
        found = {}
        for name, array in arrays.items():
            kind, slash, own = name.rpartition("/")
            if self._lineage is None:
                own = f"base.{own}"
            elif own.startswith("added."):
                _, number, parameter = own.split(".", 2)
                if int(number) == gone:
                    continue
                own = f"added.{int(number) - (int(number) > gone >= 0)}.{parameter}"
            found[f"{kind}{slash}{own}"] = array
        return found

    def _learn_head(
        self, base: Any, coder: TableCoder, batch: Batch, t: int, method: Method, seed: int
    ) -> torch.nn.Module:
        """Learn the head of a new task, which reads what the frozen network computes of the rows with a label."""
        column = 0 if batch.task is not None else t
        is_labelled = ~np.isnan(batch.y[:, column]) & (True if batch.task is None else batch.task == t)
        rows = np.flatnonzero(is_labelled)
        rng = np.random.default_rng([seed, t])
        if len(rows) > _MOST_ROWS:
            rows = np.sort(rng.choice(rows, _MOST_ROWS, replace=False))
        own, task = batch.rows(rows), coder.labels.tasks[t]
        y = coder.labels.standardize(own.y)[:, column].astype(np.float64)
        weight = np.ones(len(rows)) if own.weight is None else own.weight[:, column].astype(np.float64)
        labels = Labels(task=task, y=y, weight=weight)
        group = np.arange(len(rows)) if own.group is None else np.unique(own.group, return_inverse=True)[1]
        n_folds = min(_FOLDS, group.max() + 1)
        strata = Strata.of(own.y[:, [column]], [task])
        fold = deal_groups(strata, group, np.full(n_folds, 1 / n_folds), rng)
        read = self._read(base, own)
        if method == "head":
            head: torch.nn.Module = _fitted_head(read, labels, fold)
        else:
            head = _fitted_scales(read, labels, fold, is_uniform=method == "scalearn_uniform")
        return head.to(next(base.parameters()).device)

    def _read(self, base: Any, batch: Batch) -> Reading:
        """Return what new tasks read of the base, for all rows of a batch."""
        is_long = batch.task is not None

        def read(x: Any, task: Any) -> list[torch.Tensor]:
            found = read_network(base, x, is_long=is_long)
            return [*found.blocks, found.lent]

        device = next(base.parameters()).device
        some_task = None if batch.task is None else np.zeros_like(batch.task)
        rows = on_device(Batch(x=batch.x, task=some_task), device)
        found = apply_rows(base, read, rows, self.precision, batch_size=self.batch_size_)
        *blocks, lent = (part.cpu() for part in found)
        return Reading(blocks, lent, [])


def _fitted_head(read: Reading, labels: Labels, fold: np.ndarray) -> NewHead:
    """Learn a linear layer on all blocks, each of which counts alike whatever its width."""
    features = torch.cat(read.blocks, dim=1)
    head = NewHead(features.shape[1], labels.task.width)
    head.standardised.learn(features)
    varies = (head.standardised.rate > 0).split([block.shape[1] for block in read.blocks])
    factors = np.concatenate([np.full(len(own), max(int(own.sum()), 1) ** -0.5) for own in varies])
    standardised = head.standardised(features).cpu().numpy().astype(np.float64)
    found = learn_by_folds(Linear(), standardised * factors, labels, fold)
    _set(head.linear, found.linear * factors[:, None], found.bias)
    return head


def _fitted_scales(read: Reading, labels: Labels, fold: np.ndarray, *, is_uniform: bool) -> ScaledHead:
    """Learn the scales of the sources, and a linear layer on the sum."""
    (_, n_sources, d_in), width = read.lent.shape, labels.task.width
    head = ScaledHead(n_sources, d_in, width, is_uniform=is_uniform)
    head.standardised.learn(read.lent)
    standardised = head.standardised(read.lent).cpu().numpy().astype(np.float64)
    found = learn_by_folds(Scaled(is_uniform), standardised / d_in**0.5, labels, fold)
    _set(head.linear, found.linear / d_in**0.5, found.bias)
    if found.scale is not None:
        head.scale.data = torch.from_numpy(found.scale.astype(np.float32))
    return head


def _set(layer: Any, weight: np.ndarray, bias: np.ndarray) -> None:
    """Set the first inputs of the one layer of a stack; the others are padding, and count nothing."""
    layer.weight.data.zero_()
    layer.weight.data[0, : len(weight)] = torch.from_numpy(weight)
    layer.bias.data[0] = torch.from_numpy(bias)
