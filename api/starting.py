"""Starting what was committed. What fails here is started by the orchestrator's relay a little later."""

import asyncio
import logging
from typing import Final

from temporalio.service import RPCError

from api.dependencies import ApiDependencies
from loradock.core.models import OperationState
from loradock.registry.views import OperationView
from workflows.inputs import OperationStart
from workflows.starting import start_operation

logger = logging.getLogger(__name__)

START_SECONDS: Final = 2.0
"""Longest time that a caller waits for Temporal: what it does not take up now, the relay starts."""

TEMPORAL_DOWN: Final = (RPCError, RuntimeError, OSError, TimeoutError)
"""What the client raises when Temporal does not answer; a client that connects late raises RuntimeError."""


async def start(parts: ApiDependencies, operation: OperationView) -> OperationView:
    """Start the workflow of a committed operation that has not begun; harmless when it was started before."""
    if operation.state is not OperationState.PENDING or operation.queue_position is not None:
        return operation  # what waits for its turn is started by the relay
    try:
        async with asyncio.timeout(START_SECONDS):
            await start_operation(
                parts.temporal,
                start=OperationStart(
                    operation=operation.id, epoch=operation.epoch, actor=operation.requested_by
                ),
                kind=operation.kind,
                request=operation.request,
            )
    except TEMPORAL_DOWN as error:
        logger.warning("operation %s is kept and waits for Temporal: %s", operation.id, type(error).__name__)
    return operation
