"""Generators of synthetic tables whose truth is known."""
