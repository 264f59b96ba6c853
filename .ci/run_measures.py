"""Count what shows only when the package runs: bases, parameters, public names, and calls of fits.

The packages are those of the checkout in the current folder. Every trip has a process of its own.
"""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

from source_measures import Measure

#: Trips whose calls and files are counted up to the first gradient or tree, and then to their end.
FITS = ("MMoE.fit", "SharedTrees.fit", "IndependentTasks.fit")


def run_measures() -> dict[str, Measure]:
    """Return all measures by name, in the order in which they are printed."""
    sys.path.insert(0, str(Path.cwd()))  # before an installed one
    os.environ["PYTHONWARNINGS"] = "ignore"  # the tables are small and made up
    from benchmarks.harness import in_own_process
    from benchmarks.trips import counted

    trips = {name: in_own_process(counted, name) for name in (*FITS, "MMoE.predict")}
    return {
        **in_own_process(class_measures),
        **{f"calls to the first gradient, {name}": trips[name]["calls"] for name in FITS},
        **{f"files to the first gradient, {name}": trips[name]["files"] for name in FITS},
        "calls of MMoE.predict": trips["MMoE.predict"]["calls"],
        **{f"calls of a whole fit, {name}": in_own_process(counted, name, True)["calls"] for name in FITS},
    }


def class_measures() -> dict[str, Measure]:
    """Count the bases and parameters of all public estimators and recommenders, and the names of a fitted one."""
    import numpy as np
    from sklearn.base import BaseEstimator

    import tabmtl.sessions

    public = [getattr(home, name) for home in (tabmtl, tabmtl.sessions) for name in home.__all__]
    estimators = [each for each in public if isinstance(each, type) and issubclass(each, BaseEstimator)]
    parameters = {each.__name__: [*inspect.signature(each).parameters] for each in estimators}
    X = np.random.default_rng(0).normal(size=(200, 3))
    fitted = tabmtl.SharedTrees(n_estimators=20, n_estimators_task=10, n_jobs=1).fit(X, X[:, :2] ** 2)
    return {
        "classes in the MRO of MMoE": [each.__qualname__ for each in _own_bases(tabmtl.MMoE)],
        "classes in the MRO, most": {each.__name__: len(_own_bases(each)) for each in estimators},
        "parameters of MMoE": parameters["MMoE"],
        "parameters, most": {name: len(of_one) for name, of_one in parameters.items()},
        "public names of SharedTrees": public_names(fitted),
    }


def public_names(fitted: Any) -> list[str]:
    """Return the names of an object and of its classes that have no underscore in front, fields included.

    Names that only classes of scikit-learn define do not count. Names that scikit-learn adds to classes of the package,
    such as ``set_fit_request``, do. There is no ``feature_names_in_`` after a fit on arrays.
    """
    places = [vars(fitted), *(vars(each) for each in _own_bases(type(fitted)))]
    return sorted({name for place in places for name in place if not name.startswith("_")})


def _own_bases(cls: type) -> list[type]:
    """Return the classes of the packages that a class derives from, itself included."""
    return [each for each in cls.__mro__ if each.__module__.partition(".")[0] == "tabmtl"]
