"""Aliases of the versions of a registered model: the served one, and the newest that may take its place."""

CHAMPION = "champion"
CHALLENGER = "challenger"
