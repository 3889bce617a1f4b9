"""Work that a process repeats for as long as it lives."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from loradock.core.errors import LoradockError

_log = logging.getLogger(__name__)


async def repeat(name: str, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    """Run `work` every so many seconds for ever; a failure is logged and the next turn comes all the same."""
    while True:
        try:
            await work()
        except LoradockError as error:
            _log.warning("%s: %s", name, error)
        except Exception:
            _log.exception("%s failed", name)
        await asyncio.sleep(seconds)
