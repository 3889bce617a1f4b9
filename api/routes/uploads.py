"""Bring weights from elsewhere: a session, its parts or streams, its completion. The publish then names the session."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response

from api import uploads
from api.dependencies import Actor, AdapterPath, Parts
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from api.schemas import NewUploadBody, ReceivedBody, UploadBody, UploadPartsBody, WantedPartsBody
from api.text import Storable

on_adapters = APIRouter(
    prefix="/v1/adapters/{name:path}/uploads", tags=["uploads"], dependencies=[OPERATOR_TOKEN]
)
router = APIRouter(prefix="/v1/uploads", tags=["uploads"], dependencies=[OPERATOR_TOKEN])

UploadId = Annotated[
    str,
    Path(
        pattern=r"^up-[0-9a-f]{32}$",
        description="The session's id.",
        examples=["up-0197b1c2d3e4f5061728394a5b6c7d8e"],
    ),
]
FileIndex = Annotated[int, Path(ge=0, le=999, description="Which of the session's files, counted from 0.")]
_STANDING = ("uploads_off", "upload_not_found", "upload_expired", "upload_ended", "store_unavailable")


@on_adapters.post(
    "",
    status_code=201,
    responses={
        200: {
            "model": UploadBody,
            "description": "You have a session for these files already: go on with it.",
        },
        **documented(
            "invalid_name",
            "uploads_off",
            "upload_not_taken",
            "source_too_large",
            "weights_missing",
            "config_missing",
            "too_many_requests",
            "store_unavailable",
        ),
    },
)
async def open_upload(
    *,
    name: AdapterPath,
    body: Annotated[NewUploadBody, Storable, Body()],
    parts: Parts,
    actor: Actor,
    response: Response,
) -> UploadBody:
    """Begin an upload, or go on with yours of the same files.

    Where a version of this adapter has the same digest, nothing need be sent (`stored`): the publish reads and hashes
    the stored bytes.
    """
    upload, created = await uploads.open_upload(parts, actor, name, body.files, reuse=body.reuse)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    return upload


@router.get("/{upload}", responses=documented(*_STANDING))
async def get_upload(*, upload: UploadId, parts: Parts, actor: Actor) -> UploadBody:
    """What of an upload is there."""
    return await uploads.read_upload(parts, actor, upload)


@router.post("/{upload}/files/{index}/parts", responses=documented(*_STANDING))
async def address_parts(
    *,
    upload: UploadId,
    index: FileIndex,
    body: Annotated[WantedPartsBody, Body()],
    parts: Parts,
    actor: Actor,
    response: Response,
) -> UploadPartsBody:
    """Addresses at the object store for parts of one file; each takes one PUT of exactly its size, for some minutes.

    They are secrets as long as they are good.
    """
    response.headers["Cache-Control"] = "no-store"
    return await uploads.part_addresses(parts, actor, upload, index, body.parts)


@router.put(
    "/{upload}/files/{index}",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    responses=documented(*_STANDING, "upload_busy", "upload_mismatch", "request_too_large", "disk_full"),
)
async def stream_file(
    *,
    upload: UploadId,
    index: FileIndex,
    request: Request,
    parts: Parts,
    actor: Actor,
    offset: Annotated[
        int, Query(ge=0, le=2**48, description="Where the body begins: what is there already.")
    ] = 0,
) -> ReceivedBody:
    """Send a file's bytes (`transfer: stream`), from where an earlier call broke off."""
    received = await uploads.take_stream(
        parts, actor, upload, index=index, offset=offset, stream=aiter(request.stream())
    )
    return ReceivedBody(received=received)


@router.post("/{upload}/complete", responses=documented(*_STANDING, "upload_incomplete"))
async def complete_upload(*, upload: UploadId, parts: Parts, actor: Actor) -> UploadBody:
    """Say that all is there. Then publish it: `{"source": {"uri": "upload://…"}}`. Repeatable."""
    return await uploads.complete_upload(parts, actor, upload)
