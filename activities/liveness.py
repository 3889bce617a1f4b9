"""Heartbeats of the registry's activities: that their worker died is noticed long before they have taken too long."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

BEAT_SECONDS: Final = 2.0
"""Most registry activities are over before the first beat."""


class LivenessInterceptor(Interceptor):
    """Heartbeats for the worker's async activities that do not do it themselves.

    Args:
        heartbeat: the timeout by which they are told: activities that are called with another one are left alone.
    """

    def __init__(self, heartbeat: timedelta) -> None:
        self._heartbeat = heartbeat

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap the activities of a worker."""
        return _LivenessInbound(next, self._heartbeat)


class _LivenessInbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, heartbeat: timedelta) -> None:  # noqa: A002
        super().__init__(next)
        self._heartbeat = heartbeat

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        if activity.info().heartbeat_timeout != self._heartbeat:
            return await super().execute_activity(input)
        beating = asyncio.create_task(_beat())
        try:
            return await _to_its_end(asyncio.ensure_future(super().execute_activity(input)))
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating


async def _beat() -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        activity.heartbeat()


async def _to_its_end(work: "asyncio.Future[Any]") -> Any:
    """A transaction is not broken off by a cancel, of which an activity hears with a heartbeat; only by the worker's end."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if activity.is_worker_shutdown():
            work.cancel()
        return await work
