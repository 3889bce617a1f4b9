"""Following operations to their end, and stopping them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from api.app import create_app
from api.dependencies import ApiDependencies
from api.events import OperationEventStream
from loradock.core.ids import LIFECYCLE_QUEUE
from loradock.core.models import OperationKind, OperationState, StepReport, StepState
from loradock.registry import operation_steps
from loradock.registry.views import OperationView
from tests.api.conftest import OPERATOR_TOKEN, assert_problem, bearer, client_of, serving
from tests.api.world import World

PUBLISH = {"source": {"uri": "file:///srv/adapters/greeter"}}


async def publish(world: World, adapter: str = "greeter") -> OperationView:
    return await world.operation(OperationKind.PUBLISH, adapter)


def operation_of(body: dict[str, object]) -> OperationView:
    """The registry's view that a body shows."""
    return OperationView.model_validate({name: body[name] for name in OperationView.model_fields})


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, object]]]:
    """The events of a stream, by name and data."""
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


# --- Waiting --------------------------------------------------------------------------------------------------------


async def test_a_wait_ends_with_the_operation(
    server: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    assert await parts.feed.wait_listening(10)
    run = await world.begun(await publish(world))
    waiting = asyncio.create_task(
        server.get(f"/v1/operations/{run.operation}", headers={"Prefer": "wait=20"})
    )
    await watched(parts, run.operation)
    await world.end(run, OperationState.SUCCEEDED)
    ended_at = time.perf_counter()
    response = await waiting
    # Far below the re-check: it was the notice that woke the wait.
    assert time.perf_counter() - ended_at < 2
    assert response.json()["state"] == "succeeded"
    assert response.headers["preference-applied"] == "wait=20"


async def watched(parts: ApiDependencies, operation: str) -> None:
    """Return when somebody waits for the operation."""
    while operation not in parts.feed._watchers:
        await asyncio.sleep(0.01)


async def test_a_post_that_waits_answers_with_the_end_whatever_it_is(
    server: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    await world.engines("e0")
    waiting = asyncio.create_task(server.post("/v1/adapters/greeter/versions?wait=20", json=PUBLISH))
    while not (found := (await server.get("/v1/operations")).json()["items"]):
        await asyncio.sleep(0.01)
    operation = OperationView.model_validate(
        {**found[0], "temporal_url": None} | {}, strict=False, extra="ignore"
    )
    await watched(parts, operation.id)
    await world.end(await world.begun(operation), OperationState.FAILED)
    response = await waiting
    assert (response.status_code, response.json()["state"]) == (200, "failed")
    assert "preference-applied" not in response.headers


async def test_a_wait_that_is_too_short_answers_202(server: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    began = time.perf_counter()
    response = await server.post("/v1/adapters/greeter/versions", json=PUBLISH, headers={"Prefer": "wait=1"})
    assert time.perf_counter() - began >= 1
    assert (response.status_code, response.json()["state"]) == (202, "pending")
    assert response.headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize(
    "prefer", ["respond-async", "wait", "wait=", "wait=x", "wait=-1", "await=9", "wait=1.5", "wait=0", ", ,"]
)
async def test_a_preference_that_is_not_understood_is_passed_over(
    client: httpx.AsyncClient, world: World, prefer: str
) -> None:
    operation = await publish(world)
    began = time.perf_counter()
    response = await client.get(f"/v1/operations/{operation.id}", headers={"Prefer": prefer})
    assert response.status_code == 200
    assert time.perf_counter() - began < 5


async def test_a_preference_stands_among_others_and_is_bounded(
    client: httpx.AsyncClient, world: World
) -> None:
    run = await world.begun(await publish(world))
    await world.end(run, OperationState.SUCCEEDED)
    prefer = {"Prefer": 'respond-async, WAIT="900"; foo=bar'}
    response = await client.get(f"/v1/operations/{run.operation}", headers=prefer)
    assert response.headers["preference-applied"] == "wait=300"


@pytest.mark.parametrize("wait", ["-1", "301", "inf", "nan", "x"])
async def test_a_wait_in_the_query_must_make_sense(
    client: httpx.AsyncClient, world: World, wait: str
) -> None:
    operation = await publish(world)
    response = await client.get(f"/v1/operations/{operation.id}", params={"wait": wait})
    assert_problem(response, 422, "invalid_request")


async def test_a_server_that_stops_lets_those_go_that_wait(parts: ApiDependencies, world: World) -> None:
    operation = await publish(world)
    async with httpx.AsyncClient(headers=bearer(OPERATOR_TOKEN), timeout=30) as http:
        async with serving(parts) as running:
            url = f"{running.url}/v1/operations/{operation.id}"
            waiting = asyncio.create_task(http.get(url, params={"wait": 25}))
            stream = asyncio.create_task(http.get(f"{url}/events"))
            await watched(parts, operation.id)
            began = time.perf_counter()
        assert time.perf_counter() - began < 5
        assert (await waiting).json()["state"] == "pending"
        assert "event: operation" in (await stream).text


# --- Events ---------------------------------------------------------------------------------------------------------


async def test_a_stream_shows_every_change_and_the_end(
    server: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    assert await parts.feed.wait_listening(10)
    run = await world.begun(await publish(world))
    async with server.stream(
        "GET", f"/v1/operations/{run.operation}/events", headers={"Last-Event-ID": "9999"}
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in response.headers
        events = events_of(response)
        assert await anext(events) == (
            "operation",
            (await server.get(f"/v1/operations/{run.operation}")).json(),
        )
        report = StepReport(name="download", engine="e0", state=StepState.RUNNING, attempt=1)
        async with parts.database.transaction() as tx:
            await operation_steps.record_steps(tx, run.operation, [report])
        name, operation = await anext(events)
        assert (name, operation["steps"][0]["state"]) == ("operation", "running")  # type: ignore[index]
        await world.end(run, OperationState.FAILED)
        rest = [event async for event in events]
    assert [name for name, _ in rest] == ["operation", "end"]
    assert {operation["state"] for _, operation in rest} == {"failed"}


async def test_the_stream_of_an_ended_operation_ends_at_once(server: httpx.AsyncClient, world: World) -> None:
    run = await world.begun(await publish(world))
    await world.end(run, OperationState.SUCCEEDED)
    response = await server.get(f"/v1/operations/{run.operation}/events")
    assert [line for line in response.text.splitlines() if line.startswith("event:")] == [
        "event: operation",
        "event: end",
    ]


async def test_a_silent_stream_is_kept_alive(parts: ApiDependencies, world: World) -> None:
    operation = await publish(world)

    async def send(message: dict[str, object]) -> None:
        sent.append(bytes(message.get("body", b"")))  # type: ignore[arg-type]
        if sent[-1].startswith(b":"):
            gone.set()

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    sent: list[bytes] = []
    gone = asyncio.Event()
    stream = OperationEventStream(parts, operation.id, keep_alive_seconds=0.05)
    await asyncio.wait_for(stream({"type": "http"}, receive, send), 10)  # type: ignore[arg-type]
    assert b": keep-alive\n\n" in sent


async def test_a_reader_that_goes_away_is_let_go(
    server: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    operation = await publish(world)
    async with server.stream("GET", f"/v1/operations/{operation.id}/events"):
        await watched(parts, operation.id)
    async with asyncio.timeout(5):
        while operation.id in parts.feed._watchers:
            await asyncio.sleep(0.01)


async def test_there_is_no_stream_of_an_unknown_operation(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/v1/operations/op-0/events"), 404, "operation_not_found")


# --- Aborting -------------------------------------------------------------------------------------------------------


async def test_an_operation_that_never_began_is_ended_on_the_spot(
    client: httpx.AsyncClient, world: World
) -> None:
    operation = await publish(world)
    response = await client.post(f"/v1/operations/{operation.id}/abort")
    assert response.status_code == 200
    found = response.json()
    assert (found["state"], found["error"]["code"]) == ("aborted", "operation_cancelled")
    assert response.headers["location"] == f"/v1/operations/{operation.id}"
    again = await client.post(f"/v1/operations/{operation.id}/abort")
    assert assert_problem(again, 409, "operation_ended")["operation"] == operation.id
    assert (await publish(world)).id != operation.id, "its lock is not free"


async def test_what_ended_or_never_was_cannot_be_aborted(client: httpx.AsyncClient, world: World) -> None:
    run = await world.begun(await publish(world))
    await world.end(run, OperationState.SUCCEEDED)
    assert_problem(await client.post(f"/v1/operations/{run.operation}/abort"), 409, "operation_ended")
    assert_problem(await client.post("/v1/operations/op-0/abort"), 404, "operation_not_found")


async def test_without_temporal_a_running_operation_cannot_be_aborted_but_the_audit_has_the_wish(
    client: httpx.AsyncClient, world: World
) -> None:
    run = await world.begun(await publish(world))
    response = await client.post(f"/v1/operations/{run.operation}/abort")
    assert_problem(response, 503, "temporal_unavailable")
    assert int(response.headers["retry-after"]) > 0
    audit = (await client.get("/v1/audit", params={"operation": run.operation})).json()["items"]
    assert (audit[0]["action"], audit[0]["actor"]) == ("operation.abort_requested", "operator")
    assert (await client.get(f"/v1/operations/{run.operation}")).json()["state"] == "running"


@workflow.defn(name="PublishVersion", sandboxed=False)
class WaitingPublish:
    """Stands where PublishVersion would, and waits to be cancelled."""

    @workflow.run
    async def run(self, _: dict[str, object]) -> None:
        await asyncio.sleep(timedelta(hours=1).total_seconds())


async def test_a_publish_starts_its_workflow_and_an_abort_cancels_it(
    live_parts: ApiDependencies, temporal_dev_server: str
) -> None:
    world = World(live_parts.database)
    await world.engines("e0")
    async with client_of(create_app(live_parts)) as client:
        posted = (await client.post("/v1/adapters/acme/greeter/versions", json=PUBLISH)).json()
        handle = live_parts.temporal.get_workflow_handle(posted["workflow_id"])
        described = await handle.describe()
        assert described.workflow_type == "PublishVersion"
        assert described.task_queue == LIFECYCLE_QUEUE
        attributes = {pair.key.name: pair.value for pair in described.typed_search_attributes}
        assert attributes["LoradockAdapter"] == "acme/greeter"
        assert attributes["LoradockActor"] == "operator"

        await world.begun(operation_of(posted))
        connected = await Client.connect(temporal_dev_server, data_converter=pydantic_data_converter)
        async with Worker(connected, task_queue=LIFECYCLE_QUEUE, workflows=[WaitingPublish]):
            response = await client.post(f"/v1/operations/{posted['id']}/abort")
            assert (response.status_code, response.json()["state"]) == (202, "running")
            async with asyncio.timeout(20):
                while (await handle.describe()).status is not WorkflowExecutionStatus.CANCELED:
                    await asyncio.sleep(0.05)


async def test_a_pending_operation_that_is_sent_again_is_started_again(
    live_parts: ApiDependencies, parts: ApiDependencies
) -> None:
    """Kept while Temporal was down; the same request finds it, and finds Temporal."""
    await World(live_parts.database).engines("e0")
    without = ApiDependencies(
        live_parts.database, live_parts.feed, parts.temporal, live_parts.tokens, live_parts.settings
    )
    async with client_of(create_app(without)) as client:
        first = await client.post("/v1/adapters/greeter/versions", json=PUBLISH)
    assert first.status_code == 202
    async with client_of(create_app(live_parts)) as client:
        second = await client.post("/v1/adapters/greeter/versions", json=PUBLISH)
    assert second.json()["id"] == first.json()["id"]
    handle = live_parts.temporal.get_workflow_handle(first.json()["workflow_id"])
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    await handle.terminate()


async def test_a_workflow_that_temporal_does_not_know_leaves_the_end_to_the_sweeper(
    live_parts: ApiDependencies,
) -> None:
    world = World(live_parts.database)
    run = await world.begun(await publish(world))
    async with client_of(create_app(live_parts)) as client:
        response = await client.post(f"/v1/operations/{run.operation}/abort")
    assert (response.status_code, response.json()["state"]) == (202, "running")


# --- Steps ----------------------------------------------------------------------------------------------------------


async def test_a_list_has_counts_of_steps_and_one_operation_has_the_steps(
    client: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    run = await world.begun(await publish(world))
    failed = StepReport(name="load", engine="e0", state=StepState.FAILED, attempt=1)
    async with parts.database.transaction() as tx:
        await operation_steps.record_steps(tx, run.operation, [failed])
    (shown,) = (await client.get("/v1/operations")).json()["items"]
    assert shown["step_counts"] == {"failed": 1, "pending": 1}
    assert [step["name"] for step in shown["steps"]] == ["load"]
    one = (await client.get(f"/v1/operations/{run.operation}")).json()
    assert [step["name"] for step in one["steps"]] == ["download", "load"]
    assert one["step_counts"] == shown["step_counts"]


async def test_steps_have_a_list_of_their_own(client: httpx.AsyncClient, world: World) -> None:
    run = await world.begun(await publish(world))
    path = f"/v1/operations/{run.operation}/steps"
    first = (await client.get(path, params={"limit": 1})).json()
    assert [step["name"] for step in first["items"]] == ["download"]
    rest = (await client.get(path, params={"cursor": first["next"]})).json()
    assert ([step["name"] for step in rest["items"]], rest["next"]) == (["load"], None)
    assert (await client.get(path, params={"state": "failed"})).json()["items"] == []
    assert len((await client.get(path, params={"engine": "e0"})).json()["items"]) == 2
    assert_problem(await client.get("/v1/operations/op-none/steps"), 404, "operation_not_found")
    assert_problem(await client.get(path, params={"state": "sleeping"}), 422, "invalid_request")
    assert_problem(await client.get(path, params={"cursor": "x"}), 422, "invalid_request")
