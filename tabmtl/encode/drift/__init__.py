"""How far new rows are from those of a fit: by column, and by what a model answers.

A fit keeps a `Profile` of its rows: shares, and no rows. `MultiTaskEstimator.drift` counts other rows by the cells of
the profile and compares the two, in three steps:

1. ``readings`` says what is read of encoded rows: a number or a code of each, or several codes that weigh 1 together.
   It knows the forms of features, and no kinds of columns.
2. ``profile`` chooses cells of each reading, ten bins of numbers or the most frequent levels, and counts rows by them.
3. ``compare`` tests the counts of both, and makes the frame.
"""

from tabmtl.encode.drift.profile import Profile

__all__ = ["Profile"]
