"""Starts the reconciler where there is cause: told by Postgres at once, by a look into the queue every second otherwise."""

import asyncio
import logging
import time
from contextlib import suppress
from datetime import timedelta
from typing import Final

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.common import WorkflowIDReusePolicy
from temporalio.service import RPCError

from loradock.core.errors import LoradockError
from loradock.core.ids import LIFECYCLE_QUEUE, reconcile_workflow_id
from loradock.core.reconcile import ReconcileRules
from loradock.core.settings import Settings
from loradock.registry import reconcile_queue
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.database import Database
from loradock.registry.notifications import Listener
from worker import schedules
from worker.loops import LoopWatch
from workflows import search_attributes
from workflows.inputs import ReconcileInput

_log = logging.getLogger(__name__)

BATCH: Final = 50
"""Engines that are taken from the queue, and whose workflows are started, at once."""
SWEEP_SECONDS: Final = 1.0
AWAY_SECONDS: Final = 2.0
SCAN_SCHEDULE_ID: Final = "scan-fleet"


def rules(settings: Settings) -> ReconcileRules:
    """How the reconciler goes about it, by the settings."""
    return ReconcileRules(
        foreign=settings.reconcile_foreign,
        foreign_grace_seconds=settings.reconcile_foreign_grace_seconds,
        repairs_per_minute=settings.reconcile_repairs_per_minute,
        backoff_seconds=settings.reconcile_backoff_seconds,
        backoff_max_seconds=settings.reconcile_backoff_max_seconds,
        drain_seconds=settings.reconcile_drain_seconds,
    )


class ReconcileStarter:
    """Starts ReconcileEngine for every engine in the queue. Two starters at once do no harm: each takes others.

    Args:
        database_url: to be told of causes at once.
        watch: told of every turn, as the loop `reconciler`.
    """

    def __init__(
        self, database: Database, database_url: str, client: Client, watch: LoopWatch | None = None
    ) -> None:
        self._database = database
        self._client = client
        self._watch = watch
        self._told = asyncio.Event()
        self._listener = Listener(database_url, reconcile_queue.CHANNEL, lambda _: self._told.set())

    async def run(self) -> None:
        """Start what is due, for ever."""
        listening = asyncio.create_task(self._listener.run(), name="reconcile-listener")
        try:
            while True:
                await self._start_all()
                with suppress(TimeoutError):
                    async with asyncio.timeout(SWEEP_SECONDS):
                        await self._told.wait()
                self._told.clear()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def run_once(self) -> int:
        """Start what is due now, a batch; how many were started."""
        async with self._database.transaction() as tx:
            engines = await reconcile_queue.claim_due(tx, BATCH)
        started = await asyncio.gather(*map(self._start, engines))
        missed = [engine for engine, good in zip(engines, started, strict=True) if not good]
        if missed:
            async with self._database.transaction() as tx:
                await reconcile_queue.delay(tx, missed, AWAY_SECONDS)
        return len(engines) - len(missed)

    async def _start_all(self) -> None:
        began, done = time.monotonic(), None
        try:
            done = await self._start_due()
        except LoradockError as error:
            _log.warning("the reconciler's queue: %s", error)
        except Exception:
            _log.exception("the reconciler's queue cannot be served")
        if self._watch is not None:
            self._watch.turned("reconciler", time.monotonic() - began, done)

    async def _start_due(self) -> int:
        started = 0
        while (batch := await self.run_once()) == BATCH:
            started += batch
        return started + batch

    async def _start(self, engine: str) -> bool:
        try:
            await self._client.start_workflow(
                "ReconcileEngine",
                ReconcileInput(engine=engine),
                id=reconcile_workflow_id(engine),
                task_queue=LIFECYCLE_QUEUE,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                start_signal="look_again",
                search_attributes=search_attributes.typed(
                    kind="reconcile", engine=engine, actor=SYSTEM_ACTOR
                ),
                static_summary=f"bring {engine} to what is wanted of it",
                task_timeout=timedelta(seconds=5),
                rpc_timeout=timedelta(seconds=5),
            )
        except (RPCError, RuntimeError) as error:  # the SDK's RuntimeError: no connection was ever made
            why = error.status.name if isinstance(error, RPCError) else "no connection"
            _log.warning("Temporal does not start the reconciler of %s: %s", engine, why)
            return False
        return True


def scan_schedule(settings: Settings) -> Schedule:
    """The schedule of the scan over all engines."""
    every = timedelta(seconds=settings.reconcile_scan_seconds)
    return Schedule(
        action=ScheduleActionStartWorkflow(
            "ScanFleet",
            id=SCAN_SCHEDULE_ID,
            task_queue=LIFECYCLE_QUEUE,
            execution_timeout=timedelta(minutes=10),
            static_summary="compare all engines with what is wanted of them",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)], jitter=every / 10),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP, catchup_window=max(every, timedelta(seconds=10))
        ),
    )


async def ensure_scan(client: Client, settings: Settings) -> None:
    """Have the scan's schedule as the settings ask for it.

    Raises:
        LoradockError: `temporal_unavailable`.
    """
    await schedules.ensure(client, SCAN_SCHEDULE_ID, scan_schedule(settings))
