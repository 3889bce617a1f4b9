"""Requested changes: read, follow, abort."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.aborting import request_abort
from api.bodies import operation_body, operation_page, operation_response
from api.dependencies import Actor, Cursor, IdempotencyKey, Limit, Parts
from api.events import OperationEventStream
from api.fields import AdapterField, SimpleField
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from api.schemas import OperationBody
from api.submission import submit_retry
from api.waiting import WaitFor, read_operation, wait_for_end
from loradock.core.models import OperationKind, OperationState, StepReport, StepState
from loradock.registry import operation_steps, operations
from loradock.registry.views import Page

router = APIRouter(prefix="/v1/operations", tags=["operations"], dependencies=[OPERATOR_TOKEN])

OperationId = Annotated[
    str,
    Path(
        max_length=100,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Operation id.",
        examples=["op-019354c0a1b27c3d8e4f5a6b7c8d9e0f"],
    ),
]


@router.get("", responses=documented())
async def list_operations(
    *,
    parts: Parts,
    adapter: Annotated[AdapterField | None, Query(description="Of this adapter only.")] = None,
    state: Annotated[OperationState | None, Query(description="In this state only.")] = None,
    kind: Annotated[OperationKind | None, Query(description="Of this kind only.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[OperationBody]:
    """All operations, newest first; of their steps only counts, and the first of those that failed."""
    async with parts.database.read() as reader:
        page = await operations.list_operations(
            reader, adapter=adapter, state=state, kind=kind, limit=limit, cursor=cursor
        )
    return operation_page(page, parts.settings)


@router.get("/{operation}", responses=documented("operation_not_found"))
async def get_operation(
    *, operation: OperationId, parts: Parts, wait: WaitFor, response: Response
) -> OperationBody:
    """One operation, with its steps (of more than 1,000, those that matter most); with `wait` when it has ended, or as
    it stands after that time."""
    found = await wait_for_end(parts, await read_operation(parts, operation), wait.seconds)
    if wait.preferred:
        response.headers["Preference-Applied"] = wait.applied
    return operation_body(found, parts.settings)


@router.get("/{operation}/steps", responses=documented("operation_not_found"))
async def list_operation_steps(
    *,
    operation: OperationId,
    parts: Parts,
    state: Annotated[StepState | None, Query(description="In this state only.")] = None,
    engine: Annotated[SimpleField | None, Query(description="On this engine only.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[StepReport]:
    """All steps of an operation, however many there are, in their order."""
    async with parts.database.read() as reader:
        return await operation_steps.list_steps(
            reader, operation, state=state, engine=engine, limit=limit, cursor=cursor
        )


@router.get(
    "/{operation}/events",
    status_code=200,
    response_class=OperationEventStream,
    responses={
        200: {
            "description": "Server-sent events: `operation` at once and at every change, `end` at the end; each holds "
            "the whole operation.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented("operation_not_found"),
    },
)
async def stream_operation_events(*, operation: OperationId, parts: Parts) -> OperationEventStream:
    """Follow an operation. A stream that breaks off without `end` is to be opened again."""
    await read_operation(parts, operation)
    return OperationEventStream(parts, operation)


@router.post(
    "/{operation}/retry",
    status_code=202,
    response_model=OperationBody,
    responses=documented(
        "operation_not_found",
        "operation_not_retryable",
        "adapter_busy",
        "idempotency_key_reused",
        "engine_lost",
        "no_engine_alive",
        "no_free_slot",
        "version_not_loaded",
        "too_many_requests",
    ),
)
async def retry_operation(
    *,
    operation: OperationId,
    parts: Parts,
    actor: Actor,
    wait: WaitFor,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Do again what failed of an operation that has ended, as a new one: a load comes to the engines alone that failed
    or are missing; a publish or an unload is asked for as it was. Refused like the request that it comes to."""
    asked = await submit_retry(parts, actor, idempotency_key, operation)
    return operation_response(await wait_for_end(parts, asked, wait.seconds), parts.settings, wait)


@router.post(
    "/{operation}/abort",
    status_code=202,
    response_model=OperationBody,
    responses=documented("operation_not_found", "operation_ended", "temporal_unavailable"),
)
async def abort_operation(*, operation: OperationId, parts: Parts, actor: Actor, wait: WaitFor) -> Response:
    """Ask an operation to stop and to put back what it did. It ends as `aborted`, or as it would have if it is too late."""
    asked = await request_abort(parts, operation, actor)
    return operation_response(await wait_for_end(parts, asked, wait.seconds), parts.settings, wait)
