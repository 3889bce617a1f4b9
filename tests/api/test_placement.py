"""Load and unload: what is told at once, defaults, and what is kept."""

import httpx
import pytest

from api.dependencies import ApiDependencies
from loradock.core.models import OperationState, RunRef
from loradock.core.requests import UnloadRequest
from loradock.registry import unloading
from tests.api.conftest import assert_problem
from tests.api.world import World


async def test_a_load_is_kept_with_everything_settled(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0", "e1")
    await world.version("greeter")
    response = await client.post("/v1/adapters/greeter/load", json={"version": 1})
    assert response.status_code == 202
    operation = response.json()
    assert (operation["kind"], operation["version"], operation["pool"]) == ("load", 1, "default")
    assert operation["request"] == {
        "adapter": "greeter",
        "version": 1,
        "pool": "default",
        "engines": None,
        "labels": {},
        "replicas": None,
        "policy": "all",
        "min_ready": 1,
        "replace": False,
        "plan": None,
        "only": None,
    }


async def test_an_alias_is_resolved_when_it_is_asked_for(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    await world.version("acme/greeter", "one")
    await world.version("acme/greeter", "two")
    await client.put("/v1/adapters/acme/greeter/aliases/stable", json={"version": 2})
    response = await client.post("/v1/adapters/acme/greeter/load", json={"version": "stable"})
    assert response.json()["version"] == 2


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"version": 2}, 404, "version_not_found"),
        ({"version": "missing"}, 404, "alias_not_found"),
        ({"version": "2"}, 422, "invalid_name"),
        ({"version": 0}, 422, "invalid_request"),
        ({"version": 10**9}, 422, "invalid_request"),
        ({"version": True}, 422, "invalid_request"),
        ({"version": 1.0}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ({"version": 1, "pool": "nowhere"}, 404, "pool_not_found"),
        ({"version": 1, "pool": "no/where"}, 422, "invalid_name"),
        ({"version": 1, "engines": ["e9"]}, 404, "engine_not_found"),
        ({"version": 1, "engines": []}, 422, "invalid_request"),
        ({"version": 1, "engines": ["e0"], "min_ready": 2}, 422, "invalid_request"),
        ({"version": 1, "min_ready": 2**31}, 422, "invalid_request"),
        ({"version": 1, "policy": "most"}, 422, "invalid_request"),
    ],
)
async def test_what_can_be_told_of_a_load_is_told_at_once(
    client: httpx.AsyncClient, world: World, body: dict[str, object], status: int, code: str
) -> None:
    await world.engines("e0")
    await world.version("greeter")
    assert_problem(await client.post("/v1/adapters/greeter/load", json=body), status, code)
    operations = (await client.get("/v1/operations", params={"kind": "load"})).json()
    assert operations["items"] == []


