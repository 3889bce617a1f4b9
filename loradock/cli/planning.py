"""`loradock plan`: what a load would do to each engine, and why, before it does it."""

from typing import Final

from loradock.cli import text
from loradock.cli.client import Document, adapter_path
from loradock.cli.render import Column, print_table
from loradock.cli.selection import (
    Engines,
    LoadPolicy,
    MinReady,
    Policy,
    Pool,
    Replicas,
    SelectedLabels,
    VersionArgument,
    VersionedName,
    load_body,
    required_version,
)
from loradock.cli.session import ApiUrl, AsJson, Session, Token, open_session

_COLUMNS: Final = (
    Column("ENGINE"),
    Column("ACTION", state=True),
    Column("SLOTS", right=True),
    Column("CACHED", from_width=80),
    Column("FETCH", right=True, from_width=80),
    Column("SCORE", right=True, from_width=100),
    Column("WHY", shrinks=True),
)
_ACTIONS: Final = {"none": "–"}


def plan(
    *,
    name: VersionedName,
    version: VersionArgument = None,
    pool: Pool = None,
    engine: Engines = None,
    label: SelectedLabels = None,
    replicas: Replicas = None,
    policy: LoadPolicy = Policy.ALL,
    min_ready: MinReady = None,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show what a load with the same options would do, and why; nothing is done."""
    adapter, chosen = required_version("plan", name, version)
    body = load_body(chosen, pool, engine, label, replicas, policy=policy, min_ready=min_ready)
    with open_session(api_url, token, as_json=as_json) as session:
        found = session.client.post(f"{adapter_path(adapter)}/load/plan", body)
        session.answer(found, lambda: _print(session, found))


def _print(session: Session, found: Document) -> None:
    engines = [one for one in found.get("engines") or [] if isinstance(one, dict)]
    print_table(session.out, _COLUMNS, map(_row, engines), "no engines")
    loads = sum(one.get("action") == "load" for one in engines)
    keeps = sum(one.get("action") == "keep" for one in engines)
    session.say(
        f"{text.clean(found.get('adapter'))}@{text.clean(found.get('version'))} in {text.clean(found.get('pool'))}: "
        f"{loads} to load, {keeps} serving already, {text.size(found.get('download_bytes') or 0)} to fetch"
    )
    if error := found.get("error"):
        session.say(f"refused: {text.clean(error.get('code'))}: {text.clean(error.get('message'))}", "red")
    else:
        session.say(f"etag {text.clean(found.get('etag'))}")
        session.hint("The same options with 'loradock load … --plan ETAG' do just this, or nothing.")


def _row(one: Document) -> tuple[object, ...]:
    cached, fetch = one.get("cached"), one.get("download_bytes")
    return (
        one.get("engine"),
        _ACTIONS.get(str(one.get("action")), one.get("action")),
        f"{one.get('free_slots')}/{one.get('usable_slots')}",
        "?" if cached is None else "yes" if cached else "no",
        "?" if fetch is None else text.size(fetch) if fetch else "",
        one.get("score"),
        one.get("message"),
    )
