"""A version is deleted when nothing names it; number and digest stay."""

import httpx

from tests.api.conftest import assert_problem
from tests.api.world import World

VERSIONS = "/v1/adapters/acme/greeter/versions"


async def test_a_deleted_version_stays_in_the_list_as_retired(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.version("acme/greeter", "one")
    deleted = await client.delete(f"{VERSIONS}/1")
    assert (deleted.status_code, deleted.json()["state"]) == (200, "retired")
    assert deleted.json()["retired_by"]
    assert (await client.get(f"{VERSIONS}/1")).json()["digest"] == deleted.json()["digest"]
    assert (await client.delete(f"{VERSIONS}/1")).json() == deleted.json()
    events = (await client.get("/v1/audit", params={"adapter": "acme/greeter"})).json()["items"]
    assert [event["action"] for event in events].count("version.retired") == 1


async def test_a_version_that_an_alias_names_is_refused(client: httpx.AsyncClient, world: World) -> None:
    await world.version("acme/greeter", "one")
    await client.put("/v1/adapters/acme/greeter/aliases/stable", json={"version": 1})
    assert_problem(await client.delete(f"{VERSIONS}/1"), 409, "version_in_use")
    assert (await client.get(f"{VERSIONS}/1")).json()["state"] == "ready"


async def test_what_is_not_there_is_told(client: httpx.AsyncClient, world: World) -> None:
    assert_problem(await client.delete(f"{VERSIONS}/1"), 404, "adapter_not_found")
    await world.version("acme/greeter", "one")
    assert_problem(await client.delete(f"{VERSIONS}/2"), 404, "version_not_found")


async def test_an_engine_that_is_gone_is_removed_and_one_that_lives_is_not(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    await world.engines("e1", lease_seconds=-1)
    assert_problem(await client.delete("/v1/engines/e0"), 409, "engine_in_use")
    removed = await client.delete("/v1/engines/e1")
    assert (removed.status_code, removed.json()) == (
        200,
        {
            "id": "e1",
            "pool": "default",
            "agent": "agent-e1",
            "agent_removed": True,
            "cards": [],
            "unwanted": [],
        },
    )
    assert_problem(await client.delete("/v1/engines/e1"), 404, "engine_not_found")
    assert [engine["id"] for engine in (await client.get("/v1/engines")).json()["items"]] == ["e0"]
    events = (await client.get("/v1/audit")).json()["items"]
    (event,) = [event for event in events if event["action"] == "engine.removed"]
    assert (event["engine"], event["actor"]) == ("e1", "operator")
