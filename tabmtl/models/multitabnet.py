"""MultiTab-Net: a transformer over the columns of a row, with one token per task.

Sinodinos, Wei and Armanfard, 2026, "MultiTab", AAAI, arXiv 2511.09970. Names as there: features F, tasks T,
and ``X↛Y`` where query X may not look at key Y. Shapes: B rows, n tokens of width e, the s task tokens first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.nn.attention import (
    FeatureLayer,
    InducingAttention,
    Mask,
    RowAttention,
    RowLayer,
    RowMixer,
    attention_mask,
)
from tabmtl.nn.embeddings import FeatureTokenizer, NumericEmbedding
from tabmtl.nn.layers import RowOwners, Towers
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.params import Count, CountOrZero, Rate
from tabmtl.schema import Columns, Task

SecondLayer = Literal["none", "mixer", "batch_attention", "inducing_attention"]


@dataclass(eq=False, repr=False)
class MultiTabNetwork(TaskNetwork):
    """Task and feature tokens, pre-norm blocks, and a head per task.

    A block is attention between the tokens of a row, under the mask, and then an optional second layer over
    the row's joined tokens. Weights start as PyTorch's own layers do and tokens uniform in ±e^-½, not from
    the release's N(0, 0.01²), which starts as almost the zero function and learns late.

    Parameters
    ----------
    columns : Columns
        The features; at least one.
    tasks : sequence of Task
        The targets, in the order of the returned scores.
    task_per_row : bool, default=False
        Whether rows come with a task each. A row then has one task token, its own.
    row_layer : str, default="mixer"
        The second layer of a block.

        - ``"none"``. Only this one, with ``mask="FxT_TxT"``, isolates the tasks fully.
        - ``"mixer"``: ``W_o W_v x`` on the joined tokens; what the released code computes where its
          rotary option is on.
        - ``"batch_attention"``: the paper's attention between the rows of a batch. A prediction then depends
          on the other rows given with it, and one row alone is not served well. More than ``batch_size`` rows are
          predicted in batches of about equal size, in the order in which they are given.
        - ``"inducing_attention"``: ours, rows attend to ``n_points`` learned points.
    n_points : int, default=64
        Number M of learned points.

    Raises
    ------
    ValueError
        If the mask, row layer or numeric embedding is unknown, or ``d_token`` no multiple of ``n_heads``.
    """

    columns: Columns
    tasks: Sequence[Task]
    _: KW_ONLY
    task_per_row: bool = False
    d_token: int = 16
    n_blocks: int = 1
    n_heads: int = 4
    d_ffn: int = 256
    mask: Mask = "TxT"
    row_layer: SecondLayer = "mixer"
    n_points: int = 64
    multi_token: bool = True
    numeric_embedding: NumericEmbedding = "linear"
    head_hidden: int | None = 64
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()
        self.batch_dependent = self.row_layer == "batch_attention"
        e, n_vectors = self.d_token, len(self.tasks) if self.multi_token else 1
        self._n_task_tokens = 1 if self.task_per_row else n_vectors
        self.tokenizer = FeatureTokenizer(self.columns, e, numeric_embedding=self.numeric_embedding)
        self.task_weight = nn.Parameter(torch.empty(n_vectors, e).uniform_(-(e**-0.5), e**-0.5))
        self.task_bias = nn.Parameter(torch.empty(n_vectors, e).uniform_(-(e**-0.5), e**-0.5))
        self._n_tokens = self._n_task_tokens + self.tokenizer.n_tokens
        mask = attention_mask(self.mask, self._n_task_tokens, self._n_tokens)
        self.register_buffer("attention_mask", mask, persistent=False)
        shares = {"dropout": self.dropout, "attention_dropout": self.attention_dropout}
        self.feature_layers = nn.ModuleList(
            FeatureLayer(e, self.n_heads, self.d_ffn, **shares) for _ in range(self.n_blocks)
        )
        self.row_layers = nn.ModuleList(
            RowLayer(self._row_mix(), self._n_tokens * e, self.d_ffn, dropout=self.dropout)
            for _ in range(0 if self.row_layer == "none" else self.n_blocks)
        )
        widths = [task.width for task in self.tasks]
        self.heads = Towers(e, widths, hidden=self.head_hidden, dropout=self.dropout)

    def _row_mix(self) -> nn.Module:
        width = self._n_tokens * self.d_token
        if self.row_layer == "mixer":
            return RowMixer(width)
        if self.row_layer == "inducing_attention":
            return InducingAttention(width, self.n_heads, self.n_points, dropout=self.attention_dropout)
        if self.row_layer == "batch_attention":
            return RowAttention(width, self.n_heads, dropout=self.attention_dropout)
        raise ValueError(
            f"row_layer must be 'none', 'mixer', 'batch_attention' or 'inducing_attention', got {self.row_layer!r}"
        )

    def task_features(self, x_num: Tensor, x_cat: Tensor, own: RowOwners | None = None) -> Tensor:
        """Return each row's final task tokens (B, s, e), or the one token that all heads read (B, e)."""
        tokens = self._blocks(self._tokens(x_num, x_cat, own))
        return tokens if self.multi_token else tokens[:, 0]

    def _tokens(self, x_num: Tensor, x_cat: Tensor, own: RowOwners | None) -> Tensor:
        """Join task tokens w_i + b_i and feature tokens to (B, n, e)."""
        if self.task_per_row != (own is not None):
            raise ValueError(f"task_per_row={self.task_per_row}, but task was {'not ' * (own is None)}given")
        vectors = self.task_weight + self.task_bias
        if own is not None and self.multi_token:
            first = vectors.index_select(0, own.owner)[:, None]  # (B, 1, e)
        else:
            first = vectors.expand(x_num.shape[0], -1, -1)  # (B, s, e)
        return self.tokenizer(x_num, x_cat, [first])

    def _blocks(self, x: Tensor) -> Tensor:
        """Pass tokens (B, n, e) through all blocks; the last layer gives the task tokens (B, s, e) only."""
        n_out = [x.shape[1]] * (self.n_blocks - 1) + [self._n_task_tokens]
        for i, feature_layer in enumerate(self.feature_layers):
            if not self.row_layers:
                x = feature_layer(x, self.attention_mask, n_out[i])
                continue
            x = feature_layer(x, self.attention_mask, x.shape[1])
            x = self.row_layers[i](x, n_out[i])
        return x


