"""Functions as commands: what their typed parameters say of themselves becomes the options of the command line.

A parameter is annotated with its type and a `Help`. A parameter whose type is a dataclass is a group of options, one
for each field, which several functions can take. Nothing here or in the functions needs typer until a command is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin, get_type_hints

_SHOWN = 3


@dataclass(frozen=True)
class Help:
    """What the command line says of a parameter.

    Parameters
    ----------
    text : str
        One or two lines; the default is said beside it.
    metavar : str, optional
        What stands for the value; default its type.
    flag : str, optional
        Another name than that of the parameter.
    is_argument : bool, default=False
        Given by its place, without a name.
    """

    text: str
    metavar: str | None = None
    flag: str | None = None
    is_argument: bool = False


def as_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as typer reads commands: its groups of options taken apart, and put together in the call.

    Parameters
    ----------
    function : callable
        Every parameter is annotated with a `Help`, or its type is a dataclass whose fields are. The docstring of the
        dataclass begins with the heading of its options.

    Returns
    -------
    callable
        Of options alone, with a signature that typer reads, and the summary of the function as its docstring.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        if is_dataclass(hint) and isinstance(hint, type):
            groups[name] = hint
            parameters += _of_group(hint)
        else:
            parameters.append(_parameter(name, hint, parameter.default, "Options"))

    def command(**given: Any) -> Any:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        return function(**given)

    command.__name__, command.__doc__ = function.__name__, summary(function).replace("`", "")
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__dict__["__signature__"] = inspect.Signature(parameters)
    return command


def summary(documented: Any) -> str:
    """The docstring up to its sections."""
    paragraphs = (inspect.getdoc(documented) or "").split("\n\n")
    ends = [i for i, paragraph in enumerate(paragraphs) if "\n----" in paragraph]
    return "\n\n".join(paragraphs[: ends[0] if ends else None])


def near(name: str, known: Sequence[str]) -> str:
    """Names like the given one, for an error: all where none is like it."""
    found = get_close_matches(name, known, n=_SHOWN, cutoff=0.5)
    return f"near is {' or '.join(found)}" if found else f"known are {', '.join(known)}"


def pairs(texts: Sequence[str], flag: str) -> Iterator[tuple[str, str]]:
    """Names and values of options that are written ``name=value``.

    Raises
    ------
    ValueError
        If one has no "=" or no name, or a name comes twice.
    """
    seen = set()
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{flag} takes name=value, got {text!r}")
        if name in seen:
            raise ValueError(f"{flag} names {name!r} twice")
        seen.add(name)
        yield name, value


def _of_group(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    heading = (group.__doc__ or "").partition(":")[0]
    for field in fields(group):
        yield _parameter(field.name, hints[field.name], _default(field), heading)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _parameter(name: str, hint: Any, default: Any, heading: str) -> inspect.Parameter:
    import typer

    kind, *said = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    helps = [entry for entry in said if isinstance(entry, Help)]
    if len(helps) != 1:
        raise TypeError(f"the parameter {name!r} of a command needs a type that is Annotated with one Help, got {hint}")
    (says,) = helps
    options: Mapping[str, Any] = {"help": says.text, "metavar": says.metavar, "rich_help_panel": heading}
    option = (
        typer.Argument(**options)
        if says.is_argument
        else typer.Option(says.flag or f"--{name.replace('_', '-')}", show_default=_is_said(default), **options)
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _is_said(default: Any) -> bool:
    """Whether a default says anything."""
    return default not in (None, False, []) or (isinstance(default, int) and default is not False)
