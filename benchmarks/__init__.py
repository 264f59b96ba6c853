"""Benchmarks of a checkout, not installed: ``python -m benchmarks.NAME --help`` describes each."""
