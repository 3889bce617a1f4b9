"""A lock between processes that dies with its holder, waited for without stopping the event loop."""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Final, Literal

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.05


class SharedLock:
    """An exclusive lock on a file. Within the process, those who wait have their turns; between processes, the luckier one.

    Args:
        path: the lock's file; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._inner = asyncio.Lock()

    async def acquire(self) -> Literal[True]:
        """Wait for the lock; a cancelled wait leaves nothing locked."""
        await self._inner.acquire()
        pause = _FIRST_PAUSE
        try:
            while not self._try():
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        except BaseException:
            self._inner.release()
            raise
        return True

    def release(self) -> None:
        """Let another have it."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._inner.release()

    def locked(self) -> bool:
        """Whether somebody has it, in this process or another."""
        if self._inner.locked():
            return True
        if not self._try():
            return True
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
