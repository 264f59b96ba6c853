"""The processes that fit one model together, as each of them sees them.

A fit has the group of its run (`tabmtl.training.run`), and hands it to all that meets the other ranks. All ranks ask
the same in the same order, so what a rank does may depend only on what all know. A fit is alone, and nothing here does
anything, unless something else makes a group of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

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
        """Return the values of all ranks, in their order, to all or to one of them; to the others an empty list.

        Values are plain ones, lists, tuples, dicts, arrays of numbers, tensors, and frames and series of polars.
        """
        return [value]

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks, and return it; all ranks get the same bits."""
        return tensor


#: One process alone.
ALONE = Ranks()


class EndedElsewhereError(RuntimeError):
    """Error of the other ranks where rank 0 has raised one."""


@overload
def answer(group: Ranks, ask: Callable[[], T]) -> T: ...
@overload
def answer(group: Ranks) -> Any: ...
def answer(group: Ranks, ask: Callable[[], Any] | None = None) -> Any:
    """Return the answer of rank 0, which alone is asked; if that raises an error, so do the others.

    Other ranks need no `ask`.

    Raises
    ------
    EndedElsewhereError
        In the other ranks, in place of the error of rank 0.
    """
    if group.rank:
        answers = group.gather(None)[0]
        if answers is None:
            raise EndedElsewhereError("rank 0 has ended this by an error, which is the one to read")
        return answers[0]
    assert ask is not None
    try:
        found = ask()
    except Exception:
        group.gather(None)
        raise
    group.gather([found])
    return found


def check_same(group: Ranks, facts: Mapping[str, Any]) -> None:
    """Raise a ValueError if ranks differ in a fact; facts are JSON, by their names for an error."""
    if group.size == 1:
        return
    first, *others = group.gather(dict(facts))
    for rank, other in enumerate(others, 1):
        for name in first | other:
            own, expected = repr(other.get(name, _ABSENT)), repr(first.get(name, _ABSENT))
            if own != expected:
                raise ValueError(
                    f"{name} is {own:.{_SHOWN}} on rank {rank} of the group and {expected:.{_SHOWN}} on rank 0; "
                    "give every rank the same"
                )
