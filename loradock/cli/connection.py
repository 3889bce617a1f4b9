"""Where the API is and which token to show: options, then the environment (and `.env`), then a running dev stack."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from loradock.cli.failures import usage

DEV_FILE: Final = Path(".loradock") / "dev.json"
_DEFAULT_URL: Final = "http://127.0.0.1:8400"


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API.

    Attributes:
        url: without a trailing slash.
    """

    url: str
    token: str | None = field(repr=False)


def find_connection(
    url: str | None = None, token: str | None = None, *, folder: Path | None = None
) -> Connection:
    """The connection that options, environment and the dev stack's file give.

    The file's token is only shown to the file's own address, never to one that was named otherwise.

    Args:
        url: the option's value, if given.
        token: the option's value, if given.
        folder: where to look for `.env` and, upwards, for the dev stack's file; the current one if None.

    Raises:
        CommandFailure: exit code 2 when nothing names an API, or the address is not one.
    """
    folder = folder or Path.cwd()
    environment = {**_dotenv(folder / ".env"), **os.environ}
    url = url or environment.get("LORADOCK_API_URL") or None
    token = token or environment.get("LORADOCK_API_TOKEN") or None
    dev = _dev_file(folder)
    dev_url = str(dev.get("api") or "").rstrip("/")
    if url is None and token is not None and not dev_url:
        url = _DEFAULT_URL
    if url is None and not dev_url:
        raise usage(
            "nothing says where the API is",
            "Give --api-url and --token, set LORADOCK_API_URL and LORADOCK_API_TOKEN, "
            "or go to the folder where 'make dev' runs.",
        )
    url = (url or dev_url).rstrip("/")
    if not _is_address(url):
        raise usage("the API's address must be http://host:port or https://host:port")
    if token is None and url == dev_url:
        token = str(dev["token"]) if dev.get("token") else None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise usage("the token has characters that no token has")
    return Connection(url, token)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _dev_file(folder: Path) -> dict[str, Any]:
    for place in (folder, *folder.absolute().parents):
        try:
            content = json.loads((place / DEV_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            return content
    return {}


def _dotenv(path: Path) -> dict[str, str]:
    """The `LORADOCK_` lines of a `.env` file, which the service's own processes read too."""
    if not path.is_file():
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415 - seldom needed, and slow

    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in values.items() if name.startswith("LORADOCK_") and value}
