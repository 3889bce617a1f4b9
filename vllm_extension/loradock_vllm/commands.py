"""The calls that change an engine, parsed from JSON and checked."""

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from loradock_vllm.errors import ExtensionError

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_SERVED_NAME: Final = re.compile(rf"(?:{_PART}/)?{_PART}@[1-9][0-9]{{0,8}}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_WORD: Final = re.compile(r"[!-~]{1,200}")

MAX_INT_ID: Final = 2**31 - 1
MAX_EPOCH: Final = 2**63 - 1
MAX_WAIT_SECONDS: Final = 30.0
MAX_PATH_LENGTH: Final = 4096

OnTimeout = Literal["keep_draining", "abort"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What every call carries: which name, which life of the engine, and who acts.

    Attributes:
        undo: the call puts back what its run did.
    """

    served_name: str
    incarnation: str
    operation: str
    run_id: str
    epoch: int
    undo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCommand(Command):
    """Load an adapter from a folder on the engine's disk."""

    int_id: int
    path: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainCommand(Command):
    """Refuse new requests for a name; wait some seconds for the running ones."""

    wait_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeCommand(Command):
    """Admit requests for a name again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadCommand(Command):
    """Drain a name and remove its adapter from the engine.

    Attributes:
        only_operation: when given, do nothing unless this operation loaded the adapter.
        drain_seconds: how long running requests may take to end.
        on_timeout: what happens to those that have not ended by then.
    """

    only_operation: str | None
    drain_seconds: float
    on_timeout: OnTimeout


def parse_load(body: bytes) -> LoadCommand:
    """Read the body of a load.

    Raises:
        ExtensionError: `invalid_request`, or `path_without_digest` when the path does not carry the digest.
    """
    fields = _Fields(body)
    command = LoadCommand(
        **fields.common(),
        int_id=fields.integer("int_id", 1, MAX_INT_ID),
        path=fields.path("path"),
        digest=fields.text("digest", _DIGEST),
    )
    if command.digest.removeprefix("sha256:") not in command.path:
        raise ExtensionError(
            "path_without_digest", f"{command.path} does not contain the digest {command.digest}"
        )
    return command


def parse_drain(body: bytes) -> DrainCommand:
    """Read the body of a drain.

    Raises:
        ExtensionError: `invalid_request`.
    """
    fields = _Fields(body)
    return DrainCommand(**fields.common(), wait_seconds=fields.seconds("wait_seconds"))


def parse_resume(body: bytes) -> ResumeCommand:
    """Read the body of a resume.

    Raises:
        ExtensionError: `invalid_request`.
    """
    return ResumeCommand(**_Fields(body).common())


def parse_unload(body: bytes) -> UnloadCommand:
    """Read the body of an unload.

    Raises:
        ExtensionError: `invalid_request`.
    """
    fields = _Fields(body)
    on_timeout = fields.get("on_timeout", "keep_draining")
    if on_timeout not in ("keep_draining", "abort"):
        raise ExtensionError("invalid_request", "on_timeout must be 'keep_draining' or 'abort'")
    only_operation = fields.get("only_operation", None)
    return UnloadCommand(
        **fields.common(),
        only_operation=None if only_operation is None else fields.text("only_operation", _WORD),
        drain_seconds=fields.seconds("drain_seconds"),
        on_timeout=on_timeout,
    )


class _Fields:
    """The fields of one JSON object, each read with its check."""

    def __init__(self, body: bytes) -> None:
        try:
            self._values: Any = json.loads(body, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise ExtensionError("invalid_request", f"the body is not a JSON object: {error}") from None
        if not isinstance(self._values, dict):
            raise ExtensionError("invalid_request", "the body is not a JSON object")

    def common(self) -> dict[str, Any]:
        return {
            "served_name": self.text("served_name", _SERVED_NAME),
            "incarnation": self.text("incarnation", _WORD),
            "operation": self.text("operation", _WORD),
            "run_id": self.text("run_id", _WORD),
            "epoch": self.integer("epoch", 0, MAX_EPOCH),
            "undo": self.flag("undo"),
        }

    def get(self, name: str, default: Any) -> Any:
        return self._values.get(name, default)

    def text(self, name: str, form: re.Pattern[str]) -> str:
        value = self._values.get(name)
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ExtensionError("invalid_request", f"{name} is missing or malformed", field=name)
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ExtensionError(
                "invalid_request", f"{name} must be an integer from {low} to {high}", field=name
            )
        return value

    def flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise ExtensionError("invalid_request", f"{name} must be true or false", field=name)
        return value

    def seconds(self, name: str) -> float:
        value = self._values.get(name, 0)
        # Written so that NaN is refused too.
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 <= value <= MAX_WAIT_SECONDS
        ):
            raise ExtensionError(
                "invalid_request", f"{name} must be a number from 0 to {MAX_WAIT_SECONDS:g}", field=name
            )
        return float(value)

    def path(self, name: str) -> str:
        value = self._values.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_PATH_LENGTH or "\0" in value:
            raise ExtensionError("invalid_request", f"{name} is missing or malformed", field=name)
        path = PurePosixPath(value)
        if not path.is_absolute() or ".." in path.parts:
            raise ExtensionError("invalid_request", f"{name} must be absolute, without '..'", field=name)
        return str(path)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a field stands twice")
    return values
