"""The check of the extension's own bearer token."""

import hashlib
import hmac
from collections.abc import Iterable

Headers = Iterable[tuple[bytes, bytes]]


def bearer_tokens(headers: Headers) -> list[bytes]:
    """Credentials of every `Authorization` header; a header that is not a bearer one gives `b""`."""
    found = []
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            found.append(credentials.strip() if scheme.lower() == b"bearer" else b"")
    return found


class TokenGuard:
    """Knows some tokens, by hash only, and tells in constant time whether a request shows one of them."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = tuple(hashlib.sha256(token.encode()).digest() for token in tokens)

    def allows(self, headers: Headers) -> bool:
        """Whether the headers carry exactly one `Authorization`, and it is a bearer token known here."""
        shown = bearer_tokens(headers)
        if len(shown) != 1 or not shown[0]:
            return False
        digest = hashlib.sha256(shown[0]).digest()
        allowed = False
        for known in self._digests:
            allowed |= hmac.compare_digest(digest, known)
        return allowed
