"""One command's run: the client, the two consoles, and how results, problems and operations are shown."""

import json
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from loradock.cli import text
from loradock.cli.client import ApiClient, Document
from loradock.cli.connection import find_connection
from loradock.cli.failures import CommandFailure
from loradock.cli.render import stderr_console, stdout_console

ApiUrl = Annotated[
    str | None,
    typer.Option("--api-url", metavar="URL", help="The API. [env: LORADOCK_API_URL]", show_default=False),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="The bearer token; others on this machine can see it here. [env: LORADOCK_API_TOKEN]",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API gave, as one JSON document.")]


class Session:
    """What a command works with; a context manager.

    With `--json`, stdout holds exactly one JSON document: the answer, or the problem when the API refused.

    Args:
        client: the API.
        as_json: whether `--json` was given.
    """

    def __init__(self, client: ApiClient, *, as_json: bool) -> None:
        self.client = client
        self.as_json = as_json
        self.out: Console = stdout_console()
        self.err: Console = stderr_console()

    def __enter__(self) -> "Session":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client; a problem goes to stdout where a program reads it."""
        self.client.__exit__(kind, error, trace)
        if self.as_json and isinstance(error, CommandFailure) and error.document is not None:
            print_json(error.document)

    def answer(self, document: Document, show: Callable[[], None]) -> None:
        """The command's result: as JSON, or as `show` prints it for people."""
        if self.as_json:
            print_json(document)
        else:
            show()

    def say(self, line: str, style: str = "") -> None:
        """A line of a result for people."""
        self.out.print(Text(line, style=style), soft_wrap=True)

    def hint(self, line: str) -> None:
        """A line beside the result, on stderr."""
        self.err.print(Text(line, style="dim"), soft_wrap=True)


def open_session(url: str | None, token: str | None, *, as_json: bool = False) -> Session:
    """A session by the command's options.

    Raises:
        CommandFailure: exit code 2 when nothing says where the API is.
    """
    return Session(ApiClient(find_connection(url, token)), as_json=as_json)


def print_json(document: Document) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def show_failure(failure: CommandFailure) -> None:
    """Print a failure with its remedy on stderr."""
    console = stderr_console()
    label = f"error [{text.clean(failure.code)}]: " if failure.code else "error: "
    console.print(Text.assemble((label, "bold red"), _multiline(failure.message)), soft_wrap=True)
    lines = [] if failure.remedy is None else [failure.remedy]
    lines += [*failure.notes, *_problem_lines(failure.document or {})]
    for line in lines:
        console.print(Text(f"  {_multiline(line)}", style="dim"), soft_wrap=True)


def _problem_lines(problem: Document) -> list[str]:
    """What a problem document tells beyond its message; the first wrong field is in the message."""
    if "code" not in problem:
        return []
    fields = [item for item in problem.get("errors") or [] if isinstance(item, dict)]
    lines = [f"{text.clean(item.get('field'))}: {text.clean(item.get('message'))}" for item in fields[1:]]
    named = [name for name in ("operation", "request_id") if problem.get(name)]
    return [*lines, *(f"{name}: {text.clean(problem[name])}" for name in named)]


def _multiline(message: str) -> str:
    return "\n".join(text.clean(line) for line in message.splitlines())
