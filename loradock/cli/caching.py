"""`loradock cache`: this host's cache of adapters, looked at and kept in order without any server."""
# ruff: noqa: PLC0415 - `loradock ls` stays quick

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradock.cli import text
from loradock.cli.failures import CommandFailure, ExitCode, usage
from loradock.cli.render import Column, print_facts, print_table, stdout_console
from loradock.cli.session import AsJson

if TYPE_CHECKING:
    from loradock.artifacts.cache_entries import CacheEntry
    from loradock.artifacts.cache_upkeep import CacheUpkeep

app = typer.Typer(
    help="This host's cache of adapters (LORADOCK_CACHE_DIR); needs no server.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Which = Annotated[
    str | None, typer.Argument(metavar="[NAME@VERSION]", help="This version only.", show_default=False)
]
One = Annotated[str, typer.Argument(metavar="NAME@VERSION")]

_ENTRIES = (
    Column("ADAPTER"), Column("DIGEST", shrinks=True), Column("SIZE", right=True), Column("USED", right=True),
    Column("STATE", state=True), Column("HELD BY", shrinks=True),
)  # fmt: skip


@app.command("ls")
def list_entries(as_json: AsJson = False) -> None:
    """What the cache holds, least recently used first, and its figures."""
    upkeep = _upkeep()
    entries, figures = upkeep.entries(), asdict(upkeep.figures())
    if as_json:
        return _print({"items": [_document(entry) for entry in entries], "figures": figures})
    out = stdout_console()
    print_table(out, _ENTRIES, [_row(entry) for entry in entries], "the cache is empty")
    sizes = {name: text.size(value) if "bytes" in name else value for name, value in figures.items()}
    print_facts(out, {name.replace("_", " "): value for name, value in sizes.items()})
    return None


@app.command("verify")
def verify(name: Which = None, as_json: AsJson = False) -> None:
    """Hash what is cached. A damaged file is no longer counted as there: its next use fetches just that file again."""
    upkeep = _upkeep()
    damaged: dict[str, list[str]] = {}
    checked = [entry for entry in _chosen(upkeep, name) if entry.complete]
    for entry in checked:
        if bad := upkeep.verify(entry):
            damaged[f"{entry.served_name} {entry.digest}"] = bad
    if as_json:
        _print({"verified": len(checked), "damaged": damaged})
    else:
        typer.echo(f"{len(checked)} verified, {len(damaged)} damaged")
        for which, files in damaged.items():
            typer.echo(f"  {text.clean(which)}: {', '.join(map(text.clean, files))}")
    if damaged:
        raise typer.Exit(ExitCode.OPERATION_FAILED)


@app.command("gc")
def collect(
    leftovers: Annotated[
        float, typer.Option("--leftovers-older-than", min=0, metavar="SECONDS", help="Unfinished downloads.")
    ] = 24 * 3600.0,
    as_json: AsJson = False,
) -> None:
    """Evict what is over the limits of the settings and held by nobody; sweep what dead processes left."""
    gone = _upkeep().collect(leftovers_older_than_seconds=leftovers)
    if as_json:
        return _print({"evicted": [asdict(one) for one in gone]})
    for one in gone:
        typer.echo(f"{text.clean(one.served_name or one.digest)} ({text.size(one.bytes)}): {one.reason}")
    typer.echo(f"{len(gone)} removed, {text.size(sum(one.bytes for one in gone))}")
    return None


@app.command("pin")
def pin(name: One) -> None:
    """Keep a version, whoever uses it or not, until it is unpinned."""
    upkeep = _upkeep()
    for entry in _chosen(upkeep, name):
        upkeep.pin(entry.places)
        typer.echo(f"{text.clean(entry.served_name)} is pinned")


@app.command("unpin")
def unpin(name: One) -> None:
    """Take the pin back."""
    upkeep = _upkeep()
    for entry in _chosen(upkeep, name):
        upkeep.unpin(entry.places)
        typer.echo(f"{text.clean(entry.served_name)} is not pinned")


def _upkeep() -> "CacheUpkeep":
    from loradock.artifacts.build import open_upkeep
    from loradock.core.settings import load_settings

    return open_upkeep(load_settings())


def _chosen(upkeep: "CacheUpkeep", name: str | None) -> "list[CacheEntry]":
    entries = upkeep.entries()
    if name is None:
        return entries
    if "@" not in name:
        raise usage(f"{name[:150]!r} is not NAME@VERSION")
    found = [entry for entry in entries if entry.served_name == name]
    if not found:
        raise CommandFailure(
            ExitCode.REFUSED, f"{name[:150]} is not in this host's cache", remedy="See 'loradock cache ls'."
        )
    return found


def _state(entry: "CacheEntry") -> str:
    return "complete" if entry.complete else "partial"


def _row(entry: "CacheEntry") -> tuple[object, ...]:
    used = datetime.fromtimestamp(entry.last_used, UTC).isoformat()
    holders = ", ".join(text.clean(holder.engine) for holder in entry.holders)
    return (
        entry.served_name, text.short_digest(entry.digest), text.size(entry.bytes), text.age(used),
        _state(entry), holders,
    )  # fmt: skip


def _document(entry: "CacheEntry") -> dict[str, Any]:
    return {
        "served_name": entry.served_name,
        "digest": entry.digest,
        "path": str(entry.places.folder),
        "bytes": entry.bytes,
        "last_used": datetime.fromtimestamp(entry.last_used, UTC).isoformat(),
        "complete": entry.complete,
        "holders": [{"engine": one.engine, "incarnation": one.incarnation} for one in entry.holders],
    }


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
