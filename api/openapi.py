"""The OpenAPI page, finished: descriptions of fields come from the models' own docstrings."""

import inspect
import re
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.problems import LORA_PATH
from api.schemas import OperationBody
from loradock.registry.views import AdapterDetail, AdapterView, OperationView, VersionDetail, VersionView

TITLE: Final = "Loradock"
DESCRIPTION: Final = """\
Publish LoRA adapters, load them into vLLM engines and take them out again. Every change is an **operation**: a durable
Temporal workflow that either takes effect or is put back.

* A write answers `202` with the operation and its `Location`; `Prefer: wait=30` or `?wait=30` waits for its end and
  then answers `200`, whatever that end is: read `state` and `error`.
* Send an `Idempotency-Key` with every write that a script may repeat.
* Errors are `application/problem+json` with a stable `code` and a `remedy`.
* Lists are `{items, next}`: pass `next` as `?cursor=` until it is null.
* An adapter's name may have one `org/` in front, in the path as it stands or as `%2F`.
"""
TAGS: Final = [
    {"name": "versions", "description": "Publish weights and see what was published."},
    {"name": "uploads", "description": "Bring weights from a folder elsewhere, then publish them."},
    {"name": "placement", "description": "Load versions into engines and take them out."},
    {"name": "operations", "description": "Requested changes: follow, wait for and abort them."},
    {"name": "loras", "description": "The calls of NVIDIA Dynamo's LoRA clients, on the same operations."},
    {"name": "adapters", "description": "Adapters and their aliases."},
    {"name": "base models", "description": "What adapters are compared with before they are published."},
    {"name": "fleet", "description": "Engines, what they serve, and what they are meant to serve."},
    {"name": "audit", "description": "Who changed what."},
    {"name": "agents", "description": "What host agents tell; needs the agents' token."},
    {"name": "health", "description": "Whether the service works; open to anyone."},
]

_EXTENSIONS: Final = (
    (OperationView, OperationBody),
    (AdapterView, AdapterDetail),
    (VersionView, VersionDetail),
)
"""Models that are shown only through a model that extends them, whose docstring does not repeat theirs."""

_SECTION = re.compile(r"\n*Attributes:\n(?P<body>(?:[ ].*(?:\n|$)|\n)*)")
_ENTRY = re.compile(
    r"^ {4}(?P<names>[a-z_0-9]+(?:, [a-z_0-9]+)*): (?P<text>(?:.*)(?:\n {5,}.*)*)", re.MULTILINE
)


def install(app: FastAPI) -> None:
    """Have the application describe itself with finished descriptions; made once, at the first request."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _build(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    models = schema["components"]["schemas"]
    for base, extended in _EXTENSIONS:
        models[extended.__name__]["description"] += f"\n\n{_attributes(inspect.getdoc(base) or '')}"
    for model in models.values():
        _describe(model)
    for path, calls in schema["paths"].items():
        for call in calls.values():
            if not LORA_PATH.match(path):  # which answers with the seed system's errors
                _problems(call["responses"])
    return schema


def _attributes(docstring: str) -> str:
    section = _SECTION.search(docstring)
    return f"Attributes:\n{section['body']}" if section else ""


def _describe(model: dict[str, Any]) -> None:
    """Move the `Attributes:` of a docstring to the fields that they are about."""
    description = model.get("description", "")
    if "Attributes:" not in description:
        return
    model["description"] = _SECTION.sub("", description).strip()
    for entry in _ENTRY.finditer(description):
        text = " ".join(entry["text"].split())
        for name in entry["names"].split(", "):
            if name in model.get("properties", {}):
                model["properties"][name].setdefault("description", text)


def _problems(responses: dict[str, Any]) -> None:
    """Give problems their media type: FastAPI gives them that of the endpoint's good answers."""
    for status, response in responses.items():
        if status.startswith(("4", "5")):
            response["content"] = {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }
