"""One stack per project folder: a lock that the system frees when its holder ends, however it ends."""

import fcntl
import os
from pathlib import Path

from loradock.core.errors import LoradockError


class StackLock:
    """The lock file of a project's stacks.

    Args:
        path: usually `<project>/.loradock/lock`; holds the process id for people.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether we have the lock."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LoradockError: `stack_running`, with the holder's process id.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            message = f"a stack is already running in {self._path.parent.parent} (pid {holder})"
            raise LoradockError("stack_running", message, pid=holder) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Free the lock; the file stays, for removing it could free somebody else's."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
