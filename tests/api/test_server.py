"""The API as a process."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from api.dependencies import ApiDependencies
from api.server import open_dependencies, serve
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from tests.api.conftest import OPERATOR_TOKEN, assert_problem, bearer, serving, settings_for
from tests.api.world import World

PROGRAM = """
import sys
from pathlib import Path
from api.server import run
from loradock.core.settings import load_settings
run(load_settings(), port=0, ready_file=Path(sys.argv[1]))
"""


@asynccontextmanager
async def process(
    ready_file: Path, database_url: str, temporal_address: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The API in a process of its own, and its address."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")},
        "LORADOCK_DATABASE_URL": database_url,
        "LORADOCK_TEMPORAL_ADDRESS": temporal_address,
        "LORADOCK_API_TOKEN": OPERATOR_TOKEN,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(ready_file), env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            while not ready_file.exists():
                assert child.returncode is None
                await asyncio.sleep(0.02)
        yield child, ready_file.read_text().strip()
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_it_serves_says_where_and_stops_when_told(
    migrated_url: str, closed_port: str, tmp_path: Path
) -> None:
    ready_file = tmp_path / "api.ready"
    async with process(ready_file, migrated_url, closed_port) as (child, url):
        assert url.startswith("http://127.0.0.1:")
        async with httpx.AsyncClient(base_url=url, headers=bearer(OPERATOR_TOKEN)) as client:
            response = await client.get("/v1/adapters")
            assert (response.status_code, response.json()) == (200, {"items": [], "next": None})
            assert "server" not in response.headers
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await child.wait() == 0
        assert not ready_file.exists()


async def test_it_starts_while_nothing_else_answers(closed_port: str, tmp_path: Path) -> None:
    database_url = f"postgresql://nobody@{closed_port}/nothing"
    async with (
        process(tmp_path / "api.ready", database_url, closed_port) as (_, url),
        httpx.AsyncClient() as client,
    ):
        assert (await client.get(f"{url}/healthz")).status_code == 200
        assert_problem(
            await client.get(f"{url}/v1/adapters", headers=bearer(OPERATOR_TOKEN)),
            503,
            "database_unavailable",
        )


async def test_it_does_not_start_without_a_token(closed_port: str) -> None:
    settings = Settings(
        _env_file=None, database_url="postgresql://nobody@127.0.0.1:1/nothing", agent_token="x"
    )
    with pytest.raises(LoradockError) as caught:
        await serve(settings, port=0)
    assert caught.value.code == "setting_invalid"


@pytest.mark.parametrize("agent_token", [None, "a-token-of-agents"])
async def test_it_warns_when_no_agent_can_join(
    closed_port: str, caplog: pytest.LogCaptureFixture, agent_token: str | None
) -> None:
    settings = Settings(
        _env_file=None,
        database_url=f"postgresql://nobody@{closed_port}/nothing",
        temporal_address=closed_port,
        api_token=OPERATOR_TOKEN,
        agent_token=agent_token,
    )
    async with open_dependencies(settings):
        pass
    warned = [record.getMessage() for record in caplog.records if "LORADOCK_AGENT_TOKEN" in record.message]
    assert warned == ([] if agent_token else ["no agent can join: LORADOCK_AGENT_TOKEN is not set"])


async def test_it_does_not_start_without_a_database(closed_port: str) -> None:
    with pytest.raises(LoradockError) as caught:
        await serve(Settings(_env_file=None, api_token="x"), port=0)
    assert caught.value.code == "setting_invalid"


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_an_address_that_cannot_be_listened_on_is_told(closed_port: str, host: str) -> None:
    taken = int(closed_port.rpartition(":")[2])
    settings = settings_for(f"postgresql://nobody@{closed_port}/nothing", closed_port)
    with pytest.raises(LoradockError) as caught:
        await serve(settings, host, taken)
    assert caught.value.code == "setting_invalid"


RAW_REQUESTS = [
    b"GET /v1/adapters/\xff\xfe HTTP/1.1\r\nHost: x\r\n%s\r\n",
    b"GET /v1/adapters/%%ff%%fe HTTP/1.1\r\nHost: x\r\n%s\r\n",
    b"GET /v1/../v1/adapters HTTP/1.1\r\nHost: x\r\n%s\r\n",
    b"GET http://elsewhere/v1/adapters HTTP/1.1\r\nHost: x\r\n%s\r\n",
    b"GET /v1/adapters HTTP/1.1\r\nHost: x\r\nX-Request-Id: \xff\r\n%s\r\n",
    b"GET /v1/adapters HTTP/1.1\r\nHost: x\r\nPrefer: \xff\r\nIf-Match: \xff\r\n%s\r\n",
    b"GET /v1/adapters?cursor=%%ff&limit=%%00 HTTP/1.1\r\nHost: x\r\n%s\r\n",
    b"GET /v1/adapters?%%ed%%a0%%80=1&adapter=%%ed%%a0%%80 HTTP/1.1\r\nHost: x\r\n%s\r\n",
    b"POST /v1/adapters/a/load HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n%s\r\n",
    b"POST /v1/adapters/a/load HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    b"Content-Type: application/json; charset=\xff\r\n%s\r\nx",
    b"GET /v1/adapters HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n",
]


@pytest.mark.parametrize("request_bytes", RAW_REQUESTS)
async def test_bytes_that_no_client_would_send_break_nothing(
    server: httpx.AsyncClient, request_bytes: bytes
) -> None:
    authorization = f"Authorization: Bearer {OPERATOR_TOKEN}\r\nConnection: close\r\n".encode()
    reader, writer = await asyncio.open_connection(server.base_url.host, server.base_url.port)
    writer.write(request_bytes % authorization)
    async with asyncio.timeout(10):
        status_line = await reader.readline()
    writer.close()
    assert status_line.split()[1:2] != [b"500"], status_line
    assert (await server.get("/v1/adapters")).status_code == 200


async def test_a_caller_that_hangs_up_in_the_middle_leaves_the_operation_whole(
    server: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    await world.engines("e0")
    body = b'{"source":{"uri":"file:///srv/a"}}'
    with socket.create_connection((server.base_url.host, server.base_url.port or 0)) as caller:
        caller.sendall(
            b"POST /v1/adapters/greeter/versions?wait=60 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {OPERATOR_TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        while not (await server.get("/v1/operations")).json()["items"]:
            await asyncio.sleep(0.01)
    (operation,) = (await server.get("/v1/operations")).json()["items"]
    assert (operation["adapter"], operation["state"]) == ("greeter", "pending")


async def test_answers_are_not_held_back_by_nagle(parts: ApiDependencies) -> None:
    """Head and body are two writes: with Nagle's delay and a delayed ACK every answer would take 40 ms longer."""
    async with serving(parts) as running, httpx.AsyncClient() as client:
        await client.get(f"{running.url}/healthz")
        (connection,) = running.server_state.connections
        accepted = connection.transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
