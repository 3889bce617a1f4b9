"""What an orchestrator tells of its own transfers: written into the operation's steps, for people who watch."""

import asyncio
import logging
import threading
from contextlib import suppress

from loradock.core.errors import LoradockError
from loradock.core.models import StepReport
from loradock.registry import operation_steps
from loradock.registry.database import Database

_log = logging.getLogger(__name__)


class OwnProgress:
    """Keeps the newest report of each step, and writes them one after the other; a `ProgressReporter`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reports: dict[tuple[str, str], StepReport] = {}
        self._lock = threading.Lock()
        self._reported = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def report(self, operation: str, step: StepReport) -> None:
        """Keep a report to be written; never waits, never fails. Called from any thread."""
        with self._lock:
            self._reports[operation, step.name] = step
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended: nobody writes any more
                self._loop.call_soon_threadsafe(self._reported.set)

    async def write_reports(self) -> None:
        """Write reports for ever; one that cannot be written is dropped."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._reported.wait()
            self._reported.clear()
            with self._lock:
                reports, self._reports = self._reports, {}
            for (operation, _), step in reports.items():
                try:
                    async with self._database.transaction() as tx:
                        await operation_steps.record_own_progress(tx, operation, step)
                except LoradockError as error:
                    _log.debug("progress of %s was not written: %s", operation, error)
