"""Exact counts of the requests that run now, per adapter, and the means to wait for them or to end them."""

import asyncio
from collections.abc import Callable
from typing import Final

BASE: Final = ""
"""The key of requests that use no adapter of ours."""

GRACE_SECONDS: Final = 2.0
"""How long an aborted request may take to end by itself before its task is cancelled."""


class Ticket:
    """One running request."""

    __slots__ = ("_on_abort", "aborted", "cell", "name", "task")

    def __init__(self, name: str) -> None:
        self.name = name
        self.aborted = False
        self.cell: int | None = None
        self.task = asyncio.current_task()
        self._on_abort: Callable[[], None] | None = None

    def on_abort(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once when the request is aborted."""
        self._on_abort = callback

    def abort(self) -> None:
        """Ask the request to end now."""
        if self.aborted:
            return
        self.aborted = True
        if self._on_abort is not None:
            self._on_abort()


class InFlight:
    """The running requests: of one server process, which is the only one of its engine."""

    def __init__(self) -> None:
        self._running: dict[str, set[Ticket]] = {}
        self._idle: dict[str, list[asyncio.Future[None]]] = {}
        self._base = 0

    @property
    def base(self) -> int:
        """How many requests run that use no adapter of ours."""
        return self._base

    def count(self, name: str) -> int:
        """How many requests run for this name."""
        return self.count_own(name)

    def count_own(self, name: str) -> int:
        """How many requests run for this name in this process."""
        return len(self._running.get(name, ()))

    def enter_base(self) -> None:
        """Count a request that uses no adapter of ours."""
        self._base += 1

    def leave_base(self) -> None:
        """Such a request has ended."""
        self._base -= 1

    def enter(self, name: str) -> Ticket:
        """Count a request of the current task for an adapter."""
        ticket = Ticket(name)
        self._running.setdefault(name, set()).add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request has ended; wakes who waits for the last one."""
        running = self._running.get(ticket.name)
        if running is None or ticket not in running:
            return
        running.discard(ticket)
        if running:
            return
        del self._running[ticket.name]
        for waiter in self._idle.pop(ticket.name, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def wait_idle(self, name: str, seconds: float) -> bool:
        """Wait until no request runs for the name; False when some still do after that many seconds."""
        if not self.count(name):
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._idle.setdefault(name, [])
        waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            pass
        finally:
            if waiter in waiters:
                waiters.remove(waiter)
        return not self.count(name)

    async def abort_own(self, name: str) -> None:
        """End this process's requests of the name: first as if their clients had gone, then by cancelling their tasks."""
        asked = tuple(self._running.get(name, ()))
        for ticket in asked:
            ticket.abort()
        await self.wait_idle(name, GRACE_SECONDS)
        for ticket in asked:
            if ticket.task is not None and ticket in self._running.get(name, ()):
                ticket.task.cancel()
