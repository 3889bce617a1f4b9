"""`loradock base`: base models, which adapters are compared with before they are published."""

from pathlib import Path
from typing import Annotated

import typer

from loradock.cli import text
from loradock.cli.client import Document, path_part
from loradock.cli.inspecting import read_config_file
from loradock.cli.listing import Limit, fetch_page
from loradock.cli.render import Column, print_facts, print_table
from loradock.cli.session import ApiUrl, AsJson, Session, Token, open_session

app = typer.Typer(help="Base models: add, ls, show.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Base model, as engines call it.")]

_COLUMNS = (
    Column("BASE MODEL", shrinks=True), Column("ORIGIN"), Column("TYPE"), Column("LAYERS", right=True),
    Column("HIDDEN", right=True), Column("FINGERPRINT"), Column("CHANGED", right=True), Column("BY", shrinks=True),
)  # fmt: skip


@app.command("add")
def add(
    *,
    name: Name,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Its config.json, or the folder that holds it.")
    ],
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Register a base model by its config.json, in place of what was known of it."""
    config = read_config_file(path)
    with open_session(api_url, token, as_json=as_json) as session:
        found = session.client.put(_path(name), config)
        session.answer(found, lambda: _print(session, found))


@app.command("show")
def show(*, name: Name, api_url: ApiUrl = None, token: Token = None, as_json: AsJson = False) -> None:
    """Show what is known of a base model, and who told it."""
    with open_session(api_url, token, as_json=as_json) as session:
        found = session.client.get(_path(name))
        session.answer(found, lambda: _print(session, found))


@app.command("ls")
def list_all(
    *, limit: Limit = 100, api_url: ApiUrl = None, token: Token = None, as_json: AsJson = False
) -> None:
    """Base models by name."""
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, "/v1/base-models", limit)
        rows = [_row(item) for item in page.get("items") or []]
        session.answer(
            page,
            lambda: print_table(session.out, _COLUMNS, rows, "no base models: loradock base add NAME PATH"),
        )


def _path(name: str) -> str:
    return f"/v1/base-models/{path_part(name)}"


def _print(session: Session, found: Document) -> None:
    measures = found.get("measures") or {}
    numbers = {
        key.replace("_", " "): value for key, value in measures.items() if key != "fingerprint" and value
    }
    by = f"{text.age(found.get('updated_at'))} ago by {found.get('updated_by')}"
    print_facts(
        session.out,
        {
            "base model": found.get("name"),
            "origin": found.get("origin"),
            "fingerprint": found.get("fingerprint"),
            **numbers,
            "changed": by,
        },
    )


def _row(item: Document) -> tuple[object, ...]:
    measures = item.get("measures") or {}
    return (
        item.get("name"), item.get("origin"), measures.get("model_type"), measures.get("num_hidden_layers"),
        measures.get("hidden_size"), text.short_digest(item.get("fingerprint")), text.age(item.get("updated_at")),
        item.get("updated_by"),
    )  # fmt: skip
