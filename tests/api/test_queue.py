"""More operations than there is room for: they wait with their place, are refused beyond, and can be aborted and retried."""

from collections.abc import AsyncIterator

import httpx
import pytest

from api.app import create_app
from api.dependencies import ApiDependencies
from api.server import open_dependencies
from loradock.core.models import OperationState, RunRef
from loradock.registry import admission
from loradock.registry.admission import Limits
from tests.api.conftest import ALICE_TOKEN, assert_problem, client_of, settings_for
from tests.api.world import BASE_MODEL, World

BODY = {"source": {"uri": "file:///srv/adapters/one"}, "base_model": BASE_MODEL}


@pytest.fixture
async def parts(migrated_url: str, closed_port: str) -> AsyncIterator[ApiDependencies]:
    """Room for one operation, and for two that wait."""
    few = {"operations_active": 1, "operations_queued": 2, "operations_queued_per_actor": 1}
    settings = settings_for(migrated_url, closed_port).model_copy(update=few)
    async with open_dependencies(settings) as opened:
        yield opened


async def publish(client: httpx.AsyncClient, adapter: str, key: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await client.post(f"/v1/adapters/{adapter}/versions", json=BODY, headers=headers)


async def test_beyond_the_room_operations_wait_with_their_place_and_beyond_the_queue_they_are_refused(
    parts: ApiDependencies, client: httpx.AsyncClient
) -> None:
    first = await publish(client, "a")
    assert (first.status_code, first.json()["queue_position"]) == (202, None)
    waits = await publish(client, "b", key="k")
    assert (waits.status_code, waits.json()["state"], waits.json()["queue_position"]) == (202, "pending", 1)
    refused = await publish(client, "c")
    assert_problem(refused, 429, "too_many_requests")
    assert int(refused.headers["retry-after"]) > 0
    async with client_of(create_app(parts), ALICE_TOKEN) as alice:
        assert (await publish(alice, "d")).json()["queue_position"] == 1  # has nothing under way: comes first
        assert_problem(await publish(alice, "e"), 429, "too_many_requests")
        busy = await alice.post("/v1/adapters/b/versions", json={**BODY, "labels": {"x": "y"}})
    assert assert_problem(busy, 409, "adapter_busy")["operation"] == waits.json()["id"]
    again = await publish(client, "b", key="k")
    assert (again.json()["id"], again.json()["queue_position"]) == (waits.json()["id"], 2)
    listed = (await client.get("/v1/operations")).json()["items"]
    assert {item["adapter"]: item["queue_position"] for item in listed} == {"a": None, "b": 2, "d": 1}
    assert (await client.get("/v1/adapters/c")).status_code == 404  # what was refused left nothing


async def test_an_operation_is_aborted_in_the_queue_without_temporal_and_the_next_moves_up(
    parts: ApiDependencies, client: httpx.AsyncClient
) -> None:
    await publish(client, "a")
    waits = (await publish(client, "b")).json()["id"]
    async with client_of(create_app(parts), ALICE_TOKEN) as alice:
        behind = (await publish(alice, "d")).json()["id"]
    aborted = await client.post(f"/v1/operations/{behind}/abort")
    assert (aborted.status_code, aborted.json()["state"]) == (200, "aborted")
    assert aborted.json()["queue_position"] is None
    assert (await client.get(f"/v1/operations/{waits}")).json()["queue_position"] == 1
    async with parts.database.transaction() as tx:
        assert await admission.admit_waiting(tx, Limits.of(parts.settings)) == []


async def test_a_failed_operation_is_retried_as_a_new_one_once(
    parts: ApiDependencies, client: httpx.AsyncClient, world: World
) -> None:
    first = (await publish(client, "a")).json()
    path = f"/v1/operations/{first['id']}/retry"
    assert_problem(await client.post(path), 409, "operation_not_retryable")
    await world.end(
        RunRef(operation=first["id"], run_id="run-1", epoch=first["epoch"]), OperationState.FAILED
    )
    key = {"Idempotency-Key": "again"}
    retried = await client.post(path, headers=key)
    assert retried.status_code == 202
    body = retried.json()
    assert retried.headers["location"] == f"/v1/operations/{body['id']}"
    assert (body["retry_of"], body["kind"], body["request"]) == (first["id"], "publish", first["request"])
    await world.end(
        RunRef(operation=body["id"], run_id="run-2", epoch=body["epoch"]), OperationState.SUCCEEDED
    )
    same = await client.post(path, headers=key)
    assert (same.status_code, same.json()["id"]) == (200, body["id"])
    events = (await client.get("/v1/audit", params={"operation": body["id"]})).json()["items"]
    assert [one["detail"].get("retry_of") for one in events if one["action"] == "operation.requested"] == [
        first["id"]
    ]
    assert_problem(await client.post(f"/v1/operations/{body['id']}/retry"), 409, "operation_not_retryable")
    assert_problem(await client.post("/v1/operations/op-none/retry"), 404, "operation_not_found")
