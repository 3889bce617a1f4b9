"""What text from outside may be: Postgres keeps no NUL, UTF-8 has no lone surrogates, its integers end somewhere."""

from typing import Any, Final

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

MAX_INT4: Final = 2**31 - 1
MAX_INT8: Final = 2**63 - 1
_MAX_DEPTH: Final = 30


def check_storable(value: Any) -> Any:
    """Return a parsed JSON value when Postgres can keep it.

    Raises:
        PydanticCustomError: it holds NUL, a lone surrogate, a number that is not finite or beyond 64 bits, or is
            nested too deeply.
    """
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise PydanticCustomError("too_deep", "nested too deeply")
        if isinstance(item, str):
            _check_string(item)
        elif isinstance(item, dict):
            waiting.extend((part, depth + 1) for pair in item.items() for part in pair)
        elif isinstance(item, (list, tuple)):
            waiting.extend((part, depth + 1) for part in item)
        elif isinstance(item, int) and abs(item) > MAX_INT8:
            raise PydanticCustomError("number_too_large", "a number is beyond 64 bits")
        elif isinstance(item, float) and not abs(item) <= 1e308:
            raise PydanticCustomError("not_finite", "a number is not finite")
    return value


Storable = BeforeValidator(check_storable)
"""Annotation for values whose own types let such text through."""


def _check_string(text: str) -> None:
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "text must not contain the NUL character")
    if not text.isascii() and any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise PydanticCustomError("lone_surrogate", "text must be valid Unicode")
