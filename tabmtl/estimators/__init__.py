"""The parts that every model inherits."""
