"""What every room stands on: facts, parameters, safe files, names that load late, and the processes at hand."""
