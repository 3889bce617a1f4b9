"""Every byte that comes in goes through here: threads fetch and write, the caller's thread hashes what is written.

The hash is taken behind the writers and in order. A chunk that is next in line is hashed from the memory that it came
in; what came out of order, or while the hash was behind, and what an earlier try left, is read back from the file. The
caller's thread waits for nothing but the writers, in slices: a cancel is heard within a fraction of a second even when
a stream stalls, and then the streams are broken off.
"""

import hashlib
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.disk import create_file, disk_errors
from loradock.artifacts.hashing import CHUNK, Copied
from loradock.artifacts.protocol import OnRetry, Progress, Reader
from loradock.artifacts.ranges import Range, ranges_between, reopen
from loradock.core.errors import LoradockError

HANDED: Final = 3
"""Chunks that wait to be hashed from memory; those behind them are read back from the file."""
TICK_SECONDS: Final = 0.2
RETRY_BASE_SECONDS: Final = 0.2
RETRY_MOST_SECONDS: Final = 5.0
_WRITING: Final = "writing an adapter's file"


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How files are fetched.

    Attributes:
        parts: ranges of one file that are fetched at once.
        part_bytes: bytes of such a range; smaller files are fetched in one request.
        attempts: tries in a row that bring no byte; one that brings some begins the count anew.
        bandwidth: shared by all transfers that must stay under one limit together.
        on_retry: told the code of what is tried again; from any thread, and must not fail.
        durable: written through to the disk at the end; else only a power cut can lose the file.
    """

    parts: int = 4
    part_bytes: int = 16 * 1024 * 1024
    attempts: int = 5
    bandwidth: Bandwidth | None = None
    durable: bool = True
    on_retry: OnRetry | None = None


RangeOpener = Callable[[int, int | None], AbstractContextManager[Reader]]
"""Opens a file from an offset on, for so many bytes; None is to its end."""


def download(reader: Reader, path: Path, progress: Progress, *, limit: int) -> Copied:
    """Write a stream to a new file and make it durable; an incomplete file is left to the caller.

    Args:
        limit: stop after the chunk that exceeds so many bytes; the caller sees the size and refuses.

    Raises:
        LoradockError: `disk_full`, `disk_error`, or what the reader raises.
    """
    with disk_errors(_WRITING):
        descriptor = create_file(path)
    options = TransferOptions(attempts=1, parts=1)  # one reader: there is nothing else to read from
    return _Transfer(descriptor, lambda _start, _length: nullcontext(reader), progress, options).run(limit)


def fetch(
    opener: RangeOpener, path: Path, progress: Progress, *, size: int, options: TransferOptions
) -> Copied:
    """Fetch a file of known size, from what an earlier try left on.

    What was left is hashed with the rest: the caller compares, and calls again after a removal when it was no good.

    Args:
        opener: called for each range and each try; errors that can heal are retried after a random wait.

    Raises:
        LoradockError: `disk_full`, `disk_error`, or what opener and readers raise.
    """
    with disk_errors(_WRITING):
        descriptor, start = reopen(path, size)
    return _Transfer(descriptor, opener, progress, options).run(size, start)


class _Transfer:
    """One file on its way. Closes the descriptor."""

    def __init__(
        self, descriptor: int, opener: RangeOpener, progress: Progress, options: TransferOptions
    ) -> None:
        self._descriptor = descriptor
        self._opener = opener
        self._progress = progress
        self._options = options
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._unfinished: list[Range] = []
        self._waiting: deque[Range] = deque()
        self._end = 0
        self._readers: list[Reader] = []
        self._handed: deque[tuple[int, memoryview, int]] = deque()
        self._in_hash: memoryview | None = None
        self._spare: list[memoryview] = []
        self._error: BaseException | None = None

    def run(self, size: int, start: int = 0) -> Copied:
        """Fetch from `start` on and hash all of it."""
        self._unfinished = ranges_between(
            start, size, parts=self._options.parts, part_bytes=self._options.part_bytes
        )
        self._waiting.extend(self._unfinished)
        self._end = size
        threads = [
            threading.Thread(target=self._work, name=f"fetch-{number}", daemon=True)
            for number in range(min(self._options.parts, len(self._unfinished)))
        ]
        try:
            for thread in threads:
                thread.start()
            copied = self._hash()
            if self._options.durable:
                with disk_errors(_WRITING):
                    os.fsync(self._descriptor)
            return copied
        finally:
            self._stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            os.close(self._descriptor)

    # --- the caller's thread

    def _hash(self) -> Copied:
        digest, hashed = hashlib.sha256(), 0
        buffer = memoryview(bytearray(CHUNK))
        while (ready := self._ready(hashed)) is not None:
            if ready == hashed:
                self._progress.advance(0)
            while hashed < ready:
                handed = self._handed_at(hashed)
                data = self._read_back(buffer, hashed, ready) if handed is None else handed
                digest.update(data)
                hashed += len(data)
                self._progress.advance(len(data))
        return Copied(hashed, digest.hexdigest())

    def _handed_at(self, offset: int) -> memoryview | None:
        """The chunk of this offset if it is still in memory. The one before is not used any more."""
        with self._changed:
            if self._in_hash is not None:
                self._spare.append(self._in_hash)
                self._in_hash = None
            if not self._handed or self._handed[0][0] != offset:
                return None
            _, self._in_hash, count = self._handed.popleft()
            return self._in_hash[:count]

    def _read_back(self, buffer: memoryview, hashed: int, ready: int) -> memoryview:
        with self._changed:
            end = min(ready, self._handed[0][0]) if self._handed else ready
        with disk_errors("reading an adapter's file"):
            count = os.preadv(self._descriptor, [buffer[: end - hashed]], hashed)
        if count == 0:
            raise LoradockError("disk_error", "an adapter's file was cut while it was written")
        return buffer[:count]

    def _ready(self, hashed: int) -> int | None:
        """Up to where the file is written without a gap, None when all of that is hashed and nothing more comes."""
        with self._changed:
            if self._unfinished and self._contiguous() == hashed and self._error is None:
                self._changed.wait(TICK_SECONDS)
            if self._error is not None:
                raise self._error
            ready = self._contiguous()
            return None if ready == hashed and not self._unfinished else ready

    def _contiguous(self) -> int:
        return self._unfinished[0].at if self._unfinished else self._end

    def _stop(self) -> None:
        self._stopped.set()
        with self._changed:
            readers = list(self._readers)
        for reader in readers:
            cancel = getattr(reader, "cancel", None)
            if cancel is not None:
                with suppress(OSError, ValueError):
                    cancel()

    # --- the fetching threads

    def _work(self) -> None:
        try:
            while (part := self._take()) is not None:
                self._fetch(part)
        except BaseException as error:  # the caller's thread raises it
            with self._changed:
                if not self._stopped.is_set():
                    self._error = self._error or error
                self._changed.notify_all()

    def _take(self) -> Range | None:
        with self._changed:
            idle = self._stopped.is_set() or self._error is not None or not self._waiting
            return None if idle else self._waiting.popleft()

    def _finish(self, part: Range) -> None:
        if self._stopped.is_set():
            return
        if not part.last and part.at < part.end:
            raise LoradockError("store_unavailable", "a range of a file ended early")
        with self._changed:
            self._unfinished.remove(part)
            if part.last:
                self._end = part.at
            self._changed.notify_all()

    def _fetch(self, part: Range) -> None:
        failures = 0
        while not self._stopped.is_set():
            before = part.at
            if failures and before >= part.end:  # it broke off behind the last byte
                self._finish(part)
                return
            length = None if part.last else part.end - part.at
            try:
                with self._opener(part.at, length) as reader, self._known(reader):
                    self._copy(reader, part)
                    self._finish(part)
            except LoradockError as error:
                failures = 1 if part.at > before else failures + 1
                if not error.retryable or failures >= self._options.attempts:
                    raise
                if self._options.on_retry is not None:
                    self._options.on_retry(error.code)
                most = min(RETRY_MOST_SECONDS, RETRY_BASE_SECONDS * 2**failures)
                self._stopped.wait(random.uniform(0, most))  # noqa: S311 - not a secret
            else:
                return

    @contextmanager
    def _known(self, reader: Reader) -> Iterator[None]:
        with self._changed:
            self._readers.append(reader)
        try:
            yield
        finally:
            with self._changed:
                self._readers.remove(reader)

    def _copy(self, reader: Reader, part: Range) -> None:
        buffer = self._buffer()
        bandwidth = self._options.bandwidth
        while not self._stopped.is_set() and (part.last or part.at < part.end):
            room = buffer if part.last else buffer[: part.end - part.at]
            count = reader.readinto(room)
            if count == 0 or self._stopped.is_set():
                return
            self._write(room[:count], part.at)
            if self._hand_over(part, buffer, count):
                buffer = self._buffer()
            if part.at > part.end:  # more than there should be: the caller sees the size and refuses
                return
            if bandwidth is not None:
                bandwidth.pass_through(count, self._stopped)

    def _buffer(self) -> memoryview:
        with self._changed:
            return self._spare.pop() if self._spare else memoryview(bytearray(CHUNK))

    def _hand_over(self, part: Range, buffer: memoryview, count: int) -> bool:
        """Count a written chunk; returns whether the hash takes it from the buffer."""
        with self._changed:
            next_in_line = part is self._unfinished[0] and len(self._handed) < HANDED
            if next_in_line:
                self._handed.append((part.at, buffer, count))
            part.at += count
            self._changed.notify()
        return next_in_line

    def _write(self, data: memoryview, at: int) -> None:
        with disk_errors(_WRITING):
            while data:
                count = os.pwrite(self._descriptor, data, at)
                data, at = data[count:], at + count
