"""The rules for names, and the served name that ties an answer to its weights."""

import re
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator

from loradock.core.errors import LoradockError

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_ADAPTER = re.compile(rf"(?:{_PART}/)?{_PART}")
_SIMPLE = re.compile(_PART)
_SERVED = re.compile(rf"(?P<adapter>(?:{_PART}/)?{_PART})@(?P<version>[1-9][0-9]{{0,8}})")

RESERVED: Final = frozenset(
    {
        "versions", "load", "unload", "rollouts", "rollback", "aliases", "plan", "deployment", "deployments",
        "events", "revoke", "freeze", "inspect", "uploads", "signatures",
    }
)  # fmt: skip
"""Path words of the API: an adapter of this name could not be told from a call on another adapter."""

MAX_VERSION: Final = 999_999_999

MAX_BASE_MODEL: Final = 500
"""Characters of a base model's name."""


class ServedName(NamedTuple):
    """An adapter's version, as engines know it."""

    adapter: str
    version: int

    def __str__(self) -> str:
        return served_name(self.adapter, self.version)


def check_adapter_name(name: str) -> str:
    """Return `name` when it is a valid adapter name; case counts.

    Raises:
        LoradockError: `invalid_name`.
    """
    if not _ADAPTER.fullmatch(name):
        raise LoradockError("invalid_name", f"{name[:80]!r} is not an adapter name")
    for part in name.split("/"):
        if part.lower() in RESERVED:
            raise LoradockError("invalid_name", f"{part!r} is a word of the API and cannot be part of a name")
    return name


def check_simple_name(name: str) -> str:
    """Return `name` when it is a valid engine, pool or agent name.

    Raises:
        LoradockError: `invalid_name`.
    """
    if not _SIMPLE.fullmatch(name):
        raise LoradockError("invalid_name", f"{name[:80]!r} is not a valid name")
    return name


def check_alias(name: str) -> str:
    """Return `name` when it is a valid alias: never a number, which would read as a version.

    Raises:
        LoradockError: `invalid_name`.
    """
    check_simple_name(name)
    if name.isdigit():
        raise LoradockError("invalid_name", f"alias {name!r} is a number and would read as a version")
    return name


def check_base_model_name(name: str) -> str:
    """Return `name` when it can be a base model's: whatever an engine may call it, a path among it.

    Raises:
        LoradockError: `invalid_name`.
    """
    if not 0 < len(name) <= MAX_BASE_MODEL or not name.isprintable() or name.strip() != name:
        raise LoradockError("invalid_name", f"{name[:80]!r} is not a base model's name")
    return name


def served_name(adapter: str, version: int) -> str:
    """The only name that an engine ever knows for these weights; never reused for others."""
    return f"{adapter}@{version}"


def parse_served_name(text: str) -> ServedName:
    """Take `adapter@version` apart.

    Raises:
        LoradockError: `invalid_name`.
    """
    match = _SERVED.fullmatch(text)
    if not match:
        raise LoradockError("invalid_name", f"{text[:100]!r} is not adapter@version")
    return ServedName(match["adapter"], int(match["version"]))


def path_part(adapter: str, version: int) -> str:
    """A folder name for a version: `+`, which no name contains, stands for `/`, so none is shared."""
    return f"{adapter.replace('/', '+')}@{version}"


def _validator(check: Callable[[str], str]) -> AfterValidator:
    def run(value: str) -> str:
        try:
            return check(value)
        except LoradockError as error:
            raise ValueError(error.message) from None

    return AfterValidator(run)


AdapterName = Annotated[str, _validator(check_adapter_name)]
SimpleName = Annotated[str, _validator(check_simple_name)]
AliasName = Annotated[str, _validator(check_alias)]
