"""The processes that fit one model together, as each of them sees them.

A fit on `tabmtl.Shards` has the group of its run (`tabmtl.training.run`), and hands it to all that meets the other
ranks: sums, and values that are gathered, which `tabmtl.processes.wire` can send. All ranks ask the same in the same
order, so what a rank does may depend only on what all know. `tabmtl.scale.joined` makes a group of several; without it
a fit is alone, and nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_ABSENT = "absent"  # stands for a fact that one rank alone has
_SHOWN = 200  # characters of a value in an error


class Ranks:
    """The processes that fit one model, as one of them sees them; this class itself is one process alone.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of the processes.
    """

    rank = 0
    size = 1

    def __repr__(self) -> str:
        return f"<rank {self.rank} of a group of {self.size}>"

    def gather(self, value: Any, to: int | None = None) -> list[Any]:
        """Return the values of all ranks, in their order, to all or to one of them; to the others an empty list."""
        return [value]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks, and return it; all ranks get the same bits."""
        return tensor

    def total(self, array: np.ndarray) -> np.ndarray:
        """Return the sum of an array over all ranks, float64; of one process alone the array itself."""
        if self.size == 1:
            return array
        import torch

        return self.sum_(torch.from_numpy(np.array(array, dtype=np.float64))).numpy()

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""
        return self.gather(value if self.rank == 0 else None)[0]

    @overload
    def answer(self, ask: Callable[[], T]) -> T: ...
    @overload
    def answer(self) -> Any: ...
    def answer(self, ask: Callable[[], Any] | None = None) -> Any:
        """Return the answer of rank 0, which alone is asked; if that raises an error, so do the others.

        Other ranks need no `ask`.

        Raises
        ------
        EndedElsewhereError
            In the other ranks, in place of the error of rank 0.
        """
        if self.rank:
            answers = self.broadcast(None)
            if answers is None:
                raise EndedElsewhereError("rank 0 has ended this by an error, which is the one to read")
            return answers[0]
        assert ask is not None
        try:
            answer = ask()
        except Exception:
            self.broadcast(None)
            raise
        self.broadcast([answer])
        return answer

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raise a ValueError if ranks differ in a fact; facts are JSON, by their names for an error."""
        first, *others = self.gather(dict(facts))
        for rank, other in enumerate(others, 1):
            for name in first | other:
                own, expected = repr(other.get(name, _ABSENT)), repr(first.get(name, _ABSENT))
                if own != expected:
                    raise ValueError(
                        f"{name} is {own:.{_SHOWN}} on rank {rank} of the group and {expected:.{_SHOWN}} on rank 0; "
                        "give every rank the same"
                    )

    def address(self) -> str:
        """Return the address by which the other ranks reach this one; all ranks ask together."""
        return "127.0.0.1"

    def deal(self, sizes: np.ndarray) -> np.ndarray:
        """Deal pieces of work to the ranks, the largest first, each to the one with the least so far: (n,) ranks."""
        dealt, loads = np.empty(len(sizes), dtype=np.int64), np.zeros(self.size)
        for i in np.argsort(-sizes, kind="stable").tolist():
            dealt[i] = loads.argmin()
            loads[dealt[i]] += sizes[i]
        return dealt

    def share(self, n: int) -> range:
        """Return this rank's share of the numbers below n: a range next to those of its neighbours."""
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)


class EndedElsewhereError(RuntimeError):
    """Error of the other ranks where rank 0 has raised one."""


#: One process alone.
ALONE = Ranks()
