"""The API on a real Postgres; Temporal is down (a closed port) unless a test asks for the real one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from psycopg import sql

from api.app import create_app
from api.dependencies import ApiDependencies
from api.server import ApiServer, open_dependencies
from loradock.core.settings import Settings
from loradock.dev.postgres import EmbeddedPostgres
from migrations import runner
from tests.api.world import World

OPERATOR_TOKEN = "operator-token-of-the-tests"
ALICE_TOKEN = "alice-token-of-the-tests"
AGENT_TOKEN = "agent-token-of-the-tests"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def settings_for(database_url: str, temporal_address: str) -> Settings:
    return Settings(
        _env_file=None,
        database_url=database_url,
        database_pool_size=8,
        temporal_address=temporal_address,
        temporal_ui_url="http://temporal.test/",
        api_token=OPERATOR_TOKEN,
        api_tokens={"alice": ALICE_TOKEN},
        agent_token=AGENT_TOKEN,
    )


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address where nothing answers, and nothing else can begin to."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture(scope="session")
def api_database(embedded_postgres: EmbeddedPostgres) -> str:
    """A migrated database for all tests here, one after the other: a new one each would take most of their time."""
    url = embedded_postgres.create_database("api_tests")
    runner.upgrade(url)
    return url


@pytest.fixture
def migrated_url(api_database: str) -> str:
    """A migrated database without any rows."""
    with psycopg.connect(api_database) as connection:
        rows = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        )
        tables = sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows)
        # The audit refuses to be emptied until its owner says so.
        connection.execute("ALTER TABLE audit_events DISABLE TRIGGER append_only")
        connection.execute(sql.SQL("TRUNCATE {}").format(tables))
        connection.execute("ALTER TABLE audit_events ENABLE ALWAYS TRIGGER append_only")
    return api_database


@pytest.fixture
async def parts(migrated_url: str, closed_port: str) -> AsyncIterator[ApiDependencies]:
    async with open_dependencies(settings_for(migrated_url, closed_port)) as opened:
        yield opened


@pytest.fixture
async def live_parts(migrated_url: str, temporal_dev_server: str) -> AsyncIterator[ApiDependencies]:
    """With a real Temporal."""
    async with open_dependencies(settings_for(migrated_url, temporal_dev_server)) as opened:
        yield opened


@pytest.fixture
def app(parts: ApiDependencies) -> FastAPI:
    return create_app(parts)


@pytest.fixture
def world(parts: ApiDependencies) -> World:
    return World(parts.database)


@asynccontextmanager
async def client_of(app: FastAPI, token: str = OPERATOR_TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://api.test", headers=bearer(token)
    ) as client:
        yield client


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """An operator's client."""
    async with client_of(app) as opened:
        yield opened


@pytest.fixture
async def agent_client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """An agent's client."""
    async with client_of(app, AGENT_TOKEN) as opened:
        yield opened


@asynccontextmanager
async def serving(parts: ApiDependencies) -> AsyncIterator[ApiServer]:
    """The real server in this loop, for what needs a connection."""
    server = ApiServer(parts, "127.0.0.1", 0)
    task = asyncio.create_task(server.serve_listening())
    try:
        while not server.started:
            assert not task.done(), task
            await asyncio.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def server(parts: ApiDependencies) -> AsyncIterator[httpx.AsyncClient]:
    """An operator's client of the real server."""
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(serving(parts))
        yield await stack.enter_async_context(
            httpx.AsyncClient(base_url=running.url, headers=bearer(OPERATOR_TOKEN), timeout=20)
        )


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The response is a whole problem with this code."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = response.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] == f"urn:loradock:error:{code}"
    for member in ("title", "detail", "remedy", "instance", "request_id"):
        assert body[member], member
    assert response.headers["x-request-id"] == body["request_id"]
    return body
