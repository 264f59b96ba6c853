"""Torch modules: no estimator, no training loop, no kinds of columns, only the forms of `tabmtl.columns.Features`."""
