"""Base of every estimator and recommender: checked parameters, composed documentation, files without pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar, cast

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.frames import Whole
from tabmtl.base.params import check_fields, describe_params, near, read_estimator
from tabmtl.base.schema import is_asked_by_sklearn, outer_frame
from tabmtl.base.storage.persist import write_folder
from tabmtl.base.storage.stored import Saved, put_together, take_apart
from tabmtl.estimators.docstrings import DocumentedSignature, complete_docstring
from tabmtl.targets import Tasks
from tabmtl.training.run import Watched, running

Method = TypeVar("Method", bound=Callable[..., Any])

_FOR_OTHER_ROOMS = ("coder_", "columns_")  # fitted attributes that a notebook does not show


def at_once(method: Method) -> Method:
    """Let a method read an estimator as it is now, also where another thread changes it meanwhile."""

    @wraps(method)
    def asked(self: Any, *args: Any, **options: Any) -> Any:
        now = object.__new__(type(self))
        now.__dict__ = self.__dict__  # which `drafted` replaces
        return method(now, *args, **options)

    return cast(Method, asked)


def drafted(method: Method) -> Method:
    """Let a method change a copy of an estimator, which takes all of it in one assignment, if nothing has failed."""

    @wraps(method)
    def changed(self: Any, *args: Any, **options: Any) -> Any:
        draft = object.__new__(type(self))
        draft.__dict__ = {**vars(self)}
        method(draft, *args, **options)
        self.__dict__ = draft.__dict__
        return self

    return cast(Method, changed)


class SavableEstimator(Watched, BaseEstimator):
    """Base of everything that `tabmtl.load` reads; a subclass gives `_stored` and `_restore`.

    ``fit`` keeps the parameters it saw as ``_fitted_params``. What other rooms may ask is in :mod:`tabmtl.estimators`.

    Attributes
    ----------
    search_space : dict of str to dict
        Ranges worth tuning, by parameter: ``{"low": ..., "high": ...}``, of whole numbers if both are, perhaps with
        ``"log": True`` or a ``"step"``; or ``{"choices": ...}``. See :mod:`tabmtl.tuning`.
    """

    search_space: ClassVar[dict[str, Any]] = {}
    __signature__ = DocumentedSignature()

    #: Parameters that may hold code, which only training runs; it is not saved.
    __training_code__: ClassVar[tuple[str, ...]] = ()
    # parameters that fitted attributes hold too, so that a file needs no copy of them
    _kept_apart: ClassVar[tuple[str, ...]] = ()
    # a dataclass of the fitted attributes that a file keeps, under their names; `put_together` reads it
    _stored: ClassVar[type]
    _fitted_params: dict[str, Any]
    random_state: Any  # of those that draw

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__doc__ = complete_docstring(cls)

    def __new__(cls, *args: Any, **params: Any) -> Self:
        cls._check_names(params)
        return super().__new__(cls)

    @classmethod
    def _check_names(cls, params: Iterable[str]) -> None:
        """Raise a TypeError for a parameter that the class does not have."""
        known = cls._get_param_names()
        for name in params:
            if name not in known:
                raise TypeError(f"{cls.__name__} has no parameter {name!r}{near(name, known)}; it has {known}")

    def set_params(self, **params: Any) -> Self:
        """Set hyper-parameters; those of a nested estimator as ``name__parameter``.

        Raises
        ------
        ValueError
            If the class does not have one; the message hints at the nearest.
        """
        try:
            self._check_names(name.partition("__")[0] for name in params)
        except TypeError as error:
            raise ValueError(str(error)) from None  # which scikit-learn expects here
        return super().set_params(**params)

    @at_once
    def save(self, path: str | Path) -> None:
        """Save to a folder of JSON, safetensors and, for trees, LightGBM text; a preprocessor by skops; no pickle.

        Saving is atomic: a reader sees the old model or the new one. `tabmtl.load` reads it. Saves the parameters used
        in fit, except callables needed only for training (a callback ``on_epoch``, an object as ``balance``) and
        the files and machines that LightGBM would open: the loaded estimator has their defaults, and predicts the same.
        If several processes save to one folder, the last model stays.

        Parameters
        ----------
        path : str or Path
            Folder; created if it does not exist.

        Raises
        ------
        TypeError
            If a parameter or a step of the preprocessor cannot be written without pickle, or a part of the model is of
            a class of your own.
        ValueError
            If the model holds a value that `tabmtl.load` would refuse, such as a weight that is NaN.
        OSError
            If the folder cannot be written or the disk is full. Its former content stays.
        """
        check_is_fitted(self)
        saved = self.__saved__()
        self._read_state(saved)  # a model that load would refuse must not replace another
        write_folder(path, type(self).__name__, saved)

    def __saved__(self) -> Saved:
        """Return what a file keeps of a fitted estimator, by itself or as a part of another one."""
        saved = take_apart(self._state())
        params = {name: value for name, value in self._fitted_params.items() if name not in self._kept_apart}
        params = describe_params(params, self.__training_code__)
        return replace(saved, facts=saved.facts | {"params": params})

    @classmethod
    def __from_saved__(cls, saved: Saved) -> Self:
        estimator = read_estimator(cls, saved.facts["params"], saved.kinds)
        estimator._restore(cls._read_state(saved))
        return estimator

    @classmethod
    def _read_state(cls, saved: Saved) -> Any:
        facts = {name: fact for name, fact in saved.facts.items() if name != "params"}
        return put_together(cls._stored, replace(saved, facts=facts))

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        """Return what scikit-learn shows of fitted attributes: of frames the columns, of tasks the names."""
        found = super()._get_fitted_attr_html(doc_link)
        for name, facts in [*found.items()]:
            value = facts["value"]
            if isinstance(value, NotHere | FromFitted) or name in _FOR_OTHER_ROOMS:
                del found[name]
                continue
            if isinstance(value, pl.DataFrame):
                kind, names = f"DataFrame{value.shape}, columns", value.columns
            elif isinstance(value, Tasks):
                kind, names = "Tasks", [task.name for task in value]
            else:
                continue
            found[name] = {"type_name": kind, "value": np.array(names, dtype=object)}
        return found

    def __check_params__(self) -> None:
        """Raise an error for a bad hyper-parameter; a subclass adds the rules that join several."""
        check_fields(self)

    def _seed(self) -> int:
        """Return the seed of a fit: that of its checkpoint, or a new one."""
        checkpoint, seed = running().checkpoint, draw_seed(self.random_state)
        return seed if checkpoint is None else checkpoint.seed(seed)

    def _state(self) -> Any:
        """Return the fitted attributes that a file keeps, as `_stored`."""
        return self._stored(**{field.name: getattr(self, field.name, None) for field in fields(self._stored)})

    def _restore(self, state: Any) -> None:
        """Set the fitted attributes to `_state`, which somebody else may have written."""
        raise NotImplementedError

    def _changed(self) -> list[str]:
        """Return the names of the parameters that have changed since fit."""
        before, now = self._fitted_params, self.get_params(deep=False)
        # a pickle of an earlier release lacks parameters that came later
        pairs = [(name, before[name], value) for name, value in now.items() if name in before]
        return [name for name, was, value in pairs if value is not was and repr(value) != repr(was)]

    def _forget(self) -> None:
        """Drop the attributes of an earlier fit, now that a new one has succeeded."""
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)


class FromFitted:
    """Attribute that only reads what was fitted; an unfitted estimator does not have it.

    Parameters
    ----------
    read : str or callable
        Name of an attribute of what was fitted, or a function of the `tabmtl.estimators.model.Model`.
    """

    def __init__(self, read: str | Callable[[Any], Any]) -> None:
        self._read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        try:
            found = instance._fitted if isinstance(self._read, str) else instance._model
        except AttributeError:
            raise NotFittedError(
                f"this {owner.__name__} is not fitted yet; call fit, and ask for {self._name}"
            ) from None
        if isinstance(self._read, str):
            return getattr(found, self._read)
        value = self._read(found)
        if value is None and not self._name.startswith("_"):
            raise AttributeError(f"this {owner.__name__} has no {self._name}; its documentation says when it has")
        return Whole(value) if isinstance(value, pl.DataFrame) else value

    def __set__(self, instance: Any, value: Any) -> NoReturn:
        raise AttributeError(f"{self._name} says what was fitted, and cannot be set")

    @classmethod
    def taken_from(cls, told: dict[str, Any], owner: type) -> dict[str, Any]:
        """Take attributes that an estimator of a class only reads out of others; return them as what was fitted."""
        names = {name: own._read for name in told if isinstance(own := getattr(owner, name, None), cls)}
        return {own: told.pop(name) for name, own in names.items() if isinstance(own, str)}


class NotHere:
    """Stand for a method that other classes have, so that asking for it names the cure.

    Parameters
    ----------
    cure : str
        What this class has in its place.
    """

    def __init__(self, cure: str) -> None:
        self._cure = cure

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__} has no {self._name}: {self._cure}")


def asking_score() -> Callable[..., Any] | None:
    """Return the function of scikit-learn's scorer that called this package, or will judge the fit that it runs."""
    if not is_asked_by_sklearn():  # to look at the variables of other callers would cost time in every answer
        return None
    frame = outer_frame()
    for _ in range(4):  # a scorer calls by way of a cache
        known = {} if frame is None else frame.f_locals
        for scorer in (known.get("self"), known.get("scorer")):
            for each in (scorer, *getattr(scorer, "_scorers", {}).values()):
                score = getattr(each, "_score_func", None)
                if score is not None and score.__module__.startswith("sklearn."):
                    return score
        frame = None if frame is None else frame.f_back
    return None


def unfitted(estimator: Any) -> Any:
    """Return an unfitted copy with the parameters of ``fit``, even if they have changed since."""
    return type(estimator)(**estimator._fitted_params)


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Draw a seed from a random state of scikit-learn."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(random_state)
