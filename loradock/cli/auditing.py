"""`loradock audit`: who changed what, with links into Temporal's UI."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.text import Text

from loradock.cli import text
from loradock.cli.arguments import seconds
from loradock.cli.client import Document, operation_path
from loradock.cli.failures import CommandFailure, ExitCode, usage
from loradock.cli.listing import Limit, fetch_page
from loradock.cli.render import style_of
from loradock.cli.session import ApiUrl, AsJson, Session, Token, open_session
from loradock.core.ids import is_repair

_POLL_SECONDS = 1.0


def audit(
    *,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="NAME", help="About this adapter only.")
    ] = None,
    operation: Annotated[
        str | None, typer.Option("--operation", metavar="ID", help="Of this operation only.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="ACTOR", help="By this actor only.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Of the last 15m, 2h, 7d …, or since an ISO time."),
    ] = None,
    limit: Limit = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what happens, until Ctrl-C.")] = False,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what: the latest events, in the order in which they happened.

    With --json the latest comes first, as the API gives them.
    """
    if follow and as_json:
        raise usage("--follow never ends: it has no JSON document")
    query = {"adapter": adapter, "operation": operation, "actor": actor, "since": _since(since)}
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, "/v1/audit", limit, **query)
        story = _Story(session)
        session.answer(page, lambda: story.tell(page["items"]))
        if follow:
            newest = max((int(event["seq"]) for event in page["items"]), default=0)
            _follow(session, query, newest, story)


class _Links:
    """The link of each operation, asked for once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: set[str] = set()

    def first(self, operation: str) -> str:
        """The link when this operation has not been asked for yet, else nothing."""
        if not operation or is_repair(operation) or operation in self._known:
            return ""
        self._known.add(operation)
        try:
            return text.clean(self._session.client.get(operation_path(operation)).get("temporal_url"))
        except CommandFailure as failure:
            if failure.exit_code is not ExitCode.REFUSED:
                raise
            return ""


class _Story:
    """Prints events one after the other: a day's name once, an operation's link once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._links = _Links(session)
        self._day = ""

    def tell(self, newest_first: list[Document]) -> None:
        """Print them, the oldest first."""
        for event in reversed(newest_first):
            self._print(event)

    def _print(self, event: Document) -> None:
        out = self._session.out
        what = " ".join(part for part in (text.target(event), *_where(event)) if part)
        outcome = text.clean(event.get("outcome"))
        line = Text.assemble(
            (self._time(event), "dim"),
            (f"  {text.clean(event.get('action')):<20}", "bold"),
            (f" {outcome:<8} ", style_of(outcome)),
            (f"{text.clean(event.get('actor')):<10} ", "dim"),
            what,
        )
        out.print(line, no_wrap=True, overflow="ellipsis", crop=False)
        link = self._links.first(str(event.get("operation") or ""))
        if link:
            self._session.say(f"  {link}", "dim")

    def _time(self, event: Document) -> str:
        """The local time; in a terminal the day has a line of its own."""
        at = text.moment(event.get("at"))
        if at is None:
            return ""
        local = at.astimezone()
        if not self._session.out.is_terminal:
            return local.strftime("%Y-%m-%d %H:%M:%S")
        if local.strftime("%Y-%m-%d") != self._day:
            self._day = local.strftime("%Y-%m-%d")
            self._session.say(self._day, "dim")
        return local.strftime("%H:%M:%S")


def _where(event: Document) -> list[str]:
    return [text.clean(event.get(name)) for name in ("pool", "engine") if event.get(name)]


def _follow(session: Session, query: Mapping[str, object], newest: int, story: _Story) -> None:
    try:
        while True:
            time.sleep(_POLL_SECONDS)
            news = list(_newer(session, query, newest))
            story.tell(news)
            newest = int(news[0]["seq"]) if news else newest
    except KeyboardInterrupt:
        return


def _newer(session: Session, query: Mapping[str, object], newest: int) -> Iterator[Document]:
    for event in session.client.items("/v1/audit", **query):
        if int(event["seq"]) <= newest:
            return
        yield event


def _since(given: str | None) -> str | None:
    if given is None:
        return None
    at = text.moment(given)
    if at is None:
        at = datetime.now(UTC) - timedelta(seconds=seconds(given))
    return at.isoformat()
