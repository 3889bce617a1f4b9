"""A host's cache: artifacts come in, pinned for an engine, and are let go. Runs in the host's agent."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Final

from temporalio import activity

from activities.heartbeats import heartbeats
from activities.interface.collection import (
    COLLECT_CACHE,
    CollectCacheInput,
    CollectedCache,
    EvictedAdapter,
)
from activities.interface.hosts import (
    DOWNLOAD_ADAPTER,
    RELEASE_ADAPTER,
    DownloadedAdapter,
    HostDone,
    HostInput,
)
from activities.metering import NoMeter, Transfer, TransferMeter, metered
from activities.progress import ProgressReporter, StepClock, TransferProgress, TransferSlots
from loradock.artifacts.cache import HostCache
from loradock.artifacts.leases import Holder
from loradock.core.errors import LoradockError
from loradock.engines.protocol import Engine

NAMED: Final = 200


class CacheActivities:
    """Activities on the host's cache.

    Args:
        cache: the host's.
        engines: by engine id: a file that an engine lists is never let go.
        reporter: told of transfers while they go on.
        slots: how many downloads run at once.
        meter: told of every download.
    """

    def __init__(
        self,
        cache: HostCache,
        engines: Mapping[str, Engine],
        reporter: ProgressReporter,
        slots: TransferSlots,
        meter: TransferMeter | None = None,
    ) -> None:
        self._cache = cache
        self._engines = engines
        self._reporter = reporter
        self._slots = slots
        self._meter = meter or NoMeter()

    @activity.defn(name=DOWNLOAD_ADAPTER.name, no_thread_cancel_exception=True)
    def download(self, given: HostInput) -> DownloadedAdapter:
        """Bring the artifact into the cache, verified, pinned for the engine's present life.

        Repeatable: what is there already and sound is kept; a transfer that was cut goes on where it stopped.
        """
        return self.bring(given, activity.heartbeat)

    def bring(self, given: HostInput, heartbeat: Callable[..., None]) -> DownloadedAdapter:
        """The download, for activities that run it in a thread of their own.

        Args:
            heartbeat: takes details from any thread.
        """
        clock = StepClock("download", given.target.engine)
        operation = given.run.operation

        def tell(figures: dict[str, int]) -> None:
            self._reporter.report(operation, clock.running(**figures))

        with TransferProgress(tell, heartbeat) as progress:
            there = self._cache.pin(given.ref, holder(given))
            turn = nullcontext() if there else self._slots.take(progress)
            with turn, metered(self._meter, Transfer.DOWNLOAD) as moved:
                cached = self._cache.ensure(given.ref, progress=progress)
                moved.bytes = cached.bytes
        step = clock.succeeded(bytes=cached.bytes, outcome=str(cached.outcome))
        self._reporter.report(operation, step)
        return DownloadedAdapter(path=str(cached.path), outcome=str(cached.outcome), step=step)

    @activity.defn(name=COLLECT_CACHE.name)
    async def collect(self, given: CollectCacheInput) -> CollectedCache:
        """Evict what is over the cache's limits and leased by nobody; sweep what dead processes left."""
        async with heartbeats():
            gone = await asyncio.to_thread(
                self._cache.collect, leftovers_older_than_seconds=given.rules.leftovers_seconds
            )
        named = tuple(
            EvictedAdapter(served_name=one.served_name, digest=one.digest, bytes=one.bytes, reason=one.reason)
            for one in gone[:NAMED]
        )
        return CollectedCache(
            agent=given.agent, evicted=named, count=len(gone), bytes=sum(one.bytes for one in gone)
        )

    @activity.defn(name=RELEASE_ADAPTER.name)
    async def release(self, given: HostInput) -> HostDone:
        """Let go of the files, unless the engine still needs them: deleting those would kill it."""
        async with heartbeats():
            return await self.let_go(given)

    async def let_go(self, given: HostInput) -> HostDone:
        """The release, for activities that heartbeat themselves."""
        clock = StepClock("release", given.target.engine)
        if await self._still_needed(given):
            return HostDone(step=clock.succeeded(outcome="kept: the engine needs it"))
        await asyncio.to_thread(self._cache.release, given.ref, holder(given))
        return HostDone(step=clock.succeeded(outcome="released"))

    async def _still_needed(self, given: HostInput) -> bool:
        engine = self._engines.get(given.target.engine)
        if engine is None:
            return True  # an unknown holder means keep
        try:
            state = await engine.state()
        except LoradockError as error:
            return not error.details.get("refused")
        if state.incarnation != given.target.incarnation:
            return False
        name = given.ref.served_name
        return state.adapter(name) is not None or name in state.unfinished


def holder(given: HostInput) -> Holder:
    """Who holds a cached artifact: one life of one engine."""
    return Holder(given.target.engine, given.target.incarnation)
