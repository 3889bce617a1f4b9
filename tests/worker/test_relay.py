"""The outbox: what was committed and never started is started, once, however often and by whomever it is tried."""

import asyncio
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.contrib.pydantic import pydantic_data_converter

from loradock.core.ids import workflow_id
from loradock.core.models import OperationState
from loradock.registry import admission, operations, runs
from loradock.registry.admission import Limits
from loradock.registry.views import OperationView
from tests.activities.conftest import Running
from tests.registry.world import new_publish, run_of
from tests.worker.service import Line, Service
from worker import relay as relay_module
from worker import sweeper as sweeper_module
from worker.relay import Relay
from worker.sweeper import Sweeper


@pytest.fixture
def relay(service: Service, monkeypatch: pytest.MonkeyPatch) -> Relay:
    """A relay that takes what was committed just now."""
    monkeypatch.setattr(relay_module, "OLDER_THAN_SECONDS", 0.0)
    return relay_of(service, service.client)


def relay_of(service: Service, client: Client) -> Relay:
    limits = Limits(active=100, active_per_actor=100, queued=100, queued_per_actor=100)
    return Relay(service.database, client, Sweeper(service.database, client), limits)


async def pending(service: Service, adapter: str = "greeter") -> OperationView:
    return await service.registry.submit(new_publish(adapter))


async def test_what_was_committed_and_never_started_is_started_once(service: Service, relay: Relay) -> None:
    operation = await pending(service)
    assert await relay.run_once() == 1
    first = await service.run_id(operation)
    await relay.run_once()
    assert await service.run_id(operation) == first


async def test_what_the_api_has_started_is_not_started_again(service: Service, relay: Relay) -> None:
    operation = await pending(service)
    run = await service.start(operation)
    await relay.run_once()
    assert await service.run_id(operation) == run


async def test_what_was_committed_just_now_is_left_to_the_api(service: Service) -> None:
    operation = await pending(service)
    assert await relay_of(service, service.client).run_once() == 0
    async for found in service.client.list_workflows(f"WorkflowId = '{workflow_id(operation.id)}'"):
        pytest.fail(f"{found.id} was started")


async def test_what_waits_is_started_in_its_turn_when_there_is_room(service: Service) -> None:
    limits = Limits(active=1, active_per_actor=1, queued=9, queued_per_actor=9)
    sweeper = Sweeper(service.database, service.client)
    made = []
    for adapter in ("first", "second", "third"):
        async with service.database.transaction() as tx:
            operation = (await operations.submit(tx, new_publish(adapter))).operation
            await admission.enter(tx, operation.id, operation.requested_by, limits)
        made.append(operation)
    await service.start(made[0])  # as the API does

    async def relay_twice() -> list[int | None]:
        """Two relays at once, and new ones each time: the queue is rows and nothing else."""
        relays = [Relay(service.database, service.client, sweeper, limits) for _ in range(2)]
        await asyncio.gather(*(relay.run_once() for relay in relays))
        return [(await service.registry.operation(one.id)).queue_position for one in made]

    assert await relay_twice() == [None, 1, 2]
    await service.registry.finish(run_of(made[0]))
    assert await relay_twice() == [None, None, 1]
    assert await service.run_id(made[1])
    await service.registry.finish(run_of(made[1]))
    assert await relay_twice() == [None, None, None]
    assert await service.run_id(made[2])


async def test_two_relays_at_once_start_one_run_each(service: Service, relay: Relay) -> None:
    operations = [await pending(service, f"greeter-{number}") for number in range(5)]
    await asyncio.gather(relay.run_once(), relay_of(service, service.client).run_once())
    runs = {await service.run_id(operation) for operation in operations}
    await asyncio.gather(relay.run_once(), relay_of(service, service.client).run_once())
    assert {await service.run_id(operation) for operation in operations} == runs
    assert len(runs) == 5


async def test_a_relayed_operation_is_done(service: Service, relay: Relay, folder: Path) -> None:
    operation = await service.registry.submit(new_publish(uri=folder.as_uri(), base_model="tiny"))
    await relay.run_once()
    async with service.orchestrating():
        assert (await service.ended(operation)).state is OperationState.SUCCEEDED
    assert await relay.run_once() == 0


async def test_while_temporal_is_away_operations_wait_and_none_is_recovered(
    service: Service, relay: Relay, temporal_dev_server: str
) -> None:
    host, _, port = temporal_dev_server.rpartition(":")
    line = Line(host, int(port))
    address = f"127.0.0.1:{await line.open()}"
    through = await Client.connect(
        address, namespace=service.client.namespace, data_converter=pydantic_data_converter
    )
    operation = await pending(service)
    await line.cut()
    begun = await pending(service, "begun")
    async with service.database.transaction() as tx:
        await runs.begin(tx, run_of(begun), ())
    away = await asyncio.gather(
        relay_of(service, through).run_once(), Sweeper(service.database, through).run_once()
    )
    assert away == [0, 0]
    assert (await service.registry.operation(operation.id)).state is OperationState.PENDING
    assert (await service.registry.operation(begun.id)).state is OperationState.RUNNING
    assert await relay.run_once() == 1


async def test_a_request_that_nobody_can_read_does_not_hold_up_the_others(
    service: Service, relay: Relay, database_address: str
) -> None:
    broken, sound = await pending(service, "broken"), await pending(service, "sound")
    with psycopg.connect(database_address) as connection:
        connection.execute("UPDATE operations SET request = '{}' WHERE id = %s", [broken.id])
    assert await relay.run_once() == 1
    assert await service.run_id(sound)


async def test_a_workflow_terminated_before_its_first_step_is_recovered(
    service: Service, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper_module, "GRACE", timedelta(0))
    operation = await pending(service)
    await service.start(operation)  # nobody polls: it never comes to its first step
    await service.client.get_workflow_handle(workflow_id(operation.id)).terminate("by hand")
    assert await relay.run_once() == 0
    async with service.orchestrating():
        ended = await service.recovered(operation)
    assert (ended.state, ended.error and ended.error.code) == (OperationState.FAILED, "workflow_terminated")
    await pending(service)  # the lock is free


async def test_a_load_terminated_before_its_first_step_leaves_the_engines_alone(
    service: Service,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
    engines: dict[str, Running],
    folder: Path,
) -> None:
    monkeypatch.setattr(sweeper_module, "GRACE", timedelta(0))
    drivers = {name: running.driver for name, running in engines.items()}
    async with service.hosting(drivers):
        await service.join(drivers)
        async with service.orchestrating():
            operation = await service.submit_load(await service.publish(folder))
        await service.start(operation)
        handle = service.client.get_workflow_handle(workflow_id(operation.id))
        await handle.terminate("by hand")
        await relay.run_once()
        async with service.orchestrating():
            ended = await service.recovered(operation)
    assert ended.state is OperationState.FAILED
    assert not ended.repairs_pending
    assert (await handle.describe()).status is WorkflowExecutionStatus.TERMINATED
