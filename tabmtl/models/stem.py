"""STEM: a shared embedding of every column and one for each task, and gates that spare other tasks' experts.

Su et al., 2024, "STEM: Unleashing the Power of Embeddings for Multi-task Recommendation", AAAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from rtdl_num_embeddings import LinearEmbeddings, PiecewiseLinearEmbeddings
from torch import Tensor
from torch.nn import functional as F

from tabmtl.base.params import Count, Widths
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.mixture import ExpertEstimator
from tabmtl.nn.embeddings import EMBEDDING_STD, FeatureTokenizer, NumericEmbedding, fill_missing, take_parts
from tabmtl.nn.experts import Gates, mix, restrict_level
from tabmtl.nn.layers import Boundary, Members, RowOwners, TaskLinear, take_rows
from tabmtl.nn.sequences import SequencePooling
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.targets import Task


class TaskTokenizer(FeatureTokenizer):
    """T + 1 tokens of width d of every column side by side: the shared one, then those of the tasks.

    Parameters
    ----------
    columns : Columns
    n_tasks, d : int
    numeric_embedding : {"linear", "piecewise", "periodic"}
    sequence_pooling : {"attention", "mean"}
    """

    def __init__(
        self,
        columns: Columns,
        n_tasks: int,
        d: int,
        numeric_embedding: NumericEmbedding,
        sequence_pooling: SequencePooling,
    ) -> None:
        super().__init__(
            columns,
            (n_tasks + 1) * d,
            numeric_embedding=numeric_embedding,
            std=EMBEDDING_STD,
            sequence_pooling=sequence_pooling,
        )
        self.shape = (n_tasks + 1, d)

    def own_tokens(self, x: Features, own: RowOwners) -> Tensor:
        """Return tokens (B, n, 2 d): the shared ones beside those of every row's own task."""
        which = torch.stack([torch.zeros_like(own.owner), own.owner + 1], dim=1)  # (B, 2), of the T + 1
        parts = []
        if self.categorical is not None:
            parts.append(self._own_categories(x.codes + self.categorical.offsets, which))
        if self.numeric is not None:
            values, missing = fill_missing(x.numbers)
            tokens = self._own_numbers(values, own)
            if self.missing is not None:
                flags = missing.index_select(1, self.missing_index)[:, :, None, None]
                vectors = self.missing.unflatten(1, self.shape)[:, which].transpose(0, 1)  # (B, m, 2, d)
                tokens = self._add_missing(tokens, flags * vectors)
            parts.append(tokens)
        if self.bags is not None:
            parts.append(self.bags.own_tokens(x.bags, which, self.shape[0]))
        if self.sequences is not None:
            tokens = self.sequences(x, self.categorical).unflatten(2, self.shape)
            parts.append(take_parts(tokens, which[:, None].expand(-1, tokens.shape[1], -1)))
        if x.vectors is not None:
            parts.append(self._own_vectors(x.vectors, which, own))
        return torch.cat(parts, dim=1).flatten(2)

    def _own_categories(self, rows: Tensor, which: Tensor) -> Tensor:
        """Embed rows (B, Fc) of the table to (B, Fc, 2, d)."""
        table = self.categorical.table  # type: ignore[union-attr]
        if table.sparse:  # a sparse gradient knows whole rows only
            tokens = table(rows).unflatten(2, self.shape)
            return take_parts(tokens, which[:, None].expand(-1, tokens.shape[1], -1))
        return F.embedding(
            rows[:, :, None].long() * self.shape[0] + which[:, None], table.weight.view(-1, self.shape[1])
        )

    def _own_vectors(self, vectors: Tensor, which: Tensor, own: RowOwners) -> Tensor:
        """Embed vectors (B, V) to (B, 1, 2, d)."""
        embedding: Any = self.vectors
        values, missing = fill_missing(vectors)
        weights = embedding.linear.weight.unflatten(0, self.shape).mT[:, None].split([1, self.shape[0] - 1])
        biases = embedding.linear.bias.unflatten(0, self.shape)[:, None].split([1, self.shape[0] - 1])
        owners = zip((own.shared, own), weights, biases, strict=True)
        token = torch.stack([owner.linear(values, w, b) for owner, w, b in owners], dim=1)  # (B, 2, d)
        learned = embedding.missing.unflatten(1, self.shape)[:, which].transpose(0, 1)  # (B, m, 2, d)
        flags = missing.index_select(1, embedding.starts)
        return (token + (flags[:, :, None, None] * learned).sum(dim=1))[:, None]

    def _own_numbers(self, values: Tensor, own: RowOwners) -> Tensor:
        """Embed values (B, Fn) to (B, Fn, 2, d): a linear map of features of each value; a ReLU if it is periodic."""
        numeric: Any = self.numeric
        if isinstance(numeric, LinearEmbeddings):
            features, weight, bias = values[:, :, None], numeric.weight[:, None], numeric.bias
        elif isinstance(numeric, PiecewiseLinearEmbeddings):
            features = torch.cat([values[:, :, None], numeric.impl(values)], dim=2)
            weight = torch.cat([numeric.linear0.weight[:, None], numeric.linear.weight], dim=1)
            bias = numeric.linear0.bias
        else:
            features, weight, bias = numeric.periodic(values), numeric.linear.weight, numeric.linear.bias
        weights = weight.unflatten(2, self.shape).permute(2, 0, 1, 3).split([1, self.shape[0] - 1])
        biases = bias.unflatten(1, self.shape).transpose(0, 1).split([1, self.shape[0] - 1])
        owners = zip((own.shared, own), weights, biases, strict=True)
        parts = [owner.linear(features.flatten(1), w, b) for owner, w, b in owners]
        tokens = torch.stack([part.unflatten(1, (-1, self.shape[1])) for part in parts], dim=2)
        return tokens if getattr(numeric, "activation", None) is None else numeric.activation(tokens)


