# ruff: noqa: E501
"""Sixty planted faults in the core, and a command that plants one, runs the tests and takes it back.

They say what a suite of tests is worth: who makes it thinner shows that it still finds those that it found before.
`python .ci/faults.py 7 -- tests/nn` plants fault 7 and runs the tests of a folder until one fails; without arguments
behind the dashes it runs those of `make test`. ``--list`` lists the faults, and ``--check`` tells whether each still
has its line. With ``--tests FILE`` a JSON file says which tests run for a fault, by its number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "tabmtl"
#: As of `make test`, without threads that wait for each other.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
#: What pytest exits with where a test failed, and where none did.
FAILED, PASSED = 1, 0


@dataclass(frozen=True)
class Fault:
    """A line that is changed.

    Parameters
    ----------
    path : str
        The file, below tabmtl.
    before, after : str
        What stands there once, and what is planted.
    says : str
        What is wrong then.
    """

    path: str
    before: str
    after: str
    says: str


FAULTS = (
    Fault("targets/binary.py", "return np.logaddexp(0, scores) - means * scores", "return np.logaddexp(0, scores) + means * scores", "a sign of the log loss"),
    Fault("targets/binary.py", "return logit(np.clip(mean, SURE, 1 - SURE))", "return logit(mean)", "a start is not clipped"),
    Fault("targets/ordinal.py", "return (labels[..., None] > np.arange(width))", "return (labels[..., None] >= np.arange(width))", "an indicator is off by one"),
    Fault("targets/quantiles.py", "found = xp.sort(scores, -1)", "found = scores", "quantiles are not in order"),
    Fault("targets/huber.py", "near = np.minimum(error, self.delta)", "near = error", "far errors count squared"),
    Fault("targets/kind.py", "if largest > LARGEST_LABEL:", "if largest < -LARGEST_LABEL:", "labels too large are taken"),
    Fault("metrics/classes.py", "below = np.append(0, np.cumsum(weight[order]))", "below = np.append(0, np.cumsum(np.ones(len(order))))", "weights are forgotten in AUC"),
    Fault("metrics/calibration.py", "np.arange(1, n_bins) / n_bins", "np.arange(1, n_bins) / (n_bins + 1)", "bins are of unlike size"),
    Fault("metrics/ordered.py", "p, axis=1) < 0.5)", "p, axis=1) <= 0.5)", "the median class at a half"),
    Fault("metrics/intervals.py", "math.sqrt(n * (n - 1))", "math.sqrt(n * n)", "an error of seeds without n - 1"),
    Fault("metrics/gain.py", "gain = pl.when(size >= SMALLEST_REFERENCE)", "gain = pl.when(size >= 0)", "a gain over a reference near 0"),
    Fault("metrics/groups.py", "return in_order / pairs", "return in_order / np.maximum(pairs, 1)", "pairs below 1 count as 1"),
    Fault("training/losses.py", "labelled, y = self.labelled(y), y.nan_to_num()", "labelled, y = torch.ones_like(y, dtype=torch.bool), y.nan_to_num()", "missing labels count as 0"),
    Fault("training/losses.py", "rows = rows * weight", "rows = rows * weight.sign()", "weights of rows are forgotten"),
    Fault("training/losses.py", "reached = y[:, self._chain[:-1]] > 0", "reached = y[:, self._chain[:-1]] >= 0", "a conditional loss learns from all rows"),
    Fault("training/penalised.py", "kept, judged = np.flatnonzero(fold != f), np.flatnonzero(fold == f)", "kept, judged = np.arange(len(fold)), np.flatnonzero(fold == f)", "a fold is judged by what learned it"),
    Fault("training/joint.py", "learning_rate * factor, weight_decay)", "learning_rate, weight_decay)", "a plateau slows no network of several"),
    Fault("training/optimizer.py", "decay = averaging_decay(self._average_decay, self._steps)", "decay = averaging_decay(self._average_decay, self._steps + 100)", "the average forgets the first steps late"),
    Fault("training/epochs.py", "best = new if not self.kept or score > self.best.score", "best = new if not self.kept or score < self.best.score", "the worst epoch is kept"),
    Fault("training/epochs.py", "tensor.clone() for name, tensor in self._network", "tensor for name, tensor in self._network", "kept weights move on"),
    Fault("training/balance/loss_weights.py", "self.weights = torch.where(active, mean / losses / active.sum(), 0.0)", "self.weights = torch.where(active, losses / mean / active.sum(), 0.0)", "a weight is turned over"),
    Fault("training/balance/gradient_joins.py", "gap = slope[high] - slope[low]", "gap = slope[low] - slope[high]", "a sign in MGDA"),
    Fault("training/balance/gradients.py", "return [p for p in parameters if id(p) not in own], [p for p in parameters if id(p) in own]", "return parameters, [p for p in parameters if id(p) in own]", "parameters of tasks count as shared"),
    Fault("nn/attention.py", "forbidden[n_tasks:, :n_tasks] = True", "forbidden[:n_tasks, n_tasks:] = True", "the mask is transposed"),
    Fault("nn/attention.py", "weights = self.dropout(_softmax((q * d_head**-0.5) @ k.mT, mask))", "weights = self.dropout(_softmax((q * d_head**0.5) @ k.mT, mask))", "a scale of attention is turned over"),
    Fault("nn/experts.py", "own_variance * (n_rows / (n_rows - 1))", "own_variance", "the running variance is biased in a group"),
    Fault("nn/layers.py", "return x * kept.mul_(256 / (256 - self._dropped))", "return x * kept", "dropout does not scale"),
    Fault("nn/embeddings.py", "return self.table(codes + self.offsets)", "return self.table(codes)", "columns share their embeddings"),
    Fault("nn/sequences.py", "is_empty = (entries.lengths == 0)", "is_empty = (entries.lengths <= 1)", "one entry counts as none"),
    Fault("models/multitabnet.py", "vectors = self.task_weight + self.task_bias", "vectors = self.task_weight", "a bias of tokens is forgotten"),
    Fault("models/home.py", "weights = 2 * logits.softmax(dim=2).transpose(1, 2).unsqueeze(3)", "weights = logits.softmax(dim=2).transpose(1, 2).unsqueeze(3)", "a factor of the feature gate"),
    Fault("models/apem.py", "weights = logits.view(b, n * h, p, -1).softmax(dim=2)", "weights = logits.view(b, n * h, p, -1).softmax(dim=3)", "attention over another axis"),
    Fault("models/rmtgb/stages.py", "return -1 if (self.theta > 0).sum() > len(self.theta) / 2 else 1", "return 1 if (self.theta > 0).sum() > len(self.theta) / 2 else -1", "outliers are the majority"),
    Fault("models/rmtgb/stages.py", "factors = [(1 - s) ** 2, s**2]", "factors = [1 - s, s]", "a hessian of theta"),
    Fault("models/shared_trees/stop.py", "self.keep(self.kept == self.rounds)", "self.keep(self.kept >= self.rounds)", "scores of later rounds are kept"),
    Fault("models/shared_trees/affinity.py", "self._moments += (1 - _MEMORY) * (newest - self._moments)", "self._moments += _MEMORY * (newest - self._moments)", "a memory is turned over"),
    Fault("models/independent/grower.py", "return losses if rows.weight is None else losses * rows.weight", "return losses", "weights are forgotten in folds"),
    Fault("models/independent/forest.py", "forest.trees(1 / len(forests))", "forest.trees(1.0)", "forests are summed"),
    Fault("models/independent/additive.py", "share = ((x - low) / (high - low)).clip(0, 1)", "share = (x - low) / (high - low)", "pieces go on beyond their ends"),
    Fault("estimators/mixing/weights.py", "return n_units * likelihood + PULL", "return n_units * likelihood - PULL", "weights flee the prior"),
    Fault("estimators/mixing/levels.py", "means = self.rows.whole.means(sums.sum(axis=0) - sums, weights.sum(axis=0) - weights, priors)", "means = self.rows.whole.means(sums, weights, priors)", "a level reads its own rows"),
    Fault("estimators/mixing/judged.py", "counts = np.bincount(self.task.kind.strata(self.y), minlength=1)", "counts = np.bincount(self.task.kind.strata(self.y), minlength=9)", "classes are seen where none are"),
    Fault("ensemble/stack.py", "others = np.setdiff1d(np.arange(n_outputs), np.arange(n_outputs)[own[t]])", "others = np.arange(n_outputs)", "the stack reads the task itself"),
    Fault("encode/class_factors.py", "own * (present.sum() / (present @ own))", "own", "weights of classes change that of the task"),
    Fault("encode/labels.py", "center[j], scale[j] = center_and_scale(own, task.kind.units)", "center[j], scale[j] = center_and_scale(own, task.kind.units)[0], 1.0", "labels are not scaled"),
    Fault("columns/number.py", "sample.sort(axis=1)", "sample.sort(axis=0)", "a sample is sorted across columns"),
    Fault("columns/category.py", ".to_physical().cast(pl.Int32) + FIRST_LEVEL", ".to_physical().cast(pl.Int32) + FIRST_LEVEL - 1", "codes are off by one"),
    Fault("columns/date.py", "seconds = (value.hour * 60 + value.minute) * 60 + value.second", "seconds = (value.hour * 60 + value.minute) * 60", "seconds of a single row are forgotten"),
    Fault("model_selection/stratify.py", "dealt[order] = fold", "dealt[:] = fold", "folds are of other rows"),
    Fault("model_selection/times.py", "train, valid = time < found[0], time >= found[0]", "train, valid = time <= found[0], time >= found[0]", "rows of the border are on both sides"),
    Fault("model_selection/times.py", "test &= ~np.isin(group, group[train])", "test &= True", "groups are on both sides"),
    Fault("decisions/conformal.py", "place = math.ceil((len(scores) + 1) * level - _ROUNDING)", "place = math.ceil(len(scores) * level - _ROUNDING)", "an interval is too narrow by one row"),
    Fault("decisions/thresholds.py", "fold[meets][order] == f", "fold[meets][order] != f", "thresholds are chosen by other folds' complement"),
    Fault("decisions/calibrators.py", "softmax(self.inverse_temperature * np.log(p + _TINY), axis=1)", "softmax(np.log(p + _TINY) / self.inverse_temperature, axis=1)", "a temperature is turned over"),
    Fault("drift/profile.py", "return min(MOST_ROWS, max(MOST_CELLS // max(width, 1), _LEAST_ROWS))", "return max(MOST_CELLS // max(width, 1), _LEAST_ROWS)", "a profile has no most rows"),
    Fault("inspection.py", "falls = self.score - np.array(", "falls = -self.score + np.array(", "importances are negative"),
    Fault("comparison/judging.py", 'by_task.filter(pl.col("difference_high") < 0)', 'by_task.filter(pl.col("difference_low") < 0)', "a level model counts as behind"),
    Fault("storage/atomic.py", "if status.st_size > most:", "if status.st_size > 2 * most:", "a file too large is read"),
    Fault("storage/persist.py", "if depth < 0:", "if depth < -9:", "parts inside of parts go on"),
    Fault("processes/ranks.py", "return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)", "return range(n * self.rank // self.size, n * (self.rank + 1) // self.size - (self.rank + 1 < self.size))", "a row between ranks is lost"),
)  # fmt: skip


def read(fault: Fault) -> str:
    """Return the file of a fault, which has its line once."""
    text = (PACKAGE / fault.path).read_text(encoding="utf-8")
    if text.count(fault.before) != 1:
        raise ValueError(f"{fault.path} has {fault.before!r} {text.count(fault.before)} times, expected once")
    compile(text.replace(fault.before, fault.after), fault.path, "exec")
    return text


def is_found(fault: Fault, arguments: list[str]) -> bool:
    """Plant a fault, run tests until one fails, and take it back."""
    file, text = PACKAGE / fault.path, read(fault)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not all_faces", "-p", "no:cacheprovider", *arguments]
    try:
        file.write_text(text.replace(fault.before, fault.after), encoding="utf-8")
        run = subprocess.run(
            command, cwd=PACKAGE.parent, env={**ENVIRONMENT, **os.environ}, capture_output=True, text=True
        )
    finally:
        file.write_text(text, encoding="utf-8")
    if run.returncode not in (FAILED, PASSED):
        raise RuntimeError(f"pytest exits with {run.returncode}:\n{run.stdout[-2_000:]}{run.stderr[-2_000:]}")
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print(*failed[:1], flush=True)
    return run.returncode == FAILED


def main() -> int:
    """Run the command; return how many of the faults were not found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=int, nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tests", type=Path)
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    args, arguments = parser.parse_args(given[:at]), given[at + 1 :]
    if args.list or args.check:
        for k, fault in enumerate(FAULTS):
            read(fault)
            print(f"{k:2} {fault.path}: {fault.says}")
        return 0
    chosen = json.loads(args.tests.read_text(encoding="utf-8")) if args.tests else {}
    missed = 0
    for k in args.numbers:
        found = is_found(FAULTS[k], chosen.get(str(k), arguments))
        missed += not found
        print(f"{k:2} {'found' if found else 'NOT FOUND'}: {FAULTS[k].path}: {FAULTS[k].says}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
