"""Tables and lists for a terminal: aligned, never wrapped, as wide as the terminal and no wider."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loradock.cli.text import clean

_PIPE_WIDTH: Final = 4000
"""Columns where nobody looks: what a program reads is never cut."""

_STYLES: Final = {
    "green": ("succeeded", "ready", "serving", "alive", "ok", "servable", "verified"),
    "cyan": ("running", "pending", "publishing", "staged", "skipped"),
    "yellow": (
        "draining",
        "paused",
        "compensating",
        "aborted",
        "rolled_back",
        "undone",
        "unreachable",
        "refused",
        "conditional",
        "unsigned",
    ),
    "red": ("failed", "lost", "error", "not servable", "invalid", "untrusted"),
}
_STYLE_OF: Final = {state: style for style, states in _STYLES.items() for state in states}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        shrinks: is cut (with …) before any other column when the terminal is narrow.
        right: numbers.
        state: its values are states and have their colour.
        from_width: shown in terminals at least this wide.
    """

    title: str
    shrinks: bool = False
    right: bool = False
    state: bool = False
    from_width: int = 0


def stdout_console() -> Console:
    """The console for results."""
    return _console(stderr=False)


def stderr_console() -> Console:
    """The console for progress and errors."""
    return _console(stderr=True)


def style_of(state: object) -> str:
    """The colour of a state."""
    return _STYLE_OF.get(str(state), "")


def print_table(
    console: Console, columns: Sequence[Column], rows: Iterable[Sequence[object]], empty: str
) -> None:
    """Print rows under their titles.

    Args:
        rows: one value per column; None is an empty cell.
        empty: the line that stands for no rows at all.
    """
    shown = [index for index, column in enumerate(columns) if console.width >= column.from_width]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index in shown:
        column = columns[index]
        table.add_column(
            column.title, no_wrap=not column.shrinks, justify="right" if column.right else "left"
        )
    for row in rows:
        table.add_row(*(_cell(columns[index], row[index]) for index in shown))
    if table.row_count:
        console.print(table)
    else:
        console.print(Text(empty, style="dim"))


def print_facts(console: Console, facts: Mapping[str, object]) -> None:
    """Print `name  value` lines; those without a value are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        text = clean(value)
        if text:
            table.add_row(name, Text(text, style=style_of(value)))
    console.print(table)


def _cell(column: Column, value: object) -> Text:
    text = clean(value)
    return Text(text, style=style_of(text) if column.state else "", no_wrap=True, overflow="ellipsis")


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=False, markup=False, emoji=False)
    return (
        console
        if console.is_terminal
        else Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH)
    )
