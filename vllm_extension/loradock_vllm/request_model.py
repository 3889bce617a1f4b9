"""Which model a JSON body names, told only where there can be no doubt."""

import json
from typing import Any, Final, NamedTuple

_JSON_TYPES: Final = (b"", b"application/json")


class AmbiguousModelError(ValueError):
    """The body names its model more than once."""


class RequestedModel(NamedTuple):
    """What the extension reads from a body.

    Attributes:
        name: the field `model`; None when it is missing, not a string, or the body is not a JSON object.
        background: whether the request asks to be worked on after its answer.
    """

    name: str | None
    background: bool


def is_json(content_type: bytes) -> bool:
    """Whether a server may read a body of this type as JSON."""
    plain = content_type.partition(b";")[0].strip().lower()
    return plain in _JSON_TYPES or plain.endswith(b"+json")


def read_model(body: bytes) -> RequestedModel:
    """Find the model that a body names.

    Raises:
        AmbiguousModelError: `model` stands twice.
    """
    try:
        # Pairs instead of dicts: two equal keys stay visible, whatever way they are escaped.
        pairs: Any = json.loads(body, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return RequestedModel(None, background=False)
    if not isinstance(pairs, tuple):
        return RequestedModel(None, background=False)
    names = [value for key, value in pairs if key == "model"]
    if len(names) > 1:
        raise AmbiguousModelError
    name = names[0] if names and isinstance(names[0], str) else None
    return RequestedModel(name or None, background=any(key == "background" and value for key, value in pairs))
