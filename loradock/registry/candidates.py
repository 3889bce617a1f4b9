"""What the registry knows of the engines that a load could go to."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Row, ScalarSelect, all_, any_, func, literal, or_, select

from loradock.core.errors import LoradockError
from loradock.core.models import CardState, OperationKind
from loradock.core.names import parse_served_name, served_name
from loradock.core.requests import LoadRequest
from loradock.registry import deployments, engines
from loradock.registry.arrays import is_any_of
from loradock.registry.database import Reader
from loradock.registry.tables import AgentRow, CardRow, EngineRow, OperationRow, VersionRow

REPORT_AGE: Final = timedelta(seconds=5)
"""How much older than its arrival the state may be that an agent tells."""

_HELD: Final = (CardState.STAGED, CardState.SERVING, CardState.DRAINING)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine and what a placement asks of it.

    Attributes:
        free: slots that can be taken, as far as the registry knows; the engine's own count is the truth.
        siblings: slots that other versions of the adapter hold.
        serves: a card says that it serves just this version, in this life.
        holds: the version is resident, so it needs no further slot.
        wanted: an earlier load chose it for the version.
        cached: whether its host has the bytes; None where its agent does not tell.
    """

    row: EngineRow
    alive: bool
    labels: dict[str, str]
    free: int
    siblings: int
    serves: bool
    holds: bool
    wanted: bool
    cached: bool | None


async def survey(tx: Reader, request: LoadRequest, version: VersionRow) -> list[Candidate]:
    """The engines of the pool, or those named, by id, dead ones among them.

    Raises:
        LoradockError: `pool_not_found`, `engine_not_found`.
    """
    rows = await _engines(tx, request, version)
    cards = await _cards_of_adapter(tx, request)
    rows_of_version = await deployments.version_rows(tx, request.adapter, request.pool)
    wanted = rows_of_version[request.version].engines if request.version in rows_of_version else None
    name = served_name(request.adapter, request.version)
    found = []
    for row, alive, labels, cached, staged in rows:
        here = {
            card.served_name: card for card in cards.get(row.id, ()) if card.incarnation == row.incarnation
        }
        held = {resident for resident in row.resident if _adapter_of(resident) == request.adapter} | set(here)
        card = here.get(name)
        found.append(
            Candidate(
                row=row,
                alive=alive,
                labels=labels,
                free=row.free_slots - staged,
                siblings=len(held - {name}),
                serves=card is not None and card.state == CardState.SERVING and card.digest == version.digest,
                holds=name in held,
                wanted=wanted is not None and row.id in wanted,
                cached=cached,
            )
        )
    return await _with_slots_given_back(tx, request.pool, found)


async def _engines(
    tx: Reader, request: LoadRequest, version: VersionRow
) -> Sequence[Row[EngineRow, bool, dict[str, str], bool | None, int]]:
    cached = literal(version.digest) == any_(AgentRow.cached_digests)
    query = (
        select(EngineRow, engines.is_alive(), AgentRow.labels, cached, _cards_since())
        .join(AgentRow, AgentRow.id == EngineRow.agent)
        .where(EngineRow.pool == request.pool)
        .order_by(EngineRow.id)
    )
    named = request.only or request.engines
    rows = (await tx.session.execute(query if named is None else query.where(EngineRow.id.in_(named)))).all()
    if not rows and not await engines.pool_exists(tx, request.pool):
        raise engines.pool_not_found(request.pool)
    known = {row[0].id for row in rows}
    for name in named or ():
        if name not in known:
            raise LoradockError("engine_not_found", f"pool {request.pool} has no engine {name}", engine=name)
    return rows


def _cards_since() -> ScalarSelect[int]:
    """SQL: what came to the engine after its agent last told what is resident."""
    return (
        select(func.count())
        .select_from(CardRow)
        .where(
            _in_this_life(),
            CardRow.engine == EngineRow.id,
            CardRow.served_name != all_(EngineRow.resident),
        )
        .correlate(EngineRow)
        .scalar_subquery()
    )


def _in_this_life() -> ColumnElement[bool]:
    return (CardRow.incarnation == EngineRow.incarnation) & CardRow.state.in_(_HELD)


async def _cards_of_adapter(tx: Reader, request: LoadRequest) -> dict[str, list[CardRow]]:
    query = select(CardRow).where(
        CardRow.adapter == request.adapter, CardRow.pool == request.pool, CardRow.state.in_(_HELD)
    )
    found: dict[str, list[CardRow]] = {}
    for card in await tx.session.scalars(query):
        found.setdefault(card.engine, []).append(card)
    return found


async def _with_slots_given_back(tx: Reader, pool: str, found: list[Candidate]) -> list[Candidate]:
    """Engines that look full, once more: what was unloaded a moment ago may still be in its agent's last word."""
    full = {one.row.id: one.row for one in found if one.alive and one.free <= 0 and not one.holds}
    if not full:
        return found
    query = select(CardRow.engine, CardRow.served_name).join(EngineRow, EngineRow.id == CardRow.engine)
    query = query.where(is_any_of(CardRow.engine, full), _in_this_life())
    carded = {(engine, name) for engine, name in await tx.session.execute(query)}
    bare = {
        name: [resident for resident in row.resident if (name, resident) not in carded]
        for name, row in full.items()
    }
    adapters = {adapter for names in bare.values() for name in names if (adapter := _adapter_of(name))}
    seen = [row.seen_at for row in full.values() if row.seen_at is not None]
    if not adapters or not seen:
        return found
    unloaded = await _unloads(tx, pool, adapters, min(seen) - REPORT_AGE)
    return [
        _given_back(one, bare.get(one.row.id, []), unloaded) if one.row.id in full else one for one in found
    ]


async def _unloads(
    tx: Reader, pool: str, adapters: Collection[str], since: datetime
) -> dict[str, datetime | None]:
    """Adapters of which something was or is being unloaded, with when that ended last; None is not yet."""
    query = select(OperationRow.adapter, OperationRow.ended_at).where(
        is_any_of(OperationRow.adapter, adapters),
        OperationRow.pool == pool,
        OperationRow.kind == OperationKind.UNLOAD,
        or_(OperationRow.ended_at.is_(None), OperationRow.ended_at > since),
    )
    found: dict[str, datetime | None] = {}
    for adapter, ended_at in await tx.session.execute(query):
        before = found.get(adapter, ended_at)
        found[adapter] = None if before is None or ended_at is None else max(before, ended_at)
    return found


def _given_back(one: Candidate, bare: Sequence[str], unloaded: dict[str, datetime | None]) -> Candidate:
    told = one.row.seen_at
    gone = 0
    for name in bare:
        adapter = _adapter_of(name)
        if adapter not in unloaded or told is None:
            continue
        ended_at = unloaded[adapter]
        gone += ended_at is None or ended_at > told - REPORT_AGE
    return replace(one, free=one.free + gone)


def _adapter_of(resident: str) -> str | None:
    """The adapter of a resident name, None for one that is not ours."""
    try:
        return parse_served_name(resident).adapter
    except LoradockError:
        return None
