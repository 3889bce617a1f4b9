"""Who calls: bearer tokens, and what each kind of token may do."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from api import docs_page
from api.agent_tokens import read_agent_tokens
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.registry.audit import SYSTEM_ACTOR

OPERATOR: Final = "operator"
"""The actor behind `LORADOCK_API_TOKEN`."""

AGENT: Final = "agent"
"""The actor behind `LORADOCK_AGENT_TOKEN`."""

METRICS: Final = "metrics"
"""Who calls with `LORADOCK_METRICS_TOKEN`."""

AGENT_PREFIX: Final = "/v1/agents/"
METRICS_PATH: Final = "/metrics"

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/openapi.json"}) | docs_page.OPEN_PATHS
"""What anyone may read. Everything else, pages that do not exist among it, needs a token."""

_ACTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


class Role(StrEnum):
    """What a token is for. None may do another's calls; operators may read the metrics too."""

    OPERATOR = "operator"
    AGENT = "agent"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        actor: the name in the audit.
        agent: the only agent whose calls the token is good for; None for the token that agents share, and for operators.
    """

    actor: str
    role: Role
    agent: str | None = None


class TokenBook:
    """The tokens that the service knows, by hash: the tokens themselves are not kept.

    Args:
        entries: token and whose it is.
        hashed: agents' own tokens, as `read_agent_tokens` gives them.

    Raises:
        LoradockError: `setting_invalid` when there is no operator's token, an empty one, or one token for two.
    """

    def __init__(
        self, entries: Iterable[tuple[str, Principal]], hashed: Iterable[tuple[bytes, str]] = ()
    ) -> None:
        self._principals: dict[bytes, Principal] = {}
        for token, principal in entries:
            if not token.strip():
                raise LoradockError("setting_invalid", f"the token of {principal.actor!r} is empty")
            self._add(_digest(token.encode()), principal)
        for digest, agent in hashed:
            self._add(digest, Principal(f"{AGENT}:{agent}", Role.AGENT, agent))
        self._own = {principal.agent for principal in self._principals.values()} - {None}
        if not any(principal.role is Role.OPERATOR for principal in self._principals.values()):
            raise LoradockError(
                "setting_invalid", "neither LORADOCK_API_TOKEN nor LORADOCK_API_TOKENS is set"
            )

    def _add(self, digest: bytes, principal: Principal) -> None:
        if self._principals.setdefault(digest, principal) != principal:
            raise LoradockError("setting_invalid", "one token stands for two: every actor needs its own")

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
            if not _ACTOR.fullmatch(actor) or actor in (AGENT, METRICS, SYSTEM_ACTOR):
                raise LoradockError("setting_invalid", "LORADOCK_API_TOKENS: a key is not an actor's name")
            entries.append((token.get_secret_value(), Principal(actor, Role.OPERATOR)))
        if settings.agent_token is not None:
            entries.append((settings.agent_token.get_secret_value(), Principal(AGENT, Role.AGENT)))
        if settings.metrics_token is not None:
            entries.append((settings.metrics_token.get_secret_value(), Principal(METRICS, Role.METRICS)))
        file = settings.agent_tokens_file
        return cls(entries, read_agent_tokens(file) if file is not None else ())

    def find(self, token: bytes) -> Principal | None:
        """Whose token this is. It is looked up by its hash, of which the time it takes would tell a guesser nothing."""
        return self._principals.get(_digest(token))

    def has_own(self, agent: str) -> bool:
        """Whether the agent has a token that is no other's."""
        return agent in self._own


def roles_for(path: str) -> tuple[Role, ...]:
    """The roles that may call a path, whom it is meant for first; none for an open one.

    The metrics are not open to callers from this machine either: behind a proxy, everybody is one.
    """
    if path in OPEN_PATHS:
        return ()
    if path == METRICS_PATH:
        return (Role.METRICS, Role.OPERATOR)
    return (Role.AGENT,) if path.startswith(AGENT_PREFIX) else (Role.OPERATOR,)


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
    roles = roles_for(path)
    if not roles:
        return None
    token = bearer_token(headers)
    if token is None:
        raise LoradockError("unauthorized", "the call has no bearer token")
    principal = tokens.find(token)
    if principal is None:
        raise LoradockError("unauthorized", "the token is not known")
    if principal.role not in roles:
        raise LoradockError(
            "forbidden",
            f"this call is for the {roles[0]} token, and the token given is the {principal.role}'s",
        )
    if principal.role is Role.AGENT:
        _check_agent(tokens, principal, path)
    return principal


def _check_agent(tokens: TokenBook, principal: Principal, path: str) -> None:
    """See that the token is good for the agent whose call it is."""
    agent = path.removeprefix(AGENT_PREFIX).partition("/")[0]
    if principal.agent is None:
        if tokens.has_own(agent):
            raise LoradockError("forbidden", f"agent {agent} has a token of its own, and this is not it")
    elif principal.agent != agent:
        raise LoradockError("forbidden", f"the token is agent {principal.agent}'s, and no other's")


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
