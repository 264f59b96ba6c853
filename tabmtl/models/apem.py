"""APEM-style: set attention over the columns of a row, patterns, and a selector of patterns per task.

Tao, Ha, Guo, Ma, Cheng and Lin, arXiv 2301.02494 (2023): version 2 is called TAFE (also RecSys 2023 and TKDD 2024),
the final one APEM. Shapes: B rows, m columns, d width of a token, n attention groups, p inducing points, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.base.params import Count, NonNegative, Rate
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.funnel import FunnelEstimator
from tabmtl.estimators.mixture import ExpertEstimator
from tabmtl.nn.embeddings import FeatureTokenizer, NumericEmbedding
from tabmtl.nn.experts import mix
from tabmtl.nn.layers import Boundary, Members, RowOwners, StackedLinear, take_rows
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.targets import Task
from tabmtl.training.losses import FunnelLoss, MultiTaskLoss, Space


class AttentionBlocks(nn.Module):
    """n blocks MAB(Q, K) = LN(A + ReLU(W A)), A = LN(Q + MHA(Q, K, K)), of one shape, without a loop over them.

    One matrix per head joins the projections of queries and keys, another those of values and outputs. They are applied
    to the side with fewest tokens.

    Parameters
    ----------
    n_groups, d, n_heads : int
        n, the width d of a token, and the heads, a divisor of d.
    """

    def __init__(self, n_groups: int, d: int, n_heads: int) -> None:
        super().__init__()
        shape = (n_groups, n_heads, d, d // n_heads)
        self.query, self.key, self.value, self.out = (
            nn.Parameter(torch.empty(shape).uniform_(-(d**-0.5), d**-0.5)) for _ in range(4)
        )
        self.feed = StackedLinear(n_groups, d, d)
        self.scale = nn.Parameter(torch.ones(2, n_groups, 1, d))
        self.shift = nn.Parameter(torch.zeros(2, n_groups, 1, d))

    def scores(self) -> Tensor:
        """Return matrices M (n, h, d, d) of the scores k' M q of a key's token k and a query's token q."""
        return self.key @ self.query.transpose(2, 3) / self.query.shape[3] ** 0.5

    def values(self) -> Tensor:
        """Return matrices (n, h, d, d) from a key's token to the part of its head in the output."""
        return self.value @ self.out.transpose(2, 3)

    def finish(self, queries: Tensor, attended: Tensor) -> Tensor:
        """Apply the two normalised sums to queries and attention (n, N, d)."""
        a = self._norm(0, queries + attended)
        return self._norm(1, a + F.relu(self.feed(a)))

    def _norm(self, which: int, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift[which], F.layer_norm(x, x.shape[-1:]), self.scale[which])


