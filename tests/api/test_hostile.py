"""Whatever is sent: never a 500, never anything but JSON or a problem."""

import json
import string
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.app import create_app
from api.dependencies import ApiDependencies
from tests.api.conftest import AGENT_TOKEN, OPERATOR_TOKEN, bearer
from tests.api.world import World, engine_report, renewal_of

many = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LISTS = ("adapters", "operations", "engines", "cards", "deployments", "audit", "adapters/greeter/versions")
FILTERS = (
    "cursor",
    "limit",
    "adapter",
    "state",
    "kind",
    "pool",
    "engine",
    "since",
    "actor",
    "operation",
    "status",
)

nasty_text = st.sampled_from(
    ["", "\x00", "\ud800", "a\x00b", "'; drop table adapters; --", "%", "../..", "\u202e", "💥", "NaN"]
)
text = (
    nasty_text | st.text(max_size=30) | st.text(string.ascii_letters + string.digits + "._-/@ ", max_size=80)
)
numbers = st.integers() | st.integers(2**31 - 2, 2**31 + 2) | st.integers(2**63 - 2, 2**63 + 2) | st.floats()
leaves = st.none() | st.booleans() | numbers | text
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)


def mostly(*good: Any) -> st.SearchStrategy[Any]:
    wanted = st.sampled_from(good)
    return st.one_of(wanted, wanted, wanted, wanted, wanted, wanted, text, values)


