"""Asking an operation to stop. Its workflow puts back what it did; one that no run has taken up just ends."""

import asyncio
import logging

from temporalio.service import RPCError, RPCStatusCode

from api.dependencies import ApiDependencies
from api.starting import START_SECONDS, TEMPORAL_DOWN
from loradock.core.errors import LoradockError
from loradock.core.models import Failure, OperationState
from loradock.registry import operations, runs
from loradock.registry.views import OperationView

logger = logging.getLogger(__name__)


async def request_abort(parts: ApiDependencies, operation: str, actor: str) -> OperationView:
    """Note who asks, then cancel the operation's workflow.

    A workflow that Temporal does not know any more is the sweeper's: the operation ends by that.

    Raises:
        LoradockError: `operation_not_found`, `operation_ended`, `temporal_unavailable`.
    """
    found, queued = await _note(parts, operation, actor)
    if queued:  # nobody has ever told Temporal of it
        return found
    try:
        async with asyncio.timeout(START_SECONDS):
            await parts.temporal.get_workflow_handle(found.workflow_id).cancel()
    except TEMPORAL_DOWN as error:
        gone = isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND
        if found.state.active and not gone:
            logger.warning("operation %s cannot be cancelled: %s", operation, type(error).__name__)
            raise LoradockError(
                "temporal_unavailable", "Temporal does not answer, so the operation goes on: ask again"
            ) from None
    return found


async def _note(parts: ApiDependencies, operation: str, actor: str) -> tuple[OperationView, bool]:
    """Write the wish to the audit, and end what has not begun: a run that comes later finds it ended.

    Returns:
        The operation, and whether it was waiting in the queue.
    """
    async with parts.database.transaction() as tx:
        row = await runs.lock_operation(tx, operation)
        if not runs.active(row):
            raise runs.ended(row)
        tx.audit(
            "operation.abort_requested",
            actor=actor,
            adapter=row.adapter,
            version=row.version,
            pool=row.pool,
            operation=row.id,
        )
        if row.run_id is None:
            failure = Failure(code="operation_cancelled", message=f"aborted by {actor} before it began")
            await runs.end(tx, row, OperationState.ABORTED, failure)
        return await operations.get_operation(tx, operation), row.admitted_at is None
