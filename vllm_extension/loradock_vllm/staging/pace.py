"""How work in a thread of an engine's worker leaves the step loop its turn."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


class StagingCancelledError(Exception):
    """The staging was called off, or took longer than it may."""


class Pace:
    """Short pieces of work with rests between them, while the engine answers requests.

    Python runs one thread at a time: a thread that works on holds up the step loop for up to five milliseconds every
    time that the loop lets go of the interpreter. So the staging thread rests by itself, often and early.

    Args:
        busy: whether the engine runs requests now; an idle engine needs no rests.
        work_seconds: how long to work at a stretch.
        rest_seconds: how long to rest then.
        deadline: `time.monotonic()` from which on the work is given up.
    """

    def __init__(
        self, busy: Callable[[], bool], *, work_seconds: float, rest_seconds: float, deadline: float
    ) -> None:
        self._busy = busy
        self._work_seconds = work_seconds
        self._rest_seconds = rest_seconds
        self._deadline = deadline
        self._cancelled = threading.Event()
        self._since = time.monotonic()
        self.rested = 0.0
        """Seconds spent resting."""

    def cancel(self) -> None:
        """Have the work end at its next pause."""
        self._cancelled.set()

    def pause(self, settle: Callable[[], object] | None = None) -> None:
        """Rest, if it is time to.

        Args:
            settle: called before a rest, to wait for work that was only queued.

        Raises:
            StagingCancelledError: cancelled, or past the deadline.
        """
        if self._cancelled.is_set():
            raise StagingCancelledError("the staging was called off")
        now = time.monotonic()
        if now > self._deadline:
            raise StagingCancelledError("the staging took too long")
        if now - self._since < self._work_seconds:
            return
        if self._busy():
            if settle is not None:
                settle()
            self._cancelled.wait(self._rest_seconds)
            self.rested += time.monotonic() - now
        self._since = time.monotonic()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Within it the interpreter is let go of (reading a file): that holds nobody up, and is no work."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - began


class PacedDict(dict[str, Any]):
    """A dictionary that pauses after each of its items when somebody walks through them.

    The engine's own loops over modules and tensors become pieces of work by it.
    """

    def __init__(self, values: dict[str, Any], pause: Callable[[], None]) -> None:
        super().__init__(values)
        self._pause = pause

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        """The items, with a pause after each."""
        for item in super().items():
            yield item
            self._pause()
