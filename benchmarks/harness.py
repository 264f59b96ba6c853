"""Tools of all benchmarks: clocks, a memory gauge, a separate process, tables, and common options.

Nothing heavy is imported here, because it would count where memory is measured.
"""

from __future__ import annotations

import os
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from inspect import signature
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import polars as pl

ROOT = Path(__file__).parents[1]
Record = dict[str, Any]
#: Measured numbers by their unit; the first one is compared.
Measures = dict[str, float]
#: One side of a comparison: a round by its number, which is its seed.
Side = Callable[[int], Measures]
Sides = Mapping[str, Side]
#: CPU seconds after which a comparison begins no round.
ENOUGH_SECONDS = 60.0
#: Requests that a latency takes at least, and the seconds after which it takes no more than these.
LEAST_REQUESTS, LATENCY_SECONDS = 30, 20.0
#: Quantiles of a latency.
QUANTILES = {"p50": 0.5, "p99": 0.99, "least": 0.0}
#: Units of which the least counts; of others the mean does.
OF_TIME = ("s", "ms", "GB")


@dataclass(frozen=True)
class Case:
    """A comparison of speed: sides that run in turn, of which the first is what the others are compared with.

    Parameters
    ----------
    name : str
        By which ``--only`` knows the case.
    sides : callable
        Makes the sides by name. Its parameters are the sizes of the case.
    sizes, quick : mapping of str to object
        Sizes other than the defaults, and the small ones of ``--quick``.
    rounds : int
        Times that every side runs.
    warm : bool
        Whether one more round, which does not count, comes first.
    faster : mapping of str to float
        Goals of sides: how many times as fast as the first side they are at least.
    most : mapping of str to float
        Goals of sides: the most of their first unit.
    needs : mapping of str to str
        Modules of other packages, and how to install these.
    """

    name: str
    sides: Callable[..., Sides]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 1
    warm: bool = False
    faster: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name and the sizes."""
        return ", ".join([self.name, *(f"{size} {value}" for size, value in self.sizes.items())])

    def run(self, given: Mapping[str, Any], *, quick: bool) -> dict[str, list[Measures]]:
        """Run the sides in turn, print a line for each, and return what every round measured; say what is missing.

        Sizes that are given come before the small ones.
        """
        for module, package in self.needs.items():
            if find_spec(module) is None:
                print(f"{self.title}: skipped, {module} is not installed: pip install {package!r}")
                return {}
        try:
            asked = {size: value for size, value in given.items() if self.takes(size)}
            sides = self.sides(**{**self.sizes, **(self.quick if quick else {}), **asked})
        except FileNotFoundError as error:
            print(f"{self.title}: skipped, {error}")
            return {}
        found = take_turns(sides, 1 if quick else self.rounds, warm=self.warm and not quick)
        for name, own in found.items():
            say(f"{self.title}: {name}", *self._cells(name, own, next(iter(found.values()))))
        return found

    def takes(self, size: str) -> bool:
        """Tell whether a size is one of the case."""
        return size in signature(self.sides).parameters

    def _cells(self, name: str, own: Sequence[Measures], first: Sequence[Measures]) -> Iterator[str]:
        unit = next(iter(own[0]))
        for each in own[0]:
            values = [measures[each] for measures in own]
            yield f"{min(values):.4g} {each}" if each.split()[0] in OF_TIME else f"{spread(values)} {each}"
        ratio = min(each[unit] for each in first) / min(each[unit] for each in own)
        if own is not first:
            ratios = [one[unit] / other[unit] for one, other in zip(first, own, strict=True)]
            yield f"{ratio:.2f}x" + (f" ± {stdev(ratios):.2f}" if len(ratios) > 1 else "")
        if name in self.faster:
            yield at_least(ratio, self.faster[name])
        if name in self.most:
            yield at_most(min(each[unit] for each in own), self.most[name], f" {unit}")


def take_turns(sides: Sides, rounds: int, *, warm: bool) -> dict[str, list[Measures]]:
    """Run sides in turn, and return the measures of every round, after one that does not count where they are warmed.

    Other work on the machine hardly matters to the ratios, which repeat within some percent; absolute numbers do not.
    """
    found: dict[str, list[Measures]] = {name: [] for name in sides}
    begin = time.process_time()
    for round_ in range(-warm, rounds):
        for name, side in sides.items():
            measures = side(max(round_, 0))
            if round_ >= 0:
                found[name].append(measures)
        if warm and round_ >= 0 and time.process_time() - begin > ENOUGH_SECONDS:
            break
    return found


def cpu(run: Callable[[], object]) -> Side:
    """Make a side of a function without arguments, which takes CPU seconds."""

    def side(_: int) -> Measures:
        start = time.process_time()
        run()
        return {"s": time.process_time() - start}

    return side


def steps_of(fit: Callable[[], object], steps: int) -> Measures:
    """Measure the CPU seconds of an optimiser step of a fit, median and mean, and those before the first one.

    The fit ends by an error after some steps.
    """
    from tabmtl.training.optimizer import Optimizer

    stamps, start, original = [], time.process_time(), Optimizer.step

    def step(self: Optimizer, learning_rate: float) -> None:
        original(self, learning_rate)
        stamps.append(time.process_time())
        if len(stamps) > steps:
            raise _EnoughStepsError

    with patch.object(Optimizer, "step", step), suppress(_EnoughStepsError):
        fit()
    taken = [after - before for before, after in pairwise(stamps)]
    return {"s": median(taken), "s on average": fmean(taken), "s before": stamps[0] - start}


def plain_steps(step: Callable[[], object], steps: int) -> Measures:
    """Measure the CPU seconds of a training step, the median of some."""
    return {"s": median(cpu(step)(0)["s"] for _ in range(steps))}


class _EnoughStepsError(Exception):
    """Error that ends a training after enough steps."""


def asking(ask: Callable[[Any], object], requests: Sequence[Any], n: int = 1000) -> Side:
    """Make a side of n requests, one after the other: median, 99th percentile and least wall milliseconds."""

    def side(_: int) -> Measures:
        for i in range(min(n, LEAST_REQUESTS)):
            ask(requests[i % len(requests)])
        taken: list[float] = []
        end = time.perf_counter() + LATENCY_SECONDS
        while len(taken) < n and (len(taken) < LEAST_REQUESTS or time.perf_counter() < end):
            request = requests[len(taken) % len(requests)]
            start = time.perf_counter()
            ask(request)
            taken.append(1e3 * (time.perf_counter() - start))
        taken.sort()
        return {f"ms {name}": taken[round(at * (len(taken) - 1))] for name, at in QUANTILES.items()}

    return side


@contextmanager
def gauged(found: Measures) -> Iterator[None]:
    """Measure CPU and wall seconds, and the peak of anonymous memory in GB inside, looked at every 20 ms.

    Pages of files do not count, because the system takes them back where it needs them.
    """
    stop, before, peak = threading.Event(), _anonymous(), [_anonymous()]

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, wall = time.process_time(), time.perf_counter()
    try:
        yield
    finally:
        found |= {"s": time.process_time() - start, "s of wall": time.perf_counter() - wall}
        stop.set()
        watcher.join()
        found |= {"GB": peak[0], "GB before": before}


def _anonymous() -> float:
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024 / 1e9


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, where polars has two threads unless the environment says otherwise."""
    threads = os.environ.get("POLARS_MAX_THREADS", "2")
    with (
        patch.dict(os.environ, POLARS_MAX_THREADS=threads),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments).result()


