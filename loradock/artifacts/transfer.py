"""Every byte that comes in goes through here: threads fetch and write, the caller's thread hashes what lies on disk.

The hash is taken from the file, behind its writers and in order, so it tells of what will be read later. The caller's
thread waits for nothing but the writers, in slices: a cancel is heard within a fraction of a second even when a stream
stalls, and then the streams are broken off.
"""

import hashlib
import os
import random
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.disk import create_file, disk_errors
from loradock.artifacts.protocol import Progress, Reader
from loradock.core.errors import LoradockError

CHUNK: Final = 256 * 1024
"""Bytes per read: they stay in the processor's cache between read and write."""
TICK_SECONDS: Final = 0.2
RESUME_ALIGNMENT: Final = 1024 * 1024
RETRY_BASE_SECONDS: Final = 0.2
RETRY_MOST_SECONDS: Final = 5.0
_WRITING: Final = "writing an adapter's file"


@dataclass(frozen=True, slots=True)
class Copied:
    """What really went through."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How files are fetched.

    Attributes:
        parts: ranges of one file that are fetched at once.
        part_bytes: bytes of such a range; smaller files are fetched in one request.
        attempts: tries in a row that bring no byte; one that brings some begins the count anew.
        bandwidth: shared by all transfers that must stay under one limit together.
        durable: written through to the disk at the end; else only a power cut can lose the file.
    """

    parts: int = 1
    part_bytes: int = 8 * 1024 * 1024
    attempts: int = 5
    bandwidth: Bandwidth | None = None
    durable: bool = True


RangeOpener = Callable[[int, int | None], AbstractContextManager[Reader]]
"""Opens a file from an offset on, for so many bytes; None is to its end."""


def hash_stream(reader: Reader, progress: Progress, *, limit: int) -> Copied:
    """Read to the end and hash.

    Args:
        limit: stop after the chunk that exceeds so many bytes; the caller sees the size and refuses.

    Raises:
        LoradockError: what the reader raises.
    """
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(CHUNK))
    while size <= limit and (count := reader.readinto(buffer)):
        digest.update(buffer[:count])
        size += count
        progress.advance(count)
    return Copied(size, digest.hexdigest())


def hash_file(path: Path, progress: Progress, *, limit: int) -> Copied:
    """Hash a local file of our own.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return hash_stream(file, progress, limit=limit)


def download(reader: Reader, path: Path, progress: Progress, *, limit: int) -> Copied:
    """Write a stream to a new file and make it durable; an incomplete file is left to the caller.

    Args:
        limit: stop after the chunk that exceeds so many bytes; the caller sees the size and refuses.

    Raises:
        LoradockError: `disk_full`, `disk_error`, or what the reader raises.
    """
    with disk_errors(_WRITING):
        descriptor = create_file(path)
    options = TransferOptions(attempts=1)
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
        descriptor, start = _reopen(path, size)
    return _Transfer(descriptor, opener, progress, options).run(size, start)


def _reopen(path: Path, size: int) -> tuple[int, int]:
    """The file, open to be filled, and how much of its beginning was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or not 0 < status.st_size <= size:
        os.close(descriptor)
        path.unlink()
        return create_file(path), 0
    try:
        # Ranges are written side by side: up to the first hole all was. Its block may be half full.
        written = os.lseek(descriptor, 0, os.SEEK_HOLE)
    except OSError:
        written = 0
    start = written if written == size else max(0, written - 1) // RESUME_ALIGNMENT * RESUME_ALIGNMENT
    os.ftruncate(descriptor, start)
    return descriptor, start


@dataclass(slots=True)
class _Range:
    """A part of a file: bytes before `at` are written.

    Attributes:
        last: reads to the end of the stream, which may lie elsewhere than announced.
    """

    at: int
    end: int
    last: bool = False


def _ranges(start: int, size: int, options: TransferOptions) -> list[_Range]:
    if start == size > 0:
        return []
    if options.parts == 1 or size - start <= options.part_bytes:
        return [_Range(start, size, last=True)]
    begins = range(start, size, options.part_bytes)
    return [_Range(begin, min(begin + options.part_bytes, size)) for begin in begins]


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
        self._unfinished: list[_Range] = []
        self._waiting: deque[_Range] = deque()
        self._end = 0
        self._readers: list[Reader] = []
        self._error: BaseException | None = None

    def run(self, size: int, start: int = 0) -> Copied:
        """Fetch from `start` on and hash all of it."""
        self._unfinished = _ranges(start, size, self._options)
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
                with disk_errors("reading an adapter's file"):
                    count = os.preadv(self._descriptor, [buffer[: ready - hashed]], hashed)
                if count == 0:
                    raise LoradockError("disk_error", "an adapter's file was cut while it was written")
                digest.update(buffer[:count])
                hashed += count
                self._progress.advance(count)
        return Copied(hashed, digest.hexdigest())

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

    def _take(self) -> _Range | None:
        with self._changed:
            idle = self._stopped.is_set() or self._error is not None or not self._waiting
            return None if idle else self._waiting.popleft()

    def _finish(self, part: _Range) -> None:
        if self._stopped.is_set():
            return
        if not part.last and part.at < part.end:
            raise LoradockError("store_unavailable", "a range of a file ended early")
        with self._changed:
            self._unfinished.remove(part)
            if part.last:
                self._end = part.at
            self._changed.notify_all()

    def _fetch(self, part: _Range) -> None:
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

    def _copy(self, reader: Reader, part: _Range) -> None:
        buffer = memoryview(bytearray(CHUNK))
        bandwidth = self._options.bandwidth
        while not self._stopped.is_set() and (part.last or part.at < part.end):
            room = buffer if part.last else buffer[: part.end - part.at]
            count = reader.readinto(room)
            if count == 0 or self._stopped.is_set():
                return
            self._write(room[:count], part.at)
            with self._changed:
                part.at += count
                self._changed.notify_all()
            if part.at > part.end:  # more than there should be: the caller sees the size and refuses
                return
            if bandwidth is not None:
                bandwidth.pass_through(count, self._stopped)

    def _write(self, data: memoryview, at: int) -> None:
        with disk_errors(_WRITING):
            while data:
                count = os.pwrite(self._descriptor, data, at)
                data, at = data[count:], at + count
