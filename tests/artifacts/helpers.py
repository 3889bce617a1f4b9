"""Small words for the tests of this room."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from loradock.artifacts.hashing import hash_file
from loradock.artifacts.manifest import build_manifest, select_files
from loradock.artifacts.protocol import NoProgress, Reader, SourceFile
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, ManifestFile


@contextlib.contextmanager
def refused(*codes: str) -> Iterator[pytest.ExceptionInfo[LoradockError]]:
    with pytest.raises(LoradockError) as caught:
        yield caught
    assert caught.value.code in codes, caught.value


def read_all(opened: AbstractContextManager[Reader], chunk: int = 64 * 1024) -> bytes:
    data = bytearray()
    buffer = memoryview(bytearray(chunk))
    with opened as reader:
        while count := reader.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


def manifest_of(folder: Path) -> Manifest:
    """The manifest that publishing this folder gives."""
    listed = [
        SourceFile(path.relative_to(folder).as_posix(), path.stat().st_size, "")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    selection = select_files(listed, max_bytes=2**40)
    files = []
    for file in selection.taken:
        found = hash_file(folder / file.path, NoProgress(), limit=2**40)
        files.append(ManifestFile(path=file.path, size=found.size, sha256=found.sha256))
    return build_manifest(files, selection.left_out)


class Counting:
    """Counts bytes, and may call something at each chunk."""

    def __init__(self, each: Callable[[int], None] | None = None) -> None:
        self.size = 0
        self._each = each
        self._lock = threading.Lock()

    def advance(self, size: int) -> None:
        with self._lock:
            self.size += size
        if self._each:
            self._each(self.size)


class Cancelled(BaseException):
    """What a cancelled activity raises in the middle of a transfer."""


def together(count: int, work: Callable[[int], object]) -> list[object]:
    """Run `work` in so many threads that all begin at once; results in order, exceptions as results."""
    barrier = threading.Barrier(count)
    results: list[object] = [None] * count

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = work(index)
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
