"""Whether the service says rightly how it is."""

import asyncio

import httpx
import pytest

from api.app import create_app
from api.dependencies import ApiDependencies
from api.readiness import ReadinessProbe
from api.server import open_dependencies
from loradock import __version__
from loradock.registry.database import Database
from migrations import runner
from tests.api.conftest import assert_problem, client_of, settings_for


async def test_the_process_is_healthy_without_anything(closed_port: str) -> None:
    settings = settings_for(f"postgresql://nobody@{closed_port}/nothing", closed_port)
    async with open_dependencies(settings) as parts, client_of(create_app(parts)) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "version": __version__}


async def test_with_both_parts_it_is_ready(live_parts: ApiDependencies) -> None:
    async with client_of(create_app(live_parts)) as client:
        response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["status"] == "ready"
    assert {part["state"] for part in response.json()["parts"].values()} == {"ok"}


async def test_without_temporal_it_is_degraded_but_serves(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "degraded"
    assert body["parts"]["temporal"]["state"] == "temporal_unavailable"
    assert body["parts"]["postgres"]["state"] == "ok"


async def test_without_postgres_it_is_not_ready(closed_port: str) -> None:
    settings = settings_for(f"postgresql://nobody:hunter2@{closed_port}/nothing", closed_port)
    async with open_dependencies(settings) as parts, client_of(create_app(parts)) as client:
        response = await client.get("/readyz")
    body = assert_problem(response, 503, "not_ready")
    assert body["parts"]["postgres"]["state"] == "database_unavailable"  # type: ignore[index]
    assert "hunter2" not in response.text


async def test_before_the_migration_it_is_not_ready_and_after_it_is(
    database_url: str, closed_port: str
) -> None:
    settings = settings_for(database_url, closed_port)
    async with open_dependencies(settings) as parts:
        async with client_of(create_app(parts)) as client:
            body = assert_problem(await client.get("/readyz"), 503, "not_ready")
            assert body["parts"]["postgres"]["state"] == "schema_outdated"  # type: ignore[index]
        await asyncio.to_thread(runner.upgrade, database_url)
        async with client_of(create_app(parts)) as client:
            assert (await client.get("/readyz")).status_code == 200


class CountingDatabase(Database):
    """Counts how often it is asked."""

    asked = 0

    async def ping(self) -> None:
        self.asked += 1
        await super().ping()


async def test_many_askers_are_one_question(parts: ApiDependencies) -> None:
    database = CountingDatabase(parts.settings.require("database_url"), pool_size=1)
    probe = ReadinessProbe(database, parts.temporal, parts.settings)
    found = await asyncio.gather(*(probe.check() for _ in range(20)))
    assert len(found) == 20
    assert database.asked == 1
    await database.dispose()


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_the_documentation_is_open(parts: ApiDependencies, path: str) -> None:
    transport = httpx.ASGITransport(app=create_app(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as nobody:
        assert (await nobody.get(path)).status_code == 200
