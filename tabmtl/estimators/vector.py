"""Estimators whose network reads a row as one vector, the embeddings of its columns side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tabmtl.estimators.network import NetworkEstimator
from tabmtl.nn.embeddings import FeatureVector, NumericEmbedding
from tabmtl.params import check_choice, check_count
from tabmtl.schema import Columns


@dataclass(kw_only=True, eq=False, repr=False)
class VectorEstimator(NetworkEstimator):
    """Base of the estimators whose network reads a row as one vector.

    Parameters
    ----------
    d_embedding : int, default=16
        Width of a column's embedding.
    numeric_embedding : {"none", "linear", "piecewise", "periodic"}, default="piecewise"
        How a number becomes an embedding; ``"none"`` takes it as it is.
    """

    d_embedding: int = 16
    numeric_embedding: NumericEmbedding | Literal["none"] = "piecewise"

    search_space: ClassVar[dict[str, Any]] = NetworkEstimator.search_space | {
        "d_embedding": {"choices": (8, 16, 32)},
        "numeric_embedding": {"choices": ("linear", "piecewise", "periodic")},
    }

    _embedding_std: ClassVar[float | None] = None

    def _check_params(self) -> None:
        super()._check_params()
        check_count("d_embedding", self.d_embedding)
        check_choice("numeric_embedding", self.numeric_embedding, ("none", "linear", "piecewise", "periodic"))

    def _vector(self, columns: Columns) -> FeatureVector:
        """A row as one vector, with the options of this estimator."""
        kind, std = self.numeric_embedding, self._embedding_std
        return FeatureVector(columns, self.d_embedding, numeric_embedding=kind, std=std)
