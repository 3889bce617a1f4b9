"""JSON from outside: no duplicate names, no NaN, no depth or digits that hurt."""

import json
from typing import Any


def strict_json(data: bytes) -> Any:
    """Parse UTF-8 JSON.

    Raises:
        ValueError: it is malformed, or says something in two ways.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
