"""Real data sets, one file each."""
