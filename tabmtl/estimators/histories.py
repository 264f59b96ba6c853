"""What networks tell of the sequences that they read: the weights of their entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.columns.sequence import lists_of
from tabmtl.training.predict import weigh_sequences

if TYPE_CHECKING:
    from tabmtl.encode import TableCoder
    from tabmtl.schema import Batch


class WeighsHistories:
    """What a network answers besides its predictions, where columns of X are sequences."""

    if TYPE_CHECKING:
        coder_: TableCoder

        def _preprocessed(self, X: Any) -> Any:
            """See `tabmtl.estimators.tables.MultiTaskEstimator`."""

        def _read_rows(self, X: Any) -> Batch:
            """See `tabmtl.estimators.tables.MultiTaskEstimator`."""

        def _run(self, function: Any, batch: Batch) -> Any:
            """See `tabmtl.estimators.network.NetworkEstimator`."""

    def history_weights(self, X: Any) -> pl.DataFrame:
        """Return how much each entry of the columns of ``sequence_features`` counts for the row's own item.

        Parameters
        ----------
        X : frame or array of shape (n, p)

        Returns
        -------
        weights : polars.DataFrame of shape (n, n_sequences)
            For every column of sequences, lists of the weights of the entries that are read, in their order: the newest
            ``max_sequence_length``. By attention, those of a row add up to less than 1, and to little where nothing
            bears on the item; ``sequence_pooling="mean"`` weighs all alike. A list is null where the sequence is
            missing.

        Raises
        ------
        ValueError
            If no column is a sequence.
        """
        check_is_fitted(self)
        sequences = self.coder_.features.columns.sequences
        if not sequences:
            raise ValueError("no column of X is a sequence; name some in sequence_features, and fit again")
        batch = self._read_rows(self._preprocessed(X))
        weights = zip(sequences, batch.x.sequences, self._run(weigh_sequences, batch), strict=True)
        return pl.DataFrame([lists_of(column.name, entries, own.numpy()) for column, entries, own in weights])
