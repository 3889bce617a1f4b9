"""Operations whose workflow is gone: ended in Temporal by hand or by a timeout, so nobody wrote their end."""

import logging
from datetime import timedelta

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from loradock.core.ids import LIFECYCLE_QUEUE, workflow_id
from loradock.core.models import utc_now
from loradock.registry import operations
from loradock.registry.database import Database
from loradock.registry.views import OperationView
from worker.temporal import is_away
from workflows import search_attributes
from workflows.inputs import RecoverInput

_log = logging.getLogger(__name__)

BATCH = 200
GRACE = timedelta(seconds=5)
"""A workflow that ended a moment ago may still be seen before the row's own last change is."""


class Sweeper:
    """Finds active operations without a running workflow and has them recovered."""

    def __init__(self, database: Database, client: Client) -> None:
        self._database = database
        self._client = client

    async def run_once(self) -> int:
        """Look at every operation that has begun; how many recoveries were started."""
        recovered = 0
        after: str | None = None
        while True:
            async with self._database.read() as tx:
                batch = await operations.active_started(tx, BATCH, after)
            for operation in batch:
                try:
                    recovered += await self.look_at(operation)
                except RPCError as error:
                    _log.warning("Temporal says nothing of %s: %s", operation.id, error.status.name)
                    if is_away(error):
                        return recovered
            if len(batch) < BATCH:
                return recovered
            after = batch[-1].id

    async def look_at(self, operation: OperationView) -> bool:
        """Have the operation recovered if its workflow is gone; whether it was.

        Raises:
            temporalio.service.RPCError: Temporal does not answer.
        """
        if not await self._is_gone(operation):
            return False
        await self._recover(operation)
        _log.warning("the workflow of %s is gone: it is recovered", operation.id)
        return True

    async def _is_gone(self, operation: OperationView) -> bool:
        try:
            seen = await self._client.get_workflow_handle(workflow_id(operation.id)).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return True
            raise
        if seen.status is WorkflowExecutionStatus.RUNNING or seen.close_time is None:
            return False
        return utc_now() - seen.close_time > GRACE

    async def _recover(self, operation: OperationView) -> None:
        await self._client.start_workflow(
            "RecoverOperation",
            RecoverInput(operation=operation.id, actor=operation.requested_by),
            id=f"{workflow_id(operation.id)}/recover",
            task_queue=LIFECYCLE_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            search_attributes=search_attributes.typed(
                operation=operation.id,
                kind="recover",
                adapter=operation.adapter,
                version=operation.version,
                pool=operation.pool,
                actor=operation.requested_by,
            ),
            static_summary=f"recover {operation.kind} of {operation.adapter}",
        )
