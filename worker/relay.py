"""The outbox: operations that were committed and whose workflow was not started (the API died, Temporal was away, or
they had to wait until there was room)."""

import logging

from temporalio.client import Client
from temporalio.service import RPCError

from loradock.core.models import OperationKind
from loradock.registry import admission, operations
from loradock.registry.admission import Limits
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
    """Starts what was missed, and what waited in the queue. Two relays at once do no harm: a workflow id starts once."""

    def __init__(self, database: Database, client: Client, sweeper: Sweeper, limits: Limits) -> None:
        self._database = database
        self._client = client
        self._sweeper = sweeper
        self._limits = limits

    async def run_once(self) -> int:
        """Admit what there is room for, then start every operation that is still pending; how many were started."""
        await self._admit()
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

    async def _admit(self) -> None:
        async with self._database.transaction() as tx:
            for operation in await admission.admit_waiting(tx, self._limits):
                _log.info("%s comes out of the queue", operation)

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
