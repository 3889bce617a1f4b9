"""What all API server processes of an engine know in common. Here for an engine that has only one."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

from loradock_vllm.commands import Command
from loradock_vllm.in_flight import InFlight
from loradock_vllm.ledger import Ledger


class EngineLock(Protocol):
    """Held by the one call that changes the engine: of all processes, not of this one alone."""

    async def acquire(self) -> Literal[True]:
        """Wait for it, in turn."""

    def release(self) -> None:
        """Let the next one have it. It is also free when its holder's process has died."""

    def locked(self) -> bool:
        """Whether somebody has it now."""


class Record(Protocol):
    """The state of one engine incarnation, the same in every process that serves it."""

    @property
    def incarnation(self) -> str:
        """New at every start of the engine."""

    @property
    def in_flight(self) -> InFlight:
        """The running requests."""

    @property
    def engine_lock(self) -> EngineLock:
        """For changes of the engine itself."""

    @property
    def ledger(self) -> Ledger:
        """How the ledger stands now, to read. Cheap: asked for every request.

        Raises:
            ExtensionError: `engine_error` when it cannot be read.
        """

    def is_current(self) -> bool:
        """Whether nothing changed since `ledger` was read: asked after a request was counted, before it is served."""

    def change(self, command: Command | None = None) -> AbstractContextManager[Ledger]:
        """Change the ledger; nobody else does meanwhile, and every process sees it when the block ends, however it ends.

        Args:
            command: admitted by its epoch first.

        Raises:
            ExtensionError: `stale_epoch`, or `engine_error` when the record cannot be read or written.
        """

    def watch(self, changed: Callable[[Ledger], None]) -> None:
        """Have `changed` called in this process after every change, whichever process made it. Needs a running loop."""


class LocalRecord:
    """The record of an engine with one API server process: it lives in its memory."""

    def __init__(self) -> None:
        self.incarnation = str(uuid.uuid4())
        self.in_flight = InFlight()
        self.engine_lock: EngineLock = asyncio.Lock()
        self.ledger = Ledger()
        self._changed: Callable[[Ledger], None] | None = None

    def is_current(self) -> bool:
        """Always: between two awaits nobody else does anything."""
        return True

    @contextmanager
    def change(self, command: Command | None = None) -> Iterator[Ledger]:
        """Change the ledger.

        Raises:
            ExtensionError: `stale_epoch`.
        """
        if command is not None:
            self.ledger.fence(command)
        try:
            yield self.ledger
        finally:
            if self._changed is not None:
                self._changed(self.ledger)

    def watch(self, changed: Callable[[Ledger], None]) -> None:
        """Have `changed` called after every change."""
        self._changed = changed
