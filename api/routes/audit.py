"""Who changed what."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from api.dependencies import Cursor, Limit, Parts
from api.fields import AdapterField
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from loradock.registry import audit
from loradock.registry.views import AuditEvent, Page

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[OPERATOR_TOKEN])

WordFilter = Annotated[str | None, Query(max_length=200, pattern=r"^[\x21-\x7e]+$")]


@router.get("", responses=documented())
async def list_audit_events(
    *,
    parts: Parts,
    adapter: Annotated[AdapterField | None, Query(description="About this adapter only.")] = None,
    operation: Annotated[WordFilter, Query(description="Of this operation only.")] = None,
    actor: Annotated[WordFilter, Query(description="By this actor only.")] = None,
    since: Annotated[
        AwareDatetime | None, Query(description="From this time on (RFC 3339, with its zone).")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[AuditEvent]:
    """The audit: newest first, without gaps, and a hash chain that nobody changes unseen."""
    async with parts.database.read() as reader:
        return await audit.list_events(
            reader, adapter=adapter, operation=operation, actor=actor, since=since, limit=limit, cursor=cursor
        )
