"""What people type, made into what the API takes. Anything that cannot be meant is a usage error (exit code 2)."""

import os
import re
from pathlib import Path
from typing import Final

from loradock.cli.failures import usage

_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>ms|s|m|h|d|)")
_SECONDS_OF: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(given: str) -> float:
    """Seconds of `90`, `90s`, `5m`, `1h`, `500ms` or `7d`.

    Raises:
        CommandFailure: exit code 2.
    """
    match = _DURATION.fullmatch(given.strip())
    if match is None:
        raise usage(f"{given[:40]!r} is not a time", "Write 90s, 5m, 1h …")
    return float(match["number"]) * _SECONDS_OF[match["unit"]]


def source_uri(given: str) -> str:
    """The address of a source: as it stands, or `file://` for a local folder.

    Raises:
        CommandFailure: exit code 2 when it is neither.
    """
    folder = local_folder(given)
    return given if folder is None else folder.as_uri()


def local_folder(given: str) -> Path | None:
    """The folder that a plain path names; None for an address.

    Raises:
        CommandFailure: exit code 2 when it is neither.
    """
    if "://" in given:
        return None
    path = Path(os.path.abspath(Path(given).expanduser()))  # noqa: PTH100 - unlike resolve(), keeps the user's links
    if not path.is_dir():
        raise usage(
            f"{given[:200]!r} is neither an address nor a folder here",
            "Give a folder, file:///folder (on the orchestrator's disk) or s3://bucket/prefix.",
        )
    return path


def labels(given: list[str]) -> dict[str, str]:
    """`key=value` pairs.

    Raises:
        CommandFailure: exit code 2 when one has no `=`, no key, or a key comes twice.
    """
    found: dict[str, str] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key or key in found:
            raise usage(f"--label takes key=value, each key once, not {item[:100]!r}")
        found[key] = value
    return found


def adapter_and_version(name: str, version: str | None = None) -> tuple[str, int | str | None]:
    """An adapter and its version: `NAME@VERSION`, or both apart; a version is a number or an alias.

    Raises:
        CommandFailure: exit code 2 when two versions or an empty name are given.
    """
    adapter, at, behind = name.partition("@")
    if not adapter or (at and not behind) or (at and version is not None):
        raise usage(f"{name[:150]!r} is not NAME, NAME@VERSION or NAME@ALIAS")
    chosen = behind if at else version
    if chosen is None:
        return adapter, None
    return adapter, int(chosen) if chosen.isascii() and chosen.isdigit() and len(chosen) < 12 else chosen
