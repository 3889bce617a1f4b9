"""Base models: the configs that adapters are compared with before they are published. A name may hold slashes."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path

from api.dependencies import Actor, Cursor, Limit, Parts
from api.fields import BaseModelField
from api.problems import documented
from api.routes.security import OPERATOR_TOKEN
from api.text import Storable
from loradock.registry import base_models
from loradock.registry.views import BaseModelView, Page

router = APIRouter(prefix="/v1/base-models", tags=["base models"], dependencies=[OPERATOR_TOKEN])

BaseModelPath = Annotated[
    BaseModelField, Path(description="Base model, as engines call it.", examples=["meta-llama/Llama-3.1-8B"])
]
ConfigBody = Annotated[
    dict[str, Any],
    Storable,
    Body(
        description="The `config.json` of the base model's own folder, as it stands.",
        examples=[{"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096}],
    ),
]


@router.get("", responses=documented())
async def list_base_models(*, parts: Parts, limit: Limit = 50, cursor: Cursor = None) -> Page[BaseModelView]:
    """All base models of which a config is known, by name."""
    async with parts.database.read() as reader:
        return await base_models.list_base_models(reader, limit=limit, cursor=cursor)


@router.get("/{name:path}", responses=documented("base_model_not_found", "invalid_name"))
async def get_base_model(*, name: BaseModelPath, parts: Parts) -> BaseModelView:
    """What is known of one base model, and who told it."""
    async with parts.database.read() as reader:
        return await base_models.get(reader, name)


@router.put("/{name:path}", responses=documented("base_config_invalid", "invalid_name"))
async def put_base_model(
    *, name: BaseModelPath, config: ConfigBody, parts: Parts, actor: Actor
) -> BaseModelView:
    """Register a base model by its `config.json`, in place of what was known. Published versions stay as they are."""
    async with parts.database.transaction() as tx:
        return await base_models.put(tx, name, config, actor)
