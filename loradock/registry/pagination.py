"""Keyset pagination: a cursor is the key of the last item, so that a page never shifts when rows come or go."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Final

from loradock.core.errors import LoradockError

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 50
_MAX_CURSOR: Final = 1000

Key = tuple[str | int, ...]


def encode_cursor(*key: str | int) -> str:
    """The opaque form of a key."""
    text = json.dumps(key, separators=(",", ":"), ensure_ascii=True)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str, *types: type[str] | type[int]) -> Key:
    """The key in a cursor that `encode_cursor` made, of exactly these types.

    Raises:
        LoradockError: `invalid_request`.
    """
    try:
        if len(cursor) > _MAX_CURSOR:
            raise ValueError
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _malformed() from None
    if not isinstance(key, list) or [type(part) for part in key] != list(types):
        raise _malformed()
    if any("\x00" in part if isinstance(part, str) else abs(part) >= 2**63 for part in key):
        raise _malformed()
    return tuple(key)


def check_limit(limit: int) -> int:
    """Return `limit` when a page may have that many items.

    Raises:
        LoradockError: `invalid_request`.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise LoradockError("invalid_request", f"limit must be between 1 and {MAX_LIMIT}")
    return limit


def next_cursor(rows: Sequence[object], limit: int, key: Key) -> str | None:
    """The cursor after a page that was read with one row more than `limit`; `key` is that of its last item."""
    return encode_cursor(*key) if len(rows) > limit else None


def _malformed() -> LoradockError:
    return LoradockError("invalid_request", "the cursor is not one that this list gave")
