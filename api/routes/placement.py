"""Load versions into engines, and take them out."""

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Header, HTTPException, Response

from api.bodies import operation_response
from api.dependencies import Actor, AdapterPath, IdempotencyKey, Parts
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from api.schemas import LoadBody, OperationBody, UnloadBody
from api.submission import load_request, submit_load, submit_unload
from api.text import Storable
from api.waiting import WaitFor, wait_for_end
from loradock.core.errors import LoradockError
from loradock.registry import placement
from loradock.registry.decision import PlanView

router = APIRouter(prefix="/v1/adapters/{name:path}", tags=["placement"], dependencies=[OPERATOR_TOKEN])

PlanMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=100,
        description="The ETag of a plan: the load does just what was planned, or is `plan_outdated` (409).",
        examples=['"0f343b0931126a20f133d67c2b018a3b"'],
    ),
]

_ETAG = re.compile(r'"(?P<plan>[0-9a-f]{32})"')
_ENDED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": OperationBody,
        "description": "The operation has ended (after a wait, or it was sent before).",
    }
}
_COMMON: Final = (
    "invalid_name",
    "adapter_not_found",
    "alias_not_found",
    "pool_not_found",
    "pool_ambiguous",
    "engine_not_found",
    "adapter_busy",
    "idempotency_key_reused",
    "too_many_requests",
)


_UNKNOWN: Final = (
    "invalid_name",
    "adapter_not_found",
    "alias_not_found",
    "version_not_found",
    "version_not_ready",
    "pool_not_found",
    "pool_ambiguous",
    "engine_not_found",
)


@router.post("/load/plan", responses=documented(*_UNKNOWN))
async def plan_load(
    *, name: AdapterPath, body: Annotated[LoadBody, Storable, Body()], parts: Parts, response: Response
) -> PlanView:
    """What a load would do to each engine, and why; nothing is done. A load with this ETag in If-Match does just that."""
    async with parts.database.read() as reader:
        request = await load_request(reader, parts.settings, name, body)
        plan = (await placement.decide(reader, request)).view()
    response.headers["ETag"] = f'"{plan.etag}"'
    return plan


@router.post(
    "/load",
    status_code=202,
    response_model=OperationBody,
    responses={
        **_ENDED,
        **documented(
            *_COMMON,
            "version_not_found",
            "version_not_ready",
            "base_model_mismatch",
            "rank_too_high",
            "no_engine_alive",
            "no_engine_matches",
            "not_enough_engines",
            "engine_lost",
            "no_free_slot",
            "plan_outdated",
        ),
    },
)
async def load_adapter(
    *,
    name: AdapterPath,
    body: Annotated[LoadBody, Storable, Body()],
    parts: Parts,
    actor: Actor,
    wait: WaitFor,
    idempotency_key: IdempotencyKey = None,
    if_match: PlanMatch = None,
) -> Response:
    """Load a version beside whatever is loaded. Traffic does not move, except that a first version gets all of it."""
    operation = await submit_load(parts, actor, idempotency_key, name, body, plan=_plan(if_match))
    return operation_response(await wait_for_end(parts, operation, wait.seconds), parts.settings, wait)


@router.post(
    "/unload",
    status_code=202,
    response_model=OperationBody,
    responses={**_ENDED, **documented(*_COMMON, "version_not_loaded", "version_has_weight")},
)
async def unload_adapter(
    *,
    name: AdapterPath,
    body: Annotated[UnloadBody, Storable, Body()],
    parts: Parts,
    actor: Actor,
    wait: WaitFor,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Take traffic away from a version, let its requests end, and remove it from the engines."""
    operation = await submit_unload(parts, actor, idempotency_key, name, body)
    return operation_response(await wait_for_end(parts, operation, wait.seconds), parts.settings, wait)


def _plan(if_match: str | None) -> str | None:
    if if_match is None:
        return None
    match = _ETAG.fullmatch(if_match.strip())
    if match is None:
        raise LoradockError("invalid_request", "If-Match takes one ETag as the plan gave it")
    return match["plan"]


@router.api_route("/load/plan", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
@router.api_route("/load", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
@router.api_route("/unload", methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def refuse_method() -> None:
    """Without this, the last word would be taken for a part of an adapter's name."""
    raise HTTPException(405, headers={"Allow": "POST"})
