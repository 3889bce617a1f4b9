"""The extension's error codes: stable words, each with an HTTP status and the side that has to act."""

from typing import Any, Final, Literal, NamedTuple

Fault = Literal["caller", "engine", "busy"]

MESSAGE_LIMIT: Final = 2000


class CodeSpec(NamedTuple):
    """What a code means over HTTP.

    `caller`: the same call fails again. `busy`: something is in the way now, later it may go through. `engine`: the
    engine broke or lacks something.
    """

    status: int
    fault: Fault


CODES: Final[dict[str, CodeSpec]] = {
    "unauthorized": CodeSpec(401, "caller"),
    "invalid_request": CodeSpec(400, "caller"),
    "not_found": CodeSpec(404, "caller"),
    "path_without_digest": CodeSpec(400, "caller"),
    "stale_epoch": CodeSpec(409, "caller"),
    "incarnation_mismatch": CodeSpec(409, "caller"),
    "adapter_conflict": CodeSpec(409, "busy"),
    "int_id_conflict": CodeSpec(409, "busy"),
    "no_free_slot": CodeSpec(409, "busy"),
    "drain_timeout": CodeSpec(409, "busy"),
    "load_rate_limited": CodeSpec(429, "busy"),
    "adapter_not_loaded": CodeSpec(404, "caller"),
    "artifact_missing": CodeSpec(422, "caller"),
    "rank_too_high": CodeSpec(422, "caller"),
    "adapter_corrupt": CodeSpec(422, "caller"),
    "wrong_base_model": CodeSpec(422, "caller"),
    "unexpected_modules": CodeSpec(422, "caller"),
    "adapter_not_supported": CodeSpec(422, "caller"),
    "engine_error": CodeSpec(500, "engine"),
    "unload_failed": CodeSpec(500, "engine"),
    "engine_not_supported": CodeSpec(501, "engine"),
}


class ConfigurationError(Exception):
    """The extension's settings do not allow it to run. Never carries a secret."""


class ExtensionError(Exception):
    """A call that failed in a foreseen way.

    Args:
        code: a key of `CODES`.
        message: what happened; cut to `MESSAGE_LIMIT` characters.
        details: further facts, JSON values only.
    """

    def __init__(self, code: str, message: str, **details: Any) -> None:
        self.code = code
        self.spec = CODES[code]
        self.message = message[:MESSAGE_LIMIT]
        self.details = details
        super().__init__(f"{code}: {self.message}")

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "fault": self.spec.fault,
                "details": self.details,
            }
        }
