"""Who calls: bearer tokens, and what each kind of token may do."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from api import docs_page
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.registry.audit import SYSTEM_ACTOR

OPERATOR: Final = "operator"
"""The actor behind `LORADOCK_API_TOKEN`."""

AGENT: Final = "agent"
"""The actor behind `LORADOCK_AGENT_TOKEN`."""

AGENT_PREFIX: Final = "/v1/agents/"

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/openapi.json"}) | docs_page.OPEN_PATHS
"""What anyone may read. Everything else, pages that do not exist among it, needs a token."""

_ACTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


class Role(StrEnum):
    """What a token is for. Neither may do the other's calls."""

    OPERATOR = "operator"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        actor: the name in the audit.
    """

    actor: str
    role: Role


class TokenBook:
    """The tokens that the service knows, by hash: the tokens themselves are not kept.

    Args:
        entries: token and whose it is.

    Raises:
        LoradockError: `setting_invalid` when there is no operator's token, an empty one, or one token for two.
    """

    def __init__(self, entries: Iterable[tuple[str, Principal]]) -> None:
        self._principals: dict[bytes, Principal] = {}
        for token, principal in entries:
            if not token.strip():
                raise LoradockError("setting_invalid", f"the token of {principal.actor!r} is empty")
            if self._principals.setdefault(_digest(token.encode()), principal) != principal:
                raise LoradockError("setting_invalid", "one token stands for two: every actor needs its own")
        if not any(principal.role is Role.OPERATOR for principal in self._principals.values()):
            raise LoradockError(
                "setting_invalid", "neither LORADOCK_API_TOKEN nor LORADOCK_API_TOKENS is set"
            )

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenBook":
        """The tokens of the settings.

        Raises:
            LoradockError: `setting_invalid`.
        """
        entries: list[tuple[str, Principal]] = []
        if settings.api_token is not None:
            entries.append((settings.api_token.get_secret_value(), Principal(OPERATOR, Role.OPERATOR)))
        for actor, token in settings.api_tokens.items():
            if not _ACTOR.fullmatch(actor) or actor in (AGENT, SYSTEM_ACTOR):
                raise LoradockError("setting_invalid", "LORADOCK_API_TOKENS: a key is not an actor's name")
            entries.append((token.get_secret_value(), Principal(actor, Role.OPERATOR)))
        if settings.agent_token is not None:
            entries.append((settings.agent_token.get_secret_value(), Principal(AGENT, Role.AGENT)))
        return cls(entries)

    def find(self, token: bytes) -> Principal | None:
        """Whose token this is. Every known one is compared, so the time tells nothing."""
        given = _digest(token)
        found = None
        for known, principal in self._principals.items():
            if hmac.compare_digest(known, given):
                found = principal
        return found


def required_role(path: str) -> Role | None:
    """The role that a path needs; None for an open one."""
    if path in OPEN_PATHS:
        return None
    return Role.AGENT if path.startswith(AGENT_PREFIX) else Role.OPERATOR


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The token of an `Authorization: Bearer` header; None without one, or with more than one."""
    values = [value for name, value in headers if name.lower() == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, token = values[0].strip().partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


def authenticate(tokens: TokenBook, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Principal | None:
    """Who calls `path`; None where anyone may.

    Raises:
        LoradockError: `unauthorized`, `forbidden`.
    """
    role = required_role(path)
    if role is None:
        return None
    token = bearer_token(headers)
    if token is None:
        raise LoradockError("unauthorized", "the call has no bearer token")
    principal = tokens.find(token)
    if principal is None:
        raise LoradockError("unauthorized", "the token is not known")
    if principal.role is not role:
        raise LoradockError(
            "forbidden", f"this call is for the {role} token, and the token given is the {principal.role}'s"
        )
    return principal


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
