"""Engines, the cards that say what they serve, and the deployments that say what they are meant to serve."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.dependencies import Actor, Cursor, Limit, Parts
from api.fields import AdapterField, SimpleField
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from loradock.core.models import CardState, EngineStatus
from loradock.registry import cards, deployments, engine_removal, engines
from loradock.registry.views import CardView, DeploymentView, EngineView, Page, RemovedEngine

router = APIRouter(prefix="/v1", tags=["fleet"], dependencies=[OPERATOR_TOKEN])

PoolFilter = Annotated[SimpleField | None, Query(description="Of this pool only.")]
EnginePath = Annotated[SimpleField, Path(description="Engine id.", examples=["e0"])]
AdapterFilter = Annotated[AdapterField | None, Query(description="Of this adapter only.")]


@router.get("/engines", responses=documented())
async def list_engines(
    *,
    parts: Parts,
    pool: PoolFilter = None,
    status: Annotated[EngineStatus | None, Query(description="With this status only.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[EngineView]:
    """All engines that ever joined and were not removed, as their agents last told."""
    async with parts.database.read() as reader:
        return await engines.list_engines(reader, pool=pool, status=status, limit=limit, cursor=cursor)


@router.get("/engines/{engine}", responses=documented("engine_not_found", "invalid_name"))
async def get_engine(*, engine: EnginePath, parts: Parts) -> EngineView:
    """One engine."""
    async with parts.database.read() as reader:
        return await engines.get_engine(reader, engine)


@router.delete("/engines/{engine}", responses=documented("engine_not_found", "engine_in_use", "invalid_name"))
async def remove_engine(*, engine: EnginePath, parts: Parts, actor: Actor) -> RemovedEngine:
    """Forget an engine that is gone for good: its lost cards and drift go, and deployments name it no more.

    Its agent goes with the last of its engines. Should the engine come back, it joins as a new one.
    """
    async with parts.database.transaction() as tx:
        return await engine_removal.remove_engine(tx, engine, actor)


@router.get("/cards", responses=documented())
async def list_cards(
    *,
    parts: Parts,
    adapter: AdapterFilter = None,
    engine: Annotated[SimpleField | None, Query(description="Of this engine only.")] = None,
    pool: PoolFilter = None,
    state: Annotated[CardState | None, Query(description="In this state only.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[CardView]:
    """What engines serve right now. Cards of a load that is still under way are left out, unless `state=staged`."""
    async with parts.database.read() as reader:
        return await cards.list_cards(
            reader,
            adapter=adapter,
            engine=engine,
            pool=pool,
            state=state,
            staged=state is CardState.STAGED,
            limit=limit,
            cursor=cursor,
        )


@router.get("/deployments", responses=documented())
async def list_deployments(
    *,
    parts: Parts,
    adapter: AdapterFilter = None,
    pool: PoolFilter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DeploymentView]:
    """What is wanted of each adapter in each pool: its versions and their shares of the traffic."""
    async with parts.database.read() as reader:
        return await deployments.list_deployments(
            reader, adapter=adapter, pool=pool, limit=limit, cursor=cursor
        )
