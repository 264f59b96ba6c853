"""tabmtl."""
