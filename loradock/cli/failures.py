"""How a command ends: exit codes that scripts can rely on, and the failures that carry them."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final


class ExitCode(IntEnum):
    """What the exit code of every command means."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    OPERATION_FAILED = 3
    REFUSED = 4
    UNAVAILABLE = 5
    TIMEOUT = 6
    INTERRUPTED = 130


EXIT_CODE_MEANING: Final = {
    ExitCode.OK: "success",
    ExitCode.UNEXPECTED: "something failed that should not",
    ExitCode.USAGE: "the command line or a setting is wrong",
    ExitCode.OPERATION_FAILED: "the operation failed, was aborted or rolled back; an inspected adapter cannot be served",
    ExitCode.REFUSED: "the API refused the request (4xx)",
    ExitCode.UNAVAILABLE: "the service cannot be reached or has a problem (5xx)",
    ExitCode.TIMEOUT: "the wait timed out; the operation goes on",
    ExitCode.INTERRUPTED: "interrupted; a started operation goes on",
}


class CommandFailure(Exception):  # noqa: N818 - an end of a command, not always an error
    """A command ends here, with a message for people.

    Args:
        exit_code: the process's exit code.
        message: what happened; printed after `error:`.
        code: the stable code of the catalog, where there is one.
        remedy: what to do about it.
        document: what the API gave, for `--json`.
        notes: further lines for people.
    """

    def __init__(
        self,
        exit_code: ExitCode,
        message: str,
        *,
        code: str | None = None,
        remedy: str | None = None,
        document: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.code = code
        self.remedy = remedy
        self.document = document
        self.notes = tuple(notes)


def unavailable(message: str, remedy: str | None = None) -> CommandFailure:
    """The service cannot be reached or does not answer as it should."""
    return CommandFailure(ExitCode.UNAVAILABLE, message, remedy=remedy)


def usage(message: str, remedy: str | None = None) -> CommandFailure:
    """The command line or a setting is wrong."""
    return CommandFailure(ExitCode.USAGE, message, remedy=remedy)
