"""Print the measures of the redesign, their limits and their goals; the exit code is 1 if a limit is passed.

    python .ci/measures.py

Run it in the root of a checkout; `make lint` does. It reads the source only, which takes a few seconds:

- Lines and tokens of code are those of tabmtl, pipelines and synth without docstrings, comments and blank lines. The
  core is tabmtl without its doors (``DOORS`` in ``source_measures.py``).
- Conditionals are conditional expressions. A parallel assignment has a tuple on each side.
- A private name of another object is read in any room, by a dot, ``getattr``, ``hasattr`` or ``attrgetter``, and no
  class of the file defines it.
- A private name through ``self`` is read in a class that does not define it, where another class does: one that MMoE
  derives from, or any one.
- Methods of MMoE are the functions in the bodies of its classes of the package. One that is overridden counts again.
- A function opens an estimator if it stands outside of classes, takes an estimator, and reads a private name of it.
- A circle is a group of modules that import each other: at the top, in functions, or by ``import_module`` of a name.
- The core imports a door wherever it imports a module of it, or names one in a text that is no docstring.

``--run`` imports the package as well, and takes two minutes:

- Classes in the MRO are those of the package. "Most" is said of the public estimator or recommender that has most.
- Public names of a fitted SharedTrees stand in the object or in one of its classes of the package.
- ``benchmarks/trips.py`` counts calls and files, with Python 3.11.

``--list MEASURE`` prints what a measure counts. ``--lower`` lowers the limits in ``limits.json`` to what is counted
now, and names the last commit that changed the packages. Limits only fall: a count by another rule takes another name.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from run_measures import run_measures
from source_measures import Measure, Sources

#: Limit of each measure, and the commit that lowered it last.
LIMITS = Path(__file__).with_name("limits.json")
#: Goals of the redesign, by measure; None: the measure has no goal of its own, but a limit.
GOALS: dict[str, float | None] = {
    "lines of code, all": 39_000,
    "lines of code, core": 24_500,
    "lines of code, estimators": None,
    "tokens of code, all": 463_500,  # fewer by the same share as lines
    "tokens of code, core": 295_900,
    "tokens of code, estimators": None,
    "conditionals in 1 000 lines": 42.1,
    "parallel assignments in 1 000 lines": 23.7,
    "names on the first floor": 20,
    "private names of another object": 10,
    "private names through self, MMoE": 20,
    "private names through self, all": None,
    "if TYPE_CHECKING in a class": 0,
    "methods of MMoE": 90,
    "functions that open an estimator": 0,
    "calls of setattr": 0,
    "definitions of __getattr__": 0,
    "class decorators of the package": 0,
    "circles of modules": 0,
    "imports of doors by the core": 0,
}
#: The same for those of ``--run``.
GOALS_OF_RUNS: dict[str, float | None] = {
    "classes in the MRO of MMoE": 8,
    "classes in the MRO, most": 8,
    "parameters of MMoE": 36,
    "parameters, most": 42,
    "public names of SharedTrees": 45,
    "calls to the first gradient, MMoE.fit": 650,
    "calls to the first gradient, SharedTrees.fit": 700,
    "calls to the first gradient, IndependentTasks.fit": 700,
    "files to the first gradient, MMoE.fit": 48,
    "files to the first gradient, SharedTrees.fit": 45,
    "files to the first gradient, IndependentTasks.fit": 48,
    "calls of MMoE.predict": 110,
    "calls of a whole fit, MMoE.fit": None,
    "calls of a whole fit, SharedTrees.fit": None,
    "calls of a whole fit, IndependentTasks.fit": None,
}

Limits = dict[str, tuple[float, str]]


def value_of(measure: Measure) -> float:
    """Return the number of a measure: of a list its length, of numbers by name the largest."""
    if isinstance(measure, dict):
        return max(measure.values())
    return len(measure) if isinstance(measure, list) else measure


def lines_of(measure: Measure) -> list[str]:
    """Return a line for everything that a measure counts."""
    if isinstance(measure, dict):
        return [f"{number:6} {name}" for name, number in sorted(measure.items(), key=lambda item: (-item[1], item[0]))]
    return measure if isinstance(measure, list) else [written(measure)]


def written(number: float | None) -> str:
    """Write a number with spaces between thousands; an empty text for none."""
    return "" if number is None else f"{number:,}".replace(",", " ")


def read_limits() -> Limits:
    """Read the file of limits; no file has none."""
    stored = json.loads(LIMITS.read_text(encoding="utf-8")) if LIMITS.exists() else {}
    return {name: (limit, commit) for name, (limit, commit) in stored.items()}


def lowered(limits: Limits, values: Mapping[str, float], commit: str) -> Limits:
    """Return limits no higher than the values, those that fall with the commit, in the order of the goals."""
    found = limits | {
        name: (value, commit) for name, value in values.items() if name not in limits or value < limits[name][0]
    }
    return {name: found[name] for name in [*GOALS, *GOALS_OF_RUNS] if name in found}


def write_limits(limits: Limits) -> None:
    """Write the file of limits, a line each, so that its history can be read."""
    lines = [f"  {json.dumps(name)}: {json.dumps(limit)}" for name, limit in limits.items()]
    LIMITS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def last_commit() -> str:
    """Return the last commit that changed the packages."""
    command = ["git", "log", "-1", "--format=%h", "--", "tabmtl", "pipelines", "synth"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def print_table(values: Mapping[str, float], limits: Limits) -> list[str]:
    """Print measure, value, limit and goal in columns, and return the measures that pass their limit or lack one."""
    goals = GOALS | GOALS_OF_RUNS
    broken = [name for name, value in values.items() if name not in limits or value > limits[name][0]]
    print(f"{'measure':52} {'value':>9} {'limit':>9} {'goal':>9}")
    for name, value in values.items():
        limit = limits[name][0] if name in limits else None
        said = "" if name not in broken else "  no limit" if limit is None else "  above its limit"
        print(f"{name:52} {written(value):>9} {written(limit):>9} {written(goals[name]):>9}{said}")
    return broken


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is asked for, and return the exit code."""
    asked = argparse.ArgumentParser(prog="python .ci/measures.py", description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("--run", action="store_true", help="import the package, too; two minutes")
    asked.add_argument("--list", choices=[*GOALS, *GOALS_OF_RUNS], help="what a measure counts", metavar="MEASURE")
    asked.add_argument("--lower", action="store_true", help="lower the limits to what is counted now")
    options = asked.parse_args(argv)
    measures = Sources().measures()
    if options.run or options.list in GOALS_OF_RUNS:
        measures |= run_measures()
    if options.list:
        print("\n".join(lines_of(measures[options.list])))
        return 0
    values = {name: value_of(measure) for name, measure in measures.items()}
    if options.lower:
        write_limits(lowered(read_limits(), values, last_commit()))
    return bool(print_table(values, read_limits()))


if __name__ == "__main__":
    gc.disable()  # every tree is needed to the end
    sys.exit(main())
