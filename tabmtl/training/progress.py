"""What ``verbose=1`` shows: a bar with the current score of every task, or plain lines where rich is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from tabmtl.schema import Task

Record = Mapping[str, float | None]
Describe = Callable[[Record], str]

_SHOWN_TASKS = 8


@contextmanager
def show_progress(epochs: int, describe: Describe) -> Iterator[Callable[[Record], None]]:
    """Show the epochs of a training run, in a terminal or a notebook.

    Parameters
    ----------
    epochs : int
        Epochs at most.
    describe : callable
        What to show of the record of an epoch.

    Yields
    ------
    callable
        To be called with the record of every epoch.
    """
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda record: print(f"epoch {record['epoch'] or 0:.0f}  {describe(record)}", flush=True)
        return
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=epochs)
        yield lambda record: progress.update(bar, advance=1, description=describe(record))


@contextmanager
def watching(
    epochs: int, describe: Describe, *, verbose: int, on_epoch: Callable[[Record], bool | None] | None
) -> Iterator[Callable[[Record], bool]]:
    """What a training calls after every epoch: shows it if ``verbose``, and asks the user's callback whether to stop.

    Parameters
    ----------
    epochs, describe
        As in `show_progress`.
    verbose : int
    on_epoch : callable or None

    Yields
    ------
    callable
        To be called with the record of every epoch; a true answer stops training.
    """
    with ExitStack() as stack:
        show = stack.enter_context(show_progress(epochs, describe)) if verbose else None

        def watch(record: Record) -> bool:
            if show is not None:
                show(record)
            return bool(on_epoch is not None and on_epoch(record))

        yield watch


def describe_tasks(tasks: Sequence[Task], record: Record) -> str:
    """Mean loss and the scores of the first tasks: on validation rows if there are any."""
    part = "val" if "val/loss" in record else "train"
    texts = [f"{part} loss {record[f'{part}/loss']:.4f}"]
    for task in tasks[:_SHOWN_TASKS]:
        score = record[f"{part}/{task.name}/{task.metric}"]
        texts.append(f"{task.name} {'-' if score is None else format(score, '.4f')}")
    if len(tasks) > _SHOWN_TASKS:
        score = record[f"{part}/score"]
        texts.append(f"mean of {len(tasks)} {'-' if score is None else format(score, '.4f')}")
    return "  ".join(texts)
