"""Sixty faults that somebody could make, and a command that plants one, runs the tests and takes it back.

They measure what a suite of tests is worth: a thinner one must still find those that the one before it found.

- ``--list`` shows them, and ``--check`` says whether each can still be planted.
- ``7 12 -- tests/nn -n 2`` plants fault 7, then 12; what stands behind the numbers goes to pytest.
- ``--tests FILE`` names tests by the number of a fault, as JSON; these run in place of all.

The exit code is 0 if every fault was found, 1 if one was not, and 2 if a run told nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: As in the Makefile.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
#: What pytest says where it has ended at a failure; with pytest-xdist, or in reading a file, its exit code is 2 then.
STOPPED = "stopping after 1 failures"


@dataclass(frozen=True)
class Fault:
    """Mistake in one line of the package.

    Parameters
    ----------
    path : str
        File below ``tabmtl/``.
    before : str
        Part of a line, which the file has once.
    after : str
        What stands there by mistake.
    says : str
        What is wrong then.
    is_found : bool, optional
        Whether ``make test`` found it before tests were left out; None: not known.
    """

    path: str
    before: str
    after: str
    says: str
    is_found: bool | None = None

    def plant_in(self, text: str) -> str:
        """Return the text of the file with the fault; raise a ValueError if it cannot be planted."""
        count = text.count(self.before)
        if count != 1 or "\n" in self.before + self.after:
            raise ValueError(f"{self.path} has {self.before!r} {count} times, expected one line that has it once")
        return text.replace(self.before, self.after)


FAULTS: tuple[Fault, ...] = (
    # models
    Fault(
        "models/shared_trees/growth.py",
        "np.clip(step, -self._limit, self._limit)",
        "step",
        "a step of a leaf has no limit",
        False,
    ),
    Fault(
        "models/shared_trees/targets.py",
        "return np.concatenate(losses, axis=1) * self.weight[:, self._firsts]",
        "return np.concatenate(losses, axis=1)",
        "losses of followed rows forget weights and missing labels",
        True,
    ),
    Fault(
        "models/rmtgb/stages.py",
        "self.theta = self._thetas[self.rounds]",
        "self.theta = self._thetas[max(self._thetas)]",
        "theta is not rolled back with the trees",
        True,
    ),
    Fault(
        "models/rmtgb/targets.py",
        "residuals *= self._weight",
        "residuals *= self._weight > 0",
        "the weights of rows are forgotten in the gradient",
        True,
    ),
    Fault(
        "models/independent/additive.py",
        "width=task.width, C=1 / penalty)",
        "width=task.width, C=penalty)",
        "the penalty of ordered classes is inverted",
        False,
    ),
    Fault(
        "models/independent/folds.py",
        "each.best(each.losses.sum(axis=1) - each.losses[:, f])",
        "each.best(each.losses.sum(axis=1))",
        "a fold is answered by trees that its own labels chose",
        True,
    ),
    Fault(
        "models/home.py",
        "weights = 2 * logits.softmax(dim=2)",
        "weights = logits.softmax(dim=2)",
        "feature gates of wide tables halve their input",
        True,
    ),
    Fault(
        "models/apem.py",
        "return self.key @ self.query.transpose(2, 3) / self.query.shape[3] ** 0.5",
        "return self.key @ self.query.transpose(2, 3)",
        "the scores of attention are not scaled",
        True,
    ),
    Fault(
        "models/home.py",
        "alone = sees.sum(dim=-1, keepdim=True) == 1",
        "alone = sees.sum(dim=-1, keepdim=True) != 1",
        "self-gates of one expert are a softmax, and so 1",
        True,
    ),
    Fault(
        "models/ple.py",
        "sees = has = (bucket == 0) | (bucket == own)",
        "sees = has = bucket == own",
        "tasks do not see the shared experts",
        True,
    ),
    Fault(
        "models/stem.py",
        "mix(weights * ~self.own, experts.detach())",
        "mix(weights * ~self.own, experts)",
        "experts of other tasks learn from a task",
        True,
    ),
    # nn
    Fault(
        "nn/attention.py",
        "forbidden[n_tasks:, :n_tasks] = True",
        "forbidden[:n_tasks, n_tasks:] = True",
        "the axes of the mask are swapped",
        True,
    ),
    Fault(
        "nn/layers.py",
        "return x * kept.mul_(256 / (256 - self._dropped))",
        "return x * kept",
        "values that dropout keeps are not scaled up",
        True,
    ),
    Fault(
        "nn/experts.py",
        "return logits.softmax(dim=2)",
        "return logits.softmax(dim=1)",
        "the weights of gates, not those of experts, sum to 1",
        True,
    ),
    Fault(
        "nn/embeddings.py",
        "np.where(codes < few, codes, UNSEEN)",
        "np.where(codes <= few, codes, UNSEEN)",
        "the first new level takes the row of another column",
        True,
    ),
    # training
    Fault(
        "training/losses.py",
        "rows = torch.where(labelled, rows, 0.0)",
        "rows = rows.nan_to_num()",
        "missing labels are learned as 0",
        True,
    ),
    Fault(
        "training/optimizer.py",
        "values.square().mean(dim=1)",
        "values.square().sum(dim=1)",
        "the squares of a table's row are summed, no mean",
        True,
    ),
    Fault(
        "training/epochs.py",
        "{name: own.clone() for",
        "{name: own for",
        "kept weights are no copy",
        True,
    ),
    Fault(
        "training/epochs.py",
        "len(own.history) - 1 - newest >= self._options.patience",
        "len(own.history) - 1 - newest > self._options.patience",
        "training waits for an epoch too many",
        True,
    ),
    Fault(
        "training/table_loop.py",
        "return losses * self._task_weight / min(self.batch_size, self.n_rows)",
        "return losses / min(self.batch_size, self.n_rows)",
        "the weights of tasks are forgotten",
        True,
    ),
    Fault(
        "training/optimizer.py",
        "self._factors[number] *= PLATEAU_FACTOR",
        "self._factors = [own * PLATEAU_FACTOR for own in self._factors]",
        "the plateau of one network slows all",
        True,
    ),
    Fault(
        "training/penalised.py",
        "return rows * torch.from_numpy(self.weight / max(self.weight.mean(), 1e-12))",
        "return rows",
        "the weights of rows are forgotten",
        False,
    ),
    Fault(
        "training/checkpoint.py",
        'seed = drawn if self._before is None else self._before["seed"]',
        "seed = drawn",
        "a fit goes on with another seed than it began with",
        True,
    ),
    Fault(
        "extras/balance.py",
        "below.backward(part if leaf.grad is None else part + leaf.grad, retain_graph=True)",
        "below.backward(part, retain_graph=True)",
        "a gradient from a cut above is lost",
        True,
    ),
    Fault(
        "scale/windows.py",
        "np.random.default_rng([*self.seed, lane, window])",
        "np.random.default_rng([*self.seed, window])",
        "the rows of all lanes are shuffled alike",
        False,
    ),
    # targets
    Fault(
        "targets/huber.py",
        "np.clip(gradient, -self.delta, self.delta, out=gradient)",
        "np.clip(gradient, None, self.delta, out=gradient)",
        "gradients are clipped on one side only",
        True,
    ),
    Fault(
        "targets/quantile.py",
        "return torch.maximum(above / (1 - self.level), -above / self.level)",
        "return torch.maximum(above / self.level, -above / (1 - self.level))",
        "networks learn the quantile of the other side",
        True,
    ),
    Fault(
        "targets/ordinal.py",
        "share = xp.clip(_shares(means, xp), RARE, None)",
        "share = _shares(means, xp)",
        "the score of a class without labels is infinite",
        True,
    ),
    # columns
    Fault(
        "columns/number.py",
        "buffer = np.empty((len(columns), min(len(out), CHUNK_ROWS)))",
        "buffer = np.empty((len(columns), min(len(out), CHUNK_ROWS)), dtype=np.float32)",
        "numbers are rounded to single precision before they are scaled",
        True,
    ),
    Fault(
        "columns/category.py",
        'counts.filter(pl.col("count") >= least)',
        'counts.filter(pl.col("count") > least)',
        "a level needs a row more than min_frequency",
        True,
    ),
    Fault(
        "columns/sequence.py",
        "lists.list.tail(most)",
        "lists.list.head(most)",
        "long sequences lose their newest entries",
        True,
    ),
    # encode
    Fault(
        "encode/labels.py",
        "frame = pl.DataFrame({name: frame[name] for name in self.names})",
        "frame = pl.DataFrame({name: frame[name] for name in frame.columns if name in self.names})",
        "targets in another order are taken for each other",
        True,
    ),
    Fault(
        "encode/labels.py",
        "float(present.mean()), float(present.std())",
        "float(present.mean()), float(present.std(ddof=1))",
        "the deviation of labels is that of a sample",
        True,
    ),
    Fault(
        "scale/cache.py",
        "stack.enter_context(locked(folder))",
        "stack.enter_context(locked(folder, shared=True))",
        "two fits may write to one cache",
        False,
    ),
    Fault(
        "encode/table.py",
        "return (weight > 0).sum(axis=0), weight.sum(axis=0)",
        "return (weight >= 0).sum(axis=0), weight.sum(axis=0)",
        "rows of weight 0 count in the mean weight",
        True,
    ),
    # metrics
    Fault(
        "metrics/classes.py",
        '(np.searchsorted(others[order], score, side) for side in ("left", "right"))',
        '(np.searchsorted(others[order], score, side) for side in ("left", "left"))',
        "ties count as lost in ROC AUC",
        True,
    ),
    Fault(
        "metrics/groups.py", "discount[depth:] = 0", "discount[depth + 1 :] = 0", "NDCG looks at a rank too many", True
    ),
    Fault(
        "metrics/values.py",
        "np.ones(len(y)) if weight is None else weight[order]",
        "np.ones(len(y)) if weight is None else weight",
        "labels are sorted, and their weights are not",
        True,
    ),
    # estimators
    Fault(
        "estimators/boosted/border.py",
        "ensembles[i % self.width // size].append(tree)",
        "ensembles[i % n_ensembles].append(tree)",
        "trees of several classes go to the wrong ensemble",
        True,
    ),
    Fault(
        "estimators/boosted/walk.py",
        "if group.kind & _DEFAULT_LEFT and is_missing.any():",
        "if is_missing.any():",
        "missing values always go left",
        True,
    ),
    Fault(
        "estimators/mixing/levels.py",
        "means(sums.sum(axis=0) - sums, weights.sum(axis=0) - weights, priors)",
        "means(sums.sum(axis=0) + 0 * sums, weights.sum(axis=0) + 0 * weights, priors)",
        "a row reads a mean of its own label",
        True,
    ),
    Fault(
        "estimators/mixing/judged.py",
        "weights = some.rows(third != k).weigh()",
        "weights = some.rows(third == k).weigh()",
        "a mixture is judged by the labels that chose it",
        True,
    ),
    Fault(
        "scale/rows.py",
        "self.choose(~valid), self.choose(self._without_known_groups(valid))",
        "self.choose(~valid), self.choose(valid)",
        "newest rows of shards judge groups that were learned",
        True,
    ),
    Fault(
        "estimators/tables.py",
        "known.seen).and_of(rows.read(), coder.labels.names)",
        "known.seen)",
        "rows of partial_fit are not known as learned",
        True,
    ),
    Fault(
        "inspection/importances.py",
        "table.filter(task=name) for name in asked",
        "table for name in asked",
        "gains of all tasks are given for one",
        True,
    ),
    Fault(
        "estimators/drifting.py",
        "name not in (*ignored, coder.time_column)",
        "name not in ignored",
        "the column of times is told to drift",
        True,
    ),
    # ensemble, decisions, drift, model_selection, comparison
    Fault(
        "ensemble/folds.py",
        "fold[np.isin(unit, kept)] = -1",
        "fold[kept] = -1",
        "numbers of groups are taken for numbers of rows",
        True,
    ),
    Fault(
        "targets/decisions/calibrators.py",
        "found = np.clip(found, self.floor, 1 - self.floor)",
        "found = np.clip(found, 0.0, 1.0)",
        "calibrated probabilities may be 0 or 1",
        True,
    ),
    Fault(
        "targets/decisions/conformal.py",
        "math.ceil((len(scores) + 1) * level - _ROUNDING)",
        "math.ceil(len(scores) * level - _ROUNDING)",
        "intervals are a row too narrow",
        True,
    ),
    Fault(
        "encode/drift/compare.py",
        "own.p_value * n_tests <= limits.alpha",
        "own.p_value <= limits.alpha",
        "p-values are not corrected for the number of tests",
        True,
    ),
    Fault(
        "model_selection/stratify.py",
        "part[rare] = 0",
        "part[rare] = 1",
        "the only row of a class is set aside",
        False,
    ),
    Fault(
        "inspection/comparison/compare.py",
        "random_state=self.seed + len(self.answered)",
        "random_state=self.seed",
        "all fits of a model have one seed",
        True,
    ),
    # storage, processes, schema, params, inspection, plots
    Fault(
        "base/storage/atomic.py",
        'with replaced(file) as beside, beside.open("xb") as stream:',
        'with file.open("wb") as stream:',
        "a file is written in place",
        True,
    ),
    Fault(
        "base/storage/persist.py",
        "if hashlib.sha256(contents[name]).hexdigest() != checksum:",
        "if len(contents[name]) != size:",
        "the checksum of a file is not compared",
        False,
    ),
    Fault(
        "base/storage/stored.py",
        "(rule.low <= present.min() and present.max() <= high and np.isfinite(present).all())",
        "(rule.low <= present.min() and np.isfinite(present).all())",
        "numbers of places in a file have no upper limit",
        True,
    ),
    Fault(
        "base/ranks.py",
        "return answers[0]",
        "return answers",
        "other ranks get the answer of rank 0 in a list",
        True,
    ),
    Fault(
        "base/schema.py",
        "return self.weight if self.of_class is None else self.weight / self.of_class",
        "return self.weight",
        "scores know the weights of classes",
        True,
    ),
    Fault(
        "base/params.py",
        "lambda number: 0 < number < 1 or",
        "lambda number: 0 <= number < 1 or",
        "a share may be 0",
        True,
    ),
    Fault(
        "inspection/importances.py",
        "np.lexsort((rng.random(n_rows), task))",
        "np.lexsort((rng.random(n_rows),))",
        "rows of a long table are shuffled across tasks",
        True,
    ),
    Fault(
        "inspection/plots/scores.py",
        'epochs = self.history["epoch"].to_numpy() + 1',
        'epochs = self.history["epoch"].to_numpy()',
        "epochs are drawn from 0, beside a mark that counts from 1",
        True,
    ),
)


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Plant a fault inside, and put the file back as it was, with its time, whatever ends the block."""
    file = ROOT / "tabmtl" / fault.path
    content, status = file.read_bytes(), file.stat()
    changed = fault.plant_in(content.decode()).encode()
    try:
        file.write_bytes(changed)
        yield
    finally:
        file.write_bytes(content)
        # else compiled code of the fault would stand for a file of the same size and second
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def try_fault(number: int, tests: Mapping[str, Sequence[str]], given: Sequence[str]) -> int:
    """Run tests with a fault planted, print what came of it, and return 0 if it was found, 1 if not, 2 if unclear."""
    fault, chosen = FAULTS[number - 1], tests.get(str(number), ())
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not all_faces", *chosen, *given]
    said, code = "", 0
    if chosen or str(number) not in tests:  # no test at all finds nothing, and pytest would take all
        with planted(fault):
            run = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        said, code = run.stdout, run.returncode
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    passed = code == 0 or (code == 1 and not failed)  # of which a room may have passed its budget of seconds
    status = 1 if passed else 0 if code == 1 or (code == 2 and STOPPED in said) else 2
    by = said[-2_000:] if status == 2 else "\n".join(f"    {line:.200}" for line in failed[:1])
    verdict = ("found", "NOT found", f"UNCLEAR, pytest ended with {code}")[status]
    print(f"{number} {verdict}: {fault.path}: {fault.says}", *filter(None, [by]), sep="\n", flush=True)
    return status


