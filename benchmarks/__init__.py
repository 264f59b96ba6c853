"""Benchmarks of a checkout, not installed: ``python -m benchmarks.NAME --help`` says for each what it measures."""
