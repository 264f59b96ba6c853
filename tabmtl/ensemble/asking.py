"""Ask all models of an ensemble by one reading of the rows for those that read them alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tabmtl.base.schema import Batch
from tabmtl.base.storage.stored import fingerprint
from tabmtl.columns.features import Features
from tabmtl.encode import TableCoder
from tabmtl.ensemble.levels import LevelColumns
from tabmtl.estimators.asked import Together
from tabmtl.estimators.encoded import reads_frames, together
from tabmtl.estimators.tables import MultiTaskEstimator


@dataclass(frozen=True, eq=False)
class _Group:
    """Models of one candidate that read rows alike.

    Attributes
    ----------
    places : list of int
        Their places among the models of the candidate.
    key : str
        Names what their coder knows of features.
    coder : TableCoder
    asked : Together
    """

    places: list[int]
    key: str
    coder: TableCoder
    asked: Together


class Asked:
    """The models of an ensemble, by candidates.

    Parameters
    ----------
    coder : TableCoder
        Of the ensemble, behind its preprocessor.
    models : dict of str to sequence of MultiTaskEstimator
    levels : LevelColumns or None
        Means of levels, which some models read.
    """

    def __init__(
        self, coder: TableCoder, models: Mapping[str, Sequence[MultiTaskEstimator]], levels: LevelColumns | None
    ) -> None:
        self._coder, self._own, self._levels = coder, fingerprint(coder.features), levels
        self._groups = {name: _grouped(parts) for name, parts in models.items()}
        self._others = {
            name: {i: part for i, part in enumerate(parts) if reads_frames(part)} for name, parts in models.items()
        }

    def answers(
        self, frame: pl.DataFrame, batch: Batch, wanted: Mapping[str, tuple[int, ...]] | None = None
    ) -> Iterator[tuple[str, list[list[np.ndarray]]]]:
        """Yield the answers of the models of every candidate to rows that the coder has read.

        Parameters
        ----------
        frame : polars DataFrame
        batch : Batch
            The same rows, encoded.
        wanted : mapping of str to tuple of int, optional
            Numbers of the columns of a wide y that every candidate is asked for; one without any is left out. By
            default, every candidate is asked for all.
        """
        read: dict[str, Features] = {self._own: batch.x}
        wide = frame
        for name, groups in self._groups.items():
            places = None if wanted is None else wanted[name]
            if places == ():
                continue
            found = {i: part.__answers__(frame) for i, part in self._others[name].items()}
            if places is not None:
                found = {i: [own[t] for t in places] for i, own in found.items()}
            for group in groups:
                X: pl.DataFrame | pl.LazyFrame = frame
                if self._levels is not None and group.coder.names[-1] in self._levels.names:
                    if wide is frame:
                        wide = self._levels.joined(frame, self._levels.means.numbers_of(batch))
                    X = wide if wide.width == len(group.coder.names) else wide.select(group.coder.names)
                elif group.coder.names != self._coder.names:
                    X = group.coder.read_frame(frame)
                if group.key not in read:
                    read[group.key] = group.coder.features.encode(X)
                asked = group.asked if places is None else group.asked.of(places)
                answers = asked.answers(X, Batch(x=read[group.key], task=batch.task))
                found |= zip(group.places, answers, strict=True)
            yield name, [found[i] for i in range(len(found))]


def _grouped(parts: Sequence[MultiTaskEstimator]) -> list[_Group]:
    """Group the models of a candidate that do not look at frames by themselves by what their coders know of features.

    All are one group, but those of older files.
    """
    places: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        if not reads_frames(part):
            places.setdefault(fingerprint(part.coder_.features), []).append(i)
    return [_Group(own, key, parts[own[0]].coder_, together([parts[i] for i in own])) for key, own in places.items()]
