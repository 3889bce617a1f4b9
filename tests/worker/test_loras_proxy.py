"""What a host's `/v1/loras` passes on, and what it refuses by itself."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loradock.core.errors import LoradockError
from worker.listening import BesideServer, listen, server
from worker.loras_proxy import LorasProxy


class ControlPlane:
    """Notes what reaches it and answers as it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str | None, bytes]] = []
        self.answer: Response = JSONResponse({"status": "success"})

    async def _take(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode()
        self.seen.append((request.method, path, request.headers.get("authorization"), await request.body()))
        return self.answer

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._take, methods=["GET", "POST", "DELETE"])])


@asynccontextmanager
async def running(made: BesideServer) -> AsyncIterator[str]:
    listener = listen("127.0.0.1:0", "X")
    port = listener.getsockname()[1]
    task = asyncio.create_task(made.run_beside(listener))
    while not made.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    made.should_exit = True
    await task


@pytest.fixture
def control_plane() -> ControlPlane:
    return ControlPlane()


@asynccontextmanager
async def host(control_plane: ControlPlane, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    import uvicorn  # noqa: PLC0415

    config = uvicorn.Config(control_plane.app(), lifespan="off", log_config=None)
    async with running(BesideServer(config)) as api:
        proxy = LorasProxy(api, "agent-token", "host-1", SecretStr(token) if token else None)
        async with running(server(proxy.app())) as url, httpx.AsyncClient(base_url=url) as client:
            yield client
        await proxy.aclose()


async def test_calls_are_passed_on_as_the_agents_own_and_answers_come_back_whole(
    control_plane: ControlPlane,
) -> None:
    control_plane.answer = JSONResponse({"status": "error", "message": "busy"}, 409)
    async with host(control_plane) as client:
        answers = [
            await client.get("/v1/loras"),
            await client.post("/v1/loras", json={"lora_name": "a"}, headers={"Authorization": "Bearer mine"}),
            await client.delete("/v1/loras/org/a.b"),
        ]
    assert [(one.status_code, one.json()["message"]) for one in answers] == [(409, "busy")] * 3
    token = "Bearer agent-token"
    assert control_plane.seen == [
        ("GET", "/v1/agents/host-1/loras", token, b""),
        ("POST", "/v1/agents/host-1/loras", token, b'{"lora_name":"a"}'),
        ("DELETE", "/v1/agents/host-1/loras/org/a.b", token, b""),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../../host-2/loras/x",
        "%2e%2e/%2e%2e/host-2/loras/x",
        "..",
        "%2e",
        "a%2f..%2f..%2fhost-2%2floras%2fx",
        "a%20b",
        "a%3fb",
        "load",
        "",
    ],
)
async def test_a_name_that_is_none_does_not_reach_the_control_plane(
    control_plane: ControlPlane, name: str
) -> None:
    async with host(control_plane) as client:
        status, body = await asyncio.to_thread(delete_as_it_stands, client.base_url, f"/v1/loras/{name}")
    assert (status, body["code"]) == (400, "invalid_name")
    assert control_plane.seen == []


def delete_as_it_stands(base: httpx.URL, path: str) -> tuple[int, dict[str, str]]:
    """The answer to a path in which no client has folded dots."""
    connection = http.client.HTTPConnection(base.host, base.port, timeout=8)
    connection.request("DELETE", path)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


async def test_with_a_token_only_those_who_have_it_are_passed_on(control_plane: ControlPlane) -> None:
    async with host(control_plane, "host-token") as client:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "host-token"}):
            assert (await client.get("/v1/loras", headers=headers)).status_code == 401
            assert (await client.delete("/v1/loras/a%20b", headers=headers)).status_code == 401
        assert control_plane.seen == []
        allowed = await client.get("/v1/loras", headers={"Authorization": "Bearer host-token"})
        assert allowed.json() == {"status": "success"}


async def test_a_body_over_the_limit_and_another_path_do_not_reach_the_control_plane(
    control_plane: ControlPlane,
) -> None:
    async with host(control_plane) as client:
        assert (await client.post("/v1/loras", content=b"x" * 70_000)).status_code == 413
        assert (await client.get("/v1/engines")).status_code == 404
    assert control_plane.seen == []


async def test_a_refusal_of_the_agents_own_token_is_told_in_the_same_words(
    control_plane: ControlPlane,
) -> None:
    problem = {"code": "forbidden", "detail": "not you"}
    control_plane.answer = JSONResponse(problem, 403, media_type="application/problem+json")
    async with host(control_plane) as client:
        answer = await client.get("/v1/loras")
    assert (answer.status_code, answer.json()) == (
        403,
        {"status": "error", "message": "not you", "code": "forbidden"},
    )


async def test_without_a_control_plane_the_answer_is_503_and_says_so() -> None:
    closed = listen("127.0.0.1:0", "X")
    address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    closed.close()
    proxy = LorasProxy(address, "agent-token", "host-1", None)
    async with running(server(proxy.app())) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/v1/loras")
    await proxy.aclose()
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("address", ["", "8080x", "127.0.0.1:", "127.0.0.1:99999", "no.such.host.invalid:80"])
def test_an_address_that_cannot_be_listened_on_is_told(address: str) -> None:
    with pytest.raises(LoradockError) as caught:
        listen(address, "LORADOCK_LORAS_LISTEN")
    assert caught.value.code == "setting_invalid"
