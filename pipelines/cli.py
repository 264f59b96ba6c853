"""The command ``tabmtl``.

Train multi-task models on tables and click logs, search their parameters, and register, compare and serve them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from tabmtl.pipelines.options import Help, as_command, summary
from tabmtl.pipelines.terminal import INTERRUPTED, MISTAKE, in_order, is_mistake, one_line

if TYPE_CHECKING:
    import typer


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default those of the command line.

    Returns
    -------
    int
        Exit code: 0; 2 after a mistake of the user, which is said in one line; 130 after Ctrl-C; 1 where ``serve
        promote`` leaves the champion, or ``sweep --above-single-task`` finds no point. A bug keeps its traceback.
    """
    if find_spec("typer") is None:
        print("tabmtl: error: the commands need typer, which is missing: pip install 'tabmtl[cli]'", file=sys.stderr)
        return MISTAKE
    import typer

    arguments = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in arguments[:2] if not word.startswith("-")]
    prog = " ".join(["tabmtl", *words[: 2 if words[:1] == ["serve"] else 1]])
    try:
        with in_order():
            result = _command()(arguments, "tabmtl", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except Exception as error:
        message = getattr(error, "format_message", None)  # of typer's own errors, whose class is private
        if message is None and not is_mistake(error):
            raise
        said = one_line(error) if message is None else f"{one_line(message())} (--help lists the options)"
        print(f"{prog}: error: {said}", file=sys.stderr)
        return MISTAKE
    if result == INTERRUPTED:  # which newer releases of typer return
        print(f"{prog}: interrupted", file=sys.stderr)
    return result if isinstance(result, int) else getattr(result, "exit_code", 0)


Arguments = Annotated[list[str] | None, Help("of the module that does it", "[ARGUMENT]...", is_argument=True)]


def demo(arguments: Arguments = None) -> int:
    """Train on real flights and compare with one LightGBM per target."""
    return import_module("tabmtl.pipelines.demo").main(arguments or [])


def _command() -> Any:
    """The command line, as typer makes it of functions."""
    import typer
    from typer.main import get_command

    from tabmtl.pipelines import serve, sweep, train

    plain: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False, "no_args_is_help": True}
    app = typer.Typer(**plain, help=summary(sys.modules[__name__]).partition("\n\n")[2])
    registry = typer.Typer(**plain, help=summary(serve).split("\n\n")[1])
    _add(app, demo, passed_on=True)
    _add(app, train.train)
    _add(app, sweep.sweep)
    _add(registry, serve.register)
    _add(registry, serve.promote)
    _add(registry, serve.start)
    app.add_typer(registry, name="serve", short_help="Register, compare, promote and serve models.")
    return get_command(app)


def _add(app: typer.Typer, function: Callable[..., Any], *, passed_on: bool = False) -> None:
    """Add a command; if all arguments are passed on, its help is that of the module they go to."""
    from tabmtl.pipelines.help_page import GroupedCommand

    settings: dict[str, Any] = {"max_content_width": 100, "terminal_width": None}
    if passed_on:
        settings |= {"ignore_unknown_options": True, "help_option_names": []}
    app.command(cls=GroupedCommand, context_settings=settings)(as_command(function))


if __name__ == "__main__":
    from tabmtl.pipelines.cli import main as main_of_package  # errors are told apart by the module they come from

    raise SystemExit(main_of_package())
