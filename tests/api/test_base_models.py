"""Base models over HTTP: what is put is what is read, whatever the name, and publishing is refused by it."""

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from api.dependencies import ApiDependencies
from loradock.core.inspection import InspectionReport, ModuleGroup, Verdict
from loradock.core.models import OperationKind
from loradock.registry import versions
from tests.api.conftest import assert_problem
from tests.api.world import BASE_MODEL, World, manifest_of, traits_of

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "rope_scaling": {"factor": 8.0},
}


@pytest.mark.parametrize(
    "name", ["tiny-llama", "meta-llama/Llama-3.1-8B", "/models/my base", "a/versions", "base:8b"]
)
async def test_what_was_put_is_read(client: httpx.AsyncClient, name: str) -> None:
    path = f"/v1/base-models/{quote(name, safe='')}"
    answer = await client.put(path, json=CONFIG)
    assert answer.status_code == 200, answer.text
    found = (await client.get(path)).json()
    assert found == answer.json()
    assert (found["name"], found["origin"], found["config"]) == (name, "registered", CONFIG)
    assert found["measures"]["num_key_value_heads"] == 4
    assert (found["fingerprint"], found["updated_by"]) == (found["measures"]["fingerprint"], "operator")
    assert [item["name"] for item in (await client.get("/v1/base-models")).json()["items"]] == [name]


async def test_a_second_put_takes_the_place_of_the_first_and_is_audited(client: httpx.AsyncClient) -> None:
    first = (await client.put("/v1/base-models/tiny", json=CONFIG)).json()
    await client.put("/v1/base-models/tiny", json=CONFIG | {"hidden_size": 256})
    found = (await client.get("/v1/base-models/tiny")).json()
    assert found["measures"]["hidden_size"] == 256
    events = (await client.get("/v1/audit")).json()["items"]
    assert [event["action"] for event in events] == ["base_model.registered"] * 2
    assert events[0]["detail"]["before"] == first["fingerprint"]


@pytest.mark.parametrize(
    "body", [{}, {"num_hidden_layers": 0}, {"hidden_size": "128"}, {"text_config": 7}, {"hidden_size": 2**40}]
)
async def test_what_is_no_config_is_told(client: httpx.AsyncClient, body: Any) -> None:
    assert_problem(await client.put("/v1/base-models/tiny", json=body), 422, "base_config_invalid")
    assert_problem(await client.get("/v1/base-models/tiny"), 404, "base_model_not_found")


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"hidden_size": 1, "x": "\\u0000"}', b'"x"'])
async def test_what_is_no_object_is_told(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.put("/v1/base-models/tiny", content=body, headers=headers)
    assert_problem(response, 422, "invalid_request")


@pytest.mark.parametrize("name", ["x" * 501, "%20a", "a%20", "a%E2%80%AEb"])
async def test_an_impossible_name_is_told(client: httpx.AsyncClient, name: str) -> None:
    assert_problem(await client.put(f"/v1/base-models/{name}", json=CONFIG), 422, "invalid_name")


async def test_an_agents_token_registers_nothing(agent_client: httpx.AsyncClient) -> None:
    assert_problem(await agent_client.put("/v1/base-models/tiny", json=CONFIG), 403, "forbidden")


async def test_a_version_is_shown_with_its_report(
    client: httpx.AsyncClient, world: World, parts: ApiDependencies
) -> None:
    await client.put(f"/v1/base-models/{BASE_MODEL}", json=CONFIG)
    run = await world.begun(await world.operation(OperationKind.PUBLISH, "greeter"))
    name = "model.layers.{}.self_attn.q_proj"
    group = ModuleGroup(
        pattern=name.format("*"), first=name.format(0), deepest=name.format(1), modules=2, layers=2, rank_min=8,
        rank_max=8, size_in=128, size_out=128,
    )  # fmt: skip
    async with parts.database.transaction() as tx:
        await versions.reserve(
            tx, run, adapter="greeter", manifest=manifest_of("one"), traits=traits_of(), source_uri="file:///x",
            base_model=BASE_MODEL, labels={}, actor="operator",
            report=InspectionReport(verdict=Verdict.SERVABLE, traits=traits_of(), modules=(group,)),
        )  # fmt: skip
    found = (await client.get("/v1/adapters/greeter/versions/1")).json()["report"]
    assert found["verdict"] == "servable"
    assert found["base"]["checked"] is True
    assert found["modules"][0]["pattern"] == name.format("*")
    (listed,) = (await client.get("/v1/adapters/greeter/versions")).json()["items"]
    assert "report" not in listed