def body_like(good: dict[str, Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly a good body with up to two of its fields made strange, sometimes something else altogether."""
    strange = st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )
    near = strange.map(lambda changes: {**good, **changes})
    return st.one_of(near, near, near, near, near, st.dictionaries(text, values, max_size=4), values)


versions = mostly(1, 2, "stable", "1", 10**9, -1)
pools = mostly("default", "other", None)
engines = mostly(["e0"], ["e0", "e0"], ["e1"], [], None)
publish_bodies = body_like(
    {"source": {"uri": "file:///srv/a"}},
    source=mostly({"uri": "file:///srv/a"}) | st.fixed_dictionaries({"uri": text}),
    base_model=mostly("tiny-llama", None),
    expect_digest=mostly("sha256:" + "0" * 64, None),
    labels=mostly({"a": "b"}),
)
load_bodies = body_like(
    {"version": 1},
    version=versions,
    pool=pools,
    engines=engines,
    policy=mostly("all", "best_effort"),
    min_ready=mostly(1, 2),
)
unload_bodies = body_like(
    {"version": 1},
    version=versions,
    pool=pools,
    engines=engines,
    drain=mostly("30s", 5, "1e9s"),
    force=mostly(True, False),
)
report_bodies = body_like(
    {"name": "download", "engine": "e0", "state": "running"},
    name=mostly("download"),
    engine=mostly("e0", ""),
    state=mostly("running", "failed"),
    attempt=mostly(1),
    started_at=mostly(
        "2026-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", 1e300
    ),
    error=mostly({"code": "disk_full", "message": "full"}),
    detail=values,
)
names = st.one_of(
    st.just("greeter"),
    st.just("greeter"),
    st.sampled_from(["acme/greeter", "acme%2Fgreeter", "nobody", "stable"]),
    text.map(lambda name: urllib.parse.quote(name.encode("utf-8", "surrogatepass"), safe="/")),
)


@pytest.fixture
async def hostile(parts: ApiDependencies, world: World) -> AsyncIterator[httpx.AsyncClient]:
    await world.engines("e0")
    for name in ("greeter", "acme/greeter"):
        await world.version(name, "one")
        await world.loaded(name, 1)
    transport = httpx.ASGITransport(app=create_app(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
        yield client


async def send(
    client: httpx.AsyncClient, method: str, path: str, body: Any = None, *, token: str = OPERATOR_TOKEN
) -> httpx.Response:
    """Send it and see that the answer is one of ours."""
    content = None if body is None else json.dumps(body).encode("ascii")
    headers = {**bearer(token), "Content-Type": "application/json"}
    response = await client.request(method, path, content=content, headers=headers)
    assert response.status_code < 500 or response.json()["code"] == "no_engine_alive", response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"]
    elif response.status_code != 204:
        assert response.headers["content-type"] == "application/json"
        response.json()
    return response


@many
@given(name=names, body=publish_bodies)
async def test_publish(hostile: httpx.AsyncClient, name: str, body: Any) -> None:
    await send(hostile, "POST", f"/v1/adapters/{name}/versions", body)


@many
@given(name=names, body=load_bodies)
async def test_load(hostile: httpx.AsyncClient, name: str, body: Any) -> None:
    await send(hostile, "POST", f"/v1/adapters/{name}/load", body)


@many
@given(name=names, body=unload_bodies)
async def test_unload(hostile: httpx.AsyncClient, name: str, body: Any) -> None:
    await send(hostile, "POST", f"/v1/adapters/{name}/unload", body)


@many
@given(name=names, alias=names, body=body_like({"version": 1}, version=versions))
async def test_alias(hostile: httpx.AsyncClient, name: str, alias: str, body: Any) -> None:
    path = f"/v1/adapters/{name}/aliases/{alias}"
    await send(hostile, "PUT", path, body)
    await send(hostile, "GET", path)
    await send(hostile, "DELETE", path)


@many
@given(
    path=st.sampled_from(
        ["adapters", "operations", "engines", "cards", "deployments", "audit", "adapters/greeter/versions"]
    ),
    params=st.dictionaries(
        st.sampled_from(
            [
                "cursor",
                "limit",
                "adapter",
                "state",
                "kind",
                "pool",
                "engine",
                "since",
                "actor",
                "operation",
                "status",
            ]
        ),
        text.map(lambda value: value.encode("utf-8", "replace").decode())
        | st.integers().map(str)
        | st.datetimes().map(str),
        max_size=4,
    ),
)
async def test_lists(hostile: httpx.AsyncClient, path: str, params: dict[str, str]) -> None:
    await send(hostile, "GET", f"/v1/{path}?{urllib.parse.urlencode(params)}")


@many
@given(
    parts=st.lists(names, min_size=1, max_size=5),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]),
)
async def test_paths(hostile: httpx.AsyncClient, parts: list[str], method: str) -> None:
    await send(hostile, method, f"/v1/adapters/{'/'.join(parts)}", {})
    await send(hostile, method, f"/v1/{'/'.join(parts)}", {})


@many
@given(report=report_bodies, operation=mostly("known", "op-0"))
async def test_progress(hostile: httpx.AsyncClient, report: Any, operation: Any) -> None:
    if operation == "known":
        held = await send(hostile, "POST", "/v1/adapters/greeter/load", {"version": 1})
        operation = held.json()["id"]
    body = {"operation": operation, "report": report}
    await send(hostile, "POST", "/v1/agents/agent-e0/progress", body, token=AGENT_TOKEN)


@many
@given(
    renewal=st.fixed_dictionaries(
        {"agent": mostly("agent-x")},
        optional={
            "instance": mostly("process-1-of-x"),
            "pool": pools,
            "agent_version": text,
            "labels": values,
            "engines": values,
        },
    ),
    engine=body_like(
        {},
        max_loras=mostly(1),
        base_model=text,
        resident=mostly(["a@1"]),
        url=text,
        incarnation=text,
        reachable=st.booleans(),
    ),
)
async def test_lease(hostile: httpx.AsyncClient, renewal: dict[str, Any], engine: Any) -> None:
    whole = renewal_of("agent-x", engine_report("ex")).model_dump(mode="json")
    if isinstance(engine, dict):
        whole["engines"][0].update(engine)
    await send(hostile, "PUT", "/v1/agents/agent-x/lease", {**whole, **renewal}, token=AGENT_TOKEN)
    await send(hostile, "PUT", "/v1/agents/agent-x/lease", whole, token=AGENT_TOKEN)
    await send(hostile, "GET", "/v1/engines")
