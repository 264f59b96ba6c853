"""The border between frames and arrays."""
