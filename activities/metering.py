"""What is told to whoever counts transfers: how each went, and what it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from temporalio.exceptions import FailureError

from loradock.core.errors import LoradockError


class Transfer(StrEnum):
    """Which way an adapter goes."""

    DOWNLOAD = "download"
    """From the store into a host's cache."""
    FETCH = "fetch"
    """From a source to the orchestrator."""
    UPLOAD = "upload"
    """From the orchestrator into the store."""


class TransferMeter(Protocol):
    """Counts transfers. Called from any thread; never waits, never fails."""

    def ended(self, transfer: Transfer, outcome: str, seconds: float, size: int, code: str | None) -> None:
        """Count a transfer that is over.

        Args:
            outcome: `moved`, `cached` (nothing had to be moved), `failed`, `cancelled`.
            size: bytes moved.
            code: why it failed.
        """


class NoMeter:
    """Nobody counts."""

    def ended(self, transfer: Transfer, outcome: str, seconds: float, size: int, code: str | None) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Moved:
    """How many bytes a transfer has moved; set by who knows it, before its end."""

    bytes: int = 0


@contextmanager
def metered(meter: TransferMeter, transfer: Transfer) -> Iterator[Moved]:
    """Measure a transfer and tell the meter how it ended; what it raises passes through."""
    moved, began = Moved(), time.monotonic()
    outcome: str = "failed"
    code: str | None = "internal_error"
    try:
        yield moved
        outcome, code = ("moved" if moved.bytes else "cached"), None
    except LoradockError as error:
        code = error.code
        raise
    except FailureError:  # Temporal's own: a cancel
        outcome, code = "cancelled", None
        raise
    finally:
        meter.ended(transfer, outcome, time.monotonic() - began, moved.bytes if code is None else 0, code)
