"""`/v1/loras`: errors in the seed system's words, and who may call."""

import asyncio
import dataclasses

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.dependencies import ApiDependencies
from api.loras import lora_id
from loradock.core.models import OperationState, RunRef
from tests.api.conftest import AGENT_TOKEN, assert_problem, client_of
from tests.api.world import World

BODY = {"lora_name": "greeter", "source": {"uri": "file:///srv/adapters/greeter"}}


def assert_lora_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["status"], body["code"]) == ("error", code)
    assert body["message"]


def test_the_number_of_a_name_is_the_seed_systems() -> None:
    # BLAKE3 of the name, first 8 bytes big-endian, 31 bits.
    numbers = {"greeter": 58841593, "my-lora": 868637996, "org/name": 1141814095}
    assert {name: lora_id(name) for name in numbers} == numbers


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"source": {"uri": "file:///a"}}, 400, "invalid_request"),
        ({"lora_name": "greeter"}, 400, "invalid_request"),
        ({"lora_name": "a\nb", "source": {"uri": "file:///a"}}, 400, "invalid_name"),
        ({"lora_name": "greeter", "source": {"uri": "nowhere"}}, 400, "invalid_source_uri"),
        ({"lora_name": "greeter", "source": {"uri": "ftp://host/a"}}, 415, "unsupported_scheme"),
    ],
)
async def test_a_bad_call_is_told_in_the_seed_systems_words(
    client: httpx.AsyncClient, body: dict[str, object], status: int, code: str
) -> None:
    assert_lora_error(await client.post("/v1/loras", json=body), status, code)
    assert (await client.get("/v1/operations")).json()["items"] == []


async def test_a_body_that_is_not_json_is_told_by_its_type(client: httpx.AsyncClient) -> None:
    assert_lora_error(
        await client.post("/v1/loras", content=b"lora_name=a", headers={"Content-Type": "text/plain"}),
        415,
        "unsupported_media_type",
    )
    broken = await client.post("/v1/loras", content=b"{", headers={"Content-Type": "application/json"})
    assert_lora_error(broken, 400, "invalid_request")


async def test_what_is_not_loaded_cannot_be_unloaded(client: httpx.AsyncClient, world: World) -> None:
    gone = await client.delete("/v1/loras/org/greeter")
    assert_lora_error(gone, 404, "adapter_not_found")
    assert gone.json()["lora_name"] == "org/greeter"
    await world.version("greeter")
    assert_lora_error(await client.delete("/v1/loras/greeter"), 404, "version_not_loaded")


async def test_a_list_names_what_is_served_and_an_agents_list_its_own(
    parts: ApiDependencies, world: World
) -> None:
    settings = parts.settings.model_copy(update={"agent_loras": True})
    app = create_app(dataclasses.replace(parts, settings=settings))
    await world.engines("e0", "e1")
    await world.engines("e2", pool="other")
    await world.loaded("greeter", await world.version("greeter"))
    expected = {"status": "success", "loras": {"greeter": lora_id("greeter")}, "count": 1}
    nothing = {"status": "success", "loras": {}, "count": 0}
    async with client_of(app) as operator, client_of(app, AGENT_TOKEN) as agent:
        assert (await operator.get("/v1/loras")).json() == expected
        assert (await agent.get("/v1/agents/agent-e0/loras")).json() == expected
        assert (await agent.get("/v1/agents/agent-e2/loras")).json() == nothing


async def test_agents_may_not_change_adapters_unless_the_service_is_told_so(app: FastAPI) -> None:
    async with client_of(app, AGENT_TOKEN) as agent:
        assert_lora_error(await agent.post("/v1/agents/a0/loras", json=BODY), 403, "forbidden")
        assert_lora_error(await agent.delete("/v1/agents/a0/loras/greeter"), 403, "forbidden")
        assert_problem(await agent.post("/v1/loras", json=BODY), 403, "forbidden")


async def test_a_post_that_comes_while_its_source_is_read_waits_and_has_it_read_again(
    client: httpx.AsyncClient, parts: ApiDependencies, world: World
) -> None:
    await world.engines("e0")
    first = asyncio.create_task(client.post("/v1/loras", json=BODY))
    run = await world.begun(await world.active_operation())
    late = [asyncio.create_task(client.post("/v1/loras", json=BODY)) for _ in range(3)]
    await waiters(parts, run.operation, 4)
    other = await client.post("/v1/loras", json={**BODY, "source": {"uri": "file:///srv/adapters/other"}})
    assert_lora_error(other, 409, "adapter_busy")
    await world.end(run, OperationState.ABORTED)
    assert_lora_error(await first, 409, "operation_cancelled")
    again = await world.active_operation()
    assert again.request["uri"] == BODY["source"]["uri"]  # type: ignore[index]
    await waiters(parts, again.id, 3)
    await world.end(RunRef(operation=again.id, run_id="run-2", epoch=again.epoch), OperationState.ABORTED)
    for answer in await asyncio.gather(*late):
        assert_lora_error(answer, 409, "operation_cancelled")
    assert len((await client.get("/v1/operations")).json()["items"]) == 2


async def waiters(parts: ApiDependencies, operation: str, count: int) -> None:
    """Return when so many calls wait for the operation."""
    async with asyncio.timeout(8):
        while len(parts.feed._watchers.get(operation, ())) < count:
            await asyncio.sleep(0.01)
