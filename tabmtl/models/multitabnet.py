"""MultiTab-Net: a transformer over the columns of a row, with one token per task.

Sinodinos, Wei and Armanfard, 2026, "MultiTab", AAAI, arXiv 2511.09970. Names as there: features F, tasks T,
and ``X↛Y`` where query X may not look at key Y. Shapes: B rows, n tokens of width e, the s task tokens first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tabmtl.base.params import Count, CountOrZero, Rate
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.network import MemberEstimator
from tabmtl.nn.attention import FeatureLayer, Mask, RowAttention, RowLayer, attention_mask
from tabmtl.nn.embeddings import FeatureTokenizer, NumericEmbedding
from tabmtl.nn.layers import Members, RowOwners, Towers, take_rows
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.targets import Task


class MultiTabNetwork(TaskNetwork):
    """Task and feature tokens, pre-norm blocks, and a head per task.

    Weights start as in PyTorch's own layers and tokens uniform in ±e^-½. The release draws them from N(0, 0.01²): its
    network starts as almost the zero function, and learns late.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : MultiTabNet
        The hyper-parameters.

    Raises
    ------
    ValueError
        If ``d_token`` is no multiple of ``n_heads``.
    """

    attention_mask: Tensor | None

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: MultiTabNet) -> None:
        super().__init__()
        e, n_blocks, dropout = options.d_token, options.n_blocks, options.dropout
        self.multi_token, self.task_per_row = options.multi_token, options.task_column is not None
        self.batch_dependent = options.row_layer == "batch_attention"
        n_vectors = len(tasks) if self.multi_token else 1
        self._n_task_tokens = 1 if self.task_per_row else n_vectors
        self.tokenizer = FeatureTokenizer(
            columns, e, numeric_embedding=options.numeric_embedding, sequence_pooling=options.sequence_pooling
        )
        self.task_weight = nn.Parameter(torch.empty(n_vectors, e).uniform_(-(e**-0.5), e**-0.5))
        self.task_bias = nn.Parameter(torch.empty(n_vectors, e).uniform_(-(e**-0.5), e**-0.5))
        self._n_tokens = self._n_task_tokens + self.tokenizer.n_tokens
        self.members = Members(options.n_members, self._n_tokens, e)
        mask = attention_mask(options.mask, self._n_task_tokens, self._n_tokens)
        self.register_buffer("attention_mask", mask, persistent=False)
        shares = {"dropout": dropout, "attention_dropout": options.attention_dropout}
        self.feature_layers = nn.ModuleList(
            FeatureLayer(e, options.n_heads, options.d_ffn, **shares) for _ in range(n_blocks)
        )
        width = self._n_tokens * e
        self.row_layers = nn.ModuleList(
            RowLayer(_row_mix(width, options), width, options.d_ffn, dropout=dropout)
            for _ in range(0 if options.row_layer == "none" else n_blocks)
        )
        shape = {"hidden": options.head_hidden, "n_members": options.n_members}
        self.heads = Towers(e, [task.width for task in tasks], **shape, dropout=dropout)

    def row_vector(self, x: Features) -> Tensor:
        """Return the tokens of a row's columns side by side."""
        return self.tokenizer(x).flatten(1)

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return each row's final task tokens (B, s, e), or the one token that all heads read (B, e)."""
        tokens = self._blocks(self.members(self._tokens(x, own)))
        return tokens if self.multi_token else tokens[:, 0]

    def restrict(self, tasks: list[int]) -> None:
        """Leave the heads of some tasks only, and their tokens if no other token looks at those of others."""
        if not (self.multi_token and self._tasks_are_apart):
            super().restrict(tasks)
            return
        assert self.attention_mask is not None
        tokens = [*tasks, *range(self._n_task_tokens, self._n_tokens)]
        take_rows(self, tasks, "task_weight", "task_bias")
        self.attention_mask = self.attention_mask[tokens][:, tokens]
        if self.members.scale is not None:
            self.members.scale = nn.Parameter(self.members.scale.detach()[:, tokens])
        self._n_task_tokens, self._n_tokens = len(tasks), len(tokens)
        self.heads.restrict(tasks)

    @property
    def _tasks_are_apart(self) -> bool:
        """Whether the token of a task bears on the head of this task alone."""
        if self.row_layers or self.attention_mask is None:
            return False
        n = self._n_task_tokens
        tasks, features = self.attention_mask[:n, :n], self.attention_mask[n:, :n]
        apart = bool((tasks.isinf().sum(dim=1) == n - 1).all())
        return apart and (len(self.feature_layers) == 1 or bool(features.isinf().all()))

    def _tokens(self, x: Features, own: RowOwners | None) -> Tensor:
        """Join task tokens w_i + b_i and feature tokens to (B, n, e)."""
        if self.task_per_row != (own is not None):
            raise ValueError(f"task_per_row={self.task_per_row}, but task was {'not ' * (own is None)}given")
        vectors = self.task_weight + self.task_bias
        if own is not None and self.multi_token:
            first = vectors.index_select(0, own.first(self.heads.n_members).owner)[:, None]  # (B, 1, e)
        else:
            first = vectors.expand(x.numbers.shape[0], -1, -1)  # (B, s, e)
        return self.tokenizer(x, [first])

    def _blocks(self, x: Tensor) -> Tensor:
        """Pass tokens (B, n, e) through all blocks; the last layer gives the task tokens (B, s, e) only."""
        for i, feature_layer in enumerate(self.feature_layers, start=1):
            n_out = x.shape[1] if i < len(self.feature_layers) else self._n_task_tokens
            if self.row_layers:
                x = self.row_layers[i - 1](feature_layer(x, self.attention_mask, x.shape[1]), n_out)
            else:
                x = feature_layer(x, self.attention_mask, n_out)
        return x


