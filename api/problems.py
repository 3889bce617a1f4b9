"""Every error as RFC 9457 `application/problem+json` with a stable code, whatever part of the stack it came from."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import sqlalchemy.exc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from loradock.core.errors import CATALOG, LoradockError

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS: Final = 5
SHOWN_FIELD_ERRORS: Final = 20
_OWN_MEMBERS: Final = frozenset(
    {"type", "title", "status", "detail", "code", "remedy", "instance", "request_id", "errors"}
)
LORA_PATH: Final = re.compile(r"/v1/(?:agents/[^/]+/)?loras(?:/|$)")
"""Calls of the seed system's clients, who read errors in their own form."""
_LORA_STATUS: Final = {
    "invalid_request": 400,
    "invalid_name": 400,
    "invalid_source_uri": 400,
    "unsupported_scheme": 415,
    "version_not_loaded": 404,
}
"""Where the seed system's clients expect another status than the catalog's."""
_CODE_OF_STATUS: Final = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    429: "too_many_requests",
    503: "not_ready",
}


class FieldError(BaseModel):
    """One field of a request that is wrong."""

    field: str = Field(description="Where: `body.source.uri`, `query.limit` …", examples=["body.source.uri"])
    message: str = Field(description="What is wrong with it.", examples=["Field required"])


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable; further members name what the error is about, e.g. `operation`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:loradock:error:adapter_not_found"])
    title: str = Field(description="What the code means.", examples=["No adapter has this name."])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(description="What happened this time.", examples=["no adapter 'greeter'"])
    code: str = Field(description="Stable code, for scripts.", examples=["adapter_not_found"])
    remedy: str = Field(
        description="What to do about it.",
        examples=["List the adapters with 'loradock ls'; publish it first."],
    )
    instance: str = Field(description="The path that was called.", examples=["/v1/adapters/greeter"])
    request_id: str = Field(description="Names this call in the service's log.", examples=["3f2a9c…"])
    errors: list[FieldError] | None = Field(
        default=None, description="For `invalid_request`: every wrong field."
    )


class ProblemResponse(Response):
    """A problem as a response; plain ASCII, so that no odd character of a request can break it."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        """The body's bytes."""
        return json.dumps(content, ensure_ascii=True, default=str).encode("ascii")


def printable(text: str, limit: int = 2000) -> str:
    """Text from outside, made safe to show: cut, and without control characters or lone surrogates."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(character if character.isprintable() else "\ufffd" for character in cut)


def problem_response(
    error: LoradockError,
    *,
    instance: str,
    request_id: str,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """The response that an error is."""
    spec = error.spec
    content: dict[str, Any] = {
        "type": f"urn:loradock:error:{error.code}",
        "title": spec.title,
        "status": spec.status,
        "detail": printable(error.message),
        "code": error.code,
        "remedy": spec.remedy,
        "instance": printable(instance, 500),
        "request_id": request_id,
        **{name: value for name, value in error.details.items() if name not in _OWN_MEMBERS},
    }
    if errors:
        content["errors"] = list(errors)
    return ProblemResponse(content, spec.status, headers={**_headers(error), **(headers or {})})


class LoraErrorResponse(ProblemResponse):
    """An error in the seed system's words, which the clients of `/v1/loras` read."""

    media_type = "application/json"


def lora_error_response(
    error: LoradockError, *, path: str, request_id: str, headers: Mapping[str, str] | None = None, **_: Any
) -> LoraErrorResponse:
    """The seed system's error body with a status that tells the caller's mistakes from ours."""
    name = error.details.get("lora_name") or _lora_name(path)
    content: dict[str, Any] = {"status": "error", "message": printable(error.message)}
    if name:
        content["lora_name"] = printable(name, 200)
    content |= {"code": error.code, "remedy": error.spec.remedy, "request_id": request_id}
    status = _LORA_STATUS.get(error.code, error.spec.status)
    return LoraErrorResponse(content, status, headers={**_headers(error), **(headers or {})})


def _lora_name(path: str) -> str:
    return path.partition("/loras/")[2]


def install(app: FastAPI) -> None:
    """Have every error of the application answered as a problem."""
    app.exception_handler(LoradockError)(_on_loradock_error)
    app.exception_handler(RequestValidationError)(_on_validation_error)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(sqlalchemy.exc.SQLAlchemyError)(_on_database_error)


def documented(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of an endpoint that can fail with these codes, beside those that any call can."""
    by_status: dict[int, list[str]] = {}
    for code in ("unauthorized", "forbidden", "invalid_request", "database_unavailable", *codes):
        by_status.setdefault(CATALOG[code].status, []).append(code)
    return {
        status: {
            "model": Problem,
            "description": "; ".join(f"`{code}`: {CATALOG[code].title}" for code in names),
        }
        for status, names in sorted(by_status.items())
    }


def _headers(error: LoradockError) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if error.spec.status in (429, 503):
        headers["Retry-After"] = str(error.details.get("retry_after", RETRY_AFTER_SECONDS))
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="loradock"'
    return headers


def _answer(request: Request, error: LoradockError, **further: Any) -> Response:
    path = request.url.path
    if LORA_PATH.match(path):
        return lora_error_response(error, path=path, request_id=request.state.request_id, **further)
    return problem_response(error, instance=path, request_id=request.state.request_id, **further)


async def _on_loradock_error(request: Request, error: LoradockError) -> Response:
    if error.spec.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.warning("request %s failed: %s", request.state.request_id, error)
    return _answer(request, error)


async def _on_validation_error(request: Request, error: RequestValidationError) -> Response:
    """Names the fields and never their values: a value may be a secret, or a megabyte."""
    found = error.errors()
    shown = [
        {"field": _field_path(item["loc"]), "message": printable(str(item["msg"]), 300)}
        for item in found[:SHOWN_FIELD_ERRORS]
    ]
    code = next((item["type"] for item in found if item["type"] in CATALOG), "invalid_request")
    first = shown[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return _answer(request, LoradockError(code, f"{first['field']}: {first['message']}{more}"), errors=shown)


def _field_path(location: Sequence[str | int]) -> str:
    return printable(".".join(str(part) for part in location), 200)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return _answer(request, LoradockError("invalid_request", "the body cannot be read as JSON"))
    code = _CODE_OF_STATUS.get(error.status_code, "internal_error")
    message = {
        "not_found": f"nothing is at {printable(request.url.path, 200)!r}",
        "method_not_allowed": f"{printable(request.method, 20)} is not possible here",
        "request_too_large": "the body is too large",
    }.get(code, str(error.detail))
    return _answer(request, LoradockError(code, message), headers=error.headers)


async def _on_database_error(request: Request, error: sqlalchemy.exc.SQLAlchemyError) -> Response:
    if isinstance(
        error, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.TimeoutError)
    ):
        logger.warning(
            "request %s: Postgres does not answer: %s", request.state.request_id, type(error).__name__
        )
        return _answer(request, LoradockError("database_unavailable", "Postgres does not answer"))
    logger.error("request %s failed in the database", request.state.request_id, exc_info=error)
    return _answer(
        request, LoradockError("internal_error", "the call failed; the log has it under its request_id")
    )
