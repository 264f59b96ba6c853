"""Generators of synthetic tables whose truth is known."""

from tabmtl.synth.multitab_bench import MultitabBench, make_multitab_bench
from tabmtl.synth.multitab_truth import MultitabTruth

__all__ = ["MultitabBench", "MultitabTruth", "make_multitab_bench"]
