"""`loradock ls`: adapters, versions, engines, cards, deployments."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from loradock.cli import text
from loradock.cli.client import Document, adapter_path
from loradock.cli.engines import drift_summary, not_promised
from loradock.cli.groups import ListGroup, command_group
from loradock.cli.listing import Limit, fetch_page
from loradock.cli.render import Column, print_table
from loradock.cli.session import ApiUrl, AsJson, Session, Token, open_session

app = command_group(ListGroup, "Lists: adapters (default), versions NAME, engines, cards, deployments.")

AdapterFilter = Annotated[str | None, typer.Option("--adapter", metavar="NAME", help="Of this adapter only.")]
PoolFilter = Annotated[str | None, typer.Option("--pool", metavar="POOL", help="Of this pool only.")]
EngineFilter = Annotated[str | None, typer.Option("--engine", metavar="ENGINE", help="Of this engine only.")]

_ADAPTERS = (
    Column("ADAPTER"), Column("LATEST", right=True), Column("BASE MODEL", shrinks=True),
    Column("AGE", right=True), Column("BY", shrinks=True),
)  # fmt: skip
VERSIONS = (
    Column("VERSION", right=True), Column("STATE", state=True), Column("DIGEST"), Column("RANK", right=True),
    Column("SIZE", right=True), Column("AGE", right=True), Column("ALIASES", shrinks=True),
    Column("DTYPE", from_width=100), Column("BY", shrinks=True, from_width=100), Column("ERROR", from_width=120),
)  # fmt: skip
_ENGINES = (
    Column("ENGINE"), Column("STATUS", state=True), Column("POOL", shrinks=True), Column("DRIFT"),
    Column("FREE", right=True), Column("RANK", right=True), Column("BASE MODEL", shrinks=True),
    Column("RESIDENT", shrinks=True), Column("KIND", from_width=100), Column("NOT PROMISED", right=True, from_width=100),
    Column("AGENT", from_width=100),
    Column("SEEN", right=True, from_width=100), Column("LABELS", from_width=100), Column("URL", from_width=120),
)  # fmt: skip
_CARDS = (
    Column("SERVED NAME"), Column("ENGINE"), Column("STATE", state=True), Column("POOL", shrinks=True),
    Column("DIGEST", shrinks=True), Column("SINCE", right=True), Column("OPERATION", from_width=120),
)  # fmt: skip
_DEPLOYMENTS = (
    Column("ADAPTER"), Column("POOL"), Column("VERSIONS", shrinks=True), Column("REVISION", right=True),
    Column("CHANGED", right=True), Column("BY", shrinks=True),
)  # fmt: skip


@app.command("adapters")
def list_adapters(
    *, limit: Limit = 100, api_url: ApiUrl = None, token: Token = None, as_json: AsJson = False
) -> None:
    """Adapters by name."""
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, "/v1/adapters", limit)
        _show(session, page, _ADAPTERS, _adapter_row, "no adapters: loradock publish NAME FOLDER")


@app.command("versions")
def list_versions(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Adapter.")],
    limit: Limit = 100,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Versions of an adapter, newest first."""
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, f"{adapter_path(name)}/versions", limit)
        aliases = [] if as_json else session.client.get(adapter_path(name)).get("aliases") or []
        _show(session, page, VERSIONS, lambda item: version_row(item, aliases), "no versions")


@app.command("engines")
def list_engines(
    *,
    pool: PoolFilter = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="STATUS", help="alive, unreachable or lost only.")
    ] = None,
    limit: Limit = 100,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Engines, as their agents last told."""
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, "/v1/engines", limit, pool=pool, status=status)
        _show(session, page, _ENGINES, _engine_row, "no engines: loradock agent")


@app.command("cards")
def list_cards(
    *,
    adapter: AdapterFilter = None,
    engine: EngineFilter = None,
    pool: PoolFilter = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="staged, serving, draining or lost only.")
    ] = None,
    limit: Limit = 100,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Which engine serves what right now."""
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, "/v1/cards", limit, adapter=adapter, engine=engine, pool=pool, state=state)
        _show(session, page, _CARDS, _card_row, "no engine serves anything")


@app.command("deployments")
def list_deployments(
    *,
    adapter: AdapterFilter = None,
    pool: PoolFilter = None,
    limit: Limit = 100,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """What is wanted: each adapter's versions in each pool, with their shares of the traffic."""
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, "/v1/deployments", limit, adapter=adapter, pool=pool)
        _show(session, page, _DEPLOYMENTS, _deployment_row, "no deployments")


def version_row(version: Document, aliases: list[Document]) -> tuple[object, ...]:
    """A version as a row of `VERSIONS`."""
    names = [
        text.clean(item.get("alias")) for item in aliases if item.get("version") == version.get("version")
    ]
    failure = version.get("failure") or {}
    return (
        version.get("version"), version.get("state"), text.short_digest(version.get("digest")), version.get("rank"),
        text.size(version.get("size")), text.age(version.get("created_at")), ", ".join(names),
        version.get("dtype"), version.get("created_by"), failure.get("code"),
    )  # fmt: skip


def weights(deployment: Document) -> str:
    """A deployment's versions with their weights."""
    return ", ".join(
        f"@{text.clean(item.get('version'))} {text.clean(item.get('weight'))}%"
        for item in deployment.get("versions") or []
    )


def _show(
    session: Session,
    page: Document,
    columns: Sequence[Column],
    row: Callable[[Document], Sequence[object]],
    empty: str,
) -> None:
    items = page.get("items") or []
    session.answer(page, lambda: print_table(session.out, columns, map(row, items), empty))


def _adapter_row(adapter: Document) -> tuple[object, ...]:
    return (
        adapter.get("name"), adapter.get("latest_version"), adapter.get("base_model"),
        text.age(adapter.get("created_at")), adapter.get("created_by"),
    )  # fmt: skip


def _engine_row(engine: Document) -> tuple[object, ...]:
    return (
        engine.get("id"), engine.get("status"), engine.get("pool"), drift_summary(engine),
        f"{engine.get('free_slots')}/{engine.get('usable_slots')}", engine.get("max_lora_rank"),
        engine.get("base_model"), ", ".join(text.clean(name) for name in engine.get("resident") or []),
        engine.get("kind"), not_promised(engine), engine.get("agent"),
        text.age(engine.get("seen_at")),
        ", ".join(f"{text.clean(key)}={text.clean(value)}" for key, value in (engine.get("labels") or {}).items()),
        engine.get("url"),
    )  # fmt: skip


def _card_row(card: Document) -> tuple[object, ...]:
    return (
        card.get("served_name"), card.get("engine"), card.get("state"), card.get("pool"),
        text.short_digest(card.get("digest")), text.age(card.get("since")),
        card.get("operation") or card.get("repair"),
    )  # fmt: skip


def _deployment_row(deployment: Document) -> tuple[object, ...]:
    return (
        deployment.get("adapter"), deployment.get("pool"), weights(deployment), deployment.get("revision"),
        text.age(deployment.get("updated_at")), deployment.get("updated_by"),
    )  # fmt: skip
