"""The outbox: operations that were committed and whose workflow was not started (the API died, Temporal was away)."""

import logging

from temporalio.client import Client
from temporalio.service import RPCError

from loradock.core.models import OperationKind
from loradock.registry import operations
from loradock.registry.database import Database
from loradock.registry.views import OperationView
from worker.sweeper import Sweeper
from worker.temporal import is_away
from workflows.inputs import OperationStart
from workflows.starting import start_operation

_log = logging.getLogger(__name__)

OLDER_THAN_SECONDS = 2.0
"""The API starts a workflow itself right after its commit; the relay takes what is older than this."""

BATCH = 100


class Relay:
    """Starts what was missed. Two relays at once do no harm: a workflow id starts once."""

    def __init__(self, database: Database, client: Client, sweeper: Sweeper) -> None:
        self._database = database
        self._client = client
        self._sweeper = sweeper

    async def run_once(self) -> int:
        """Start every operation that is still pending; how many were started."""
        async with self._database.read() as tx:
            waiting = await operations.pending(tx, OLDER_THAN_SECONDS, BATCH)
        started = 0
        for operation in waiting:
            try:
                started += await self._relay(operation)
            except RPCError as error:
                _log.warning("Temporal does not start %s: %s", operation.id, error.status.name)
                if is_away(error):
                    break
            except ValueError as error:  # one row that nobody can read must not hold up the others
                _log.error("%s has a request that cannot be started: %s", operation.id, type(error).__name__)
        return started

    async def _relay(self, operation: OperationView) -> bool:
        start = OperationStart(operation=operation.id, epoch=operation.epoch, actor=operation.requested_by)
        run_id = await start_operation(
            self._client, start=start, kind=OperationKind(operation.kind), request=operation.request
        )
        if run_id is None:  # it has run and ended without a word, perhaps terminated before its first step
            await self._sweeper.look_at(operation)
            return False
        _log.info("relayed %s (%s of %s)", operation.id, operation.kind, operation.adapter)
        return True
