"""All that one engine's load or unload does on its host, in one activity: for operations that are too wide for more.

The parts are those of `host_cache` and `engines`; a failure says at which of them it happened.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TypeVar

from temporalio import activity

from activities.engines import EngineActivities
from activities.heartbeats import heartbeat_from_threads, heartbeats
from activities.host_cache import CacheActivities
from activities.interface.batches import LOAD_ON_ENGINE, UNLOAD_FROM_ENGINE, LoadOnEngineWork
from activities.interface.hosts import (
    HostInput,
    LoadAdapterInput,
    LoadedAdapter,
    UnloadAdapterInput,
    UnloadedAdapter,
)
from activities.progress import PatientReporter, StepClock
from loradock.core.errors import LoradockError
from loradock.core.models import Failure, StepReport

T = TypeVar("T")

STILL_HELD = frozenset({"not_owned"})
"""Outcomes after which the engine goes on using the files."""


class HostWorkActivities:
    """Combined activities of one host.

    Args:
        executor: where downloads run.
        reporter: through which the other two tell of their progress, where it waits for what takes long.
    """

    def __init__(
        self,
        cache: CacheActivities,
        engines: EngineActivities,
        executor: Executor,
        reporter: PatientReporter | None = None,
    ) -> None:
        self._cache = cache
        self._engines = engines
        self._executor = executor
        self._reporter = reporter

    @activity.defn(name=LOAD_ON_ENGINE.name)
    async def load(self, given: LoadOnEngineWork) -> LoadedAdapter:
        """Download, add_lora, verify. Repeatable, as each part is."""
        try:
            return await self._load(given)
        finally:
            self._over(given)

    async def _load(self, given: LoadOnEngineWork) -> LoadedAdapter:
        host = HostInput(run=given.run, ref=given.ref, target=given.target)
        beat = heartbeat_from_threads()
        with _told_as("download", given.target.engine):
            async with heartbeats():  # also while no thread is free
                downloaded = await self._in_thread(lambda: self._cache.bring(host, beat))
        load = LoadAdapterInput(**dict(host), path=downloaded.path, undo=given.undo)
        with _told_as("load", given.target.engine):
            loaded = await self._engines.load(load)
        return LoadedAdapter(outcome=loaded.outcome, steps=(downloaded.step, *loaded.steps))

    @activity.defn(name=UNLOAD_FROM_ENGINE.name)
    async def unload(self, given: UnloadAdapterInput) -> UnloadedAdapter:
        """Drain, remove_lora, check, let go of the files; where that last fails the slot is free all the same."""
        try:
            return await self._unload(given)
        finally:
            self._over(given)

    async def _unload(self, given: UnloadAdapterInput) -> UnloadedAdapter:
        with _told_as("remove", given.target.engine):
            unloaded = await self._engines.unload(given)
        if unloaded.outcome in STILL_HELD:
            return unloaded
        host = HostInput(run=given.run, ref=given.ref, target=given.target)
        return UnloadedAdapter(outcome=unloaded.outcome, steps=(*unloaded.steps, await self._release(host)))

    def _over(self, given: LoadOnEngineWork | UnloadAdapterInput) -> None:
        if self._reporter is not None:
            self._reporter.over(given.run.operation, given.target.engine)

    async def _release(self, host: HostInput) -> StepReport:
        clock = StepClock("release", host.target.engine)
        try:
            async with heartbeats():
                return (await self._cache.let_go(host)).step
        except LoradockError as error:
            # A pin that is left goes with the engine's next life.
            return clock.failed(Failure.of(error))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in the executor, and wait for its end also when cancelled: an undo beside it would lose."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        thread = loop.run_in_executor(self._executor, context.run, work)
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            await asyncio.wait({thread})
            thread.exception()
            raise


@contextmanager
def _told_as(step: str, engine: str) -> Iterator[None]:
    """Say in an error of ours at which step, and at which try, it happened."""
    clock = StepClock(step, engine)
    try:
        yield
    except LoradockError as error:
        told = clock.failed(None).model_dump(mode="json", exclude={"engine", "error", "detail"})
        raise LoradockError(error.code, error.message, **{**error.details, "step": told}) from error
