"""Movable pointers to versions."""

import re
from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Response

from api.dependencies import Actor, AdapterPath, Parts
from api.fields import AliasField
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from api.schemas import AliasBody
from loradock.core.errors import LoradockError
from loradock.registry import adapter_rows, aliases
from loradock.registry.views import AliasView, Page

router = APIRouter(
    prefix="/v1/adapters/{name:path}/aliases", tags=["adapters"], dependencies=[OPERATOR_TOKEN]
)

AliasPath = Annotated[AliasField, Path(description="Alias; never a number.", examples=["stable"])]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=100,
        description="The ETag that was read: the call fails with `revision_mismatch` when the alias was moved since.",
        examples=['"3"'],
    ),
]

_ETAG = re.compile(r'"(?P<revision>[0-9]{1,9})"')


@router.get("", responses=documented("adapter_not_found", "invalid_name"))
async def list_aliases(name: AdapterPath, parts: Parts) -> Page[AliasView]:
    """An adapter's aliases by name."""
    async with parts.database.read() as reader:
        await adapter_rows.require(reader, name)
        return Page(items=await aliases.list_aliases(reader, name))


@router.get("/{alias}", responses=documented("adapter_not_found", "alias_not_found", "invalid_name"))
async def get_alias(*, name: AdapterPath, alias: AliasPath, parts: Parts, response: Response) -> AliasView:
    """Where an alias points. The ETag is for If-Match."""
    async with parts.database.read() as reader:
        found = await aliases.get_alias(reader, name, alias)
    response.headers["ETag"] = _etag(found)
    return found


@router.put(
    "/{alias}",
    responses=documented(
        "adapter_not_found",
        "adapter_busy",
        "version_not_found",
        "version_not_ready",
        "revision_mismatch",
        "invalid_name",
    ),
)
async def set_alias(
    *,
    name: AdapterPath,
    alias: AliasPath,
    body: Annotated[AliasBody, Body()],
    parts: Parts,
    actor: Actor,
    response: Response,
    if_match: IfMatch = None,
) -> AliasView:
    """Make an alias or move it. Nothing that runs is changed by it."""
    async with parts.database.transaction() as tx:
        moved = await aliases.set_alias(
            tx, adapter=name, alias=alias, version=body.version, actor=actor, if_match=_revision(if_match)
        )
    response.headers["ETag"] = _etag(moved)
    return moved


@router.delete(
    "/{alias}",
    status_code=204,
    responses=documented("adapter_not_found", "alias_not_found", "revision_mismatch", "invalid_name"),
)
async def delete_alias(
    *, name: AdapterPath, alias: AliasPath, parts: Parts, actor: Actor, if_match: IfMatch = None
) -> None:
    """Take an alias away."""
    async with parts.database.transaction() as tx:
        await aliases.delete_alias(tx, adapter=name, alias=alias, actor=actor, if_match=_revision(if_match))


def _etag(alias: AliasView) -> str:
    return f'"{alias.revision}"'


def _revision(if_match: str | None) -> int | None:
    if if_match is None:
        return None
    match = _ETAG.fullmatch(if_match.strip())
    if match is None:
        raise LoradockError("invalid_request", 'If-Match takes one ETag as it was given, like "3"')
    return int(match["revision"])
