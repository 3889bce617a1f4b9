"""The OpenAPI page is whole: a client can be made of it."""

from typing import Any

import pytest
from fastapi import FastAPI

from api.auth import AGENT_PREFIX, OPEN_PATHS

OPERATION_IDS = {
    "load_lora",
    "list_loras",
    "unload_lora",
    "load_lora_for_agent",
    "list_loras_of_agent",
    "unload_lora_for_agent",
    "get_health",
    "get_readiness",
    "publish_version",
    "list_versions",
    "get_version",
    "delete_version",
    "open_upload",
    "get_upload",
    "address_parts",
    "stream_file",
    "complete_upload",
    "load_adapter",
    "plan_load",
    "unload_adapter",
    "list_aliases",
    "get_alias",
    "set_alias",
    "delete_alias",
    "list_base_models",
    "get_base_model",
    "put_base_model",
    "list_adapters",
    "get_adapter",
    "list_operations",
    "list_operation_steps",
    "get_operation",
    "stream_operation_events",
    "abort_operation",
    "retry_operation",
    "list_engines",
    "get_engine",
    "remove_engine",
    "list_cards",
    "list_deployments",
    "list_audit_events",
    "renew_lease",
    "keep_lease",
    "report_progress",
}


@pytest.fixture
def page(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def calls(page: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, call) for path, methods in page["paths"].items() for method, call in methods.items()
    ]


def test_names_of_calls_are_stable(page: dict[str, Any]) -> None:
    """Generated clients are named after them: a change here breaks their callers."""
    assert {call["operationId"] for _, _, call in calls(page)} == OPERATION_IDS


def test_every_call_tells_what_it_does_and_how_it_fails(page: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in page["tags"]}
    for path, method, call in calls(page):
        assert call["description"], (path, method)
        assert set(call["tags"]) <= tags
        if path in OPEN_PATHS:
            assert "security" not in call
            continue
        (scheme,) = call["security"]
        assert list(scheme) == ["agentToken" if path.startswith(AGENT_PREFIX) else "operatorToken"]
        if "/loras" in path:  # errors in the seed system's words
            for status in ("400", "404", "409", "415", "422", "503"):
                schema = call["responses"][status]["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/LoraError"), (path, method, status)
            continue
        for status in ("401", "403", "422", "503"):
            content = call["responses"][status]["content"]
            assert list(content) == ["application/problem+json"], (path, method, status)
            assert content["application/problem+json"]["schema"]["$ref"].endswith("/Problem")


def test_every_parameter_and_body_field_is_described(page: dict[str, Any]) -> None:
    for path, method, call in calls(page):
        for parameter in call.get("parameters", ()):
            assert parameter.get("description"), (path, method, parameter["name"])
    for name in ("PublishBody", "LoadBody", "UnloadBody", "AliasBody"):
        for field, schema in page["components"]["schemas"][name]["properties"].items():
            assert schema.get("description"), (name, field)


def test_docstrings_become_descriptions_of_fields(page: dict[str, Any]) -> None:
    schemas = page["components"]["schemas"]
    assert schemas["OperationBody"]["properties"]["repairs_pending"]["description"].startswith(
        "something could not"
    )
    assert not [name for name, schema in schemas.items() if "Attributes:" in schema.get("description", "")]


def test_fastapis_own_form_of_an_error_is_nowhere(page: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in page["components"]["schemas"]
