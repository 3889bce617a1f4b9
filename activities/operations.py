"""The operation's own row: how it stands and how it ends."""

from temporalio import activity

from activities.interface.common import Done
from activities.interface.operations import (
    FINISH_OPERATION,
    MARK_COMPENSATING,
    TAKE_OVER,
    FinishInput,
    RunInput,
    TakenOver,
    TakeOverInput,
    TouchedEngine,
)
from loradock.core.batches import batches_of
from loradock.core.models import OperationState, RunRef
from loradock.core.requests import UnloadItem
from loradock.registry import operation_steps, operations, runs, takeover, targets
from loradock.registry.database import Database


class OperationActivities:
    """Activities on operations; needs the registry's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name=MARK_COMPENSATING.name)
    async def mark_compensating(self, given: RunInput) -> Done:
        """Say that the operation is being put back."""
        async with self._database.transaction() as tx:
            await runs.mark_compensating(tx, given.run)
        return Done()

    @activity.defn(name=FINISH_OPERATION.name)
    async def finish(self, given: FinishInput) -> Done:
        """End an operation that did not succeed: frees its lock, keeps why."""
        async with self._database.transaction() as tx:
            await runs.claim(tx, given.run)
            await operation_steps.record_steps(tx, given.run.operation, given.steps)
            await runs.finish(
                tx, given.run, given.state, failure=given.failure, repairs_pending=given.repairs_pending
            )
        return Done()

    @activity.defn(name=TAKE_OVER.name)
    async def take_over(self, given: TakeOverInput) -> TakenOver:
        """Raise the operation's epoch for a run that cleans up after a workflow that is gone."""
        async with self._database.transaction() as tx:
            before = await operations.get_operation(tx, given.operation)
            active = OperationState(before.state).active
            taken = await takeover.take_over(tx, given.operation) if active else None
            batches = batches_of(len(taken.touched)) if taken else 0
            if taken and batches:
                own = taken.run.model_copy(update={"run_id": given.run_id})
                await targets.keep(
                    tx, own, [UnloadItem(target=target, ref=ref) for target, ref in taken.touched]
                )
        if taken is None:
            nobody = RunRef(operation=given.operation, run_id=given.run_id, epoch=0)
            return TakenOver(
                run=nobody, kind=before.kind, actor=before.requested_by, adapter=before.adapter,
                version=before.version, pool=before.pool, touched=(), still_active=False,
            )  # fmt: skip
        return TakenOver(
            run=taken.run.model_copy(update={"run_id": given.run_id}),
            kind=taken.kind,
            actor=before.requested_by,
            adapter=taken.adapter,
            version=taken.version,
            pool=taken.pool,
            touched=()
            if batches
            else tuple(TouchedEngine(target=target, ref=ref) for target, ref in taken.touched),
            batches=batches,
            still_active=True,
        )