class SetAttention(nn.Module):
    """Induced set attention of n groups: H = MAB(I, X), then MAB(X, H), with p learned points I in each group.

    Parameters
    ----------
    n_groups, n_points, d, n_heads : int
    """

    def __init__(self, n_groups: int, n_points: int, d: int, n_heads: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.empty(n_groups, n_points, d).uniform_(-(d**-0.5), d**-0.5))
        self.inward = AttentionBlocks(n_groups, d, n_heads)
        self.outward = AttentionBlocks(n_groups, d, n_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Take tokens (B, m, d) to tokens (n, B, m, d)."""
        (n, p, d), b, h = self.points.shape, x.shape[0], self.inward.query.shape[1]
        # points ask the row's tokens: their queries are the same in all rows
        queries = self.inward.scores() @ self.points.transpose(1, 2)[:, None]  # (n, h, d, p)
        logits = x @ queries.permute(2, 0, 1, 3).flatten(1)  # (B, m, n h p)
        attended = logits.softmax(dim=1).transpose(1, 2) @ x  # (B, n h p, d)
        attended = attended.view(b, n, h, p, d).permute(1, 0, 3, 2, 4).reshape(n, b * p, h * d)
        attended = attended @ self.inward.values().flatten(1, 2)  # (n, B p, d)
        points = self.points[:, None].expand(n, b, p, d).reshape(n, b * p, d)
        held = self.inward.finish(points, attended)  # (n, B p, d)
        # the row's tokens ask the points
        both = torch.cat([self.outward.scores(), self.outward.values()], dim=1).transpose(1, 2)  # (n, d, 2h, d)
        both = (held @ both.flatten(2)).view(n, b, p, 2, h, d).permute(3, 1, 0, 4, 2, 5)
        keys, values = both.reshape(2, b * n, h * p, d).unbind()
        logits = torch.bmm(keys.view(b, n * h * p, d), x.transpose(1, 2))  # (B, n h p, m)
        weights = logits.view(b, n * h, p, -1).softmax(dim=2).view(b * n, h * p, -1)
        attended = torch.bmm(weights.transpose(1, 2), values).view(b, n, -1, d).transpose(0, 1).reshape(n, -1, d)
        asking = x.expand(n, *x.shape).reshape(n, -1, d)
        return self.outward.finish(asking, attended).view(n, *x.shape)


class Patterns(nn.Module):
    """Patterns of a row: every group re-weighs the columns of its tokens, and joins them to one vector.

    s = mean over d of X_j, a = sigmoid(W2 ReLU(W1 s)), p_j = Dropout(ReLU(Norm(W_j vec(a ⊙ X_j)))).

    Parameters
    ----------
    n_columns : int
    options : APEM
        The hyper-parameters; W1 has ceil(m / reduction) rows.
    """

    def __init__(self, n_columns: int, options: APEM) -> None:
        super().__init__()
        n_groups, squeezed = options.n_groups, -(-n_columns // options.reduction)
        self.squeeze = StackedLinear(n_groups, n_columns, squeezed)
        self.excite = StackedLinear(n_groups, squeezed, n_columns)
        self.join = options._experts([1] * n_groups, n_columns * options.d_embedding, [options.d_pattern])

    def forward(self, x: Tensor) -> Tensor:
        """Take tokens (n, B, m, d) to patterns (B, n, width)."""
        weights = self.excite(F.relu(self.squeeze(x.mean(dim=3)))).sigmoid()
        return self.join((x * weights[..., None]).flatten(2).unbind())


class PatternSelector(nn.Module):
    """Weights of the patterns for each task t with indicator u_t: softmax_j(u_t · tanh(W p_j)).

    Parameters
    ----------
    names : sequence of str
        Of the tasks.
    n_patterns, width : int
    """

    def __init__(self, names: Sequence[str], n_patterns: int, width: int) -> None:
        super().__init__()
        self.gate_names, self.expert_names = tuple(names), tuple(f"pattern {j}" for j in range(n_patterns))
        self.key = nn.Linear(width, width, bias=False)
        self.indicators = nn.Parameter(torch.empty(len(names), width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, patterns: Tensor, own: RowOwners | None = None) -> Tensor:
        """Weigh patterns (B, n, width) to (B, T, n), or (B, 1, n) for every row's own task."""
        keys = torch.tanh(self.key(patterns))
        if own is None:
            return F.linear(keys, self.indicators).softmax(dim=1).transpose(1, 2)
        indicators = self.indicators.index_select(0, own.owner)[:, :, None]
        return (keys @ indicators).softmax(dim=1).transpose(1, 2)

    def index(self, patterns: Tensor, own: RowOwners | None = None) -> Tensor | None:
        """Return the places (B, 1, n) of a row's weights among all T n; None means all."""
        if own is None:
            return None
        n = patterns.shape[1]
        return own.owner[:, None, None] * n + torch.arange(n, device=patterns.device)


class APEMNetwork(TaskNetwork):
    """Tokens, attention groups, patterns, selector, heads.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : APEM
        The hyper-parameters.
    """

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: APEM) -> None:
        super().__init__()
        n, d, width = options.n_groups, options.d_embedding, options.d_pattern
        self.tokenizer = FeatureTokenizer(
            columns,
            d,
            numeric_embedding=options.numeric_embedding,
            std=options._embedding_std,
            sequence_pooling=options.sequence_pooling,
        )
        self.members = Members(options.n_members, self.tokenizer.n_tokens, d)
        self.attention = SetAttention(n, options.n_points, d, options.n_heads)
        self.patterns = Patterns(self.tokenizer.n_tokens, options)
        self.output = Boundary()
        self.selector = PatternSelector([task.name for task in tasks], n, width)
        self.heads = options._heads(width, tasks)
        self.levels = [(self.patterns, [self.selector])]

    def row_vector(self, x: Features) -> Tensor:
        """Return the tokens of a row's columns side by side."""
        return self.tokenizer(x).flatten(1)

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return features (B, T, d_pattern)."""
        tokens = self.members(self.tokenizer(x))
        patterns = self.output(self.patterns(self.attention(tokens)))
        return mix(self.selector(patterns, own), patterns)

    def restrict(self, tasks: list[int]) -> None:
        """Leave the indicators and heads of some tasks only."""
        take_rows(self.selector, tasks, "indicators")
        self.selector.gate_names = tuple(self.selector.gate_names[t] for t in tasks)
        self.heads.restrict(tasks)


@dataclass(kw_only=True, eq=False, repr=False)
class APEM(FunnelEstimator, ExpertEstimator):
    """APEM-style network: adaptive pattern extraction.

    A row is a set of tokens X, one per column. Each of n groups attends to it through p learned points I_j,

        X_j = MAB(X, MAB(I_j, X)),    MAB(Q, K) = LN(A + ReLU(W A)),    A = LN(Q + MHA(Q, K, K)),

    weighs its columns by squeeze and excitation, a_j = sigmoid(W2 ReLU(W1 mean_d X_j)), and makes a pattern,
    p_j = Dropout(ReLU(Norm(W_j vec(a_j ⊙ X_j)))). Every task has an indicator u_t, which selects among the patterns of
    the row,

        z_t = sum_j softmax_j(u_t · tanh(W p_j)) p_j,    o_t = Head_t(z_t),

    and nothing passes from head to head. With ``task_chain``, the probability of step k of a funnel is the product of
    sigmoid(o_1) ... sigmoid(o_k), trained over all impressions as in ESMM. Without ``task_chain``, each task has the
    loss of its kind.

    Parameters
    ----------
    n_groups, n_points : int, default=4
        Number of attention groups, each with one pattern, and number of inducing points of a group.
    n_heads : int, default=2
        Number of attention heads; a divisor of ``d_embedding``.
    d_pattern : int, default=64
        Width of a pattern.
    reduction : int, default=2
        Factor by which squeeze and excitation reduces the columns in between.
    chain_loss : {"chain", "conditional", "independent"}, default="chain"
        Loss of the steps of ``task_chain``: "chain" compares products with labels over all rows; "conditional" trains
        each step on the rows that reached it, with products as probabilities; "independent" takes each label by itself.
        See :class:`tabmtl.training.losses.FunnelLoss`.
    calibrator : float, default=0.0
        Weight of AITM's penalty on probabilities that rise along the chain. They can rise with "independent" only.
    numeric_embedding : {"linear", "piecewise", "periodic"}, default="piecewise"
        Embedding of a number, its token.
    dropout : float in [0, 1), default=0.1
        Share of hidden values dropped in training, in heads and patterns.

    Notes
    -----
    Only abstracts of the three versions were at hand. They give set attention with squeeze and excitation over columns,
    a pattern selector with task indicators, constraints over the whole exposure space, and no passing of information
    between adjacent tasks. The rest is ours, and may deviate from the papers: induced set attention in place of the
    modified set attention, which we do not know; attention without biases; the formulas of selector and loss;
    normalisation and dropout of patterns, as other mixtures have for experts; small first embeddings; all sizes.

    The abstracts speak of fields, and not of users' histories. Columns of sequences are ours: each is one
    token more, pooled by attention to the row's own item before the groups attend to tokens, so that all tasks select
    from one reading of a history (:class:`tabmtl.nn.sequences.PooledSequence`).

    References
    ----------
    Tao et al. (2023), arXiv 2301.02494: "Task Aware Feature Extraction Framework for Sequential Dependence Multi-Task
    Learning" (v2, TAFE), and its final version, which describes APEM.
    TAFE in RecSys 2023, doi 10.1145/3604915.3608772, and ACM TKDD 2024, doi 10.1145/3640468.

    Examples
    --------
    >>> from tabmtl import APEM
    >>> from tabmtl.synth import make_funnel
    >>> log = make_funnel(500, random_state=0)
    >>> model = APEM(task_chain=["click", "conversion"], epochs=1, random_state=0).fit(log.X, log.y)
    >>> p = model.predict_proba(log.X)
    >>> bool((p["conversion"][:, 1] <= p["click"][:, 1]).all())
    True
    """

    n_groups: Count = 4
    n_points: Count = 4
    n_heads: Count = 2
    d_pattern: Count = 64
    reduction: Count = 2
    chain_loss: Space = "chain"
    calibrator: NonNegative = 0.0
    numeric_embedding: NumericEmbedding = "piecewise"
    dropout: Rate = 0.1

    search_space: ClassVar[dict[str, Any]] = ExpertEstimator.search_space | {
        "n_groups": {"low": 2, "high": 8},
        "n_points": {"low": 2, "high": 8},
        "n_heads": {"choices": (1, 2, 4)},
        "d_pattern": {"choices": (32, 64, 128)},
        "reduction": {"choices": (2, 4)},
    }

    _token_width = "d_embedding"

    def __check_params__(self) -> None:
        super().__check_params__()
        if self.task_chain is None and (self.chain_loss != "chain" or self.calibrator):
            raise ValueError("chain_loss and calibrator belong to the steps of a funnel; name them by task_chain")
        if self.d_embedding % self.n_heads:
            raise ValueError(f"d_embedding ({self.d_embedding}) must be a multiple of n_heads ({self.n_heads})")

    def _loss(self, tasks: Sequence[Task]) -> MultiTaskLoss:
        chain = self._chain(tasks)
        if not chain:
            return MultiTaskLoss(tasks)
        return FunnelLoss(tasks, chain, space=self.chain_loss, calibrator=self.calibrator)

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> APEMNetwork:
        return APEMNetwork(columns, tasks, self)


class APEMClassifier(ClassifierFace, APEM):
    """`APEM` whose every task is a classification."""


class APEMRegressor(RegressorFace, APEM):
    """`APEM` whose every task is a regression."""
