"""Heartbeats: a sign of life, without which an activity whose policy asks for one is taken for dead and begun elsewhere."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from temporalio import activity

HEARTBEAT_SECONDS: Final = 3.0


@asynccontextmanager
async def heartbeats() -> AsyncIterator[None]:
    """Heartbeat while the body runs, whatever it waits for: a cancel and a dead worker are both noticed by it."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def heartbeat_from_threads() -> Callable[..., None]:
    """The activity's heartbeat, for threads: the SDK's own belongs to the loop where the activity is a coroutine."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()

    def beat(*details: Any) -> None:
        loop.call_soon_threadsafe(activity.heartbeat, *details, context=context)

    return beat
