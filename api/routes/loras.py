"""`/v1/loras`, the seed system's contract: for operators, and for the agents that pass on what their neighbours send."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Path, Request

from api import loras
from api.dependencies import Actor, AdapterPath, Parts
from api.fields import SimpleField
from api.routes.security import AGENT_TOKEN, OPERATOR_TOKEN
from api.schemas import LoraBody, LoraChanged, LoraError, Loras
from api.text import Storable
from loradock.core.errors import LoradockError

_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": LoraError, "description": "The name or the address is malformed."},
    404: {"model": LoraError, "description": "There is no such adapter, or it is not loaded."},
    409: {"model": LoraError, "description": "Something is in the way: another operation, no free slot …"},
    415: {
        "model": LoraError,
        "description": "The body is not JSON, or the address's scheme is not supported.",
    },
    422: {"model": LoraError, "description": "The weights cannot be served; `code` tells why."},
    503: {
        "model": LoraError,
        "description": "No engine is alive, a part does not answer, or it takes longer yet.",
    },
}


def _json_body(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise LoradockError("unsupported_media_type", "send the body as application/json")


def _agents_may(parts: Parts) -> None:
    if not parts.settings.agent_loras:
        raise LoradockError("forbidden", "agents may not change adapters: LORADOCK_AGENT_LORAS is not set")


AgentId = Annotated[SimpleField, Path(description="Agent id.", examples=["host-1"])]
LoraName = AdapterPath

router = APIRouter(prefix="/v1/loras", tags=["loras"], dependencies=[OPERATOR_TOKEN], responses=_ERRORS)
agent_router = APIRouter(
    prefix="/v1/agents/{agent}/loras",
    tags=["agents"],
    dependencies=[AGENT_TOKEN, Depends(_agents_may)],
    responses=_ERRORS,
)


@router.post("", dependencies=[Depends(_json_body)])
async def load_lora(
    *, body: Annotated[LoraBody, Storable, Body()], parts: Parts, actor: Actor
) -> LoraChanged:
    """Publish the weights and serve them under the name on every engine of the pool; answers when they are served.

    The same weights again change nothing. Other weights are a new version: it is loaded beside the old one, takes all the
    traffic in one moment, and then the old one is drained and unloaded.
    """
    return await loras.serve(parts, actor, body)


@router.get("")
async def list_loras(*, parts: Parts) -> Loras:
    """The names that are served now."""
    return await loras.listing(parts)


@router.delete("/{name:path}")
async def unload_lora(*, name: LoraName, parts: Parts, actor: Actor) -> LoraChanged:
    """Unload every version of the name from every engine; requests that run get 30 seconds to end."""
    return await loras.remove(parts, actor, name)


@agent_router.post("", dependencies=[Depends(_json_body)])
async def load_lora_for_agent(
    *, agent: AgentId, body: Annotated[LoraBody, Storable, Body()], parts: Parts
) -> LoraChanged:
    """As `POST /v1/loras`, passed on by an agent."""
    return await loras.serve(parts, f"agent:{agent}", body)


@agent_router.get("")
async def list_loras_of_agent(*, agent: AgentId, parts: Parts) -> Loras:
    """The names that the agent's own engines serve now."""
    return await loras.listing(parts, agent)


@agent_router.delete("/{name:path}")
async def unload_lora_for_agent(*, agent: AgentId, name: LoraName, parts: Parts) -> LoraChanged:
    """As `DELETE /v1/loras/{name}`, passed on by an agent."""
    return await loras.remove(parts, f"agent:{agent}", name)
