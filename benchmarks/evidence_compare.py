"""How models of `benchmarks.evidence` compare: paired over draws that chose nothing of them, and over sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, TypeVar

import polars as pl
from scipy.stats import t as student
from scipy.stats import wilcoxon

from benchmarks.evidence_models import AUTOGLUON, EACH_ALONE, ENSEMBLE, MODELS, REFERENCE, RIVALS, SINGLE, TRANSFER
from benchmarks.harness import Record

#: Share of level models that are called ahead or behind.
LEVEL = 0.05
#: What tells the comparisons of a target apart.
OF_TARGET = ("set", "task", "metric", "amount")
BEST = "best single-task model"
OF_PEER, OF_ITSELF = "AutoGluon", "itself, each task alone"
#: What the ensemble is compared with: a model, or the best of several in hindsight.
BESIDE = {OF_PEER: (AUTOGLUON,), BEST: SINGLE, OF_ITSELF: (EACH_ALONE,), "the trivial transfer": (TRANSFER,)}
#: Metrics, of which means are told apart.
METRICS = "AUC", "R²"
#: Slopes of calibration that are near 1, and the least that counts.
SLOPES, LEAST_SLOPE = (0.9, 1.1), 0.1
NOT_RUN = "not run"


def paired(records: pl.DataFrame, model: str, reference: str) -> tuple[float, float] | None:
    """Return the mean difference of two models over their common seeds, and its standard error; None below two."""
    ours, theirs = (records.filter(model=each).select("seed", "score") for each in (model, reference))
    difference = ours.join(theirs, on="seed", suffix="_of_reference")
    values = (difference["score"] - difference["score_of_reference"]).to_numpy()
    if len(values) < 2:
        return None
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model beside others in one setting, over the same draws.

    Parameters
    ----------
    facts : dict
        Set, and perhaps task, amount and metric.
    means : dict of str to float
        Mean score of every model.
    rival : str or None
        The best of the others.
    draws : tuple of int
        Draws that all of these models have, without those that chose something of the model where others are left.
    gain, error : float or None
        Mean paired difference, positive if the model is better, and its standard error, None of one draw, and of draws
        that chose something of the model.
    """

    facts: dict[str, Any]
    means: dict[str, float]
    rival: str | None
    draws: tuple[int, ...]
    gain: float | None
    error: float | None

    @property
    def p_value(self) -> float | None:
        """How often level models would differ as much, by Student's t over the draws; None of one draw."""
        if self.gain is None or self.error is None:
            return None
        return float(2 * student.sf(abs(self.gain) / max(self.error, 1e-12), len(self.draws) - 1))

    @property
    def low(self) -> float:
        """The lower end of the one-sided 95 % interval of the gain; that of one draw is nowhere."""
        if self.gain is None or self.error is None:
            return -math.inf
        return self.gain - float(student.ppf(1 - LEVEL, len(self.draws) - 1)) * self.error

    @property
    def is_ahead(self) -> bool:
        """Whether the model is better beyond chance."""
        return self.p_value is not None and self.p_value < LEVEL and (self.gain or 0.0) > 0

    @property
    def is_behind(self) -> bool:
        """Whether the model is worse beyond chance."""
        return self.p_value is not None and self.p_value < LEVEL and (self.gain or 0.0) < 0

    @property
    def difference(self) -> str:
        """The gain with its error, bold beyond chance."""
        if self.gain is None:
            return ""
        gain = f"{self.gain:+.4f}"
        if self.error is None:
            return gain
        return f"{f'**{gain}**' if self.is_ahead or self.is_behind else gain} ± {self.error:.4f}"


@dataclass(frozen=True)
class OverSets:
    """The gains of a model by set, at some number of labels, and whether they are beyond chance over the sets."""

    labels: str
    gains: tuple[float, ...]

    @property
    def p_value(self) -> float:
        """The p value of the exact Wilcoxon test that gains are around 0."""
        return float(wilcoxon(self.gains, method="exact").pvalue) if any(self.gains) else 1.0

    def __str__(self) -> str:
        """Return on how many sets the model is ahead, with the p value."""
        return f"{sum(gain > 0 for gain in self.gains)} of {len(self.gains)} sets, p {self.p_value:.3f}"


_Judged = TypeVar("_Judged", Comparison, OverSets)


def flatten(records: Iterable[Record]) -> pl.DataFrame:
    """Return a row per record, metric and task."""
    facts: dict[str, Any] = dict.fromkeys(("part", "set", "target", "model"), pl.String)
    facts |= dict.fromkeys(("amount", "seed"), pl.Int64) | dict.fromkeys(
        ("seconds", "ms_of_1", "ms_of_1000"), pl.Float64
    )
    rows = [
        (*map(record.get, facts), metric, task, score, record.get("slopes", {}).get(task))
        for record in records
        for metric, scores in record["scores"].items()
        for task, score in scores.items()
    ]
    own = {"metric": pl.String, "task": pl.String, "score": pl.Float64, "slope": pl.Float64}
    return pl.DataFrame(rows, facts | own, orient="row")


