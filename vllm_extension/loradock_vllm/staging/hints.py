"""How the workers wake the server that waits for them, instead of being asked again and again between steps."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Iterator
from typing import Final

_MAX_BYTES: Final = 256


class Hints:
    """Receives a word from every worker of this host that has done its part of a staging.

    Only hints: whoever is woken asks the workers. A host without such sockets (not Linux), or workers on other hosts,
    give none.

    Args:
        token: of the staging that the hints are about.
    """

    def __init__(self, token: str) -> None:
        self.name = ""
        self._token = token
        self._woken = asyncio.Event()
        self._ranks: set[str] = set()
        self._wanted = 1

    @contextlib.contextmanager
    def listening(self, workers: int) -> Iterator["Hints"]:
        """Receive within; `workers` is how many words wake the waiter. A failure of one wakes at once."""
        self._wanted = workers
        loop = asyncio.get_running_loop()
        try:
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            # An abstract address: nothing on the disk, gone with the process.
            self.name = f"loradock-{secrets.token_hex(16)}"
            receiver.bind(f"\0{self.name}")
            receiver.setblocking(False)
            loop.add_reader(receiver, self._receive, receiver)
        except (OSError, AttributeError, NotImplementedError):
            self.name = ""
            yield self
            return
        try:
            yield self
        finally:
            loop.remove_reader(receiver)
            receiver.close()

    async def wait(self, seconds: float) -> None:
        """Until woken, or until the time has passed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()

    def _receive(self, receiver: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            token, rank, state = receiver.recv(_MAX_BYTES).decode("ascii").split(" ")
            if token != self._token:
                return
            self._ranks.add(rank)
            if state != "ready" or len(self._ranks) >= self._wanted:
                self._woken.set()
