"""Sides of the comparisons of speed, by subject; `benchmarks.speed` has the table of all cases."""
