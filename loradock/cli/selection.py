"""The options by which a load, or the plan of one, says what goes where, and the request that they make."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

from loradock.cli import text
from loradock.cli.arguments import adapter_and_version, labels
from loradock.cli.failures import usage

VersionedName = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION]", help="Adapter, with its version or alias.")
]
VersionArgument = Annotated[
    str | None,
    typer.Argument(metavar="VERSION", help="Version or alias, if not given behind @.", show_default=False),
]
Pool = Annotated[
    str | None,
    typer.Option(
        "--pool", metavar="POOL", help="May be left out where one pool alone fits.", show_default=False
    ),
]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine", metavar="ENGINE", help="These engines only; can be repeated.", show_default=False
    ),
]
SelectedLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="KEY=VALUE",
        help="Engines with this label only; can be repeated: with all of them.",
        show_default=False,
    ),
]
Replicas = Annotated[
    str | None,
    typer.Option("--replicas", metavar="N|all", help="On so many engines (default all).", show_default=False),
]


class Policy(StrEnum):
    """What a load does when an engine fails."""

    ALL = "all"
    BEST_EFFORT = "best_effort"


LoadPolicy = Annotated[
    Policy,
    typer.Option(
        "--policy", help="all: put every engine back when one fails; best_effort: keep those that are ready."
    ),
]
MinReady = Annotated[
    int | None,
    typer.Option("--min-ready", min=1, help="For best_effort: engines that must become ready."),
]


def required_version(command: str, name: str, version: str | None) -> tuple[str, int | str]:
    """The adapter and version that a command is for.

    Raises:
        CommandFailure: exit code 2 when no version is given, or two.
    """
    adapter, chosen = adapter_and_version(name, version)
    if chosen is None:
        raise usage(
            "which version?", f"loradock {command} {text.clean(adapter)}@1, or an alias in its place."
        )
    return adapter, chosen


def load_body(
    version: int | str,
    pool: str | None,
    engines: list[str] | None,
    selector: list[str] | None,
    replicas: str | None,
    *,
    policy: Policy,
    min_ready: int | None,
) -> dict[str, object]:
    """The body of a load.

    Raises:
        CommandFailure: exit code 2 when a label or the number of replicas cannot be meant.
    """
    return given(
        {
            "version": version,
            "pool": pool,
            "engines": engines or None,
            "labels": labels(selector) if selector else None,
            "replicas": _count(replicas),
            "policy": policy.value,
            "min_ready": min_ready,
        }
    )


def given(body: Mapping[str, object]) -> dict[str, object]:
    """Without what was not given: the API's defaults are the API's."""
    return {name: value for name, value in body.items() if value is not None}


def _count(replicas: str | None) -> int | str | None:
    if replicas is None or replicas == "all":
        return replicas
    if not (replicas.isascii() and replicas.isdigit() and 0 < int(replicas) < 10**6):
        raise usage(f"--replicas takes a number from 1 on, or all, not {replicas[:40]!r}")
    return int(replicas)
