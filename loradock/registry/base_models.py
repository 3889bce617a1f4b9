"""Base models: the configs that adapters are compared with, registered by hand or told by an engine that runs one."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from loradock.core.base_config import BaseConfig
from loradock.core.errors import LoradockError
from loradock.core.inspection import BaseOrigin
from loradock.registry.database import Reader, Transaction
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.tables import BaseModelRow
from loradock.registry.views import BaseModelView, Page


async def put(tx: Transaction, name: str, config: dict[str, Any], actor: str) -> BaseModelView:
    """Register a base model's `config.json`, in place of what was known of it.

    Raises:
        LoradockError: `base_config_invalid` when nothing in it can be compared with.
    """
    measures = BaseConfig.of(config)
    if not measures.tells_anything:
        raise LoradockError(
            "base_config_invalid", "the config tells neither num_hidden_layers nor hidden_size", name=name
        )
    before = await find(tx, name)
    facts = {
        "config": config,
        "fingerprint": measures.fingerprint,
        "origin": BaseOrigin.REGISTERED,
        "updated_at": await tx.now(),
        "updated_by": actor,
    }
    statement = insert(BaseModelRow).values(name=name, created_by=actor, **facts)
    await tx.session.execute(statement.on_conflict_do_update(index_elements=[BaseModelRow.name], set_=facts))
    tx.audit(
        "base_model.registered",
        actor=actor,
        base_model=name,
        fingerprint=measures.fingerprint,
        before=before.fingerprint if before else None,
    )
    return await get(tx, name)


async def see(tx: Transaction, name: str, measures: BaseConfig, *, engine: str, actor: str) -> None:
    """Take an engine's word for its base model, unless something is known of it: then only note a contradiction."""
    if not measures.tells_anything:
        return
    made = (
        insert(BaseModelRow)
        .values(
            name=name,
            config=measures.model_dump(mode="json", exclude={"fingerprint"}, exclude_none=True),
            fingerprint=measures.fingerprint,
            origin=BaseOrigin.ENGINE,
            created_by=actor,
            updated_by=actor,
        )
        .on_conflict_do_nothing()
        .returning(BaseModelRow.name)
    )
    if await tx.session.scalar(made) is not None:
        tx.audit(
            "base_model.seen", actor=actor, engine=engine, base_model=name, fingerprint=measures.fingerprint
        )
        return
    known = await find(tx, name)
    difference = None if known is None else measures.difference(known.measures)
    if difference is not None:
        tx.audit("base_model.differs", actor=actor, engine=engine, base_model=name, difference=difference)


async def find(tx: Reader, name: str) -> BaseModelView | None:
    """What is known of a base model, None when nothing is."""
    query = select(BaseModelRow).filter_by(name=name).execution_options(populate_existing=True)
    row: BaseModelRow | None = await tx.session.scalar(query)
    return None if row is None else _view(row)


async def get(tx: Reader, name: str) -> BaseModelView:
    """What is known of a base model.

    Raises:
        LoradockError: `base_model_not_found`.
    """
    found = await find(tx, name)
    if found is None:
        raise LoradockError("base_model_not_found", f"no config of base model {name[:200]!r} is known")
    return found


async def list_base_models(
    tx: Reader, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[BaseModelView]:
    """Base models by name.

    Raises:
        LoradockError: `invalid_request`.
    """
    query = select(BaseModelRow).order_by(BaseModelRow.name).limit(check_limit(limit) + 1)
    if cursor is not None:
        (last,) = decode_cursor(cursor, str)
        query = query.where(BaseModelRow.name > last)
    rows = (await tx.session.scalars(query)).all()
    items = tuple(_view(row) for row in rows[:limit])
    return Page(items=items, next=encode_cursor(items[-1].name) if len(rows) > limit else None)


def _view(row: BaseModelRow) -> BaseModelView:
    # An engine tells measures, not a config.json: they are kept as they came.
    measures = (
        BaseConfig.model_validate(row.config)
        if row.origin == BaseOrigin.ENGINE
        else BaseConfig.of(row.config)
    )
    return BaseModelView(
        name=row.name,
        origin=BaseOrigin(row.origin),
        fingerprint=row.fingerprint,
        measures=measures,
        config=row.config,
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )
