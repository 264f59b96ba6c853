"""The help page of a command: its options in groups, under plain headings."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

LAST = "Options"


class GroupedCommand(TyperCommand):
    """A command whose help lists the options under the headings that they were given."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, those of a group together, and what is of this command alone last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if param.param_type_name == "argument":
                groups.setdefault("Arguments", []).append((record[0].partition(" ")[0], record[1]))
            else:
                groups.setdefault(getattr(param, "rich_help_panel", None) or LAST, []).append(record)
        for heading in sorted(groups, key=lambda heading: heading == LAST):
            with formatter.section(heading):
                formatter.write_dl(groups[heading])
