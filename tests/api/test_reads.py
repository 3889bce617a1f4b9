"""Lists and single things."""

from typing import Any

import httpx
import pytest

from api.dependencies import ApiDependencies
from loradock.core.models import CardState, OperationKind
from tests.api.conftest import assert_problem
from tests.api.world import BASE_MODEL, World, manifest_of


async def walk(client: httpx.AsyncClient, path: str, limit: int, **params: str) -> list[Any]:
    """All items of a list, page by page."""
    found: list[Any] = []
    cursor: dict[str, str] = {}
    for _ in range(100):
        response = await client.get(path, params={"limit": str(limit), **params, **cursor})
        assert response.status_code == 200, response.text
        page = response.json()
        assert set(page) == {"items", "next"}
        assert len(page["items"]) <= limit
        found.extend(page["items"])
        if page["next"] is None:
            return found
        assert page["items"], "a page before the last one is not empty"
        cursor = {"cursor": page["next"]}
    raise AssertionError("the walk does not end")


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
async def test_every_list_can_be_walked_in_pages_of_any_size(
    client: httpx.AsyncClient, world: World, limit: int
) -> None:
    await world.engines("e0", "e1", "e2")
    for adapter in ("acme/greeter", "greeter", "other"):
        await world.version(adapter, "one")
    await world.version("greeter", "two")
    await world.version("greeter", "three")
    await world.loaded("greeter", 1)

    names = [item["name"] for item in await walk(client, "/v1/adapters", limit)]
    assert names == ["acme/greeter", "greeter", "other"]
    numbers = [item["version"] for item in await walk(client, "/v1/adapters/greeter/versions", limit)]
    assert numbers == [3, 2, 1]
    assert [item["id"] for item in await walk(client, "/v1/engines", limit)] == ["e0", "e1", "e2"]
    assert [item["engine"] for item in await walk(client, "/v1/cards", limit)] == ["e0", "e1", "e2"]
    operations = await walk(client, "/v1/operations", limit)
    assert len({item["id"] for item in operations}) == len(operations) == 6
    assert [item["id"] for item in operations] == sorted((item["id"] for item in operations), reverse=True)
    audit = await walk(client, "/v1/audit", limit)
    numbers = [item["seq"] for item in audit]
    assert numbers == list(range(len(numbers), 0, -1))
    assert [(item["adapter"], item["pool"]) for item in await walk(client, "/v1/deployments", limit)] == [
        ("greeter", "default")
    ]


@pytest.mark.parametrize("path", ["/v1/adapters", "/v1/operations", "/v1/engines", "/v1/cards", "/v1/audit"])
@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "501"},
        {"limit": "x"},
        {"limit": "99999999999999999999"},
        {"cursor": "nonsense"},
        {"cursor": "bnVsbA"},
        {"cursor": "W10"},
        {"cursor": "WyJhXHUwMDAwIl0"},
        {"cursor": "x" * 1001},
        {"cursor": "\x00"},
        {"cursor": ""},
    ],
)
async def test_a_page_that_makes_no_sense_is_told(
    client: httpx.AsyncClient, path: str, params: dict[str, str]
) -> None:
    assert_problem(await client.get(path, params=params), 422, "invalid_request")


