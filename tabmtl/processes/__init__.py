"""Several processes: what a forked one cannot do, and groups that fit one model together."""
