"""Adapters: what there is. A name may hold a slash, so these paths match last."""

from typing import Final

from fastapi import APIRouter

from api.dependencies import AdapterPath, Cursor, Limit, Parts
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from loradock.registry import adapters
from loradock.registry.views import AdapterDetail, AdapterView, Page

router = APIRouter(prefix="/v1/adapters", tags=["adapters"], dependencies=[OPERATOR_TOKEN])

DETAIL_PATH: Final = "/{name:path}"


@router.get("", responses=documented())
async def list_adapters(*, parts: Parts, limit: Limit = 50, cursor: Cursor = None) -> Page[AdapterView]:
    """All adapters by name."""
    async with parts.database.read() as reader:
        return await adapters.list_adapters(reader, limit=limit, cursor=cursor)


@router.get(DETAIL_PATH, responses=documented("adapter_not_found", "invalid_name"))
async def get_adapter(*, name: AdapterPath, parts: Parts) -> AdapterDetail:
    """One adapter with its versions (newest first, the latest 200), aliases and deployments."""
    async with parts.database.read() as reader:
        return await adapters.get_adapter(reader, name)
