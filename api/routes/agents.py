"""What host agents tell: that they and their engines live, and how their work goes."""

from typing import Annotated

from fastapi import APIRouter, Body, Path

from api.dependencies import Parts
from api.fields import SimpleField
from api.problems import documented
from api.routes.security import AGENT_TOKEN
from api.schemas import ProgressBody
from api.text import Storable
from loradock.core.errors import LoradockError
from loradock.core.requests import LeaseKeep, LeaseRenewal
from loradock.registry import agents, operation_steps
from loradock.registry.views import LeaseGranted, LeaseKept

router = APIRouter(prefix="/v1/agents", tags=["agents"], dependencies=[AGENT_TOKEN])

AgentId = Annotated[SimpleField, Path(description="Agent id.", examples=["host-1"])]


@router.put("/{agent}/lease", responses=documented("invalid_name"))
async def renew_lease(
    *, agent: AgentId, renewal: Annotated[LeaseRenewal, Storable, Body()], parts: Parts
) -> LeaseGranted:
    """Renew the lease of an agent and all its engines. The first one registers them."""
    if renewal.agent != agent:
        raise LoradockError("invalid_request", "the agent in the body is another than the one in the path")
    async with parts.database.transaction() as tx:
        return await agents.renew_lease(tx, renewal, parts.settings.agent_lease_seconds)


@router.put("/{agent}/lease/keep", responses=documented("invalid_name"))
async def keep_lease(
    *, agent: AgentId, keep: Annotated[LeaseKeep, Storable, Body()], parts: Parts
) -> LeaseKept:
    """Renew the lease of an agent with nothing new to tell. `kept` false: nothing was renewed, tell all."""
    async with parts.database.single() as connection:
        return await agents.keep_lease(connection, agent, keep, parts.settings.agent_lease_seconds)


@router.post(
    "/{agent}/progress",
    status_code=204,
    responses=documented("operation_not_found", "agent_not_found", "invalid_name"),
)
async def report_progress(
    *, agent: AgentId, progress: Annotated[ProgressBody, Storable, Body()], parts: Parts
) -> None:
    """Tell how a step goes, for people who watch. What counts is what the workflow writes later."""
    async with parts.database.transaction() as tx:
        await operation_steps.record_progress(tx, agent, progress.operation, progress.report)
