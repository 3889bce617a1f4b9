"""Reset in the Temporal UI: what is done stays done, what failed is tried again under the lock."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from loradock.core.ids import workflow_id
from loradock.core.models import OperationState
from loradock.core.requests import LoadRequest
from loradock.engines import AdapterState
from loradock.engines.simulated import Faults
from loradock.registry.views import OperationView
from tests.activities.conftest import Running
from tests.registry.world import new_placement
from tests.worker.service import Service
from tests.worker.test_sweeper import drivers_of, holding, reached

SERVED: Mapping[str, AdapterState] = {"e1": AdapterState.SERVING, "e2": AdapterState.SERVING}


async def reset(service: Service, operation: OperationView, run: str, task: int) -> str:
    """Reset a run to one of its completed workflow tasks, as the UI's button does; the new run's id."""
    handle = service.client.get_workflow_handle(workflow_id(operation.id), run_id=run)
    completed = [
        event.event_id
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    ]
    answer = await service.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=service.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id(operation.id), run_id=run),
            reason="by hand",
            workflow_task_finish_event_id=completed[task],
            request_id="reset-by-hand",
        )
    )
    return answer.run_id


@pytest.mark.parametrize("task", [0, 1, -1], ids=["its first task", "its children", "its end"])
async def test_a_reset_of_a_load_that_succeeded_takes_nothing_away(
    service: Service, engines: dict[str, Running], folder: Path, task: int
) -> None:
    drivers: Any = drivers_of(engines)
    async with service.orchestrating(), service.hosting(drivers):
        await service.join(drivers)
        ref = await service.publish(folder)
        operation = await service.submit_load(ref)
        run = await service.start(operation)
        assert (await service.ended(operation, run)).state is OperationState.SUCCEEDED
        engines["e2"].inside.faults = Faults(silent=True)  # a load of the new run would fail, and be undone

        again = await reset(service, operation, run, task)
        ended = await service.ended(operation, again)

        assert ended.state is OperationState.SUCCEEDED
        assert ended.run_id == run
        assert await holding(engines, ref) == SERVED
        assert set((await service.registry.states()).values()) == {"serving"}


async def test_a_reset_of_a_load_that_failed_takes_the_lock_again_and_ends_well(
    service: Service, engines: dict[str, Running], folder: Path
) -> None:
    drivers: Any = drivers_of(engines)
    async with service.orchestrating(), service.hosting(drivers):
        await service.join(drivers)
        ref = await service.publish(folder)
        operation = await service.submit_load(ref)
        engines["e2"].inside.faults = Faults(load_error="engine_error")
        run = await service.start(operation)
        assert (await service.ended(operation, run)).state is OperationState.FAILED
        engines["e2"].inside.faults = Faults()

        again = await reset(service, operation, run, 0)
        ended = await service.ended(operation, again)

        assert (ended.state, ended.run_id, ended.error) == (OperationState.SUCCEEDED, again, None)
        assert await holding(engines, ref) == SERVED


async def test_a_reset_in_the_middle_of_a_load_starts_its_children_anew(
    service: Service, engines: dict[str, Running], folder: Path
) -> None:
    drivers: Any = drivers_of(engines)
    async with service.orchestrating(), service.hosting(drivers):
        await service.join(drivers)
        ref = await service.publish(folder)
        operation = await service.submit_load(ref)
        engines["e2"].inside.faults = Faults(load_seconds=1.0)
        run = await service.start(operation)
        await reached(service, engines, ref, "e1")
        again = await reset(service, operation, run, 0)
        ended = await service.ended(operation, again)
        assert (ended.state, ended.run_id) == (OperationState.SUCCEEDED, again)
        assert await holding(engines, ref) == SERVED
        assert set((await service.registry.states()).values()) == {"serving"}


async def test_a_reset_of_a_load_that_failed_moves_nothing_on_engines_that_served_before(
    service: Service, engines: dict[str, Running], folder: Path
) -> None:
    """As a retry: what serves is proven again and left as it is; only what failed is loaded."""
    drivers: Any = drivers_of(engines)
    async with service.orchestrating(), service.hosting(drivers):
        await service.join(drivers)
        ref = await service.publish(folder)
        alone = LoadRequest(adapter=ref.adapter, version=ref.version, pool="default", engines=("e1",))
        first = await service.registry.submit(new_placement(alone))
        await service.ended(first, await service.start(first))
        (served,) = await service.registry.cards()
        operation = await service.submit_load(ref)
        engines["e2"].inside.faults = Faults(load_error="engine_error")
        run = await service.start(operation)
        failed = await service.ended(operation, run)
        assert {step.engine for step in failed.steps if step.error} == {"e2"}
        assert "succeeded" not in {step.state for step in failed.steps}  # all of it was put back
        engines["e2"].inside.faults = Faults()

        ended = await service.ended(operation, await reset(service, operation, run, 0))

        outcomes = {step.engine: step.detail.get("outcome") for step in ended.steps if step.name == "load"}
        assert outcomes == {"e1": "already_loaded", "e2": "loaded"}
        assert (ended.state, await holding(engines, ref)) == (OperationState.SUCCEEDED, SERVED)
        assert served in await service.registry.cards()
