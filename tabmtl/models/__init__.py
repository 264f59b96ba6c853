"""The models, one method per file."""
