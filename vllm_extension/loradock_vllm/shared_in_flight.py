"""Running requests of all processes of an engine: each counts its own, and whoever waits looks at all of them."""

import asyncio
from collections.abc import Callable
from typing import Final

from loradock_vllm.in_flight import InFlight, Ticket
from loradock_vllm.shared_counts import SharedCounts

LOOK_SECONDS: Final = 0.01
"""How often somebody who waits for requests of other processes looks."""

_BASE_CELL: Final = 0


class SharedInFlight(InFlight):
    """The running requests.

    Args:
        counts: where every process's counts are.
        cell_of: the cell of a name's adapter, None when it is not held.
    """

    def __init__(self, counts: SharedCounts, cell_of: Callable[[str], int | None]) -> None:
        super().__init__()
        self._counts = counts
        self._cell_of = cell_of

    @property
    def base(self) -> int:
        """How many requests run, in all processes, that use no adapter of ours."""
        return self._counts.total(_BASE_CELL)

    def count(self, name: str) -> int:
        """How many requests run for this name in all processes."""
        cell = self._cell_of(name)
        return self.count_own(name) if cell is None else self._counts.total(cell)

    def enter_base(self) -> None:
        """Count a request that uses no adapter of ours."""
        self._counts.add(_BASE_CELL, 1)

    def leave_base(self) -> None:
        """Such a request has ended."""
        self._counts.add(_BASE_CELL, -1)

    def enter(self, name: str) -> Ticket:
        """Count a request of the current task for an adapter."""
        ticket = super().enter(name)
        ticket.cell = self._cell_of(name)
        if ticket.cell is not None:
            self._counts.add(ticket.cell, 1)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request has ended."""
        if ticket.cell is not None:
            self._counts.add(ticket.cell, -1)
            ticket.cell = None
        super().leave(ticket)

    async def wait_idle(self, name: str, seconds: float) -> bool:
        """Wait until no request runs for the name in any process; False when some still do after that many seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.count(name):
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(LOOK_SECONDS, left))
        return True
