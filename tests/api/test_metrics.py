"""The page for Prometheus: what it holds, who may read it, and that it stays small."""

import asyncio
from collections import defaultdict
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import text

from api import metrics as api_metrics
from api.app import create_app
from api.auth import TokenBook
from api.dependencies import ApiDependencies
from api.server import open_dependencies
from loradock.core.models import OperationKind, OperationState
from loradock.metrics.catalog import Process, metrics_of
from loradock.registry.database import Database
from tests.api.conftest import (
    AGENT_TOKEN,
    OPERATOR_TOKEN,
    assert_problem,
    bearer,
    client_of,
    serving,
    settings_for,
)
from tests.api.world import World
from tests.registry.test_figures import FLEET
from tests.registry.test_indexes import statements

METRICS_TOKEN = "metrics-token-of-the-tests"
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


def parsed(page: str) -> Samples:
    """Values by sample name and labels, as Prometheus' own parser reads them; none is there twice."""
    found: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = frozenset(sample.labels.items())
            assert labels not in found[sample.name], sample
            found[sample.name][labels] = sample.value
    return found


async def scrape(client: httpx.AsyncClient) -> Samples:
    response = await client.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(response.text)


def of(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared machines are slow at times: what is left out then is not what these tests are about."""
    monkeypatch.setattr(api_metrics, "READ_SECONDS", 60.0)


@pytest.fixture
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_metrics, "FRESH_SECONDS", -1.0)
    monkeypatch.setattr(api_metrics, "ENDED_FRESH_SECONDS", -1.0)


@pytest.mark.usefixtures("_always_fresh")
async def test_calls_are_counted_by_the_routes_template_and_never_by_the_path(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0", "e1")
    for path in ("/v1/engines/e0", "/v1/engines/e1", "/v1/engines/none", "/v1/adapters/org/x", "/nowhere/7"):
        await client.get(path)
    await client.request("BREW", "/v1/engines/e0")
    await client.patch("/v1/engines/e0")
    found = await scrape(client)
    counts = found["loradock_http_requests_total"]
    engine = "/v1/engines/{engine}"
    assert counts[of(method="GET", route=engine, status="200")] == 2
    assert counts[of(method="GET", route=engine, status="404")] == 1
    assert counts[of(method="GET", route="/v1/adapters/{name:path}", status="404")] == 1
    assert counts[of(method="GET", route="none", status="404")] == 1
    assert counts[of(method="other", route=engine, status="405")] == 1
    assert counts[of(method="PATCH", route=engine, status="405")] == 1
    assert found["loradock_http_request_seconds_count"][of(method="GET", route=engine)] == 3
    assert found["loradock_http_requests_open"][of()] == 1  # the scrape itself


async def test_a_refused_call_is_counted_without_a_route(app: FastAPI, client: httpx.AsyncClient) -> None:
    async with client_of(app, "a wrong token") as stranger:
        for name in ("a", "b"):
            await stranger.get(f"/v1/engines/{name}")
    counts = (await scrape(client))["loradock_http_requests_total"]
    assert counts[of(method="GET", route="none", status="401")] == 2


async def test_every_metric_of_the_catalog_is_on_the_page_and_no_other(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    await client.get("/healthz")
    page = (await client.get("/metrics")).text
    kinds = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in text_string_to_metric_families(page)
        if not family.name.startswith("process_")
    }
    assert kinds == {spec.name: spec.kind.value for spec in metrics_of(Process.API)}
    known = {spec.name: spec for spec in metrics_of(Process.API)}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            spec = known.get(sample.name) or known.get(family.name)
            if spec is not None:
                assert set(sample.labels) - {"le"} == set(spec.label_names), sample
    assert "_created" not in page


@pytest.mark.usefixtures("_always_fresh")
async def test_what_the_registry_holds_is_told_with_empty_states_as_zero(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0", "e1")
    await world.loaded("greeter", await world.version("greeter"))
    await world.version("broken", ready=False)
    await world.begun(await world.operation(OperationKind.UNLOAD, "greeter", pool="default"))
    found = await scrape(client)
    operations = found["loradock_operations"]
    assert operations[of(kind="unload", state="running")] == 1
    assert operations[of(kind="publish", state="queued")] == 0
    assert len(operations) == 3 * 5
    ended = found["loradock_operation_seconds_count"]
    assert ended[of(kind="publish", state="succeeded")] == 1
    assert ended[of(kind="publish", state="failed")] == 1
    assert ended[of(kind="load", state="aborted")] == 0
    assert found["loradock_operation_seconds_sum"][of(kind="publish", state="failed")] > 0
    engines = found["loradock_engines"]
    assert engines == {
        of(pool="default", status="alive"): 2,
        of(pool="default", status="unreachable"): 0,
        of(pool="default", status="lost"): 0,
    }
    assert found["loradock_cards"][of(state="serving")] == 2
    assert found["loradock_cards"][of(state="lost")] == 0
    assert found["loradock_engine_cards"] == {of(engine="e0"): 1, of(engine="e1"): 1}
    assert found["loradock_engine_info"][of(engine="e0", agent="agent-e0", pool="default")] == 1
    assert found["loradock_registry_up"][of()] == 1
    assert len(found["loradock_drifts"]) == 5
    assert found["loradock_uploads"] == {
        of(state="open"): 0,
        of(state="complete"): 0,
        of(state="publishing"): 0,
    }


@pytest.mark.usefixtures("_always_fresh")
async def test_the_number_of_series_does_not_grow_with_adapters_or_operations(
    client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    await scrape(client)

    async def series() -> int:
        return sum(len(samples) for samples in (await scrape(client)).values())

    before = await series()
    for number in range(20):
        await world.end(
            await world.begun(await world.operation(OperationKind.PUBLISH, f"org/a{number}")),
            OperationState.FAILED,
        )
    assert await series() == before


async def test_a_scrape_of_a_thousand_engines_is_one_query_and_the_next_one_none(
    client: httpx.AsyncClient, parts: ApiDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        api_metrics, "FRESH_SECONDS", 3600.0
    )  # this machine may take longer than they stay fresh
    await _fill(parts.database)
    async with statements(parts.database) as seen:
        found = await scrape(client)
        assert len(seen) == 1
        again = await asyncio.gather(*(scrape(client) for _ in range(5)))
        assert len(seen) == 1
    assert len(found["loradock_engine_alive"]) == 1000
    assert len(found["loradock_host_cache_bytes"]) == 100
    series = sum(len(samples) for name, samples in found.items() if name.startswith("loradock_"))
    assert series < 1000 * 7 + 100 * 6 + 200
    assert len(again[0]["loradock_engine_alive"]) == 1000


async def test_ended_operations_are_counted_more_seldom_than_the_rest(
    client: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_metrics, "FRESH_SECONDS", -1.0)
    await world.version("first")
    publishes = of(kind="publish", state="succeeded")
    assert (await scrape(client))["loradock_operation_seconds_count"][publishes] == 1
    await world.version("second")
    await world.engines("e0")
    found = await scrape(client)
    assert found["loradock_operation_seconds_count"][publishes] == 1
    assert found["loradock_engines"][of(pool="default", status="alive")] == 1
    monkeypatch.setattr(api_metrics, "ENDED_FRESH_SECONDS", -1.0)
    assert (await scrape(client))["loradock_operation_seconds_count"][publishes] == 2


async def test_of_more_engines_only_sums_are_told(client: httpx.AsyncClient, parts: ApiDependencies) -> None:
    await _fill(parts.database)
    one_more = "INSERT INTO engines (id, agent, pool, kind, url, status, incarnation, lease_until) "
    one_more += (
        "SELECT 'one-more', agent, pool, kind, url, status, incarnation, lease_until FROM engines LIMIT 1"
    )
    async with parts.database.transaction() as tx:
        await tx.session.execute(text(one_more))
    found = await scrape(client)
    assert not found.get("loradock_engine_alive")
    assert not found.get("loradock_host_cache_bytes")
    assert found["loradock_engines_not_shown"][of()] == 1001
    assert found["loradock_engines"][of(pool="p", status="alive")] == 1001


async def _fill(database: Database) -> None:
    async with database.transaction() as tx:
        for statement in FLEET.split(";\n"):
            await tx.session.execute(text(statement))


async def test_without_postgres_the_page_tells_so_and_keeps_the_apis_own_figures(
    closed_port: str,
) -> None:
    host, _, port = closed_port.partition(":")
    url = f"postgresql://nobody@{host}:{port}/nothing"
    async with (
        open_dependencies(settings_for(url, closed_port)) as parts,
        client_of(create_app(parts)) as client,
    ):
        await client.get("/healthz")
        found = await scrape(client)
    assert found["loradock_registry_up"][of()] == 0
    assert found["loradock_http_requests_total"][of(method="GET", route="/healthz", status="200")] == 1
    assert "loradock_engines" not in found
    assert "loradock_converge_seconds_count" not in found


def _with_token(parts: ApiDependencies) -> ApiDependencies:
    """The same service with a token for scrapers."""
    settings = parts.settings.model_copy(update={"metrics_token": SecretStr(METRICS_TOKEN)})
    return replace(parts, settings=settings, tokens=TokenBook.from_settings(settings))


async def test_the_metrics_token_opens_the_metrics_and_nothing_else(parts: ApiDependencies) -> None:
    app = create_app(_with_token(parts))
    async with client_of(app, METRICS_TOKEN) as scraper:
        assert (await scraper.get("/metrics")).status_code == 200
        for path in ("/v1/engines", "/v1/agents/a/lease", "/metrics/", "/v1/metrics"):
            assert_problem(await scraper.get(path), 403, "forbidden")
    async with client_of(app, AGENT_TOKEN) as agent:
        assert_problem(await agent.get("/metrics"), 403, "forbidden")
    async with client_of(app, "") as nobody:
        assert_problem(await nobody.get("/metrics", headers={"Authorization": ""}), 401, "unauthorized")


async def test_the_page_is_not_in_the_description_of_the_api(client: httpx.AsyncClient) -> None:
    assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]


async def test_an_event_stream_counts_as_open_until_it_ends(parts: ApiDependencies, world: World) -> None:
    operation = await world.operation(OperationKind.PUBLISH, "greeter")
    async with (
        serving(parts) as server,
        httpx.AsyncClient(base_url=server.url, headers=bearer(OPERATOR_TOKEN), timeout=60) as one,
    ):
        async with one.stream("GET", f"/v1/operations/{operation.id}/events") as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            assert (await scrape(one))["loradock_http_requests_open"][of()] == 2
        async with asyncio.timeout(120):
            while (await scrape(one))["loradock_http_requests_open"][of()] > 1:
                await asyncio.sleep(0.05)
        route = of(method="GET", route="/v1/operations/{operation}/events", status="200")
        assert (await scrape(one))["loradock_http_requests_total"][route] == 1
