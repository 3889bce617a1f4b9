"""What host agents tell."""

import json
from typing import Any

import httpx
import pytest

from loradock.core.models import OperationKind
from loradock.core.requests import LeaseRenewal
from tests.api.conftest import assert_problem
from tests.api.world import World, engine_report, renewal_of


def body_of(renewal: LeaseRenewal, **changes: object) -> dict[str, object]:
    return {**renewal.model_dump(mode="json"), **changes}


def ascii_json(body: object) -> dict[str, Any]:
    """As Python's json writes it: lone surrogates, which httpx refuses to send, are escaped."""
    return {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}


async def test_a_first_renewal_registers_the_engines(
    agent_client: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    renewal = renewal_of("host-1", engine_report("e0"), engine_report("e1"))
    response = await agent_client.put("/v1/agents/host-1/lease", json=body_of(renewal))
    assert response.status_code == 200, response.text
    granted = response.json()
    assert (set(granted["engines"]), granted["superseded"]) == ({"e0", "e1"}, False)
    engines = (await client.get("/v1/engines")).json()["items"]
    assert [(engine["id"], engine["agent"], engine["status"]) for engine in engines] == [
        ("e0", "host-1", "alive"),
        ("e1", "host-1", "alive"),
    ]


async def test_an_agent_speaks_for_itself_alone(agent_client: httpx.AsyncClient) -> None:
    renewal = renewal_of("host-1", engine_report("e0"))
    response = await agent_client.put("/v1/agents/host-2/lease", json=body_of(renewal))
    assert_problem(response, 422, "invalid_request")


@pytest.mark.parametrize(
    "changes",
    [
        {"engines": []},
        {"instance": "short"},
        {"labels": {"a": "b\x00"}},
        {"labels": {"\ud800": "b"}},
        {"pool": "no/pool"},
        {"agent_version": "x" * 41},
        {"unknown": 1},
        {"engines": [{**engine_report("e0").model_dump(mode="json"), "max_loras": 2**31}]},
        {"engines": [{**engine_report("e0").model_dump(mode="json"), "max_loras": 10**30}]},
        {"engines": [{**engine_report("e0").model_dump(mode="json"), "incarnation": None}]},
        {"engines": [{**engine_report("e0").model_dump(mode="json"), "base_model": "a\x00b"}]},
    ],
)
async def test_a_renewal_that_makes_no_sense_changes_nothing(
    agent_client: httpx.AsyncClient, client: httpx.AsyncClient, changes: dict[str, object]
) -> None:
    body = body_of(renewal_of("host-1", engine_report("e0")), **changes)
    response = await agent_client.put("/v1/agents/host-1/lease", **ascii_json(body))
    assert_problem(response, 422, "invalid_request")
    assert (await client.get("/v1/engines")).json()["items"] == []


async def test_progress_shows_in_the_operation(
    agent_client: httpx.AsyncClient, client: httpx.AsyncClient, world: World
) -> None:
    await world.engines("e0")
    await world.version("greeter")
    run = await world.begun(await world.operation(OperationKind.LOAD, "greeter", version=1, pool="default"))
    report = {
        "name": "download",
        "engine": "e0",
        "state": "running",
        "attempt": 1,
        "detail": {"bytes": 2**40},
    }
    body = {"operation": run.operation, "report": report, "of_a_later_agent": True}
    response = await agent_client.post("/v1/agents/agent-e0/progress", json=body)
    assert (response.status_code, response.content) == (204, b""), response.text
    steps = (await client.get(f"/v1/operations/{run.operation}")).json()["steps"]
    assert (steps[0]["state"], steps[0]["detail"]) == ("running", {"bytes": 2**40})


@pytest.mark.parametrize(
    ("agent", "report", "status", "code"),
    [
        ("agent-e1", {}, 403, "forbidden"),
        ("-x", {}, 422, "invalid_name"),
        ("agent-e0", {"engine": "e9"}, 404, "engine_not_found"),
        ("agent-e0", {"state": "asleep"}, 422, "invalid_request"),
        ("agent-e0", {"attempt": 2**31}, 422, "invalid_request"),
        ("agent-e0", {"attempt": 2**70}, 422, "invalid_request"),
        ("agent-e0", {"name": "a\x00"}, 422, "invalid_request"),
        ("agent-e0", {"detail": {"a\x00": 1}}, 422, "invalid_request"),
        ("agent-e0", {"detail": {"a": [{"b": "\ud800"}]}}, 422, "invalid_request"),
        ("agent-e0", {"detail": {"a": 10**400}}, 422, "invalid_request"),
    ],
)
async def test_progress_that_makes_no_sense_is_told(
    agent_client: httpx.AsyncClient,
    world: World,
    agent: str,
    report: dict[str, object],
    status: int,
    code: str,
) -> None:
    await world.engines("e0", "e1")
    await world.version("greeter")
    run = await world.begun(await world.operation(OperationKind.LOAD, "greeter", version=1, pool="default"))
    whole = {"name": "download", "engine": "e0", "state": "running", "attempt": 1, **report}
    response = await agent_client.post(
        f"/v1/agents/{agent}/progress", **ascii_json({"operation": run.operation, "report": whole})
    )
    assert_problem(response, status, code)


async def test_progress_of_an_unknown_operation_is_told(agent_client: httpx.AsyncClient) -> None:
    report = {"name": "download", "engine": "e0", "state": "running"}
    response = await agent_client.post(
        "/v1/agents/agent-e0/progress", json={"operation": "op-0", "report": report}
    )
    assert_problem(response, 404, "operation_not_found")