def alone(function: Callable[..., Measures], *arguments: Any) -> Side:
    """Make a side of a function that measures itself, in a fresh process."""
    return lambda _: in_own_process(function, *arguments)


def at_least(value: float, bound: float, unit: str = "x") -> str:
    """Describe a goal, and whether the value reaches it."""
    return f">= {bound:.3g}{unit}  {'reached' if value >= bound else 'MISSED'}"


def at_most(value: float, bound: float, unit: str = "x") -> str:
    """Describe a goal, and whether the value stays below it."""
    return f"<= {bound:.3g}{unit}  {'reached' if value <= bound else 'MISSED'}"


def say(what: str, *cells: str, goal: str = "") -> None:
    """Print a line of a table as soon as it is measured."""
    print(f"{what:62} {' '.join(f'{cell:>9}' for cell in cells)}  {goal}".rstrip(), flush=True)


def spread(values: Iterable[float]) -> str:
    """Return mean ± standard deviation; for one value the value alone."""
    found = [*values]
    return f"{fmean(found):.4f}" + (f" ± {stdev(found):.4f}" if len(found) > 1 else "")


def paired(differences: Sequence[float]) -> str:
    """Return the mean of differences, ± half of its 95 % interval by Student's t; of one difference it alone."""
    from scipy.stats import t as student

    n = len(differences)
    mean = f"{fmean(differences):+.4f}"
    return mean if n == 1 else f"{mean} ± {student.ppf(0.975, n - 1) * stdev(differences) / n**0.5:.4f}"


