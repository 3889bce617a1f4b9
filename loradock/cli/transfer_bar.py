"""A bar on stderr for bytes that this process moves: done, total, rate, time left. Nothing where nobody looks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class TransferBar:
    """Counts bytes, from any thread; a progress for whatever moves or hashes them.

    Args:
        progress: draws them, None for nobody.
        task: whose bytes these are.
    """

    def __init__(self, progress: Progress | None, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._lock = threading.Lock()
        self.done = 0

    def expect(self, total: int) -> None:
        """Note how many bytes all will be."""
        if self._progress is not None:
            self._progress.update(self._task, total=total)

    def advance(self, size: int) -> None:
        """Count `size` more bytes, less when it is negative: what was sent in vain."""
        with self._lock:
            self.done += size
        if self._progress is not None and size:
            self._progress.advance(self._task, size)


@contextmanager
def transfer_bar(console: Console, what: str) -> Iterator[TransferBar]:
    """A bar while the block runs; it stays, as it was last, when it has moved anything."""
    if not console.is_terminal:
        yield TransferBar(None, TaskID(0))
        return
    columns = (
        TextColumn("{task.description:<9}"), BarColumn(bar_width=30), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console, refresh_per_second=8) as progress:
        yield TransferBar(progress, progress.add_task(what, total=None))