_NETWORK_OPTIONS = [field.name for field in fields(MultiTabNetwork) if field.kw_only and field.name != "task_per_row"]


@dataclass(kw_only=True, eq=False, repr=False)
class MultiTabNet(NetworkEstimator):
    """MultiTab-Net: a transformer over the columns of a row, with one token per task.

    A row becomes tokens: one per task, T_i = w_i + b_i, and one per column. Each of ``n_blocks`` blocks is
    pre-norm attention between the tokens of a row,

        A = softmax(Q K^T / sqrt(d_k) + M),    M = -inf at forbidden (query, key) pairs,

    with a feed-forward layer, and then a second layer over the row's joined tokens (``row_layer``). A head per task
    reads that task's token. With the default mask no task token attends to another one; the second layer still mixes
    all tokens of a row. Only ``row_layer="none"`` with ``mask="FxT_TxT"`` keeps the tasks apart.

    Parameters
    ----------
    d_token : int, default=16
        Width e of a token.
    n_blocks : int, default=1
        Blocks of attention, one after the other.
    n_heads : int, default=4
        Attention heads; a divisor of ``d_token``.
    d_ffn : int, default=256
        Hidden width of the feed-forward layers.
    mask : {"none", "FxT", "TxT", "FxT_TxT"}, default="TxT"
        Who may not look at whom: features at tasks, tasks at each other, or both.
    row_layer : {"none", "mixer", "batch_attention", "inducing_attention"}, default="mixer"
        The second layer of a block; see :class:`MultiTabNetwork`. ``"batch_attention"``, the paper's, makes a
        prediction depend on the rows it is asked with; all others do not. It predicts in batches of at most
        ``batch_size`` rows, all of about equal size, in the order of the rows.
    n_points : int, default=64
        Learned points of ``"inducing_attention"``.
    multi_token : bool, default=True
        One token per task; else one token that all heads read.
    numeric_embedding : {"linear", "piecewise", "periodic"}, default="linear"
        How a number becomes a token; ``"linear"`` is the paper's.
    head_hidden : int, default=64
        Width of a head's hidden layer; 0 leaves one linear layer.
    dropout, attention_dropout : float, default=0.15, 0.0
        Shares of hidden values and of attention weights dropped in training.

    Notes
    -----
    Only the abstract, the architecture figure and the released code of the paper were available when this was
    written. Deviations from the release: regression targets are standardised, missing labels are masked, every
    categorical column has two more codes (missing, unseen or rare), the defaults were chosen on validation rows of five
    tables (see the design notes), and dropout is absent in two places where the release has it: on the tokens, and on
    the output of attention.

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
    >>> [task.kind for task in model.tasks_]
    ['binary', 'regression']
    """

    d_token: Count = 16
    n_blocks: Count = 1
    n_heads: Count = 4
    d_ffn: Count = 256
    mask: Mask = "TxT"
    row_layer: SecondLayer = "mixer"
    n_points: Count = 64
    multi_token: bool = True
    numeric_embedding: NumericEmbedding = "linear"
    head_hidden: CountOrZero = 64
    dropout: Rate = 0.15
    attention_dropout: Rate = 0.0

    search_space: ClassVar[dict[str, Any]] = NetworkEstimator.search_space | {
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

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> MultiTabNetwork:
        options = {name: getattr(self, name) for name in _NETWORK_OPTIONS}
        return MultiTabNetwork(columns, tasks, task_per_row=self.task_column is not None, **options)


class MultiTabNetClassifier(ClassifierFace, MultiTabNet):
    """`MultiTabNet` whose every task is a classification."""


class MultiTabNetRegressor(RegressorFace, MultiTabNet):
    """`MultiTabNet` whose every task is a regression."""