def spreads(records: pl.DataFrame, row: str, column: str, value: str) -> dict[str, dict[str, str]]:
    """Return mean ± standard deviation of a value over the seeds, by row and column of the table."""
    table: dict[str, dict[str, str]] = {}
    for (in_row, in_column), own in records.drop_nulls(value).group_by(row, column, maintain_order=True):
        table.setdefault(str(in_row), {})[str(in_column)] = spread(own[value])
    return table


def print_table(title: str, table: Mapping[str, Mapping[str, str]]) -> None:
    """Print cells by row and column, aligned; a missing cell stays empty."""
    columns = list(dict.fromkeys(name for cells in table.values() for name in cells))
    rows = [["", *columns], *([name, *(cells.get(column, "") for column in columns)] for name, cells in table.items())]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    print(f"\n{title}")
    for row in rows:
        print("  ".join(map(str.rjust, row, widths)), flush=True)


def write_records(records: Sequence[Record], path: Path) -> pl.DataFrame:
    """Write records as CSV, with empty cells for missing values, and return them as a frame."""
    import polars as pl

    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(records, infer_schema_length=None)
    frame.write_csv(path)
    return frame


def print_sets(
    sets: Iterable[str],
    runs: Callable[[str], Iterable[list[Record]]],
    report: Callable[[pl.DataFrame], None],
    path: Path,
    records: list[Record],
) -> None:
    """Add the records of every fit on a set, write all after each, and print the table of the set.

    A set that is not there is skipped, with the reason.
    """
    for name in sets:
        try:
            for fresh in runs(name):
                records += fresh
                frame = write_records(records, path)
        except FileNotFoundError as error:
            print(f"\nskipped: {error}")
        else:
            report(frame.filter(set=name))


def parser(module: str, doc: str | None, **choices: Iterable[str]) -> ArgumentParser:
    """Make the options of a benchmark; each choice selects some of its entries, by default all."""
    made = ArgumentParser(prog=f"python -m benchmarks.{module}", description=(doc or "").partition("\n")[0])
    for option, known in choices.items():
        made.add_argument(f"--{option}", nargs="+", choices=[*known], default=[*known], help="default: all")
    return made


def score_parser(
    module: str,
    doc: str | None,
    output: Path | None = Path("benchmark_output"),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    **choices: Iterable[str],
) -> ArgumentParser:
    """Make the options of a benchmark that compares scores on data sets, over seeds."""
    made = parser(module, doc, **choices)
    made.add_argument("--seeds", nargs="+", type=int, default=[*seeds], help=f"default: {' '.join(map(str, seeds))}")
    made.add_argument("--folder", type=Path, help="the data folder; default $TABMTL_DATA")
    made.add_argument(
        "--output", type=Path, default=output, help=f"default: ./{output}" if output else "default: by the part"
    )
    return made


def speed_parser(module: str, doc: str | None, **choices: Iterable[str]) -> ArgumentParser:
    """Make the options of a benchmark that compares speed or memory."""
    made = parser(module, doc, **choices)
    made.add_argument("--quick", action="store_true", help="small sizes, few rounds: goals mean nothing then")
    return made