def _row_mix(width: int, options: MultiTabNet) -> nn.Module:
    """Return the part of a second layer that mixes joined tokens (B, width)."""
    if options.row_layer == "mixer":
        return nn.Sequential(OrderedDict(value=nn.Linear(width, width), out=nn.Linear(width, width)))
    n_points = options.n_points if options.row_layer == "inducing_attention" else 0
    return RowAttention(width, options.n_heads, n_points, dropout=options.attention_dropout)


@dataclass(kw_only=True, eq=False, repr=False)
class MultiTabNet(MemberEstimator):
    """MultiTab-Net: a transformer over the columns of a row, with one token per task.

    A row becomes tokens: one per task, T_i = w_i + b_i, and one per column. Each of ``n_blocks`` blocks is
    pre-norm attention between the tokens of a row,

        A = softmax(Q K^T / sqrt(d_k) + M),    M = -inf at forbidden (query, key) pairs,

    with a feed-forward layer, and then a second layer over the row's joined tokens (``row_layer``). A head per task
    reads that task's token. With the default mask no task token attends to another one, but the default second layer
    mixes all tokens of a row. Tasks are kept apart by ``row_layer="none"`` with ``mask="FxT_TxT"``, or with ``"TxT"``
    and a single block.

    Parameters
    ----------
    d_token : int, default=16
        Width of a token.
    n_blocks : int, default=1
        Number of blocks of attention, one after the other.
    n_heads : int, default=4
        Number of attention heads; a divisor of ``d_token``.
    d_ffn : int, default=256
        Hidden width of the feed-forward layers.
    mask : {"none", "FxT", "TxT", "FxT_TxT"}, default="TxT"
        Forbidden pairs of tokens: features that look at tasks, tasks that look at each other, or both.
    row_layer : {"none", "mixer", "batch_attention", "inducing_attention"}, default="mixer"
        Second layer of a block. All except ``"none"`` mix the tasks.

        - ``"none"``: no second layer.
        - ``"mixer"``: ``W_o W_v x`` on the joined tokens; the released code computes it with its rotary option on.
        - ``"batch_attention"``: the paper's attention between the rows of a batch. A prediction then depends on the
          other rows of its call, so single rows should not be served. Rows are predicted in their order, in batches of
          about equal size and at most ``batch_size_`` rows.
        - ``"inducing_attention"``: attention of rows to ``n_points`` learned points, which is ours.
    n_points : int, default=64
        Number of learned points of ``"inducing_attention"``.
    multi_token : bool, default=True
        Whether every task has a token. Otherwise all heads read one token.
    numeric_embedding : {"linear", "piecewise", "periodic"}, default="linear"
        Embedding of a number, its token; ``"linear"`` is the paper's.
    head_hidden : int, default=64
        Width of a head's hidden layer; 0 leaves one linear layer.
    dropout, attention_dropout : float in [0, 1), default=0.15, 0.0
        Shares of hidden values, and of attention weights, that are dropped in training.

    Notes
    -----
    Only the abstract, the architecture figure and the released code of the paper were at hand. We deviate from the
    release: regression targets are standardised, missing labels are masked, and every categorical column has two more
    codes (missing; unseen or rare). The defaults were chosen on validation rows of five tables (docs/lab.md, "First
    choices"). Dropout is left out on the tokens and on the output of attention.

    References
    ----------
    Sinodinos, Wei and Armanfard (2026), "MultiTab", AAAI 40(30), 25499-25507, arXiv 2511.09970.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import MultiTabNet
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 4))
    >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] + X[:, 2]])
    >>> model = MultiTabNet(epochs=2, tasks={"y0": "binary"}, random_state=0).fit(X, y)
    >>> [task.kind.name for task in model.tasks_]
    ['binary', 'regression']
    """

    d_token: Count = 16
    n_blocks: Count = 1
    n_heads: Count = 4
    d_ffn: Count = 256
    mask: Mask = "TxT"
    row_layer: Literal["none", "mixer", "batch_attention", "inducing_attention"] = "mixer"
    n_points: Count = 64
    multi_token: bool = True
    numeric_embedding: NumericEmbedding = "linear"
    head_hidden: CountOrZero = 64
    dropout: Rate = 0.15
    attention_dropout: Rate = 0.0

    search_space: ClassVar[dict[str, Any]] = MemberEstimator.search_space | {
        "d_token": {"choices": (8, 16, 32, 64)},
        "n_blocks": {"low": 1, "high": 3},
        "n_heads": {"choices": (2, 4, 8)},
        "d_ffn": {"choices": (64, 128, 256, 512)},
        "mask": {"choices": ("none", "FxT", "TxT", "FxT_TxT")},
        "row_layer": {"choices": ("none", "mixer", "inducing_attention")},  # those that keep rows apart
        "numeric_embedding": {"choices": ("linear", "piecewise", "periodic")},
        "head_hidden": {"choices": (0, 32, 64, 128)},
        "dropout": {"low": 0.0, "high": 0.4},
        "attention_dropout": {"low": 0.0, "high": 0.3},
    }

    _token_width = "d_token"

    def __check_params__(self) -> None:
        super().__check_params__()
        if self.n_members > 1 and self.row_layer == "batch_attention":
            raise ValueError(
                f"n_members={self.n_members} needs rows that do not see each other; use row_layer='mixer' or another "
                "one, not 'batch_attention'"
            )

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> MultiTabNetwork:
        return MultiTabNetwork(columns, tasks, self)


class MultiTabNetClassifier(ClassifierFace, MultiTabNet):
    """`MultiTabNet` whose every task is a classification."""


class MultiTabNetRegressor(RegressorFace, MultiTabNet):
    """`MultiTabNet` whose every task is a regression."""
