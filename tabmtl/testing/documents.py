"""Promises about the parameters of an estimator."""

from __future__ import annotations

import dataclasses
import inspect

from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tabmtl.estimators.docstrings import documented
from tabmtl.testing.comparisons import parameters_of
from tabmtl.testing.promises import of_each_model, raises
from tabmtl.testing.subject import Subject


class Documents(Subject):
    """Promises about hyper-parameters: declared, documented, kept and cloned."""

    def check_every_public_class_attribute_is_a_hyper_parameter(self) -> None:
        cls = type(self.model)
        annotated = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
        public = {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}
        values = {name for name, value in public.items() if not (callable(value) or hasattr(value, "__get__"))}
        assert values <= annotated, f"annotate {sorted(values - annotated)}, as a field or a ClassVar"
        assert set(cls._get_param_names()) == {field.name for field in dataclasses.fields(cls)}

    def check_every_hyper_parameter_is_keyword_only_and_documented(self) -> None:
        known = documented(type(self.model).__doc__ or "")
        for field in dataclasses.fields(type(self.model)):
            assert field.kw_only, f"{field.name} is not keyword-only: write @dataclass(kw_only=True, ...)"
            assert field.name in known, f"{field.name} has no entry under Parameters of the class"
            assert "\n    " in known[field.name], f"{field.name} has no description below its name"

    @of_each_model
    def check_parameters_are_kept_and_cloned(self) -> None:
        estimator = self.fresh()
        given, params = estimator.get_params(), parameters_of(estimator)
        assert parameters_of(clone(estimator)) == params
        assert parameters_of(type(self.model)().set_params(**given)) == params
        estimator, X, _ = self.fitted()
        assert {name: value for name, value in parameters_of(estimator).items() if name in params} == params
        with raises(NotFittedError, ""):
            clone(estimator).predict(X)
