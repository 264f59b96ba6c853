"""The command ``tabmtl``: functions of the pipelines as commands, read by cyclopts.

A parameter of a function, or a field of a dataclass that it takes, is an option; the docstring has its help.
"""

import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from tabmtl.pipelines.terminal import INTERRUPTED, MISTAKE, exit_code, verbosity

if TYPE_CHECKING:
    from cyclopts import App
    from rich.console import Console


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default those of the command line.

    Returns
    -------
    int
        Exit code: 0; 2 after a mistake of the user, reported in one line; 130 after Ctrl-C; 1 if ``serve promote``
        keeps the champion, ``sweep --above-single-task`` finds no point, every model of ``compare`` fails, or
        ``drift`` finds some. A bug keeps its traceback.
    """
    if find_spec("cyclopts") is None:
        print("tabmtl: error: the commands need cyclopts, which is missing: pip install 'tabmtl[cli]'", file=sys.stderr)
        return MISTAKE
    app, arguments = _app(), list(sys.argv[1:] if argv is None else argv)
    prog = " ".join(["tabmtl", *app.parse_commands(arguments)[0]])
    code = exit_code(partial(app.meta, arguments), prog, traceback="--traceback" in arguments)
    if code == INTERRUPTED:
        print(f"{prog}: interrupted", file=sys.stderr)
    return code


@cache
def _app() -> "App":
    """Build the commands, with the options in groups."""
    from cyclopts import App, Group, Parameter

    from tabmtl.pipelines import compare, data, demo, model_choice, saved, serve, sweep, tracking, train

    groups = [
        ("Data", data.RowSource),
        ("Click logs", data.ClickColumns),
        ("Model", model_choice.ModelChoice),
        ("Model", saved.SavedModel),
        ("Models", compare.ModelList),
        ("Search", sweep.Search),
        ("MLflow", tracking.Store),
    ]
    for place, (heading, options) in enumerate(groups):
        Parameter(name="*", group=Group(heading, sort_key=place))(options)
    app = App(
        name="tabmtl",
        help="Compare and train multi-task models on tables and click logs, predict by them, register and serve them.",
        default_parameter=Parameter(negative=(), allow_repeating=True, show_default=_shown),
        group_parameters=Group("Options", sort_key=len(groups)),
        help_formatter=_HelpPage(),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    registry = App(name="serve", help=serve.__doc__)
    for command in (demo.demo, compare.compare, train.train, sweep.sweep, registry):
        app.command(command)
    dash = Parameter(allow_leading_hyphen=True)  # --data may be -
    for asking in (saved.predict, saved.score, saved.drift):
        app.command(asking, default_parameter=dash)
    app.register_install_completion_command(help="Install completion for this shell: bash, zsh or fish.")
    # the value of its --rows begins with --data
    registry.command(serve.register, default_parameter=Parameter(allow_leading_hyphen=True))
    registry.command(serve.promote)
    registry.command(serve.start)
    _add_common(app)
    return app


def _add_common(app: "App") -> None:
    """Give all commands the options of every command."""
    from cyclopts import Parameter

    @app.meta.default
    def run(
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        quiet: bool = False,
        verbose: Annotated[bool, Parameter(name=["--verbose", "-v"])] = False,
        traceback: bool = False,
    ) -> Any:
        """Run a command.

        Parameters
        ----------
        words : str
            The command and its arguments.
        quiet : bool
            Print the result and errors only.
        verbose : bool
            Show the epochs and rounds of every fit too.
        traceback : bool
            Show the origin of an error.
        """
        if quiet and verbose:
            raise ValueError("--quiet and --verbose exclude each other: leave one out")
        before = verbosity.set(0 if quiet else 1 + verbose)
        try:
            return app(words)
        finally:
            verbosity.reset(before)

    app.meta.suppress_keyboard_interrupt = False


def _shown(default: Any) -> str | None:
    """Return a default as the help page shows it; None for a flag, an empty list, an empty text and None."""
    return None if isinstance(default, bool | list | None) or default == "" else str(default)


class _HelpPage:
    """Help pages whose groups stand under plain headings, without boxes."""

    def render_usage(self, console: "Console", options: Any, usage: Any) -> None:
        console.print("Usage:", usage)

    def __call__(self, console: "Console", options: Any, panel: Any) -> None:
        from cyclopts.help import ColumnSpec, DescriptionRenderer, NameRenderer, TableSpec

        if panel.entries:
            columns = ColumnSpec(renderer=NameRenderer(max_width=30)), ColumnSpec(renderer=DescriptionRenderer())
            table = TableSpec(pad_edge=True, padding=(0, 0, 0, 2)).build(columns, panel.entries)
            console.print(f"{panel.title}:", table, "", sep="\n", highlight=False)
