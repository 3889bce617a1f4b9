"""Every error is a problem, whatever raised it."""

import logging

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.dependencies import ApiDependencies
from api.middleware import MAX_BODY_BYTES
from api.server import open_dependencies
from tests.api.conftest import assert_problem, client_of, settings_for
from tests.api.world import World

LOAD = "/v1/adapters/greeter/load"


async def test_an_unknown_path_is_a_problem(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/v1/nothing"), 404, "not_found")


async def test_a_wrong_method_is_a_problem_and_names_the_right_ones(client: httpx.AsyncClient) -> None:
    response = await client.delete("/v1/engines")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize("path", ["/v1/adapters/greeter%0A", "/v1/adapters/%00", "/v1/engines/e0%0D%0A"])
async def test_a_path_with_control_characters_is_nowhere(client: httpx.AsyncClient, path: str) -> None:
    assert_problem(await client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b'{"version": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"version": 1, "pool": "a\\u0000b"}',
        b'{"version": 1, "pool": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"version": NaN}',
        b'{"version": 1, "unknown": true}',
    ],
)
async def test_a_body_that_cannot_be_read_is_an_invalid_request(
    client: httpx.AsyncClient, body: bytes
) -> None:
    response = await client.post(LOAD, content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "invalid_request")


async def test_a_body_of_another_type_is_an_invalid_request(client: httpx.AsyncClient) -> None:
    response = await client.post(LOAD, data={"version": "1"})
    assert_problem(response, 422, "invalid_request")


async def test_a_problem_names_the_field_and_not_its_value(client: httpx.AsyncClient) -> None:
    response = await client.post(
        LOAD, json={"version": 1, "policy": "hunter2-hunter2", "min_ready": "hunter2"}
    )
    body = assert_problem(response, 422, "invalid_request")
    assert body["errors"] == [
        {"field": "body.policy", "message": "Input should be 'all' or 'best_effort'"},
        {"field": "body.min_ready", "message": "Input should be a valid integer"},
    ]
    assert "hunter2" not in response.text


async def test_many_wrong_fields_make_a_short_problem(client: httpx.AsyncClient) -> None:
    response = await client.post(LOAD, json={f"{'x' * 500}{number}": 1 for number in range(500)})
    assert_problem(response, 422, "invalid_request")
    assert len(response.content) < 20_000


async def test_a_large_body_is_refused_by_its_announced_length(client: httpx.AsyncClient) -> None:
    response = await client.post(LOAD, content=b"x" * (MAX_BODY_BYTES + 1))
    assert_problem(response, 413, "request_too_large")


async def test_a_large_body_is_refused_while_it_comes(client: httpx.AsyncClient) -> None:
    async def chunks():  # type: ignore[no-untyped-def]
        for _ in range(17):
            yield b" " * 65536

    response = await client.post(LOAD, content=chunks(), headers={"Content-Type": "application/json"})
    assert_problem(response, 413, "request_too_large")


async def test_an_announced_length_cannot_lie(server: httpx.AsyncClient) -> None:
    response = await server.post(LOAD, content=b"x" * 10, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "invalid_request")


async def test_the_callers_request_id_is_given_back(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/nothing", headers={"X-Request-Id": "deploy-42:7"})
    assert assert_problem(response, 404, "not_found")["request_id"] == "deploy-42:7"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "<script>"])
async def test_a_request_id_that_could_spoil_a_log_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    response = await client.get("/healthz", headers={"X-Request-Id": given})
    assert len(response.headers["x-request-id"]) == 32


async def test_what_nobody_foresaw_is_logged_and_not_shown(
    parts: ApiDependencies, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(parts)

    @app.get("/v1/broken")
    async def broken() -> None:
        raise ZeroDivisionError("the password is hunter2")

    async with client_of(app) as client:
        with caplog.at_level(logging.ERROR):
            response = await client.get("/v1/broken", headers={"X-Request-Id": "r-1"})
    assert_problem(response, 500, "internal_error")
    assert "hunter2" not in response.text
    assert any("r-1" in record.getMessage() and record.exc_info for record in caplog.records)


async def test_without_postgres_every_read_says_so_and_when_to_try_again(closed_port: str) -> None:
    settings = settings_for(f"postgresql://nobody@{closed_port}/nothing", closed_port)
    async with open_dependencies(settings) as parts, client_of(create_app(parts)) as client:
        for path in (
            "/v1/adapters",
            "/v1/operations",
            "/v1/engines",
            "/v1/cards",
            "/v1/deployments",
            "/v1/audit",
        ):
            response = await client.get(path)
            assert_problem(response, 503, "database_unavailable")
            assert int(response.headers["retry-after"]) > 0
        response = await client.post("/v1/adapters/a/versions", json={"source": {"uri": "file:///srv/a"}})
        assert_problem(response, 503, "database_unavailable")


async def test_a_database_without_tables_says_what_to_do(database_url: str, closed_port: str) -> None:
    settings = settings_for(database_url, closed_port)
    async with open_dependencies(settings) as parts, client_of(create_app(parts)) as client:
        assert_problem(await client.get("/v1/adapters"), 503, "schema_outdated")


async def test_the_problem_of_a_busy_adapter_names_the_operation(
    client: httpx.AsyncClient, app: FastAPI, world: World
) -> None:
    await world.engines("e0")
    first = await client.post("/v1/adapters/greeter/versions", json={"source": {"uri": "file:///srv/a"}})
    second = await client.post("/v1/adapters/greeter/versions", json={"source": {"uri": "file:///srv/b"}})
    assert assert_problem(second, 409, "adapter_busy")["operation"] == first.json()["id"]
