"""What people see while an operation runs: a live table in a terminal, plain lines elsewhere. All of it on stderr."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loradock.cli import text
from loradock.cli.client import Document
from loradock.cli.render import style_of

_MARKS: Final = {
    "pending": "·",
    "running": "▸",
    "succeeded": "✓",
    "failed": "✗",
    "undone": "↩",
    "skipped": "–",
}
_URGENT: Final = {"failed": 0, "running": 1, "undone": 2, "pending": 3, "succeeded": 4, "skipped": 5}
_BAR_WIDTH: Final = 20
"""Characters."""
_OTHER_LINES: Final = 4
"""Lines of the terminal that the steps leave free."""


class Progress(Protocol):
    """Shows an operation as it goes."""

    def show(self, operation: Document) -> None:
        """Show how the operation stands now."""


def progress(console: Console) -> AbstractContextManager[Progress]:
    """The way of showing that suits where stderr goes."""
    return _live(console) if console.is_terminal else _lines(console)


def headline(operation: Document) -> str:
    """What an operation is to do."""
    pool = text.clean(operation.get("pool"))
    return f"{text.clean(operation.get('kind'))} {text.target(operation)}" + (f" in {pool}" if pool else "")


def standing(operation: Document) -> str:
    """An operation's state, with its place in the queue while it waits for room."""
    state, place = text.clean(operation.get("state")), operation.get("queue_position")
    return f"{state}, number {text.clean(place)} in the queue" if place else state


def steps_table(operation: Document, limit: int | None = None) -> Table:
    """The operation's steps.

    Args:
        limit: rows at most; what needs attention stays, the order too.
    """
    steps = [step for step in operation.get("steps") or [] if isinstance(step, dict)]
    shown = _most_urgent(steps, limit)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for column in ("mark", "where", "state", "took"):
        table.add_column(column, no_wrap=True, justify="right" if column == "took" else "left")
    table.add_column("detail")
    engines = max((len(text.clean(step.get("engine"))) for step in shown), default=0)
    for step in shown:
        state = text.clean(step.get("state"))
        took = text.between(step.get("started_at"), step.get("ended_at"))
        table.add_row(
            Text(_MARKS.get(state, " "), style=style_of(state)),
            Text(f"{text.clean(step.get('engine')):<{engines}}  {text.clean(step.get('name'))}".lstrip()),
            Text(state, style=style_of(state)),
            Text(text.duration(took), style="dim"),
            Text(
                _detail(step), no_wrap=True, overflow="ellipsis", style="red" if step.get("error") else "dim"
            ),
        )
    more = max(len(steps), sum(step_counts(operation).values())) - len(shown)
    if more > 0:
        table.add_row("", Text(f"and {more} more", style="dim"))
    return table


def step_counts(operation: Document) -> dict[str, int]:
    """How many steps an operation has in each state, where the API tells it."""
    counts = operation.get("step_counts")
    pairs = counts.items() if isinstance(counts, dict) else ()
    return {str(state): count for state, count in pairs if isinstance(count, int)}


def _most_urgent(steps: list[Document], limit: int | None) -> list[Document]:
    if limit is None or len(steps) <= limit:
        return steps
    ranked = sorted(range(len(steps)), key=lambda index: _URGENT.get(str(steps[index].get("state")), 9))
    return [steps[index] for index in sorted(ranked[: max(1, limit)])]


def _detail(step: Document) -> str:
    """What is worth knowing of a step beside its state: its try, its size, how it came out, why it failed."""
    parts: list[str] = []
    if isinstance(step.get("attempt"), int) and step["attempt"] > 1:
        parts.append(f"try {step['attempt']}")
    detail = step.get("detail") if isinstance(step.get("detail"), dict) else {}
    for name, value in (detail or {}).items():
        if isinstance(value, dict | list) or value is None:
            continue
        if name == "bytes":
            parts.append(_of_total(value, (detail or {}).get("total_bytes"), running=_is_running(step)))
        elif name == "total_bytes":
            continue
        elif name == "bytes_per_second":
            if _is_running(step):
                parts.append(f"{text.size(value)}/s")
        elif name.endswith("_seconds") and isinstance(value, int | float):
            parts.append(
                f"{text.clean(name.removesuffix('_seconds')).replace('_', ' ')} {text.duration(float(value))}"
            )
        elif name == "files":
            parts.append(f"{text.clean(value)} files")
        elif name == "outcome":
            parts.append(text.clean(value).replace("_", " "))
        else:
            parts.append(f"{text.clean(name)} {text.clean(value)}")
    return ", ".join(part for part in (*parts, *_shortcomings(step, detail or {})) if part)


def _shortcomings(step: Document, detail: Document) -> Iterator[str]:
    """What its engine could not promise, and why it failed."""
    unkept, error = detail.get("unkept"), step.get("error")
    if isinstance(unkept, list):
        yield f"not promised: {', '.join(map(text.clean, unkept))}"
    if isinstance(error, dict):
        yield f"{text.clean(error.get('code'))}: {text.clean(error.get('message'))}"


def _is_running(step: Document) -> bool:
    return step.get("state") == "running"


def _of_total(done: object, total: object, *, running: bool) -> str:
    """Bytes so far; of a step that runs, with a bar and their total where that is known."""
    if not running or not isinstance(total, int) or not isinstance(done, int) or total <= 0:
        return text.size(done)
    filled = min(done, total) * _BAR_WIDTH // total
    return f"{'━' * filled}{'─' * (_BAR_WIDTH - filled)} {text.size(done)} of {text.size(total)}"


class _Live:
    """A table that is drawn again and again: times of running steps go on between two changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._operation: Document = {}

    def show(self, operation: Document) -> None:
        self._operation = operation

    def __rich__(self) -> RenderableType:
        operation = self._operation
        if not operation:
            return Text("")
        state = text.clean(operation.get("state"))
        took = text.duration(text.between(operation.get("created_at"), operation.get("ended_at")))
        title = Text.assemble(
            (headline(operation), "bold"),
            "  ",
            (standing(operation), style_of(state)),
            "  ",
            (took, "dim"),
            no_wrap=True,
        )
        return Group(title, steps_table(operation, max(3, self._console.height - _OTHER_LINES)))


@contextmanager
def _live(console: Console) -> Iterator[Progress]:
    view = _Live(console)
    with Live(view, console=console, refresh_per_second=8):
        yield view


class _Lines:
    """A line for every step that has come to another state."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: dict[tuple[str, str], tuple[str, object]] = {}
        self._state = ""

    def show(self, operation: Document) -> None:
        state = standing(operation)
        if state != self._state:
            self._state = state
            self._print(f"{headline(operation)}: {state} ({text.clean(operation.get('id'))})")
        for step in operation.get("steps") or []:
            self._show_step(step)

    def _show_step(self, step: Document) -> None:
        key = (str(step.get("engine") or ""), str(step.get("name") or ""))
        news = (str(step.get("state") or ""), step.get("attempt"))
        if self._seen.get(key) == news or news[0] == "pending":
            return
        self._seen[key] = news
        took = (
            text.duration(text.between(step.get("started_at"), step.get("ended_at")))
            if step.get("ended_at")
            else ""
        )
        words = [part for part in (took, _detail(step)) if part]
        where = " ".join(text.clean(part) for part in key if part)
        self._print(f"  {where}: {text.clean(news[0])}" + (f" ({', '.join(words)})" if words else ""))

    def _print(self, line: str) -> None:
        self._console.print(Text(line))


@contextmanager
def _lines(console: Console) -> Iterator[Progress]:
    yield _Lines(console)
