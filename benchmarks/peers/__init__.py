"""What the benchmarks measure the package against: methods written the obvious way, and other libraries."""
