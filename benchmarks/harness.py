"""Tools of all benchmarks: clocks, a memory gauge, a separate process, tables, and common options.

Nothing heavy is imported here, because it would count where memory is measured.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import polars as pl

ROOT = Path(__file__).parents[1]
Record = dict[str, Any]
Sides = Mapping[str, Callable[[], object]]
#: CPU seconds after which a comparison begins no round.
ENOUGH_SECONDS = 60.0
#: Requests that a latency takes at least, and the seconds after which it takes no more than these.
LEAST_REQUESTS, LATENCY_SECONDS = 30, 20.0


def least_cpu_time(sides: Sides, rounds: int) -> dict[str, float]:
    """Measure the least CPU seconds of each side over interleaved rounds, after one untimed round.

    Other work on the machine hardly matters to the ratios, which repeat within some percent; absolute numbers do not.
    """
    seconds = dict.fromkeys(sides, float("inf"))
    begin = time.process_time()
    for round_ in range(rounds + 1):
        for name, run in sides.items():
            start = time.process_time()
            run()
            if round_:
                seconds[name] = min(seconds[name], time.process_time() - start)
        if round_ and time.process_time() - begin > ENOUGH_SECONDS:
            break
    return seconds


def latency(ask: Callable[[Any], object], requests: Sequence[Any], n: int = 1000) -> list[float]:
    """Measure median, 99th percentile and least wall milliseconds of n requests, one after the other."""
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
    return [taken[round(share * (len(taken) - 1))] for share in (0.5, 0.99, 0.0)]


def peak_memory() -> float:
    """Return the peak memory of this process in GB; unlike getrusage, VmHWM forgets the parent process."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def gauge(run: Callable[[], object]) -> dict[str, float]:
    """Measure `wall` and `cpu` seconds of one run, and the `peak` memory of the process in GB after and `before` it."""
    before, wall, cpu = peak_memory(), time.perf_counter(), time.process_time()
    run()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak": peak_memory(),
        "before": before,
    }


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, where polars has two threads unless the environment says otherwise."""
    threads = os.environ.get("POLARS_MAX_THREADS", "2")
    with (
        patch.dict(os.environ, POLARS_MAX_THREADS=threads),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(function, *arguments).result()


def at_least(value: float, bound: float, unit: str = "x") -> str:
    """Describe a goal, and whether the value reaches it."""
    return f">= {bound:.3g}{unit}  {'reached' if value >= bound else 'MISSED'}"


def at_most(value: float, bound: float, unit: str = "x") -> str:
    """Describe a goal, and whether the value stays below it."""
    return f"<= {bound:.3g}{unit}  {'reached' if value <= bound else 'MISSED'}"


def say(what: str, *cells: str, goal: str = "") -> None:
    """Print a line of a table as soon as it is measured."""
    print(f"{what:62} {' '.join(f'{cell:>9}' for cell in cells)}  {goal}".rstrip(), flush=True)


def compare(title: str, sides: Sides, rounds: int, goals: Mapping[str, float] | None = None) -> dict[str, float]:
    """Time sides in turn, and print a line each: CPU time, its ratio to the first side, and a goal.

    Gives the least CPU seconds.
    """
    seconds = least_cpu_time(sides, rounds)
    first, goals = next(iter(seconds.values())), goals or {}
    for name, taken in seconds.items():
        ratio = first / taken
        goal = at_least(ratio, goals[name]) if name in goals else ""
        say(f"{title}: {name}", f"{taken * 1e3:.2f} ms", f"{ratio:.2f}x", goal=goal)
    return seconds


def spread(values: Iterable[float]) -> str:
    """Return mean ± standard deviation; for one value the value alone."""
    found = [*values]
    return f"{fmean(found):.4f}" + (f" ± {stdev(found):.4f}" if len(found) > 1 else "")


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
    output: Path = Path("benchmark_output"),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    **choices: Iterable[str],
) -> ArgumentParser:
    """Make the options of a benchmark that compares scores on data sets, over seeds."""
    made = parser(module, doc, **choices)
    made.add_argument("--seeds", nargs="+", type=int, default=[*seeds], help=f"default: {' '.join(map(str, seeds))}")
    made.add_argument("--folder", type=Path, help="the data folder; default $TABMTL_DATA")
    made.add_argument("--output", type=Path, default=output, help=f"default: ./{output}")
    return made


def speed_parser(module: str, doc: str | None, **choices: Iterable[str]) -> ArgumentParser:
    """Make the options of a benchmark that compares speed or memory."""
    made = parser(module, doc, **choices)
    made.add_argument("--quick", action="store_true", help="small sizes, few rounds: goals mean nothing then")
    return made