def compare(
    frame: pl.DataFrame,
    keys: Sequence[str],
    rivals: Sequence[str] = SINGLE,
    *,
    model: str = ENSEMBLE,
    is_error: bool = False,
) -> list[Comparison]:
    """Compare a model with the best of its rivals, in every setting that the keys tell apart.

    Means are over the tasks, and over the draws that the model and all its rivals have. Models that have not all tasks
    of the setting are left out, and so are draws that chose something of the model, where others are left.
    """
    found = []
    means = frame.group_by(*keys, "model", "seed", maintain_order=True).agg(pl.col("score").mean(), pl.len())
    for values, drawn in means.group_by(*keys, maintain_order=True):
        whole = drawn.filter(pl.col("len") == pl.col("len").max())
        compared = whole.filter(pl.col("model").is_in([model, *rivals]))
        counts = compared.group_by("seed").len("n").filter(pl.col("n") == compared["model"].n_unique())
        common = sorted(counts["seed"])
        judging = [seed for seed in common if seed >= MODELS[model].tuned_on]
        own = whole.filter(pl.col("seed").is_in(judging or common)) if common else whole
        scores = dict(own.group_by("model", maintain_order=True).agg(pl.col("score").mean()).iter_rows())
        there = [name for name in rivals if name in scores]
        rival = (min if is_error else max)(there, key=scores.__getitem__) if there else None
        gain, error = None, None
        if rival is not None and common and model in scores:
            gain, error = (paired(own, model, rival) if judging else None) or (scores[model] - scores[rival], None)
        found.append(
            Comparison(
                facts=dict(zip(keys, values, strict=True)),
                means=scores,
                rival=rival,
                draws=tuple(judging or common or sorted(own["seed"].unique())),
                gain=-gain if is_error and gain is not None else gain,
                error=error,
            )
        )
    return found


def holm(comparisons: Iterable[_Judged]) -> list[_Judged]:
    """Return those that stay beyond chance where all are judged at once, by Holm's method."""
    judged = sorted((c for c in comparisons if c.p_value is not None), key=lambda c: c.p_value or 0.0)
    n = len(judged)
    held = next((i for i, each in enumerate(judged) if (each.p_value or 0.0) > LEVEL / (n - i)), n)
    return judged[:held]


def curve_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the scores of the scarce targets, at each number of labels and at all."""
    few = frame.filter(pl.col("amount").is_not_null(), part="labels")
    full = frame.filter(part="full").join(few.select("set", "task"), on=["set", "task"], how="semi")
    return pl.concat([few, full]).sort("set", "task", "amount", nulls_last=True, maintain_order=True)


def of_models(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    """Return the scores of some models."""
    return frame.filter(pl.col("model").is_in(names))


def labels_of(each: Comparison) -> str:
    """Name the number of labels of a comparison."""
    return "all" if each.facts["amount"] is None else str(each.facts["amount"])


def known(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Return those that have run."""
    return [each for each in comparisons if each.gain is not None]


def gains_of_sets(comparisons: Iterable[Comparison], *metrics: str) -> list[float]:
    """Return the mean of the known gains in some metrics of each set, whose targets share rows."""
    of_sets: dict[str, list[float]] = {}
    for each in comparisons:
        if each.facts["metric"] in metrics and each.gain is not None:
            of_sets.setdefault(each.facts["set"], []).append(each.gain)
    return [*map(fmean, of_sets.values())]


def means_of(comparisons: Sequence[Comparison]) -> str:
    """Return the mean differences by metric, with the standard errors over the sets and their numbers."""
    gains = {metric: gains_of_sets(comparisons, metric) for metric in METRICS}
    errors = {metric: f" ± {stdev(own) / math.sqrt(len(own)):.3f}" for metric, own in gains.items() if len(own) > 1}
    means = [f"{metric} {fmean(own):+.3f}{errors.get(metric, '')} ({len(own)})" for metric, own in gains.items() if own]
    return "; ".join(means) or NOT_RUN


def over_sets(own: Sequence[Comparison]) -> OverSets:
    """Return the gains by set of the cases with two draws or more, which have one number of labels."""
    judged = [each for each in own if each.error is not None]
    return OverSets(labels_of(judged[0]), (*gains_of_sets(judged, *METRICS),))


def reference_cases(curve: pl.DataFrame, rivals: Sequence[str]) -> dict[str, Comparison]:
    """Compare the reference with the best of some rivals by number of labels: by set, and then over the sets."""
    found = compare(of_models(curve, REFERENCE, *RIVALS), ("set", "amount"), rivals, model=REFERENCE)
    pooled = {}
    for labels in dict.fromkeys(map(labels_of, found)):
        gains = [each.gain or 0.0 for each in found if labels_of(each) == labels and each.error is not None]
        if gains:
            pooled[labels] = Comparison(
                facts={"rival": " or ".join(rivals), "labels": labels},
                means={},
                rival=None,
                draws=tuple(range(len(gains))),
                gain=fmean(gains),
                error=stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None,
            )
    return pooled


def slopes_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the mean slope, its mean distance to 1 and the share near 1 over the sets, by model and number of labels.

    Draws that chose something of a model are left out, where others are left.
    """
    own = frame.filter(pl.col("part").is_in(["labels", "full"])).drop_nulls("slope")
    tuned_on = pl.col("model").replace_strict({name: model.tuned_on for name, model in MODELS.items()})
    last = pl.col("seed").max().over("model", "set", "amount")
    slope = pl.col("slope")
    of_fits = own.filter(pl.col("seed") >= pl.min_horizontal(tuned_on, last)).select(
        "model",
        "amount",
        "set",
        slope,
        slope.clip(LEAST_SLOPE).log().abs().alias("distance"),
        slope.is_between(*SLOPES).cast(pl.Float64).alias("near"),
    )
    for keys in (("model", "amount", "set"), ("model", "amount")):
        of_fits = of_fits.group_by(keys, maintain_order=True).agg(pl.col("slope", "distance", "near").mean())
    return of_fits


def fits_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the times at full labels, a row per fit."""
    return frame.filter(part="full").unique(["set", "model", "seed"], maintain_order=True)


def means_of_times(fits: pl.DataFrame) -> pl.DataFrame:
    """Return the means of the times, by set and model."""
    return fits.group_by("set", "model", maintain_order=True).agg(pl.col("seconds", "ms_of_1", "ms_of_1000").mean())