async def test_an_unknown_adapter_cannot_be_loaded_or_unloaded(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    assert_problem(await client.post("/v1/adapters/none/load", json={"version": 1}), 404, "adapter_not_found")
    assert_problem(await client.post("/v1/adapters/none/unload", json={}), 404, "adapter_not_found")


async def test_a_version_that_failed_cannot_be_loaded(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    await world.version("greeter", ready=False)
    assert_problem(
        await client.post("/v1/adapters/greeter/load", json={"version": 1}), 409, "version_not_ready"
    )


async def test_a_rank_above_the_engines_is_told_at_once(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    await world.version("greeter", rank=64)
    assert_problem(await client.post("/v1/adapters/greeter/load", json={"version": 1}), 422, "rank_too_high")


async def test_a_pool_of_another_base_model_is_told_at_once(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    await world.engines("e1", pool="other", base_model="other-model")
    await world.version("greeter")
    response = await client.post("/v1/adapters/greeter/load", json={"version": 1, "pool": "other"})
    assert_problem(response, 422, "base_model_mismatch")


async def test_a_pool_without_a_living_engine_is_told_at_once(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0", lease_seconds=0.001)
    await world.version("greeter")
    response = await client.post("/v1/adapters/greeter/load", json={"version": 1})
    assert_problem(response, 503, "no_engine_alive")
    assert "retry-after" in response.headers


async def test_the_only_pool_of_the_base_model_is_the_default(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0", pool="blue")
    await world.engines("e1", pool="other", base_model="other-model")
    await world.version("greeter")
    assert (await client.post("/v1/adapters/greeter/load", json={"version": 1})).json()["pool"] == "blue"


async def test_with_two_pools_one_has_to_be_named(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0", pool="blue")
    await world.engines("e1", pool="green")
    await world.version("greeter")
    response = await client.post("/v1/adapters/greeter/load", json={"version": 1})
    assert assert_problem(response, 422, "pool_ambiguous")["pools"] == ["blue", "green"]
    response = await client.post("/v1/adapters/greeter/load", json={"version": 1, "pool": "green"})
    assert response.json()["pool"] == "green"


async def test_loads_of_one_adapter_in_two_pools_do_not_disturb_each_other(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0", pool="blue")
    await world.engines("e1", pool="green")
    await world.version("greeter")
    for pool in ("blue", "green"):
        response = await client.post("/v1/adapters/greeter/load", json={"version": 1, "pool": pool})
        assert response.status_code == 202


async def test_another_load_of_a_busy_adapter_names_the_first(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    await world.version("greeter", "one")
    await world.version("greeter", "two")
    first = await client.post("/v1/adapters/greeter/load", json={"version": 1})
    same = await client.post("/v1/adapters/greeter/load", json={"version": 1})
    assert same.json()["id"] == first.json()["id"]
    second = await client.post("/v1/adapters/greeter/load", json={"version": 2})
    assert assert_problem(second, 409, "adapter_busy")["operation"] == first.json()["id"]


@pytest.mark.parametrize(
    ("drain", "seconds"),
    [("30s", 30), ("500ms", 0.5), ("2m", 120), ("1.5s", 1.5), ("24h", 86400), (0, 0), (12.5, 12.5)],
)
async def test_a_drain_is_given_in_words_or_seconds(
    client: httpx.AsyncClient, world: World, drain: object, seconds: float
) -> None:
    await world.engines("e0")
    await world.version("greeter")
    await world.loaded("greeter", 1)
    response = await client.post("/v1/adapters/greeter/unload", json={"version": 1, "drain": drain})
    assert response.status_code == 202, response.text
    assert response.json()["request"]["drain_seconds"] == seconds


@pytest.mark.parametrize("drain", ["30", "s", "-1s", "1d", "٣s", -1, 86401, True, None, [], "1e9s", "25h"])
async def test_a_drain_that_means_nothing_is_told(client: httpx.AsyncClient, drain: object) -> None:
    response = await client.post("/v1/adapters/greeter/unload", json={"drain": drain})
    assert_problem(response, 422, "invalid_request")


async def test_unloading_what_is_not_loaded_is_told_at_once(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    await world.version("greeter")
    response = await client.post("/v1/adapters/greeter/unload", json={"version": 1})
    assert_problem(response, 409, "version_not_loaded")


async def test_a_version_with_weight_beside_another_needs_force(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    for content in ("one", "two"):
        await world.loaded("greeter", await world.version("greeter", content))
    refused = await client.post("/v1/adapters/greeter/unload", json={"version": 1})
    assert_problem(refused, 409, "version_has_weight")
    forced = await client.post("/v1/adapters/greeter/unload", json={"version": 1, "force": True})
    assert forced.status_code == 202


async def test_an_unload_finds_the_pool_where_the_adapter_is(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0", pool="blue")
    await world.engines("e1", pool="green")
    await world.version("greeter")
    await world.loaded("greeter", 1, pool="green")
    response = await client.post("/v1/adapters/greeter/unload", json={})
    assert response.status_code == 202, response.text
    assert (response.json()["pool"], response.json()["version"]) == ("green", None)


async def test_a_repeated_unload_finds_its_operation_and_not_that_nothing_is_loaded(
    client: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    await world.engines("e0")
    await world.version("greeter")
    await world.loaded("greeter", 1)
    key = {"Idempotency-Key": "take-it-out"}
    first = await client.post("/v1/adapters/greeter/unload", json={"version": 1}, headers=key)
    found = first.json()
    await finish_unload(parts, found)
    again = await client.post("/v1/adapters/greeter/unload", json={"version": 1}, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, found["id"])
    assert_problem(
        await client.post("/v1/adapters/greeter/unload", json={"version": 1}), 409, "version_not_loaded"
    )


def run_of(operation: dict[str, object]) -> RunRef:
    return RunRef(operation=str(operation["id"]), run_id="run-1", epoch=int(str(operation["epoch"])))


async def finish_unload(parts: ApiDependencies, operation: dict[str, object]) -> None:
    """What the workflow would write."""
    run = run_of(operation)
    async with parts.database.transaction() as tx:
        plan = await unloading.plan_unload(tx, run, UnloadRequest.model_validate(operation["request"]))
    async with parts.database.transaction() as tx:
        await unloading.withdraw(tx, run, plan)
    async with parts.database.transaction() as tx:
        await unloading.commit_unload(tx, run, plan)


async def test_a_plan_tells_what_a_load_would_do_and_does_nothing(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0", "e1")
    await world.version("greeter")
    response = await client.post("/v1/adapters/greeter/load/plan", json={"version": 1, "replicas": 1})
    assert response.status_code == 200, response.text
    plan = response.json()
    assert response.headers["etag"] == f'"{plan["etag"]}"'
    assert (plan["adapter"], plan["version"], plan["pool"], plan["error"]) == ("greeter", 1, "default", None)
    assert sorted((one["action"], one["reason"]) for one in plan["engines"]) == [
        ("load", "score"),
        ("none", "not_needed"),
    ]
    assert (await client.get("/v1/operations", params={"kind": "load"})).json()["items"] == []


async def test_a_load_with_the_plans_etag_is_kept_with_it_and_an_outdated_one_refused(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    await world.version("greeter")
    body = {"version": 1}
    etag = (await client.post("/v1/adapters/greeter/load/plan", json=body)).headers["etag"]
    await world.engines("e1")
    outdated = await client.post("/v1/adapters/greeter/load", json=body, headers={"If-Match": etag})
    now = str(assert_problem(outdated, 409, "plan_outdated")["etag"])
    for wrong in ('W/"x"', "*", now, f'"{now}", "{now}"'):
        refused = await client.post("/v1/adapters/greeter/load", json=body, headers={"If-Match": wrong})
        assert_problem(refused, 422, "invalid_request")
    taken = await client.post("/v1/adapters/greeter/load", json=body, headers={"If-Match": f'"{now}"'})
    assert (taken.status_code, taken.json()["request"]["plan"]) == (202, now)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"version": 1, "replicas": 0}, 422, "invalid_request"),
        ({"version": 1, "replicas": "some"}, 422, "invalid_request"),
        ({"version": 1, "replicas": True}, 422, "invalid_request"),
        ({"version": 1, "replicas": 1, "policy": "best_effort", "min_ready": 2}, 422, "invalid_request"),
        ({"version": 1, "replicas": 2, "engines": ["e0", "e0"]}, 422, "invalid_request"),
        ({"version": 1, "replicas": 2}, 409, "not_enough_engines"),
        ({"version": 1, "labels": {"zone": "b"}}, 409, "no_engine_matches"),
        ({"version": 1, "labels": {"": "b"}}, 422, "invalid_request"),
        ({"version": 1, "labels": {"zone": 1}}, 422, "invalid_request"),
    ],
)
async def test_a_selection_that_cannot_be_met_is_told_at_once(
    client: httpx.AsyncClient, world: World, body: dict[str, object], status: int, code: str
) -> None:
    await world.engines("e0")
    await world.version("greeter")
    assert_problem(await client.post("/v1/adapters/greeter/load", json=body), status, code)


async def test_a_plan_has_one_method(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/v1/adapters/greeter/load/plan"), 405, "method_not_allowed")


KEY = {"Idempotency-Key": "deploy-42"}


async def test_a_key_gives_its_load_although_the_alias_has_moved_since(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    for content in ("one", "two"):
        await world.version("greeter", content)
    await client.put("/v1/adapters/greeter/aliases/stable", json={"version": 1})
    path = "/v1/adapters/greeter/load"
    first = (await client.post(path, json={"version": "stable"}, headers=KEY)).json()
    await world.end(run_of(first), OperationState.FAILED)
    await client.put("/v1/adapters/greeter/aliases/stable", json={"version": 2})
    again = await client.post(path, json={"version": "stable"}, headers=KEY)
    assert (again.status_code, again.json()["id"], again.json()["version"]) == (200, first["id"], 1)
    assert (await client.delete("/v1/adapters/greeter/aliases/stable")).status_code == 204
    assert (await client.post(path, json={"version": "stable"}, headers=KEY)).json()["id"] == first["id"]


async def test_a_key_gives_its_unload_although_another_pool_serves_the_base_by_now(
    client: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    await world.engines("e0")
    await world.loaded("greeter", await world.version("greeter"))
    path = "/v1/adapters/greeter/unload"
    first = (await client.post(path, json={}, headers=KEY)).json()
    await finish_unload(parts, first)
    await world.engines("e1", pool="other")
    assert_problem(await client.post(path, json={}), 422, "pool_ambiguous")
    again = await client.post(path, json={}, headers=KEY)
    assert (again.status_code, again.json()["id"]) == (200, first["id"])


async def test_a_key_stands_for_what_was_sent_in_other_words_too_and_for_nothing_else(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    for content in ("one", "two"):
        await world.version("greeter", content)
    path = "/v1/adapters/greeter/load"
    first = (await client.post(path, json={"version": 1}, headers=KEY)).json()
    spelled_out = {"version": 1, "pool": "default", "policy": "all", "min_ready": 1}
    assert (await client.post(path, json=spelled_out, headers=KEY)).json()["id"] == first["id"]
    others = [(path, {"version": 2}), ("/v1/adapters/greeter/unload", {"version": 1})]
    for other, body in others:
        problem = assert_problem(
            await client.post(other, json=body, headers=KEY), 422, "idempotency_key_reused"
        )
        assert problem["operation"] == first["id"]
    retry = await client.post(f"/v1/operations/{first['id']}/retry", headers=KEY)
    assert_problem(retry, 409, "operation_not_retryable")
    await world.end(run_of(first), OperationState.FAILED)
    retry = await client.post(f"/v1/operations/{first['id']}/retry", headers=KEY)
    assert_problem(retry, 422, "idempotency_key_reused")
