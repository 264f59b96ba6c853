"""From a fitted estimator to a model of MLflow, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mlflow.artifacts
import mlflow.pyfunc
from mlflow.models import Model
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri
from packaging.requirements import Requirement
from packaging.version import Version
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.lazy import exported
from tabmtl.base.storage.persist import ModelFileError, load
from tabmtl.encode.labels import probability_names
from tabmtl.encode.preprocessing import by_preprocessor
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.serving.mlflow.aliases import CHALLENGER, CHAMPION
from tabmtl.serving.mlflow.serving import LOADER, SessionModel, TableModel
from tabmtl.serving.mlflow.signature import pandas_view, signature_of
from tabmtl.sessions.recommender import Recommender
from tabmtl.targets import KINDS

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo


def log_model(
    estimator: Any,
    name: str = "model",
    *,
    input_example: Any = None,
    registered_model_name: str | None = None,
    pip_requirements: Sequence[str] | None = None,
    loader_module: str = LOADER,
    alias: str | None = None,
    version_tags: Mapping[str, str] | None = None,
    **options: Any,
) -> ModelInfo:
    """Log a fitted estimator to the active run, or to a new one.

    Parameters
    ----------
    estimator : fitted estimator of the package
        Of tables or a recommender.
    name : str, default="model"
        Of the logged model.
    input_example : frame, optional
        Some typical rows, of polars, pandas or pyarrow; they are stored, and served once as a trial. The types of the
        columns come from fit; those of a recommender's sessions and times from here.
    registered_model_name : str, optional
        Registers the model as a new version under this name.
    pip_requirements : sequence of str, optional
        Default: tabmtl and its dependencies, in the installed versions, without MLflow's slow inference.
    loader_module : str
        Module whose ``_load_pyfunc(path)`` rebuilds the object that serves the model. A class of your own needs a
        module of your own, with ``return as_pyfunc(tabmtl.load(path, cls=MyNet))``.
    alias : str, optional
        Alias of the registered version. ``"auto"``, as ``tabmtl train --register``: ``"champion"`` if no version has
        it, else ``"challenger"``.
    version_tags : mapping of str to str, optional
        Tags of the registered version; whoever finds it by its alias finds it with them.
    **options
        Further arguments of ``mlflow.pyfunc.log_model``, such as ``metadata``, ``tags`` and ``params``.

    Returns
    -------
    mlflow.models.model.ModelInfo
        With ``model_uri``.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        If the estimator is not fitted, of a class that the loader does not know, or cannot be saved; if two
        probabilities would have one name; if the example lacks a column; or if an alias or tags of the version come
        without a ``registered_model_name``.
    """
    registered = registered_model_name
    for argument, value in (("alias", alias), ("version_tags", version_tags)):
        if value and registered is None:
            raise ValueError(
                f"{argument}={value!r} is for a registered model: give registered_model_name too, or leave it out"
            )
    with _exported(estimator, input_example, pip_requirements, loader_module) as arguments:
        info = mlflow.pyfunc.log_model(name=name, registered_model_name=registered, **(arguments | options))
    if registered is None:
        return info
    client = mlflow.MlflowClient()
    for key, tag in (version_tags or {}).items():
        client.set_model_version_tag(registered, info.registered_model_version, key, tag)
    if alias is not None:
        if alias == "auto":
            taken = client.get_registered_model(registered).aliases
            alias = CHALLENGER if CHAMPION in taken else CHAMPION
        client.set_registered_model_alias(registered, alias, info.registered_model_version)
    return info


def save_model(
    estimator: Any,
    path: str | Path,
    *,
    input_example: Any = None,
    pip_requirements: Sequence[str] | None = None,
    loader_module: str = LOADER,
    **options: Any,
) -> None:
    """Save a fitted estimator to a local folder as MLflow keeps models; see `log_model`.

    Parameters
    ----------
    path : str or Path
        A folder that does not exist, or an empty one.
    estimator, input_example, pip_requirements, loader_module, **options
        As in `log_model`, the last for ``mlflow.pyfunc.save_model``.
    """
    with _exported(estimator, input_example, pip_requirements, loader_module) as arguments:
        mlflow.pyfunc.save_model(path=path, **(arguments | options))


def load_model(model_uri: str | Path, cls: type | None = None) -> Any:
    """Load the estimator itself, which takes and returns frames of any library.

    Files of the model on this machine, as in a local folder or behind ``models:/``, are read in place; all others, and
    those of ``runs:/``, from a copy that MLflow makes. Unlike ``mlflow.pyfunc.load_model``, this runs no code that the
    model brings or names.

    Parameters
    ----------
    model_uri : str or Path
        Such as ``"models:/flights@champion"``, ``"runs:/<run>/model"``, ``info.model_uri``, or a local folder.
    cls : type, optional
        Class of the estimator if it is not one of this package.

    Returns
    -------
    estimator
        Fitted; its predictions equal those of the logged one bit for bit.

    Raises
    ------
    ModelFileError, ValueError
        If this is not a whole, untouched model of tabmtl, or its files lead out of its folder.
    """
    place = _place_of(str(model_uri))
    if place is not None:
        return load(data_folder(place), cls)
    with TemporaryDirectory() as folder:
        local = mlflow.artifacts.download_artifacts(artifact_uri=str(model_uri), dst_path=folder)
        return load(data_folder(Path(local)), cls)


def served_folder(path: str | Path) -> Path:
    """Return the folder that ``pyfunc`` is to load, if it belongs to the model around it.

    MLflow joins the folder of a model and any path that its ``MLmodel`` names, and passes only the result.

    Raises
    ------
    ModelFileError, ValueError
        If no model is around it, or another one.
    """
    named = Path(path)
    root = next((place for place in named.parents if (place / "MLmodel").is_file()), None)
    if root is None or ".." in named.parts or data_folder(root) != named.resolve():
        raise ModelFileError(
            f"{path} is not the data of the model that names it: its MLmodel was edited; expected a folder beside "
            "MLmodel, such as data/model. Log the model again"
        )
    return named


def data_folder(root: Path) -> Path:
    """Return the folder in a model of MLflow that `tabmtl.load` reads.

    Raises
    ------
    ModelFileError, ValueError
        If it is not a model of tabmtl, or names a folder outside.
    """
    root = root.resolve()
    try:
        data = str(Model.load(str(root)).flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.DATA])
        folder = (root / data).resolve()
    except Exception as error:  # any error of a foreign or missing file
        raise ValueError(
            f"{root} is not a model logged by tabmtl.serving.mlflow; load it with mlflow.pyfunc ({error!r})"
        ) from error
    if Path(data).is_absolute() or not folder.is_relative_to(root):
        raise ModelFileError(
            f"{root}: MLmodel names {data!r} as the data of the model, which leads out of its folder: it was edited, "
            "or a link was put there; expected a folder beside MLmodel, such as data/model. Log the model again"
        )
    return folder


def as_pyfunc(estimator: MultiTaskEstimator | Recommender) -> TableModel | SessionModel:
    """Wrap a fitted estimator as the object with ``predict(model_input, params)`` that ``pyfunc`` expects."""
    return SessionModel(estimator) if isinstance(estimator, Recommender) else TableModel(estimator)


def _place_of(uri: str) -> Path | None:
    """Return the place of a model if it is on this machine: a copy would have followed links."""
    if Path(uri).exists():
        return Path(uri)
    if ModelsArtifactRepository.is_models_uri(uri):
        uri = ModelsArtifactRepository.get_underlying_uri(uri)
    local = is_local_uri(uri, is_tracking_or_registry_uri=False)
    return Path(local_file_uri_to_path(uri)) if local else None


def _check_loadable(estimator: MultiTaskEstimator | Recommender) -> None:
    """Raise a TypeError if our own loader does not know the class of an estimator, or the kind of a task."""
    cls = type(estimator)
    after = ""
    foreign = next((task for task in getattr(estimator, "tasks_", ()) if task.kind.name not in KINDS), None)
    if exported(cls.__name__) is not cls:
        what, given = f"{cls.__name__} is no class of tabmtl", f", cls={cls.__name__}"
    elif foreign is not None:
        what = f"task {foreign.name!r} is of the kind {foreign.kind}, which tabmtl does not have"
        given = f", kinds=[{type(foreign.kind).__name__}]"
    elif isinstance(estimator, MultiTaskEstimator) and estimator.coder_.text_vectors is not None:
        what, given, after = (
            "the model has an encoder of text, which is code and in no file",
            "",
            ".set_params(columns=...)",
        )
    else:
        return
    raise TypeError(
        f"{what}, so {LOADER} could not load it; give loader_module=, a module of yours whose _load_pyfunc(path) "
        f"returns tabmtl.serving.mlflow.as_pyfunc(tabmtl.load(path{given}){after})"
    )


@contextmanager
def _exported(
    estimator: Any, input_example: Any, pip_requirements: Sequence[str] | None, loader_module: str
) -> Iterator[dict[str, Any]]:
    """Yield arguments for MLflow, valid as long as the files they name."""
    if not isinstance(estimator, MultiTaskEstimator | Recommender):
        raise TypeError(f"expected an estimator of tabmtl, got {type(estimator).__name__}{by_preprocessor(estimator)}")
    check_is_fitted(estimator)
    if loader_module == LOADER:
        _check_loadable(estimator)
    if isinstance(estimator, MultiTaskEstimator):
        probability_names(estimator.coder_.labels.column_tasks)
    signature = signature_of(estimator, input_example)
    with TemporaryDirectory() as folder:
        estimator.save(Path(folder) / "model")
        yield {
            "loader_module": loader_module,
            "data_path": str(Path(folder) / "model"),
            "signature": signature,
            "input_example": None if input_example is None else pandas_view(input_example, signature),
            "pip_requirements": _requirements() if pip_requirements is None else list(pip_requirements),
        }


def _requirements() -> list[str]:
    """Return this release and the installed versions of its dependencies: they decide the predictions."""
    needed, extra = [Requirement(line) for line in requires("tabmtl") or ()], "nn" if "torch" in sys.modules else ""
    names = ["tabmtl", *(need.name for need in needed if need.marker is None or need.marker.evaluate({"extra": extra}))]
    # without the local part of a version, as in torch's 2.6.0+cpu, which no index serves
    return [f"{name}=={Version(version(name)).public}" for name in names]
