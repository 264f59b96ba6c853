"""Pipelines over real data, and what is run on them."""
