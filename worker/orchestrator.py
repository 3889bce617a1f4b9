"""The orchestrator: runs the workflows, the registry's and the artifacts' activities, and the outbox."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from temporalio.client import Client
from temporalio.worker import Worker

from activities.artifacts import ArtifactActivities
from activities.batches import BatchActivities
from activities.cards import CardActivities
from activities.collection import CollectionActivities
from activities.failures import FailureInterceptor
from activities.liveness import LivenessInterceptor
from activities.metering import Transfer
from activities.operations import OperationActivities
from activities.progress import TransferSlots
from activities.reconcile import ReconcileActivities
from activities.versions import VersionActivities
from loradock.artifacts.build import open_bandwidth, open_objects, open_staging, open_store
from loradock.artifacts.signatures.policy import open_signature_checks
from loradock.artifacts.staging import Staging
from loradock.core.ids import LIFECYCLE_QUEUE, TRANSFER_QUEUE
from loradock.core.reconcile import ReconcileRules
from loradock.core.settings import Settings
from loradock.core.signatures import SignatureRules
from loradock.registry import agents
from loradock.registry.admission import Limits
from loradock.registry.database import Database
from worker import reconciler, search_attributes
from worker.collection import ensure_schedule
from worker.lifetime import run_until_stopped
from worker.loops import repeat
from worker.metrics import OrchestratorMetrics
from worker.metrics_listener import listening
from worker.own_progress import OwnProgress
from worker.relay import Relay
from worker.sweeper import Sweeper
from worker.temporal import (
    GRACEFUL_SHUTDOWN,
    HEARTBEAT_THROTTLE,
    STICKY_TIMEOUT,
    connect,
    measured_runtime,
    workflow_runner,
)
from workflows.calls import DEATH_SHOWS
from workflows.registered import WORKFLOWS

_log = logging.getLogger(__name__)

OnFailure = Callable[[str, str], None]
"""Told the type and the code of every activity that fails."""

RELAY_SECONDS = 1.0
SWEEP_SECONDS = 5.0
LEASE_CHECK_SECONDS = 1.0
STAGING_SWEEP_SECONDS = 3600.0
STAGING_KEPT_SECONDS = 24 * 3600.0
ACTIVITIES_AT_ONCE = 100
TRANSFERS_TAKEN = 100
TRANSFERS_AT_ONCE = 8
"""Of those taken. Those that wait for their turn heartbeat, which they could not in an executor's queue."""


def transfer_worker(
    client: Client,
    artifacts: ArtifactActivities,
    executor: ThreadPoolExecutor,
    *,
    on_failure: OnFailure = lambda _type, _code: None,
) -> Worker:
    """The worker on the queue of what moves bytes."""
    return Worker(
        client,
        task_queue=TRANSFER_QUEUE,
        activities=[artifacts.stage, artifacts.upload],
        activity_executor=executor,
        max_concurrent_activities=TRANSFERS_TAKEN,
        interceptors=[FailureInterceptor(on_failure)],
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
    )


def lifecycle_worker(
    client: Client,
    database: Database,
    collection: CollectionActivities,
    executor: ThreadPoolExecutor,
    signatures: SignatureRules | None = None,
    *,
    rules: ReconcileRules | None = None,
    on_failure: OnFailure = lambda _type, _code: None,
) -> Worker:
    """The worker on the lifecycle queue."""
    operations, versions, cards, batches, reconcile = (
        OperationActivities(database),
        VersionActivities(database),
        CardActivities(database, signatures),
        BatchActivities(database),
        ReconcileActivities(database, rules or ReconcileRules(), signatures),
    )
    return Worker(
        client,
        task_queue=LIFECYCLE_QUEUE,
        workflows=WORKFLOWS,
        activities=[
            operations.mark_compensating,
            operations.finish,
            operations.take_over,
            versions.begin_publish,
            versions.reserve,
            versions.register,
            versions.fail,
            cards.plan_load,
            cards.stage,
            cards.retract,
            cards.commit_load,
            cards.plan_unload,
            cards.withdraw,
            cards.restore,
            cards.commit_unload,
            cards.mark_lost,
            batches.take,
            batches.stage,
            batches.retract,
            batches.mark_lost,
            batches.note_steps,
            collection.retire,
            collection.find,
            collection.delete,
            collection.remove_upload,
            collection.record,
            reconcile.begin_look,
            reconcile.compare,
            reconcile.make_good,
            reconcile.note_failed,
            reconcile.end_look,
            reconcile.scan,
        ],
        activity_executor=executor,
        max_concurrent_activities=ACTIVITIES_AT_ONCE,
        workflow_runner=workflow_runner(),
        interceptors=[LivenessInterceptor(DEATH_SHOWS), FailureInterceptor(on_failure)],
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
    )


