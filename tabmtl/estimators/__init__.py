"""Bases of all models."""