def check() -> int:
    """Print the faults that cannot be planted, or change nothing; return 1 if there are any."""
    wrong = []
    for number, fault in enumerate(FAULTS, start=1):
        try:
            compile(fault.plant_in((ROOT / "tabmtl" / fault.path).read_text("utf-8")), fault.path, "exec")
            wrong += [f"{number} {fault.path}: it changes nothing"] if fault.before == fault.after else []
        except (OSError, ValueError, SyntaxError) as error:
            wrong.append(f"{number} {fault.path}: {error}")
    print("\n".join(wrong) or f"all {len(FAULTS)} faults can be planted")
    return int(bool(wrong))


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return what the command is told, and what is for pytest: all from the first strange word, or two dashes, on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, metavar="NUMBER", help=f"of a fault, 1 to {len(FAULTS)}")
    parser.add_argument("--list", action="store_true", help="show the faults")
    parser.add_argument("--check", action="store_true", help="say whether each fault can be planted")
    parser.add_argument("--tests", type=Path, metavar="FILE", help="tests by the number of a fault, as JSON")
    words = sys.argv[1:]
    own = [word.isdigit() or word in ("--list", "--check", "--tests", "-h", "--help") for word in words]
    own = [is_own or (k > 0 and words[k - 1] == "--tests") for k, is_own in enumerate(own)]
    end = own.index(False) if False in own else len(words)
    args = parser.parse_args(words[:end])
    if not (args.numbers or args.list or args.check):
        parser.error("give the number of a fault, --list or --check")
    if any(not 1 <= number <= len(FAULTS) for number in args.numbers):
        parser.error(f"faults have the numbers 1 to {len(FAULTS)}, got {args.numbers}")
    return args, words[end + 1 :] if words[end : end + 1] == ["--"] else words[end:]


def main() -> int:
    """Do what the command is told, and return its exit code."""
    args, given = read_arguments()
    if args.check:
        return check()
    if args.list:
        for number, fault in enumerate(FAULTS, start=1):
            known = {True: "found", False: "NOT found", None: ""}[fault.is_found]
            print(f"{number:2} {fault.path}: {fault.says}", known, sep="  " if known else "")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # an exception, so that the fault is taken back
    tests: dict[str, Any] = {} if args.tests is None else json.loads(args.tests.read_text("utf-8"))
    return max([try_fault(number, tests, given) for number in args.numbers])


if __name__ == "__main__":
    sys.exit(main())
