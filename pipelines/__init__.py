"""Pipelines over real data: data sets, the command line, and the demonstration."""