class STEMNetwork(TaskNetwork):
    """Shared and task embeddings, experts on each, and gates over all experts.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : STEM
        The hyper-parameters.
    """

    own: Tensor
    _asking: list[int] | None = None  # places of the gates' tasks among those with an embedding, which are more

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: STEM) -> None:
        super().__init__()
        names, d = [task.name for task in tasks], options.d_embedding
        kind: NumericEmbedding = options.numeric_embedding  # type: ignore[assignment]
        self.tokenizer = TaskTokenizer(columns, len(names), d, kind, options.sequence_pooling)
        width = self.tokenizer.n_tokens * d
        counts = [options.n_shared_experts, *[options.n_task_experts] * len(names)]
        self.experts = options._experts(counts, width, options.expert_hidden)
        bucket = self.experts.bucket
        own = (bucket == 0) | (bucket == torch.arange(1, len(counts))[:, None])
        self.register_buffer("own", own, persistent=False)  # (T, E): experts that learn from a task
        self.members = Members(options.n_members, self.tokenizer.n_tokens, 1, d)  # alike on all embeddings of a column
        self.input, self.output = Boundary(), Boundary()
        self.gate_hidden = TaskLinear(len(names), width, options.gate_hidden)
        sees = None if options.task_column is None else own
        self.gates = Gates(options.gate_hidden, names, self.experts.names(["(shared)", *names]), sees, has=own)
        self.heads = options._heads(self.experts.width, tasks)
        self.levels = [(self.experts, [self.gates])]

    def row_vector(self, x: Features) -> Tensor:
        """Return the shared embeddings of a row's columns side by side."""
        return self.tokenizer(x)[:, :, : self.tokenizer.shape[1]].flatten(1)

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return features (B, T, H)."""
        tokens = self.tokenizer(x) if own is None else self.tokenizer.own_tokens(x, own.first(self.heads.n_members))
        tokens = self.members(tokens.unflatten(2, (-1, self.tokenizer.shape[1])))  # (B, n, E, d), of E embeddings
        slices = self.input(tokens).permute(2, 0, 1, 3).flatten(2)  # (E, B, n d)
        experts = self.output(self.experts(slices.unbind(), None if own is None else [own.shared, own]))
        if own is not None:
            gate = F.relu(self.gate_hidden(slices[1] + slices[0], own))
            return mix(self.gates(gate, own), experts)
        of_tasks = slices[1:] if self._asking is None else slices[1:][self._asking]
        gate = F.relu(self.gate_hidden(of_tasks + slices[0]))
        weights = self.gates(gate.unbind())
        return mix(weights * self.own, experts) + mix(weights * ~self.own, experts.detach())

    def restrict(self, tasks: list[int]) -> None:
        """Leave the gates and heads of some tasks only; these weigh the experts of all tasks."""
        self._asking = tasks if self._asking is None else [self._asking[t] for t in tasks]
        take_rows(self, tasks, "own")
        self.gate_hidden.restrict(tasks)
        restrict_level(self.experts, [self.gates], tasks)
        self.heads.restrict(tasks)


@dataclass(kw_only=True, eq=False, repr=False)
class STEM(ExpertEstimator):
    """STEM: shared and task-specific embeddings.

    Every column has T + 1 embeddings: a shared one, and one for each task. Tasks that disagree about a user or an item
    therefore need not share its vector. Let x_s be a row's vector in the shared embeddings, and x_t its vector in those
    of task t. The shared experts S read x_s, the experts O_t of task t read x_t, and the gate of a task weighs all
    experts,

        h_t = sum_i w_{t,i} e_i,    w_t = softmax(W_t ReLU(V_t (x_t + x_s))),

    "all forward, task-specific backward": experts of other tasks enter this sum as constants, so no gradient of task t
    reaches these experts and their embeddings.

    A row of a long table (``task_column``) computes the parts of its own task only: w_t then weighs the shared experts
    and the experts of task t, without the constants of other tasks.

    Parameters
    ----------
    n_shared_experts, n_task_experts : int, default=2, 1
        Number of experts that all tasks share, and of experts of each task.
    expert_hidden : sequence of int, default=(128, 64)
        Widths of an expert's layers.
    gate_hidden : int, default=32
        Width of a gate's hidden layer.
    d_embedding : int, default=16
        Width of each of the T + 1 embeddings of a column.
    numeric_embedding : {"linear", "piecewise", "periodic"}, default="piecewise"
        Embedding of a number, as in `MMoE`.

    Notes
    -----
    There is one level, so the shared gate of the paper's deeper form would have nothing to feed. A task trains the
    shared embedding through the input of its gate, x_t + x_s, but never the embedding of another task.

    References
    ----------
    Su et al. (2024), "STEM: Unleashing the Power of Embeddings for Multi-task Recommendation", AAAI.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import STEM
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.ones((4, 2))
    >>> STEM(epochs=2, random_state=0).fit(X, y).predict(X).shape
    (200, 2)
    """

    n_shared_experts: Count = 2
    n_task_experts: Count = 1
    expert_hidden: Widths = (128, 64)
    gate_hidden: Count = 32

    search_space: ClassVar[dict[str, Any]] = ExpertEstimator.search_space | {
        "n_shared_experts": {"low": 1, "high": 4},
        "n_task_experts": {"low": 1, "high": 3},
        "expert_hidden": {"choices": ((64,), (128,), (128, 64), (256, 128))},
        "gate_hidden": {"choices": (16, 32, 64)},
    }

    def __check_params__(self) -> None:
        super().__check_params__()
        if self.numeric_embedding == "none":
            raise ValueError("STEM embeds every column for every task: numeric_embedding must not be 'none'")

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> STEMNetwork:
        return STEMNetwork(columns, tasks, self)


class STEMClassifier(ClassifierFace, STEM):
    """`STEM` whose every task is a classification."""


class STEMRegressor(RegressorFace, STEM):
    """`STEM` whose every task is a regression."""
