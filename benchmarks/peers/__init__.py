"""Peers of the package for the benchmarks: methods written the obvious way, and other libraries."""
