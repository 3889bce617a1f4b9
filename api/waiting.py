"""Waiting for an operation's end: `Prefer: wait=30` (RFC 7240) or `?wait=30`."""

import asyncio
import re
from typing import Annotated, Final, NamedTuple

from fastapi import Depends, Header, Query

from api.dependencies import ApiDependencies
from loradock.registry import operations
from loradock.registry.notifications import Changes
from loradock.registry.views import OperationView

MAX_WAIT_SECONDS: Final = 300.0

# A notice can be lost when the connection to Postgres breaks: so often the row is read without one.
_RECHECK_SECONDS: Final = 5.0

_PREFER_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(?P<seconds>[0-9]{1,6})"?\s*(?=$|[,;])', re.IGNORECASE)


class Wait(NamedTuple):
    """How long a caller wants to wait.

    Attributes:
        seconds: 0 is not at all.
        preferred: asked for by `Prefer`, so the answer says what became of it.
    """

    seconds: float
    preferred: bool

    @property
    def applied(self) -> str:
        """The value of `Preference-Applied`."""
        return f"wait={self.seconds:.0f}"


def _wait(
    wait: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            allow_inf_nan=False,
            description="Seconds to wait for the operation's end; at most 300. Beats `Prefer`.",
        ),
    ] = None,
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=30`: seconds to wait for the operation's end; more than 300 counts as 300."
        ),
    ] = None,
) -> Wait:
    if wait is not None:
        return Wait(wait, preferred=False)
    match = _PREFER_WAIT.search(prefer or "")
    if match is None:
        return Wait(0.0, preferred=False)
    return Wait(min(float(match["seconds"]), MAX_WAIT_SECONDS), preferred=True)


WaitFor = Annotated[Wait, Depends(_wait)]


async def wait_for_end(parts: ApiDependencies, operation: OperationView, seconds: float) -> OperationView:
    """The operation when it has ended, or as it stands after `seconds` (or when the server stops).

    Raises:
        LoradockError: `database_unavailable`.
    """
    if seconds <= 0 or not operation.state.active:
        return operation
    clock = asyncio.get_running_loop()
    deadline = clock.time() + seconds
    async with parts.feed.watch(operation.id) as changes:
        while True:
            async with parts.database.read() as reader:
                active = await operations.is_active(reader, operation.id)
            left = deadline - clock.time()
            if not active or left <= 0 or parts.stopping.is_set():
                return await read_operation(parts, operation.id)
            await next_change(changes, parts.stopping, min(left, _RECHECK_SECONDS))


async def read_operation(parts: ApiDependencies, operation: str) -> OperationView:
    """The operation as it stands.

    Raises:
        LoradockError: `operation_not_found`, `database_unavailable`.
    """
    async with parts.database.read() as reader:
        return await operations.get_operation(reader, operation)


async def next_change(changes: Changes, stopping: asyncio.Event, timeout: float) -> None:
    """Return at the next change of the operation, at the server's stop, or after `timeout` seconds."""
    tasks = [asyncio.ensure_future(changes.wait(timeout)), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
