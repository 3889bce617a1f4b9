"""Local copies for sources that can only be read as a whole (archives, sources with a plain `download`)."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from loradock.artifacts.disk import disk_errors, open_plain, temporary_folder
from loradock.artifacts.protocol import SourceFile
from loradock.artifacts.sources.file import check_source_path
from loradock.core.errors import LoradockError


@dataclass(frozen=True, slots=True)
class Copy:
    """A whole address on disk.

    Attributes:
        folder: where the files lie under their paths.
        files: as they are listed.
    """

    folder: Path
    files: tuple[SourceFile, ...]


Fill = Callable[[Path], Copy]


class Spool:
    """Keeps the last few copies; a dead process's are swept with the other temporary folders below `root`.

    Args:
        root: made when missing.
        keep: copies at most, of different addresses.
    """

    def __init__(self, root: Path, *, keep: int = 4) -> None:
        self._root = root
        self._keep = keep
        self._copies: OrderedDict[str, tuple[Copy, ExitStack]] = OrderedDict()
        self._lock = Lock()

    def refill(self, uri: str, fill: Fill) -> Copy:
        """Copy an address anew, in place of what was kept of it.

        Raises:
            LoradockError: what `fill` raises; `disk_full`, `disk_error`.
        """
        with ExitStack() as stack:
            with disk_errors("the staging folder"):
                folder = stack.enter_context(temporary_folder(self._root))
            copy = fill(folder)
            self.forget(uri)
            with self._lock:
                self._copies[uri] = (copy, stack.pop_all())
                spare = [self._copies.popitem(last=False)[1] for _ in range(len(self._copies) - self._keep)]
        for _, old in spare:
            old.close()
        return copy

    @contextmanager
    def open(self, uri: str, file: SourceFile, fill: Fill) -> Iterator["SpooledReader"]:
        """Read a listed file of a copy, which is made again when it is not kept any more.

        Raises:
            LoradockError: `source_changed` when the address does not have this content any more.
        """
        check_source_path(file.path)
        opened = self._opened(uri, file)
        if opened is None:
            self.refill(uri, fill)
            opened = self._opened(uri, file)
        if opened is None:
            raise LoradockError("source_changed", f"{file.path!r} is not what was listed")
        with opened:
            yield SpooledReader(opened, file)

    def forget(self, uri: str) -> None:
        """Remove what is kept of an address; a file that is being read stays readable."""
        with self._lock:
            kept = self._copies.pop(uri, None)
        if kept is not None:
            kept[1].close()

    def _opened(self, uri: str, file: SourceFile) -> BinaryIO | None:
        with self._lock:
            kept = self._copies.get(uri)
            if kept is None or file not in kept[0].files:
                return None
            self._copies.move_to_end(uri)
            with disk_errors("the staging folder"):
                return open_plain(kept[0].folder / file.path)


class SpooledReader:
    """Gives exactly the listed size."""

    def __init__(self, opened: BinaryIO, file: SourceFile) -> None:
        self._descriptor, self._left, self._path = opened.fileno(), file.size, file.path

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Reader.readinto`."""
        with disk_errors("the staging folder"):
            count = os.readv(self._descriptor, [buffer])
        self._left -= count
        if self._left < 0 or (count == 0 and self._left):
            raise LoradockError("source_changed", f"{self._path!r} is not what was listed")
        return count
