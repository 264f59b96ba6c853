"""Examination scores of pupils in 139 schools of inner London (ILEA), one task per school."""

from __future__ import annotations

from tabmtl.pipelines.datasets.base import Dataset, Folder, scan

#: Levels of each one-hot group; the indicators are stored as 0/1 and stay numbers.
GROUPS = {
    "year": 3,
    "gender": 2,
    "vrband": 3,
    "ethnic_group": 11,
    "school_gender": 3,
    "school_denomination": 3,
}


def load(folder: Folder = None) -> Dataset:
    """Open 15 362 pupils of 139 schools: the score ``y`` (1 to 70) from 25 indicators and two percentages.

    A long set: the task column names the school, which has 22 to 251 rows; 854 rows repeat another of the
    same task and part. The split is by row inside each task, 60/20/20. The R-MTGB paper splits all rows 80/20
    by seed instead: say which one a figure uses.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        The data folder, with ``school/data.parquet`` in it; default ``TABMTL_DATA`` of the environment.

    Returns
    -------
    Dataset
        27 numeric features and the task column ``task``; one target.
    """
    indicators = (f"{group}-{level}" for group, size in GROUPS.items() for level in range(size))
    return Dataset(
        name="school",
        table=scan("school", folder),
        numeric=(*indicators, "per_fsm-0", "per_vr1band-0"),
        categorical=(),
        tasks={"y": "regression"},
        task_column="task",
        licence="none stated by the owner",
        source="the school table released with R-MTGB (GAA-UAM/R-MTGB); equal to data/school.mat of MALSAR",
    )
