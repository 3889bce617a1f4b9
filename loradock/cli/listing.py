"""Lists of the API, page by page, up to as many items as were asked for."""

from typing import Annotated

import typer

from loradock.cli.client import PAGE_SIZE, Document
from loradock.cli.session import Session

Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, metavar="N", help="Items at most.")]


def fetch_page(session: Session, path: str, limit: int, **query: object) -> Document:
    """The first `limit` items as one page; `next` goes on from there. Says on stderr when there are more.

    Raises:
        CommandFailure: refused (4), not reachable or broken (5).
    """
    page = session.client.get(path, limit=min(limit, PAGE_SIZE), **query)
    items = list(page.get("items") or [])
    while page.get("next") and len(items) < limit:
        page = session.client.get(
            path, limit=min(limit - len(items), PAGE_SIZE), cursor=page["next"], **query
        )
        items += page.get("items") or []
    if page.get("next") and not session.as_json:
        session.hint(f"{len(items)} shown; there are more: --limit N")
    return {**page, "items": items}
