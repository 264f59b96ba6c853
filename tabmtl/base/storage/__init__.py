"""Safe files: a model declares its state once, writes it whole, and checks a folder before it builds from it."""