async def test_an_adapter_is_shown_with_all_that_belongs_to_it(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    await world.version("greeter", "one")
    await world.version("greeter", "two")
    await world.version("greeter", "bad", ready=False)
    await client.put("/v1/adapters/greeter/aliases/stable", json={"version": 1})
    await world.loaded("greeter", 2)
    found = (await client.get("/v1/adapters/greeter")).json()
    assert (found["name"], found["base_model"], found["latest_version"]) == ("greeter", BASE_MODEL, 2)
    assert [(item["version"], item["state"], item["digest"]) for item in found["versions"]][1:] == [
        (2, "ready", manifest_of("two").digest),
        (1, "ready", manifest_of("one").digest),
    ]
    assert [(item["alias"], item["version"]) for item in found["aliases"]] == [("stable", 1)]
    assert [(item["pool"], item["versions"]) for item in found["deployments"]] == [
        ("default", [{"version": 2, "weight": 100, "engines": None, "placement": None}])
    ]


async def test_a_version_is_shown_with_its_manifest_and_traits(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.version("acme/greeter", "one")
    found = (await client.get("/v1/adapters/acme/greeter/versions/1")).json()
    assert found["served_name"] == "acme/greeter@1"
    assert found["manifest"]["digest"] == found["digest"] == manifest_of("one").digest
    assert found["traits"]["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/adapters/none", 404, "adapter_not_found"),
        ("/v1/adapters/none/versions", 404, "adapter_not_found"),
        ("/v1/adapters/none/versions/1", 404, "adapter_not_found"),
        ("/v1/adapters/greeter/versions/9", 404, "version_not_found"),
        ("/v1/adapters/greeter/versions/0", 422, "invalid_request"),
        ("/v1/adapters/greeter/versions/x", 422, "invalid_request"),
        ("/v1/adapters/greeter/versions/4294967296", 422, "invalid_request"),
        ("/v1/adapters/greeter/aliases/none", 404, "alias_not_found"),
        ("/v1/adapters/none/aliases", 404, "adapter_not_found"),
        ("/v1/adapters/none/aliases/stable", 404, "adapter_not_found"),
        ("/v1/adapters/greeter/aliases/7", 422, "invalid_name"),
        ("/v1/adapters/a/b/c", 422, "invalid_name"),
        ("/v1/adapters/", 422, "invalid_name"),
        ("/v1/engines/none", 404, "engine_not_found"),
        ("/v1/engines/-x", 422, "invalid_name"),
        ("/v1/operations/op-none", 404, "operation_not_found"),
        ("/v1/operations/op$1", 422, "invalid_request"),
        ("/v1/operations?state=asleep", 422, "invalid_request"),
        ("/v1/operations?kind=rollout", 422, "invalid_request"),
        ("/v1/operations?adapter=-x", 422, "invalid_name"),
        ("/v1/cards?engine=a/b", 422, "invalid_name"),
        ("/v1/cards?state=gone", 422, "invalid_request"),
        ("/v1/audit?since=yesterday", 422, "invalid_request"),
        ("/v1/audit?since=2026-01-01T00:00:00", 422, "invalid_request"),
        ("/v1/audit?actor=a%00b", 422, "invalid_request"),
    ],
)
async def test_what_is_not_there_has_a_code(
    client: httpx.AsyncClient, world: World, path: str, status: int, code: str
) -> None:
    await world.version("greeter")
    assert_problem(await client.get(path), status, code)


async def test_lists_can_be_narrowed(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0", pool="blue")
    await world.engines("e1", pool="green", lease_seconds=0.001)
    await world.version("greeter")
    await world.version("other", "else")
    await world.loaded("greeter", 1, pool="blue")

    async def ids(path: str, member: str) -> list[str]:
        return [item[member] for item in (await client.get(path)).json()["items"]]

    assert await ids("/v1/engines?pool=blue", "id") == ["e0"]
    assert await ids("/v1/engines?status=lost", "id") == ["e1"]
    assert await ids("/v1/engines?status=alive", "id") == ["e0"]
    assert await ids("/v1/cards?adapter=greeter&engine=e0&pool=blue&state=serving", "served_name") == [
        "greeter@1"
    ]
    assert await ids("/v1/cards?state=lost", "engine") == []
    assert await ids("/v1/deployments?pool=green", "adapter") == []
    assert await ids("/v1/operations?kind=load", "adapter") == ["greeter"]
    assert await ids("/v1/operations?adapter=other&state=succeeded", "kind") == ["publish"]
    assert set(await ids("/v1/audit?adapter=other", "adapter")) == {"other"}
    assert await ids("/v1/audit?since=2999-01-01T00:00:00Z", "seq") == []
    assert await ids("/v1/audit?since=0001-01-01T00:00:00%2B14:00", "seq") != []
    (engine,) = (await client.get("/v1/engines?pool=blue")).json()["items"]
    assert (await client.get("/v1/engines/e0")).json() == engine


async def test_staged_cards_are_shown_only_when_asked_for(
    client: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    await world.engines("e0")
    await world.version("greeter")
    await world.staged("greeter", 1)
    assert (await client.get("/v1/cards")).json()["items"] == []
    staged = (await client.get("/v1/cards", params={"state": CardState.STAGED})).json()["items"]
    assert [card["engine"] for card in staged] == ["e0"]


async def test_the_audit_tells_who_asked_for_what(client: httpx.AsyncClient, world: World) -> None:
    operation = await world.operation(OperationKind.PUBLISH, "greeter")
    events = (await client.get("/v1/audit", params={"operation": operation.id})).json()["items"]
    assert [(event["action"], event["actor"], event["adapter"]) for event in events] == [
        ("operation.requested", "operator", "greeter")
    ]


async def test_a_call_on_an_adapter_with_the_wrong_method_is_told(client: httpx.AsyncClient) -> None:
    assert_problem(await client.put("/v1/adapters/greeter/load", json={}), 405, "method_not_allowed")
    assert_problem(await client.delete("/v1/adapters/greeter"), 405, "method_not_allowed")
    for word in ("load", "unload"):
        response = await client.get(f"/v1/adapters/acme/greeter/{word}")
        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"
