"""Aliases: made, moved, guarded by their ETag, taken away."""

import asyncio

import httpx
import pytest

from loradock.core.models import OperationKind
from tests.api.conftest import assert_problem
from tests.api.world import World

STABLE = "/v1/adapters/acme/greeter/aliases/stable"


@pytest.fixture
async def versions(world: World) -> None:
    for content in ("one", "two", "three"):
        await world.version("acme/greeter", content)


@pytest.mark.usefixtures("versions")
async def test_an_alias_is_made_moved_and_taken_away(client: httpx.AsyncClient) -> None:
    made = await client.put(STABLE, json={"version": 1})
    assert (made.status_code, made.json()["version"]) == (200, 1)
    moved = await client.put(STABLE, json={"version": 2})
    assert moved.json()["revision"] == made.json()["revision"] + 1
    read = await client.get(STABLE)
    assert (await client.get(STABLE.removesuffix("/stable"))).json() == {"items": [read.json()], "next": None}
    assert read.json() == moved.json()
    assert read.headers["etag"] == moved.headers["etag"] != made.headers["etag"]
    gone = await client.delete(STABLE)
    assert (gone.status_code, gone.content) == (204, b"")
    assert_problem(await client.get(STABLE), 404, "alias_not_found")
    assert_problem(await client.delete(STABLE), 404, "alias_not_found")


@pytest.mark.usefixtures("versions")
async def test_an_old_etag_moves_nothing(client: httpx.AsyncClient) -> None:
    old = (await client.put(STABLE, json={"version": 1})).headers["etag"]
    new = (await client.put(STABLE, json={"version": 2}, headers={"If-Match": old})).headers["etag"]
    assert_problem(
        await client.put(STABLE, json={"version": 3}, headers={"If-Match": old}), 412, "revision_mismatch"
    )
    assert_problem(await client.delete(STABLE, headers={"If-Match": old}), 412, "revision_mismatch")
    assert (await client.get(STABLE)).json()["version"] == 2
    assert (await client.delete(STABLE, headers={"If-Match": new})).status_code == 204


@pytest.mark.usefixtures("versions")
async def test_of_many_who_saw_the_same_one_moves_it(client: httpx.AsyncClient) -> None:
    seen = (await client.put(STABLE, json={"version": 1})).headers["etag"]
    responses = await asyncio.gather(
        *(
            client.put(STABLE, json={"version": 2 + number % 2}, headers={"If-Match": seen})
            for number in range(8)
        )
    )
    assert sorted(response.status_code for response in responses) == [200] + [412] * 7


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize("etag", ["3", 'W/"1"', "*", '"1", "2"', '"-1"', '"x"', '"99999999999"', ""])
async def test_an_etag_that_was_never_given_is_told(client: httpx.AsyncClient, etag: str) -> None:
    await client.put(STABLE, json={"version": 1})
    response = await client.put(STABLE, json={"version": 2}, headers={"If-Match": etag})
    assert_problem(response, 422, "invalid_request")


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize(
    ("alias", "body", "status", "code"),
    [
        ("stable", {"version": 9}, 404, "version_not_found"),
        ("stable", {"version": "1"}, 422, "invalid_request"),
        ("stable", {"version": 0}, 422, "invalid_request"),
        ("stable", {}, 422, "invalid_request"),
        ("7", {"version": 1}, 422, "invalid_name"),
        ("-x", {"version": 1}, 422, "invalid_name"),
        ("x" * 64, {"version": 1}, 422, "invalid_name"),
    ],
)
async def test_an_alias_points_at_a_version_and_has_a_name(
    client: httpx.AsyncClient, alias: str, body: dict[str, object], status: int, code: str
) -> None:
    assert_problem(await client.put(f"/v1/adapters/acme/greeter/aliases/{alias}", json=body), status, code)


async def test_an_alias_never_points_at_a_version_that_failed(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.version("acme/greeter", ready=False)
    assert_problem(await client.put(STABLE, json={"version": 1}), 409, "version_not_ready")


@pytest.mark.usefixtures("versions")
async def test_an_alias_stays_where_it_is_while_the_adapter_is_busy(
    client: httpx.AsyncClient, world: World
) -> None:
    operation = await world.operation(OperationKind.PUBLISH, "acme/greeter")
    response = await client.put(STABLE, json={"version": 1})
    assert assert_problem(response, 409, "adapter_busy")["operation"] == operation.id
