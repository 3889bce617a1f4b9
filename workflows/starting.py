"""Starting an operation's workflow by name: by the API after its commit, by the relay for what was missed.

Nothing here runs workflow code, so a process that only starts them imports none of it.
"""

from datetime import timedelta
from typing import Any, Final

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from loradock.core.ids import LIFECYCLE_QUEUE, workflow_id
from loradock.core.models import OperationKind
from loradock.core.requests import LoadRequest, PublishRequest, UnloadRequest
from workflows import search_attributes
from workflows.inputs import LoadInput, OperationStart, PublishInput, UnloadInput

WORKFLOW_OF: Final = {
    OperationKind.PUBLISH: "PublishVersion",
    OperationKind.LOAD: "LoadAdapter",
    OperationKind.UNLOAD: "UnloadAdapter",
}


def workflow_input(
    start: OperationStart, kind: OperationKind, request: dict[str, Any]
) -> PublishInput | LoadInput | UnloadInput:
    """The typed input of an operation's workflow from its stored request."""
    match kind:
        case OperationKind.PUBLISH:
            return PublishInput(start=start, request=PublishRequest.model_validate(request))
        case OperationKind.LOAD:
            return LoadInput(start=start, request=LoadRequest.model_validate(request))
        case OperationKind.UNLOAD:
            return UnloadInput(start=start, request=UnloadRequest.model_validate(request))


def _summary(kind: OperationKind, request: dict[str, Any]) -> str:
    version = request.get("version")
    name = f"{request['adapter']}@{version}" if version else request["adapter"]
    where = f" in {request['pool']}" if request.get("pool") else ""
    return f"{kind} {name}{where}"


async def start_operation(
    client: Client, *, start: OperationStart, kind: OperationKind, request: dict[str, Any]
) -> str | None:
    """Start the workflow of an operation; harmless when it was started before.

    Returns:
        The run's id, or None when the workflow has already run and ended.

    Raises:
        temporalio.service.RPCError: Temporal does not answer.
    """
    try:
        handle = await client.start_workflow(
            WORKFLOW_OF[kind],
            workflow_input(start, kind, request),
            id=workflow_id(start.operation),
            task_queue=LIFECYCLE_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            search_attributes=search_attributes.typed(
                operation=start.operation,
                kind=kind,
                adapter=request["adapter"],
                version=request.get("version"),
                pool=request.get("pool"),
                actor=start.actor,
            ),
            static_summary=_summary(kind, request),
            task_timeout=timedelta(seconds=5),
            rpc_timeout=timedelta(seconds=5),
        )
    except WorkflowAlreadyStartedError:
        return None
    return handle.result_run_id or handle.first_execution_run_id