async def run(settings: Settings, ready_file: Path | None) -> None:
    """Run until SIGINT or SIGTERM.

    Raises:
        LoradockError: a setting is missing, the signature policy cannot be followed, or Postgres or Temporal does not
            answer at the start.
    """
    signatures = open_signature_checks(settings)
    database = Database(settings.require("database_url"), settings.database_pool_size)
    try:
        await database.ping()
        slots = TransferSlots(TRANSFERS_AT_ONCE)
        metrics = OrchestratorMetrics(slots)
        client = await connect(settings, runtime=measured_runtime(settings))
        await search_attributes.register(client)
        if settings.collect_every_seconds:
            await ensure_schedule(client, settings)
        if settings.reconcile_scan_seconds:
            await reconciler.ensure_scan(client, settings)
        bandwidth = open_bandwidth(settings)
        objects = open_objects(settings, bandwidth)
        staging = open_staging(settings, objects, bandwidth, metrics.on_retry(Transfer.FETCH))
        store = open_store(settings, objects)
        progress = OwnProgress(database)
        artifacts = ArtifactActivities(staging, store, slots, progress, signatures, meter=metrics)
        collection = CollectionActivities(database, store, staging)
        sweeper = Sweeper(database, client)
        relay = Relay(database, client, sweeper, Limits.of(settings))
        starter = reconciler.ReconcileStarter(database, settings.require("database_url"), client, metrics)
        with ThreadPoolExecutor(TRANSFERS_TAKEN, thread_name_prefix="transfer") as executor:
            workers = [
                lifecycle_worker(
                    client,
                    database,
                    collection,
                    executor,
                    signatures.rules,
                    rules=reconciler.rules(settings),
                    on_failure=metrics.activity_failed,
                ),
                transfer_worker(client, artifacts, executor, on_failure=metrics.activity_failed),
            ]
            loops = [
                progress.write_reports(),
                repeat("relay", RELAY_SECONDS, relay.run_once, metrics),
                starter.run(),
                repeat("sweeper", SWEEP_SECONDS, sweeper.run_once, metrics),
                repeat("leases", LEASE_CHECK_SECONDS, lambda: _expire_leases(database), metrics),
                repeat("staging", STAGING_SWEEP_SECONDS, lambda: _sweep(staging), metrics),
                *listening(settings, metrics.page),
            ]
            _log.info("orchestrator ready: queue %s at %s", LIFECYCLE_QUEUE, settings.temporal_address)
            await run_until_stopped(workers, loops, ready_file)
    finally:
        await database.dispose()


async def _expire_leases(database: Database) -> int:
    async with database.transaction() as tx:
        engines = await agents.expire_leases(tx)
    for engine in engines:
        _log.warning("the lease of engine %s ran out: its cards are lost", engine)
    return len(engines)


async def _sweep(staging: Staging) -> int:
    return len(await asyncio.to_thread(staging.sweep, older_than_seconds=STAGING_KEPT_SECONDS))


def main(settings: Settings, ready_file: Path | None = None) -> None:
    """Run the orchestrator; used by `loradock orchestrator`."""
    asyncio.run(run(settings, ready_file))
