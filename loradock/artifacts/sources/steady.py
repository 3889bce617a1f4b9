"""Reading from a network that stalls, breaks off and heals: noticed in time, tried again from where it was."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import Final, TypeVar

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.protocol import NoProgress, OnRetry, Progress, Reader
from loradock.core.errors import LoradockError

CHUNK: Final = 1024 * 1024
LEAST: Final = 64 * 1024
"""Bytes: what must come within a stall's time, if so much is left."""
ASK_SECONDS: Final = 0.25
"""How often a wait asks whether it is still wanted."""

Result = TypeVar("Result")
Opener = Callable[[int], AbstractContextManager[Reader]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try again; only `source_unavailable` is ever tried again.

    Attributes:
        stall_seconds: 64 KiB, or what is left, that take longer have stalled.
        attempts: tries in a row without getting any further, the first one counted.
        base_seconds: the first pause is random between 0 and this, every further one between 0 and twice the last.
        cap_seconds: the longest pause.
        bandwidth: a limit that all reading keeps together.
        on_retry: told the code of what is tried again; from any thread, and must not fail.
    """

    stall_seconds: float = 20.0
    attempts: int = 4
    base_seconds: float = 0.5
    cap_seconds: float = 8.0
    bandwidth: Bandwidth | None = None
    on_retry: OnRetry | None = None

    def pause(self, failures: int, progress: Progress) -> None:
        """Wait before the next try: exponential with full jitter, cancelled through `progress`."""
        if self.on_retry is not None:
            self.on_retry("source_unavailable")
        seconds = random.uniform(0, min(self.cap_seconds, self.base_seconds * 2 ** (failures - 1)))  # noqa: S311
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            progress.advance(0)
            time.sleep(min(ASK_SECONDS, left))

    def call(self, work: Callable[[], Result], what: str, progress: Progress | None = None) -> Result:
        """Run a short piece of network work, again when that can help.

        Raises:
            LoradockError: what `work` raises; `source_unavailable` when it takes longer than a stall.
        """
        told, failures = progress or NoProgress(), 0
        while True:
            try:
                with _worker() as worker:
                    return self.wait_for(worker.submit(work), what, told)
            except LoradockError as error:
                failures += 1
                if error.code != "source_unavailable" or failures >= self.attempts:
                    raise
            self.pause(failures, told)

    def wait_for(self, future: "Future[Result]", what: str, progress: Progress) -> Result:
        """The future's result, unless it stalls or `progress` ends the wait."""
        until = time.monotonic() + self.stall_seconds
        while not wait([future], timeout=ASK_SECONDS).done:
            progress.advance(0)
            if time.monotonic() > until:
                raise LoradockError(
                    "source_unavailable", f"{what}: too little came for {self.stall_seconds:g} seconds"
                )
        return future.result()


@contextmanager
def steady_reader(
    open_at: Opener, size: int | None, what: str, patience: Patience, progress: Progress | None = None
) -> Iterator[Reader]:
    """A reader that opens `open_at(offset)` again where the last one broke off.

    The next chunk is read in a thread of its own while the caller works on this one. The reader has a method
    `cancel()`, which another thread may call.

    Args:
        open_at: opens the content from this offset on.
        size: bytes in all; None when nobody knows, then an end is an end.
        what: for messages; no secret.
        progress: asked while it is opened, and only then: who reads may be another thread.
    """
    reader = SteadyReader(open_at, size, what, patience)
    try:
        reader.start(progress or NoProgress())
        yield reader
    finally:
        reader.close()


class Cancellable:
    """A progress that another thread can end."""

    def __init__(self) -> None:
        self.cancelled = Event()

    def cancel(self) -> None:
        """End the wait that goes on, and every later one."""
        self.cancelled.set()

    def advance(self, size: int) -> None:
        """As `Progress.advance`."""
        if self.cancelled.is_set():
            raise LoradockError("operation_cancelled", "the transfer was cancelled")


class SteadyReader:
    """See `steady_reader`."""

    def __init__(self, open_at: Opener, size: int | None, what: str, patience: Patience) -> None:
        self._open_at, self._size, self._what, self._patience = open_at, size, what, patience
        self._cancellable = Cancellable()
        self._offset = 0
        self._failures = 0
        self._ready = memoryview(b"")
        self._run: _Run | None = None

    def start(self, progress: Progress) -> None:
        """Open, so that a refusal shows at once."""
        self._ready = self._next(progress)

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Reader.readinto`."""
        data = self._ready or self._next(self._cancellable)
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        self._ready = data[count:]
        if self._patience.bandwidth is not None:
            self._patience.bandwidth.pass_through(count, self._cancellable.cancelled)
        return count

    def cancel(self) -> None:
        """Break off a read that waits in another thread."""
        self._cancellable.cancel()

    def close(self) -> None:
        """Give up whatever is going on; a thread that is stuck ends by its own timeout."""
        if self._run is not None:
            self._run.close()
            self._run = None

    def _next(self, progress: Progress) -> memoryview:
        while True:
            try:
                if self._run is None:
                    self._run = _Run(self._open_at, self._offset)
                data = self._patience.wait_for(self._run.ahead, self._what, progress)
                self._check(len(data))
            except LoradockError as error:
                self.close()
                self._failures += 1
                if error.code != "source_unavailable" or self._failures >= self._patience.attempts:
                    raise
                self._patience.pause(self._failures, progress)
            else:
                self._offset += len(data)
                self._failures = 0 if data else self._failures
                if data:
                    self._run.read_ahead()
                return data

    def _check(self, count: int) -> None:
        if self._size is None:
            return
        if self._offset + count > self._size:
            raise LoradockError("source_changed", f"{self._what}: it is longer than listed")
        if count == 0 and self._offset < self._size:
            raise LoradockError("source_unavailable", f"{self._what}: the body broke off")


class _Run:
    """One opening of the content, read by a thread that is always one chunk ahead."""

    def __init__(self, open_at: Opener, offset: int) -> None:
        self._open_at, self._offset = open_at, offset
        self._opened = ExitStack()
        self._reader: Reader | None = None
        self._failed: LoradockError | None = None
        self._closed = False
        # One is being read while the caller has the other. They are this run's own: a run that was given up may
        # still write into its last one.
        self._buffers = (memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK)))
        self._turn = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="source")
        self.ahead: Future[memoryview] = self._worker.submit(self._read)

    def read_ahead(self) -> None:
        self.ahead = self._worker.submit(self._read)

    def close(self) -> None:
        self._closed = True
        # Queued behind what is running: a reader is closed by the thread that reads it.
        self._worker.submit(self._close_opened)
        self._worker.shutdown(wait=False)

    def _close_opened(self) -> None:
        with suppress(LoradockError, OSError):
            self._opened.close()

    def _read(self) -> memoryview:
        if self._failed is not None:
            raise self._failed
        if self._reader is None:
            self._reader = self._opened.enter_context(self._open_at(self._offset))
        self._turn ^= 1
        buffer, count = self._buffers[self._turn], 0
        enough = time.monotonic() + ASK_SECONDS
        while count < CHUNK and not self._closed:
            try:
                more = self._reader.readinto(buffer[count:])
            except LoradockError as error:
                if count == 0:
                    raise
                self._failed = error  # told at the next read: what came until here counts
                break
            count += more
            if more == 0 or (count >= LEAST and time.monotonic() > enough):
                break
        return buffer[:count]


@contextmanager
def _worker() -> Iterator[ThreadPoolExecutor]:
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="source")
    try:
        yield worker
    finally:
        worker.shutdown(wait=False)
