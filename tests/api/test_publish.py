"""Publishing: what is told at once, and what is kept."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from api.dependencies import ApiDependencies
from loradock.core.models import OperationState, RunRef
from tests.api.conftest import ALICE_TOKEN, assert_problem, client_of
from tests.api.world import BASE_MODEL, World

BODY = {"source": {"uri": "file:///srv/adapters/greeter"}}


async def test_a_publish_is_kept_and_told_where_it_is_read(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    response = await client.post("/v1/adapters/greeter/versions", json={**BODY, "labels": {"run": "7"}})
    assert response.status_code == 202
    operation = response.json()
    assert response.headers["location"] == f"/v1/operations/{operation['id']}"
    assert (operation["kind"], operation["state"], operation["adapter"]) == ("publish", "pending", "greeter")
    assert operation["request"]["labels"] == {"run": "7"}
    assert operation["workflow_id"] == f"op/{operation['id']}"
    assert operation["temporal_url"] == (
        f"http://temporal.test/namespaces/default/workflows/op%2F{operation['id']}"
    )
    assert (await client.get(response.headers["location"])).json() == operation


async def test_the_link_names_the_run_once_there_is_one(client: httpx.AsyncClient, world: World) -> None:
    await world.version("greeter")
    operation = (await client.get("/v1/operations")).json()["items"][0]
    assert operation["temporal_url"].endswith(f"op%2F{operation['id']}/{operation['run_id']}/history")


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("http://host/a", "unsupported_scheme"),
        ("/srv/adapters/a", "invalid_source_uri"),
        ("s3://key:hunter2@bucket/a", "invalid_source_uri"),
        ("file:///srv/../etc", "invalid_source_uri"),
        ("", "invalid_source_uri"),
    ],
)
async def test_a_bad_address_is_told_at_once(client: httpx.AsyncClient, uri: str, code: str) -> None:
    response = await client.post("/v1/adapters/greeter/versions", json={"source": {"uri": uri}})
    assert_problem(response, 422, code)
    assert "hunter2" not in response.text
    assert_problem(await client.get("/v1/adapters/greeter"), 404, "adapter_not_found")


@pytest.mark.parametrize(
    "name",
    [
        "-greeter",
        "a b",
        "a//b",
        "a/b/c",
        "org/",
        ".hidden",
        "x" * 64,
        "grüße",
        "a@1",
        "versions",
        "org/load",
        "%2e%2e",
    ],
)
async def test_a_name_that_breaks_the_rule_is_told_at_once(client: httpx.AsyncClient, name: str) -> None:
    assert_problem(await client.post(f"/v1/adapters/{name}/versions", json=BODY), 422, "invalid_name")


@pytest.mark.parametrize(
    "further",
    [
        {"expect_digest": "sha256:12"},
        {"base_model": ""},
        {"labels": {"": "x"}},
        {"source": {}},
        {"force": True},
    ],
)
async def test_a_wrong_field_is_told_at_once(client: httpx.AsyncClient, further: dict[str, object]) -> None:
    response = await client.post("/v1/adapters/greeter/versions", json={**BODY, **further})
    assert_problem(response, 422, "invalid_request")


async def test_without_any_word_on_the_base_model_nothing_is_kept(
    client: httpx.AsyncClient, world: World
) -> None:
    assert_problem(await client.post("/v1/adapters/greeter/versions", json=BODY), 422, "base_model_unknown")
    await world.engines("e0")
    await world.engines("e1", pool="other", base_model="other-model")
    assert_problem(await client.post("/v1/adapters/greeter/versions", json=BODY), 422, "base_model_unknown")
    assert (await client.get("/v1/operations")).json()["items"] == []
    assert (await client.get("/v1/adapters")).json()["items"] == []
    assert (await client.get("/v1/audit", params={"adapter": "greeter"})).json()["items"] == []


async def test_another_base_model_than_the_adapters_is_told_at_once(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.version("greeter")
    response = await client.post("/v1/adapters/greeter/versions", json={**BODY, "base_model": "other"})
    assert assert_problem(response, 422, "base_model_mismatch")["base_model"] == BASE_MODEL
    response = await client.post("/v1/adapters/greeter/versions", json={**BODY, "base_model": BASE_MODEL})
    assert response.status_code == 202


async def test_a_name_with_an_org_works_with_both_slashes(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    first = await client.post("/v1/adapters/acme/greeter/versions", json=BODY)
    second = await client.post("/v1/adapters/acme%2Fgreeter/versions", json=BODY)
    assert first.json()["adapter"] == "acme/greeter"
    assert first.json()["id"] == second.json()["id"]
    for path in ("acme/greeter", "acme%2Fgreeter"):
        assert (await client.get(f"/v1/adapters/{path}")).json()["name"] == "acme/greeter"
        assert (await client.get(f"/v1/adapters/{path}/versions")).json()["items"] == []


async def test_the_same_publish_sent_at_once_many_times_is_one_operation(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    responses = await asyncio.gather(
        *(client.post("/v1/adapters/greeter/versions", json=BODY) for _ in range(12))
    )
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["id"] for response in responses}) == 1
    assert len((await client.get("/v1/operations")).json()["items"]) == 1


async def test_different_publishes_sent_at_once_let_one_through(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    responses = await asyncio.gather(
        *(
            client.post("/v1/adapters/greeter/versions", json={"source": {"uri": f"file:///srv/{number}"}})
            for number in range(8)
        )
    )
    (winner,) = [response.json()["id"] for response in responses if response.status_code == 202]
    losers = [response for response in responses if response.status_code != 202]
    assert len(losers) == 7
    for loser in losers:
        assert assert_problem(loser, 409, "adapter_busy")["operation"] == winner


async def test_a_key_gives_the_same_operation_even_after_its_end(
    client: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    await world.engines("e0")
    key = {"Idempotency-Key": "deploy-42"}
    first = await client.post("/v1/adapters/greeter/versions", json=BODY, headers=key)
    found = first.json()
    await world.end(
        RunRef(operation=found["id"], run_id="run-1", epoch=found["epoch"]), OperationState.FAILED
    )
    again = await client.post("/v1/adapters/greeter/versions", json=BODY, headers=key)
    assert again.status_code == 200
    assert (again.json()["id"], again.json()["state"]) == (found["id"], "failed")
    without = await client.post("/v1/adapters/greeter/versions", json=BODY)
    assert without.status_code == 202
    assert without.json()["id"] != found["id"]


async def test_a_key_used_for_another_request_is_told(client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    key = {"Idempotency-Key": "deploy-42"}
    assert (await client.post("/v1/adapters/greeter/versions", json=BODY, headers=key)).status_code == 202
    other = await client.post("/v1/adapters/other/versions", json=BODY, headers=key)
    assert_problem(other, 422, "idempotency_key_reused")


async def test_keys_belong_to_the_actor(app: FastAPI, client: httpx.AsyncClient, world: World) -> None:
    await world.engines("e0")
    key = {"Idempotency-Key": "deploy-42"}
    mine = await client.post("/v1/adapters/greeter/versions", json=BODY, headers=key)
    async with client_of(app, ALICE_TOKEN) as alice:
        hers = await alice.post("/v1/adapters/other/versions", json=BODY, headers=key)
    assert (mine.status_code, hers.status_code) == (202, 202)
    assert mine.json()["id"] != hers.json()["id"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "\x7f", "grüße"])
async def test_a_malformed_key_is_told(client: httpx.AsyncClient, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    response = await client.post("/v1/adapters/greeter/versions", json=BODY, headers=headers)
    assert_problem(response, 422, "invalid_request")
