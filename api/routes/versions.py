"""Publish weights as versions, and read them."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Response

from api.bodies import operation_response
from api.dependencies import Actor, AdapterPath, Cursor, IdempotencyKey, Limit, Parts
from api.fields import PathVersion
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from api.schemas import OperationBody, PublishBody
from api.submission import submit_publish
from api.text import Storable
from api.waiting import WaitFor, wait_for_end
from loradock.registry import retirement, versions
from loradock.registry.views import Page, VersionDetail, VersionView

router = APIRouter(
    prefix="/v1/adapters/{name:path}/versions", tags=["versions"], dependencies=[OPERATOR_TOKEN]
)


@router.post(
    "",
    status_code=202,
    response_model=OperationBody,
    responses={
        200: {
            "model": OperationBody,
            "description": "The operation has ended (after a wait, or it was sent before).",
        },
        **documented(
            "invalid_name",
            "unsupported_scheme",
            "invalid_source_uri",
            "base_model_mismatch",
            "base_model_unknown",
            "adapter_busy",
            "idempotency_key_reused",
            "too_many_requests",
            "upload_not_found",
            "upload_expired",
            "upload_ended",
            "upload_incomplete",
            "digest_mismatch",
        ),
    },
)
async def publish_version(
    *,
    name: AdapterPath,
    body: Annotated[PublishBody, Storable, Body()],
    parts: Parts,
    actor: Actor,
    wait: WaitFor,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Publish a folder of weights. The adapter is made with its first publish; the same weights give the same version."""
    operation = await submit_publish(parts, actor, idempotency_key, name, body)
    return operation_response(await wait_for_end(parts, operation, wait.seconds), parts.settings, wait)


@router.get("", responses=documented("adapter_not_found", "invalid_name"))
async def list_versions(
    *, name: AdapterPath, parts: Parts, limit: Limit = 50, cursor: Cursor = None
) -> Page[VersionView]:
    """All versions of an adapter, newest first."""
    async with parts.database.read() as reader:
        return await versions.list_versions(reader, name, limit=limit, cursor=cursor)


@router.delete(
    "/{version}",
    responses=documented("adapter_not_found", "version_not_found", "version_in_use", "invalid_name"),
)
async def delete_version(
    *,
    name: AdapterPath,
    version: Annotated[PathVersion, Path(description="The version's number.", examples=[1])],
    parts: Parts,
    actor: Actor,
) -> VersionDetail:
    """Retire a version that nothing names. Its number and digest stay for history; its bytes are collected later.

    A publish of the same weights brings it back under the same number.
    """
    async with parts.database.transaction() as tx:
        return await retirement.retire(tx, name, version, actor)


@router.get("/{version}", responses=documented("adapter_not_found", "version_not_found", "invalid_name"))
async def get_version(
    *,
    name: AdapterPath,
    version: Annotated[PathVersion, Path(description="The version's number.", examples=[1])],
    parts: Parts,
) -> VersionDetail:
    """One version, with its manifest and the report of its inspection."""
    async with parts.database.read() as reader:
        return await versions.get_version(reader, name, version)
