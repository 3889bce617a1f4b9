"""How a worker process lives: ready, until it is asked to stop, then gracefully."""

import asyncio
import os
import signal
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from temporalio.worker import Worker


async def run_until_stopped(
    workers: Sequence[Worker], loops: Sequence[Coroutine[Any, Any, None]], ready_file: Path | None
) -> None:
    """Run workers and loops until SIGINT or SIGTERM, or until one of them fails.

    Stopping gives running activities their grace (each worker's own); the loops end at once.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(one) for one in loops]
    try:
        async with AsyncExitStack() as stack:
            for worker in workers:
                await stack.enter_async_context(worker)
            if ready_file is not None:
                announce(ready_file)
            waiting = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            for task in done - {waiting}:
                task.result()  # a loop never ends by itself: this raises why
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def announce(ready_file: Path) -> None:
    """Write our pid where whoever started us looks for it."""
    temporary = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
    temporary.write_text(f"{os.getpid()}\n")
    temporary.replace(ready_file)
