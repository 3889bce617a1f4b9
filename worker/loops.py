"""Work that a process repeats for as long as it lives."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from loradock.core.errors import LoradockError

_log = logging.getLogger(__name__)


class LoopWatch(Protocol):
    """Counts the turns of loops. Never waits, never fails."""

    def turned(self, loop: str, seconds: float, done: int | None) -> None:
        """Count a turn.

        Args:
            done: how many things it found to do; None when it failed.
        """


async def repeat(
    name: str, seconds: float, work: Callable[[], Awaitable[int | None]], watch: LoopWatch | None = None
) -> None:
    """Run `work` every so many seconds for ever; a failure is logged and the next turn comes all the same.

    Args:
        work: says how many things it found to do, or nothing of it.
        watch: told of every turn.
    """
    while True:
        began, done = time.monotonic(), None
        try:
            done = await work() or 0
        except LoradockError as error:
            _log.warning("%s: %s", name, error)
        except Exception:
            _log.exception("%s failed", name)
        if watch is not None:
            watch.turned(name, time.monotonic() - began, done)
        await asyncio.sleep(seconds)
