"""`loradock engines`: in what each engine differs from what is wanted, and how its repair goes; one in full; and its end."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from loradock.cli import text
from loradock.cli.client import Document, path_part
from loradock.cli.groups import EnginesGroup, command_group
from loradock.cli.listing import Limit, fetch_page
from loradock.cli.render import Column, print_facts, print_table
from loradock.cli.session import ApiUrl, AsJson, Session, Token, open_session
from loradock.core.promises import PROMISED

_COLUMNS = (
    Column("ENGINE"), Column("STATUS", state=True), Column("DRIFT"), Column("SERVED NAME"), Column("SINCE", right=True),
    Column("FAILED", right=True), Column("NEXT TRY"), Column("ERROR", shrinks=True),
    Column("LAST LOOK", right=True, from_width=100), Column("NOT PROMISED", right=True, from_width=100),
)  # fmt: skip
_PROMISES = (Column("NOT PROMISED"), Column("THAT", shrinks=True))


app = command_group(
    EnginesGroup,
    "Engines: drift (the default: whether they serve what is wanted), show ID (or just ID), remove. Also: ls engines.",
)


@app.command("drift")
def engines(
    *,
    pool: Annotated[str | None, typer.Option("--pool", metavar="POOL", help="Of this pool only.")] = None,
    limit: Limit = 100,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Whether engines serve what is wanted of them: drift, and how its repair goes."""
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, "/v1/engines", limit, pool=pool)
        rows = [row for item in page.get("items") or [] for row in _rows(item)]
        session.answer(page, lambda: print_table(session.out, _COLUMNS, rows, "no engines: loradock agent"))


@app.command("show")
def show(
    *,
    engine: Annotated[str, typer.Argument(metavar="ID", help="Engine.")],
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """One engine in full, with what it cannot promise."""
    with open_session(api_url, token, as_json=as_json) as session:
        found = session.client.get(f"/v1/engines/{path_part(engine)}")
        session.answer(found, lambda: _print_engine(session, found))


@app.command("remove")
def remove(
    *,
    engine: Annotated[str, typer.Argument(metavar="ID", help="An engine whose agent is gone.")],
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Forget an engine that is gone for good, and its agent with the last of its engines.

    Its lost cards go, and deployments name it no more. Should it come back, it joins as a new one.
    """
    with open_session(api_url, token, as_json=as_json) as session:
        removed = session.client.delete(f"/v1/engines/{path_part(engine)}")
        session.answer(removed, lambda: _print_removed(session, removed))


def _print_removed(session: Session, removed: Document) -> None:
    agent = f", and its agent {text.clean(removed.get('agent'))}" if removed.get("agent_removed") else ""
    session.say(f"{text.clean(removed.get('id'))} is removed{agent}")
    for name in removed.get("unwanted") or []:
        session.say(f"{text.clean(name)} was wanted there alone: it is wanted nowhere in its pool now")


def drift_summary(engine: Document) -> str:
    """An engine's drift in a word: how many of which kind, or that it is as wanted."""
    kinds = [text.clean(one.get("kind")) for one in engine.get("drift") or []]
    if kinds:
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    waiting = (engine.get("reconcile") or {}).get("wanted_since")
    return "looking" if waiting and engine.get("status") == "alive" else "-"


def not_promised(engine: Document) -> int | None:
    """How many promises an engine cannot keep, None for none."""
    return len(engine.get("missing_promises") or []) or None


def _rows(engine: Document) -> Iterator[tuple[object, ...]]:
    record = engine.get("reconcile") or {}
    begin = engine.get("id"), engine.get("status")
    end = text.age(record.get("last_look_at")), not_promised(engine)
    drift = engine.get("drift") or []
    if not drift:
        failure = record.get("last_error") or {}
        error = failure.get("code") or engine.get("problem")
        yield (*begin, drift_summary(engine), None, None, None, None, error, *end)
    for one in drift:
        error = one.get("error") or {}
        next_try = one.get("next_try_at")
        yield (
            *begin, one.get("kind"), one.get("served_name"), text.age(one.get("since")), one.get("attempts"),
            text.clean(next_try)[11:19] if next_try else None, error.get("code"), *end,
        )  # fmt: skip


def _print_engine(session: Session, engine: Document) -> None:
    slots = f"{engine.get('free_slots')} of {engine.get('usable_slots')} free"
    print_facts(
        session.out,
        {
            "engine": engine.get("id"),
            "status": engine.get("status"),
            "problem": engine.get("problem"),
            "pool": engine.get("pool"),
            "agent": f"{text.clean(engine.get('agent'))} {text.clean(engine.get('agent_version'))}",
            "kind": f"{text.clean(engine.get('kind'))} {text.clean(engine.get('engine_version'))}",
            "url": engine.get("url"),
            "life": engine.get("incarnation"),
            "base model": engine.get("base_model"),
            "slots": f"{slots}, rank {text.clean(engine.get('max_lora_rank'))} at most",
            "serves": ", ".join(map(text.clean, engine.get("served") or engine.get("resident") or [])),
            "drift": drift_summary(engine),
            "seen": f"{text.age(engine.get('seen_at'))} ago" if engine.get("seen_at") else None,
            **{
                f"note {number}": said for number, said in enumerate(engine.get("limitations") or [], start=1)
            },
        },
    )
    missing = [text.clean(name) for name in engine.get("missing_promises") or []]
    if missing:
        meaning = {str(promise): said for promise, said in PROMISED.items()}
        session.out.print(Text())
        print_table(session.out, _PROMISES, [(name, meaning.get(name)) for name in missing], "")
