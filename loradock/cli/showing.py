"""`loradock show`: an adapter, or one of its versions, with all that is known."""

from typing import Annotated

import typer
from rich.text import Text

from loradock.cli import text
from loradock.cli.arguments import adapter_and_version
from loradock.cli.client import Document, adapter_path, path_part
from loradock.cli.inspecting import report_facts, signature_facts
from loradock.cli.lists import VERSIONS, version_row, weights
from loradock.cli.render import Column, print_facts, print_table
from loradock.cli.session import ApiUrl, AsJson, Session, Token, open_session

_FILES = (Column("FILE", shrinks=True), Column("SIZE", right=True), Column("SHA256", shrinks=True))


def show(
    *,
    name: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="Adapter, or one version (number or alias).")
    ],
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show an adapter with its versions, or one version."""
    adapter, version = adapter_and_version(name)
    with open_session(api_url, token, as_json=as_json) as session:
        if version is None:
            found = session.client.get(adapter_path(adapter))
            session.answer(found, lambda: _print_adapter(session, found))
        else:
            one = _version(session, adapter, version)
            session.answer(one, lambda: _print_version(session, one))


def _version(session: Session, adapter: str, version: int | str) -> Document:
    path = adapter_path(adapter)
    if isinstance(version, str):
        version = session.client.get(f"{path}/aliases/{path_part(version)}")["version"]
    return session.client.get(f"{path}/versions/{version}")


def _print_adapter(session: Session, found: Document) -> None:
    aliases = found.get("aliases") or []
    print_facts(
        session.out,
        {
            "adapter": found.get("name"),
            "base model": found.get("base_model"),
            "created": f"{text.age(found.get('created_at'))} ago by {found.get('created_by')}",
            **{
                f"pool {text.clean(item.get('pool'))}": f"{weights(item)} (revision {item.get('revision')})"
                for item in found.get("deployments") or []
            },
            "served by": _engines(session, found["name"]),
        },
    )
    session.out.print(Text())
    rows = [version_row(item, aliases) for item in found.get("versions") or []]
    print_table(session.out, VERSIONS, rows, "no versions")
    for item in found.get("versions") or []:
        if item.get("failure"):
            session.say(f"version {item.get('version')}: {_failure(item)}", "red")


def _print_version(session: Session, found: Document) -> None:
    traits = found.get("traits") or {}
    print_facts(
        session.out,
        {
            "version": found.get("served_name"),
            "state": found.get("state"),
            "failure": _failure(found),
            "digest": found.get("digest"),
            "rank": found.get("rank"),
            "alpha": traits.get("alpha"),
            "dtype": found.get("dtype"),
            "modules": ", ".join(found.get("target_modules") or []),
            "parameters": traits.get("parameters"),
            "size": text.size(found.get("size")),
            "peft base": traits.get("peft_base_model"),
            **report_facts(found.get("report")),
            **signature_facts(found.get("signature")),
            "source": found.get("source_uri"),
            "artifact": found.get("artifact_uri"),
            "labels": ", ".join(f"{key}={value}" for key, value in (found.get("labels") or {}).items()),
            "published": f"{text.age(found.get('created_at'))} ago by {found.get('created_by')}",
            "operation": found.get("operation"),
            "served by": _engines(session, found["adapter"], found["version"]),
        },
    )
    session.out.print(Text())
    files = (found.get("manifest") or {}).get("files") or []
    rows = [(item.get("path"), text.size(item.get("size")), item.get("sha256")) for item in files]
    print_table(session.out, _FILES, rows, "no files")


def _engines(session: Session, adapter: str, version: int | None = None) -> str:
    cards = [
        card
        for card in session.client.items("/v1/cards", adapter=adapter)
        if version in (None, card.get("version"))
    ]
    return ", ".join(
        text.clean(card.get("engine"))
        + ("" if version else f" (@{text.clean(card.get('version'))})")
        + ("" if card.get("state") == "serving" else f" [{text.clean(card.get('state'))}]")
        for card in cards
    )


def _failure(version: Document) -> str | None:
    failure = version.get("failure")
    return f"{text.clean(failure.get('code'))}: {text.clean(failure.get('message'))}" if failure else None
