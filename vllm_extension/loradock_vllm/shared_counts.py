"""Numbers that the processes of one engine share: a generation, and each process's own counts of its running requests.

They lie in one mapped file of 8-byte words. A word is written by one process only (its own counts), or under the record's
lock (the rest), and an aligned word is read and written whole, so no read needs a lock.
"""

import mmap
import threading
from pathlib import Path
from typing import Final

from loradock_vllm.process import ProcessId

_HEADER: Final = 8
_GENERATION: Final = 0
_ROWS: Final = 1
_CELLS: Final = 2
_OWNER: Final = 2
"""A row begins with its process: id and start."""


class SharedCounts:
    """The mapped file. A row is a process, a cell of it a count; cell 0 is the base model's.

    Args:
        path: the file; made, with zeros, when it is not there. Of all that opens it, the shape must be the same.
        rows: so many processes at most.
        cells: so many counts for each.

    Raises:
        OSError: the file cannot be mapped.
        ValueError: it has another shape.
    """

    def __init__(self, path: Path, rows: int, cells: int) -> None:
        self._width = _OWNER + cells
        size = 8 * (_HEADER + rows * self._width)
        with path.open("a+b") as file:
            if file.seek(0, 2) not in (0, size):
                raise ValueError(f"{path.name} has another size than this process's settings ask for")
            file.truncate(size)
            self._words = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        self._rows, self._cells = rows, cells
        self._own = -1
        self._barrier = threading.Lock()

    @property
    def generation(self) -> int:
        """Raised by every change of the record."""
        return self._words[_GENERATION]

    def next_generation(self) -> None:
        """Tell every process that the record has changed. Under the record's lock."""
        self._words[_GENERATION] += 1

    def living(self) -> bool:
        """Whether any process that has a row is alive."""
        return any(self._owner(row).alive for row in range(self._rows))

    def join(self, process: ProcessId) -> None:
        """Take a free row, or a dead process's, for this process. Under the record's lock.

        Raises:
            ValueError: there is none, or this system does not tell when a process began.
        """
        if not process.alive:
            raise ValueError("/proc does not tell of this process")
        for row in range(self._rows):
            if not self._owner(row).alive:
                self._clear(row)
                start = self._start(row)
                self._words[start], self._words[start + 1] = process
                self._own = start + _OWNER
                return
        raise ValueError(f"more than {self._rows} processes share one record")

    def add(self, cell: int, change: int) -> None:
        """Change an own count. What is read after this is newer than the change is old."""
        self._words[self._own + cell] += change
        # The processor may look at the generation before others see the count: a lock's atomic instruction forbids it.
        with self._barrier:
            pass

    def total(self, cell: int) -> int:
        """The count of all living processes; a dead one's requests have ended with it."""
        total = 0
        for row in range(self._rows):
            count = self._words[self._start(row) + _OWNER + cell]
            if count and (self._start(row) + _OWNER == self._own or self._owner(row).alive):
                total += count
        return total

    def _start(self, row: int) -> int:
        return _HEADER + row * self._width

    def _owner(self, row: int) -> ProcessId:
        start = self._start(row)
        return ProcessId(self._words[start], self._words[start + 1])

    def _clear(self, row: int) -> None:
        start = self._start(row)
        for word in range(start, start + self._width):
            self._words[word] = 0
