"""Ask a saved or registered model: ``tabmtl predict``, ``tabmtl score`` and ``tabmtl drift``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tabmtl.serving.mlflow
from tabmtl.base.schema import listed
from tabmtl.pipelines.terminal import lay_out, tell, without_classes
from tabmtl.pipelines.tracking import Store, check_writable, connected

_STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class SavedModel(Store):
    """A model to load.

    Parameters
    ----------
    model : str
        Folder that train --output or model.save wrote, or a registered model, models:/NAME@ALIAS.
    """

    model: str

    def load(self, option: str = "--model") -> Any:
        """Load the model; an error names the option that gave it.

        Raises
        ------
        ValueError, OSError, ImportError
            If there is none, or it is not whole.
        """
        if self.model.startswith(("models:", "runs:")):
            with connected(self, must_exist=True):
                return tabmtl.serving.mlflow.load_model(self.model)
        if not Path(self.model).is_dir():
            raise ValueError(
                f"{option}: there is no folder {self.model!r}: name one that train --output or model.save wrote, or a "
                "registered model, models:/NAME@ALIAS"
            )
        return tabmtl.load(self.model)


def predict(
    source: SavedModel, *, data: str, output: Path, probabilities: bool = False, keep: list[str] | None = None
) -> None:
    """Predict the rows of a file by a model of tables, and write a file; it does not take click logs.

    Rows are read and answered a block at a time, so files may be larger than memory. Columns are found by name; others
    are ignored.

    Parameters
    ----------
    source : SavedModel
        The model.
    data : str
        Parquet or CSV file; - reads CSV from the standard input.
    output : Path
        File of the answers, .parquet or .csv: a column per target. It appears when it is complete.
    probabilities : bool
        Add a column TASK=CLASS with the probability of every class, and a column TASK_qLEVEL with every level of a
        target of the kind quantiles.
    keep : list of str, optional
        Column of the data to write in front of the answers, such as an id; may be repeated.

    Raises
    ------
    ValueError, OSError, ImportError
        If there is no such model or file, a column is missing, or a value does not fit.
    """
    from tabmtl.scale.paths import is_table

    if not is_table(str(output)):
        raise ValueError(f"--output must end in .parquet or .csv, got {output}")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"--output: there is no folder {output.parent}: make it, or name another")
    check_writable(output.absolute().parent, "--output")
    model = source.load()
    from tabmtl.scale import predict_file

    with _file_of(data) as file:
        method: Any = "both" if probabilities else "predict"
        n_rows = predict_file(model, file, output, method=method, keep=keep or ())
    tell(f"Predicted {', '.join(model.coder_.labels.names)} of {n_rows:,} rows: {output}")


def score(source: SavedModel, *, data: str, json: bool = False) -> None:
    """Score a model of tables on the rows of a file that has the targets too; it does not take click logs.

    A score comes with its 95 % interval over draws of the rows. A target that the file lacks has none. Labels and
    answers of all rows are in memory at once.

    Parameters
    ----------
    source : SavedModel
        The model.
    data : str
        Parquet or CSV file with features and targets; - reads CSV from the standard input.
    json : bool
        Print JSON.

    Raises
    ------
    ValueError, OSError, ImportError
        If there is no such model or file, a column is missing, or a value does not fit.
    """
    model = source.load()
    from tabmtl.metrics.scores import mean_score
    from tabmtl.scale import score_files

    with _file_of(data) as file:
        found = score_files(model, file)
    watched = found.unique("task", keep="first", maintain_order=True)
    mean = mean_score(dict(watched.select("task", "score").iter_rows()))
    if json:
        print(_as_json({"model": source.model, "data": data, "mean_score": mean, "tasks": found.to_dicts()}))
        return
    names = {"standard_error": "error", "n_labelled": "labelled", "n_positive": "positive"}
    shown = lay_out(without_classes(found).rename(names))
    print(f"{shown}\n\nMean score: {mean:.4f}. Higher is better; low and high are 95 % intervals.")


def drift(
    source: SavedModel,
    *,
    data: str,
    reference: Path | None = None,
    ignore: list[str] | None = None,
    size: float = 0.1,
    json: bool = False,
) -> int:
    """Tell which columns of a file, and which predictions, are no longer spread as in the fit of a model.

    Exit code 1 if some have drifted: beyond chance, and by at least --size. Files may be larger than memory. Columns
    are found by name; others, such as targets, are ignored.

    Parameters
    ----------
    source : SavedModel
        The model.
    data : str
        Parquet or CSV file of new rows; - reads CSV from the standard input.
    reference : Path, optional
        Parquet or CSV file of rows to compare with, in place of those of the fit.
    ignore : list of str, optional
        Column or task to leave out, such as a date; may be repeated.
    size : float
        The least population stability index that counts.
    json : bool
        Print JSON.

    Returns
    -------
    int
        Exit code: 1 if something has drifted, else 0.

    Raises
    ------
    ValueError, OSError, ImportError
        If there is no such model or file, it has fewer than 20 rows, a column is missing, or a value does not fit.
    """
    model = source.load()
    from tabmtl.scale import drift_files

    with _file_of(data) as file:
        found = drift_files(model, file, reference=reference, ignore=ignore or (), size=size)
    found = found.sort("is_drift", descending=True, nulls_last=True, maintain_order=True)
    drifted = found.filter("is_drift")["name"].to_list()
    if json:
        print(_as_json({"model": source.model, "data": data, "drifted": drifted, "lines": found.to_dicts()}))
        return int(bool(drifted))
    shown = found.drop("jensen_shannon", "n_of_fit")
    print(f"{lay_out(shown)}\n\nDrifted: {listed(drifted) or 'nothing'}.")
    return int(bool(drifted))


def _as_json(content: dict[str, Any]) -> str:
    """Write JSON, in which no number is NaN."""
    return json.dumps({name: None if value != value else value for name, value in content.items()}, indent=2)


@contextmanager
def _file_of(data: str) -> Iterator[Path]:
    """Give the file of the rows, that of the standard input beside; errors inside name it."""
    try:
        if data != _STDIN:
            yield Path(data)
            return
        with TemporaryDirectory() as folder:
            if sys.stdin is None:
                raise ValueError("it is closed; expected CSV with a line of names, as from a pipe or by <")
            file = Path(folder) / "stdin.csv"
            with file.open("wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
            if not file.stat().st_size:
                raise ValueError("it is empty; expected CSV with a line of names")
            yield file
    except Exception as error:
        error.add_note(f"in {'the standard input' if data == _STDIN else data}")
        raise
