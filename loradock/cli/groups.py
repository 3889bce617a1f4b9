"""A command group that needs no subcommand: `loradock ops` lists, `loradock ops ID` shows."""

from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class DefaultGroup(TyperGroup):
    """A group with a command for no argument, and one for an argument that names no command."""

    without_argument: ClassVar[str]
    with_argument: ClassVar[str | None] = None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in that was left out."""
        if not args:
            args = [self.without_argument]
        elif args[0] == "--help" or args[0] in self.commands:
            pass
        elif args[0].startswith("-"):
            args = [self.without_argument, *args]
        elif self.with_argument is not None:
            args = [self.with_argument, *args]
        return super().parse_args(ctx, args)


class OperationsGroup(DefaultGroup):
    """`loradock ops`."""

    without_argument = "list"
    with_argument = "show"


class ListGroup(DefaultGroup):
    """`loradock ls`."""

    without_argument = "adapters"


class EnginesGroup(DefaultGroup):
    """`loradock engines`."""

    without_argument = "drift"
    with_argument = "show"


def command_group(group: type[DefaultGroup], help_text: str) -> typer.Typer:
    """A Typer application for a group."""
    return typer.Typer(cls=group, help=help_text, no_args_is_help=False, rich_markup_mode=None)
