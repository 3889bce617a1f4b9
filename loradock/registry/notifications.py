"""Being told of changes: one connection listens for all who wait."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import sql

from loradock.registry.database import CLIENT_ENCODING, libpq_url

CHANNEL: Final = "loradock_operations"
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
# A connection that died without a word is found out by the next sign of life that does not come back.
_SIGN_OF_LIFE_SECONDS: Final = 15.0


class Listener:
    """Hears what is told on one channel, over a connection that is made again whenever it breaks.

    Args:
        database_url: `postgresql://…`; one connection is held, past any pooler that does not do LISTEN.
        channel: what to listen to.
        heard: called with each payload, and with None when anything may have been missed: look at everything.
    """

    def __init__(self, database_url: str, channel: str, heard: Callable[[str | None], None]) -> None:
        self._url = libpq_url(database_url)
        self._channel = channel
        self._heard = heard
        self._listening = asyncio.Event()

    @property
    def listening(self) -> bool:
        """Whether what is told arrives at this moment."""
        return self._listening.is_set()

    async def wait_listening(self, timeout: float) -> bool:
        """Wait, at most so many seconds, until it does."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listening.wait(), timeout)
        return self.listening

    async def run(self) -> None:
        """Listen for ever; a database that does not answer is tried again and again."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError):
                pause = _FIRST_PAUSE if self.listening else min(pause * 2, _LONGEST_PAUSE)
            finally:
                self._listening.clear()
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=5,
            client_encoding=CLIENT_ENCODING,
            application_name="loradock-feed",
        )
        async with connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            self._listening.set()
            # Whatever was told while nobody listened: everything is looked at.
            self._heard(None)
            while True:
                async for notice in connection.notifies(timeout=_SIGN_OF_LIFE_SECONDS):
                    self._heard(notice.payload)
                await connection.execute("SELECT 1")


class Changes:
    """The changes of one operation, for one waiter."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._event.set()

    async def wait(self, timeout: float) -> bool:
        """Wait for a change since the last wait (or since the watch began).

        Args:
            timeout: seconds. A change can be missed while the connection is down: look again after it, too.

        Returns:
            Whether something may have changed.
        """
        try:
            await asyncio.wait_for(self._event.wait(), timeout)
        except TimeoutError:
            return False
        self._event.clear()
        return True


class OperationFeed:
    """Wakes those who wait for operations to change.

    Args:
        database_url: `postgresql://…`; one connection is held, past any pooler that does not do LISTEN.
    """

    def __init__(self, database_url: str) -> None:
        self._watchers: dict[str, set[Changes]] = {}
        self._task: asyncio.Task[None] | None = None
        self._listener = Listener(database_url, CHANNEL, self._heard)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to listen, in the background; a database that does not answer is tried again and again."""
        if self._task is None:
            self._task = asyncio.create_task(self._listener.run(), name="operation-feed")

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def listening(self) -> bool:
        """Whether changes arrive at this moment."""
        return self._listener.listening

    async def wait_listening(self, timeout: float) -> bool:
        """Wait, at most so many seconds, until changes arrive."""
        return await self._listener.wait_listening(timeout)

    @asynccontextmanager
    async def watch(self, operation: str) -> AsyncIterator[Changes]:
        """Be told of the operation's changes inside the block. Read its state after entering, then wait."""
        changes = Changes()
        self._watchers.setdefault(operation, set()).add(changes)
        try:
            yield changes
        finally:
            self._watchers[operation].discard(changes)
            if not self._watchers[operation]:
                del self._watchers[operation]

    def _heard(self, operation: str | None) -> None:
        watchers = self._watchers.values() if operation is None else [self._watchers.get(operation, set())]
        for some in watchers:
            for changes in some:
                changes.tell()
