"""Timing of steps, and telling of them while they go on."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final, Protocol, Self

from temporalio import activity
from temporalio.exceptions import CancelledError

from loradock.core.models import Failure, StepReport, StepState, utc_now

TELL_EVERY_SECONDS: Final = 1.0

PATIENCE_SECONDS: Final = 5.0
"""How long one of very many steps must run until it is told of."""

PULSE_SECONDS: Final = 3.0
"""Heartbeats of a transfer come at least so often, however long one call to disk or network takes."""

_WAIT_SECONDS: Final = 0.2


class ProgressReporter(Protocol):
    """Where a host's activities tell how far they are, from any thread. Never waits, never fails: for people who watch."""

    def report(self, operation: str, step: StepReport) -> None:
        """Tell of a step as it stands now."""


class PatientReporter:
    """Passes on only what takes long: of thousands of steps that are over in a moment nobody could watch the running.

    How such a step ended, its activity's result says. Made in a running loop; told from any thread.

    Args:
        behind: who is told.
        after_seconds: how long a step must run until it is told of.
    """

    def __init__(self, behind: ProgressReporter, after_seconds: float = PATIENCE_SECONDS) -> None:
        self._behind = behind
        self._after_seconds = after_seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[tuple[str, str, str], asyncio.TimerHandle] = {}
        self._told: set[tuple[str, str, str]] = set()

    def report(self, operation: str, step: StepReport) -> None:
        """Tell of a step as it stands now."""
        with suppress(RuntimeError):  # the loop has ended: nobody watches any more
            self._loop.call_soon_threadsafe(self._take, operation, step)

    def over(self, operation: str, engine: str) -> None:
        """The engine's part is over: nothing of it is told any more. Called in the loop."""
        for key in [key for key in self._waiting if (key[0], key[2]) == (operation, engine)]:
            self._waiting.pop(key).cancel()
        self._told -= {key for key in self._told if (key[0], key[2]) == (operation, engine)}

    def _take(self, operation: str, step: StepReport) -> None:
        key = (operation, step.name, step.engine)
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            waiting.cancel()
        if step.state is not StepState.RUNNING:
            if key in self._told:
                self._told.discard(key)
                self._behind.report(operation, step)
        elif key in self._told:
            self._behind.report(operation, step)
        else:
            left = self._loop.time() + self._after_seconds if waiting is None else waiting.when()
            self._waiting[key] = self._loop.call_at(left, self._tell, key, operation, step)

    def _tell(self, key: tuple[str, str, str], operation: str, step: StepReport) -> None:
        self._waiting.pop(key, None)
        self._told.add(key)
        self._behind.report(operation, step)


class StepClock:
    """Measures one step of one activity attempt.

    Args:
        name: the step's name, as the operation lists it.
        engine: engine id, empty when no single engine is worked on.
    """

    def __init__(self, name: str, engine: str = "") -> None:
        self._name = name
        self._engine = engine
        self._started_at: datetime = utc_now()

    def running(self, **detail: Any) -> StepReport:
        """The step as it stands in the middle."""
        return self._report(StepState.RUNNING, None, detail)

    def succeeded(self, **detail: Any) -> StepReport:
        """The step, ended well now."""
        return self._report(StepState.SUCCEEDED, utc_now(), detail)

    def failed(self, error: Failure | None) -> StepReport:
        """The step, failed now."""
        return self._report(StepState.FAILED, utc_now(), {}).model_copy(update={"error": error})

    def _report(self, state: StepState, ended_at: datetime | None, detail: dict[str, Any]) -> StepReport:
        return StepReport(
            name=self._name,
            engine=self._engine,
            state=state,
            attempt=activity.info().attempt,
            started_at=self._started_at,
            ended_at=ended_at,
            detail=detail,
        )


class TransferProgress:
    """Heartbeats a transfer, tells of it, and ends it when the activity is cancelled. Called from the transfer's thread.

    Entered, it heartbeats also while nothing moves: a large file on its way to the platter is no dead worker.

    Args:
        tell: called about once a second with the figures so far: `bytes`, `bytes_per_second` since the last call, and
            `total_bytes` once that is known.
        heartbeat: takes the details from any thread; the SDK's own does so in an activity that is no coroutine.
    """

    def __init__(
        self, tell: Callable[[dict[str, int]], None], heartbeat: Callable[..., None] = activity.heartbeat
    ) -> None:
        self._tell = tell
        self._heartbeat = heartbeat
        self._total: int | None = None
        self._done = 0
        self._told = 0
        self._told_at = time.monotonic()
        self._next = 0.0
        self._ended = threading.Event()
        self._pulse = threading.Thread(
            target=contextvars.copy_context().run, args=(self._beat,), name="heartbeats", daemon=True
        )

    def __enter__(self) -> Self:
        self._pulse.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pulse.join()

    def _beat(self) -> None:
        with suppress(RuntimeError):  # the worker's loop has ended
            while not self._ended.wait(PULSE_SECONDS):
                self._heartbeat({"bytes": self._done})

    def expect(self, total: int) -> None:
        """As `KnowsTotal.expect`."""
        self._total = total

    def advance(self, size: int) -> None:
        """Count `size` more bytes.

        Raises:
            temporalio.exceptions.CancelledError: the activity was cancelled.
        """
        self._done += size
        if activity.is_cancelled():
            raise CancelledError("the transfer was cancelled")
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TELL_EVERY_SECONDS
            rate = (self._done - self._told) / max(now - self._told_at, 1e-3)
            self._told, self._told_at = self._done, now
            figures = {"bytes": self._done, "bytes_per_second": round(rate)}
            if self._total is not None:
                figures["total_bytes"] = self._total
            self._heartbeat(figures)
            self._tell(figures)


class TransferSlots:
    """How many transfers a process runs at once; the others wait, heartbeating.

    Args:
        count: of the transfers.
    """

    def __init__(self, count: int) -> None:
        self._slots = threading.BoundedSemaphore(count)
        self._lock = threading.Lock()
        self.waiting = 0
        """Transfers that wait for their turn now."""
        self.running = 0
        """Transfers that have it."""

    @contextmanager
    def take(self, progress: TransferProgress) -> Iterator[None]:
        """Hold a slot, waiting for it if need be.

        Raises:
            temporalio.exceptions.CancelledError: the activity was cancelled meanwhile.
        """
        self._count(waiting=1)
        try:
            while not self._slots.acquire(timeout=_WAIT_SECONDS):
                progress.advance(0)
        finally:
            self._count(waiting=-1)
        self._count(running=1)
        try:
            yield
        finally:
            self._count(running=-1)
            self._slots.release()

    def _count(self, *, waiting: int = 0, running: int = 0) -> None:
        with self._lock:
            self.waiting += waiting
            self.running += running
