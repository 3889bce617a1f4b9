"""The registry's part of an unload: which cards go, out of routing, back into it, gone."""

from typing import Any, Final

from sqlalchemy import ColumnElement, Select, delete, exists, func, select, tuple_, update

from loradock.core.batches import MAX_CARDS
from loradock.core.errors import LoradockError
from loradock.core.models import CardState, OperationKind, OperationState, RunRef, VersionRef
from loradock.core.promises import EnginePromise
from loradock.core.requests import (
    EngineTarget,
    OperationResult,
    UnloadItem,
    UnloadPlan,
    UnloadRequest,
)
from loradock.registry import adapter_rows, deployments, engines, reconcile_queue, versions
from loradock.registry.cards import SHOWN
from loradock.registry.database import Reader, Transaction
from loradock.registry.lease_keeping import lease_holds
from loradock.registry.operations import IS_ACTIVE, about
from loradock.registry.runs import active, claim, claim_active, end, ended
from loradock.registry.tables import CardRow, DeploymentVersionRow, EngineRow, OperationRow

NAMED: Final = 5
"""Engines that a note names."""


async def plan_unload(tx: Transaction, run: RunRef, request: UnloadRequest) -> UnloadPlan:
    """Choose the cards that go.

    Raises:
        LoradockError: as `check_unload` and `claim_active`.
    """
    await claim_active(tx, run, forward=True)
    return await check_unload(tx, request)


async def check_unload(tx: Reader, request: UnloadRequest) -> UnloadPlan:
    """See that there is something to unload, and that it may go.

    Raises:
        LoradockError: `adapter_not_found`, `version_not_found`, `pool_not_found`, `engine_not_found`,
            `version_not_loaded`, `version_has_weight`, `too_many_engines`.
    """
    await _check_names(tx, request)
    found = (await tx.session.execute(_cards(request))).all()
    if not found and (wanted := await _wanted(tx, request)):
        # Nothing serves it any more, and still it is wanted: there is a wish to take back.
        return UnloadPlan(adapter=request.adapter, pool=request.pool, items=(), versions=wanted)
    if not found:
        what = f"{request.adapter}@{request.version}" if request.version else request.adapter
        raise LoradockError("version_not_loaded", f"no engine of pool {request.pool} serves {what}")
    await _check_kept(tx, request)
    taken = tuple(sorted({card.version for card, _, _ in found}))
    if len(found) > MAX_CARDS:
        raise LoradockError(
            "too_many_engines",
            f"{len(found)} cards of {request.adapter} would go; one unload takes up to {MAX_CARDS}",
        )
    if not request.force:
        await _check_weight(tx, request, taken)
    return UnloadPlan(
        adapter=request.adapter,
        pool=request.pool,
        items=tuple(_item(card, engine, leased=leased) for card, engine, leased in found),
        versions=taken,
    )


async def _check_names(tx: Reader, request: UnloadRequest) -> None:
    if request.version is None:
        await adapter_rows.require(tx, request.adapter)
    else:
        await versions.require(tx, request.adapter, request.version)
    if not await engines.pool_exists(tx, request.pool):
        raise engines.pool_not_found(request.pool)
    if request.engines:
        known = set(await tx.session.scalars(select(EngineRow.id).where(EngineRow.id.in_(request.engines))))
        for name in request.engines:
            if name not in known:
                raise engines.not_found(name)


def _cards(request: UnloadRequest) -> Select[CardRow, EngineRow, bool]:
    query = (
        select(CardRow, EngineRow, lease_holds())
        .join(EngineRow, EngineRow.id == CardRow.engine)
        .where(CardRow.adapter == request.adapter, CardRow.pool == request.pool, CardRow.state.in_(SHOWN))
        .order_by(CardRow.version, CardRow.engine)
    )
    if request.version is not None:
        query = query.where(CardRow.version == request.version)
    if request.keep_version is not None:
        query = query.where(CardRow.version != request.keep_version)
    if request.engines is not None:
        query = query.where(CardRow.engine.in_(request.engines))
    return query


async def _wanted(tx: Reader, request: UnloadRequest) -> tuple[int, ...]:
    wanted = await deployments.version_rows(tx, request.adapter, request.pool)
    meant = set(wanted) if request.version is None else {request.version} & wanted.keys()
    meant -= {request.keep_version}
    if request.engines is not None:
        named = set(request.engines)
        meant = {version for version in meant if named & set(wanted[version].engines or ())}
    return tuple(sorted(meant))


async def _check_kept(tx: Reader, request: UnloadRequest) -> None:
    """Where the version that is to stay is not wanted any more, what would go is what came after it."""
    keep = request.keep_version
    if keep is None or keep in await deployments.version_rows(tx, request.adapter, request.pool):
        return
    raise LoradockError(
        "version_not_loaded",
        f"{request.adapter}@{keep}, which is to stay, is not loaded in pool {request.pool}",
    )


async def _check_weight(tx: Reader, request: UnloadRequest, taken: tuple[int, ...]) -> None:
    wanted = await deployments.version_rows(tx, request.adapter, request.pool)
    weighted = [version for version in taken if version in wanted and wanted[version].weight > 0]
    others = select(CardRow.version).filter_by(adapter=request.adapter, pool=request.pool)
    others = others.where(CardRow.state.in_(SHOWN), CardRow.version.not_in(taken)).limit(1)
    other = await tx.session.scalar(others)
    if weighted and other is not None:
        raise LoradockError(
            "version_has_weight",
            f"version {weighted[0]} takes {wanted[weighted[0]].weight} % of the traffic while version {other} is loaded",
            version=weighted[0],
        )


def _item(card: CardRow, engine: EngineRow, *, leased: bool) -> UnloadItem:
    """A card that goes. An engine that cannot be asked holds up nobody: should it return, what it still holds is left
    over, and the reconciler takes it out.
    """
    over = engine.incarnation != card.incarnation or not leased
    return UnloadItem(
        target=EngineTarget(engine=card.engine, agent=engine.agent, incarnation=card.incarnation),
        ref=VersionRef(adapter=card.adapter, version=card.version, digest=card.digest, int_id=card.int_id),
        lost=card.state == CardState.LOST and over,
    )


def being_unloaded() -> ColumnElement[bool]:
    """SQL, of a card: an unload that has begun means to take it away.

    Whoever holds the row of the card's engine, as `withdraw` does too, and finds none may let the card serve: one that
    begins later withdraws it.
    """
    row, wanted = OperationRow, OperationRow.request
    named = wanted["engines"]
    every_engine = func.coalesce(func.jsonb_typeof(named), "null") == "null"
    return exists().where(
        IS_ACTIVE,
        row.kind == OperationKind.UNLOAD,
        row.state != OperationState.PENDING,
        (row.adapter == CardRow.adapter) & (row.pool == CardRow.pool),
        row.version.is_(None) | (row.version == CardRow.version),
        wanted["keep_version"].as_integer().is_distinct_from(CardRow.version),
        every_engine | func.jsonb_exists(named, CardRow.engine),
    )


async def withdraw(tx: Transaction, run: RunRef, plan: UnloadPlan) -> None:
    """Stop the traffic to all cards of the plan at one moment: serving becomes draining.

    Raises:
        LoradockError: those of `claim_active`.
    """
    operation = await claim_active(tx, run, forward=True)
    deployment = await deployments.lock(tx, plan.adapter, plan.pool, operation.requested_by)
    await engines.lock_engines(tx, _engines(plan))
    places = [(item.target.engine, item.target.incarnation, item.ref.version) for item in plan.items]
    place = tuple_(CardRow.engine, CardRow.incarnation, CardRow.version)
    withdrawn = await tx.session.scalars(
        update(CardRow)
        .where(CardRow.adapter == plan.adapter, CardRow.state == CardState.SERVING, place.in_(places))
        .values(state=CardState.DRAINING, operation=run.operation, since=func.now())
        .returning(CardRow.engine),
        execution_options={"synchronize_session": False},
    )
    if withdrawn.all():
        await deployments.raise_revision(tx, deployment, operation.requested_by)


async def restore(tx: Transaction, run: RunRef, plan: UnloadPlan) -> None:
    """Put back what this operation withdrew, or staged again: serving where the engine lives on, lost elsewhere.

    Raises:
        LoradockError: those of `claim_active`.
    """
    operation = await claim_active(tx, run)
    deployment = await deployments.lock(tx, plan.adapter, plan.pool, operation.requested_by)
    found = await engines.lock_engines(tx, _engines(plan))
    alive = [(name, row.incarnation) for name, (row, lives) in found.items() if lives]
    own = (CardRow.operation == run.operation) & CardRow.state.in_([CardState.DRAINING, CardState.STAGED])
    back = tuple_(CardRow.engine, CardRow.incarnation).in_(alive)
    changed = update(CardRow).where(own, CardRow.adapter == plan.adapter, CardRow.pool == plan.pool)
    no_sync = {"synchronize_session": False}
    serving = changed.where(back).values(state=CardState.SERVING, since=func.now()).returning(CardRow.engine)
    restored = (await tx.session.scalars(serving, execution_options=no_sync)).all()
    losing = changed.values(state=CardState.LOST, since=func.now()).returning(CardRow.engine)
    lost = (await tx.session.scalars(losing, execution_options=no_sync)).all()
    await reconcile_queue.want(tx, dict.fromkeys(lost, f"{operation.id} could not put a card back there"))
    if restored:
        await deployments.raise_revision(tx, deployment, operation.requested_by)


async def commit_unload(tx: Transaction, run: RunRef, plan: UnloadPlan) -> OperationResult:
    """Note that the versions are no longer wanted, and end the operation. A call after its success repeats the result.

    Raises:
        LoradockError: `operation_ended`, and those of `claim`.
    """
    operation = await claim(tx, run)
    if operation.state == OperationState.SUCCEEDED:
        return OperationResult.model_validate(operation.result)
    if not active(operation) or operation.state == OperationState.COMPENSATING:
        raise ended(operation)
    deployment = await deployments.lock(tx, plan.adapter, plan.pool, operation.requested_by)
    await _forget_cards(tx, plan)
    await _want_no_more(tx, operation, plan)
    await deployments.raise_revision(tx, deployment, operation.requested_by, generation=True)
    result = OperationResult(
        version=plan.versions[0] if len(plan.versions) == 1 else None,
        engines=tuple(_engines(plan)),
        note=await _note(tx, plan),
        details=_details(plan),
    )
    facts: dict[str, Any] = {**result.details, "engines": list(result.engines)}
    tx.audit("adapter.unloaded", **about(operation), **facts)
    await end(tx, operation, OperationState.SUCCEEDED, result=result)
    return result


def _details(plan: UnloadPlan) -> dict[str, Any]:
    """The versions, and engines that were not asked since what they served was lost."""
    not_asked = sorted({item.target.engine for item in plan.items if item.lost})
    return {"versions": list(plan.versions)} | ({"not_asked": not_asked} if not_asked else {})


async def _note(tx: Reader, plan: UnloadPlan) -> str:
    """What an unload could not do, where engines cannot promise it."""
    lacking = EngineRow.missing_promises.contains([EnginePromise.TRUE_UNLOAD])
    asked = {item.target.engine for item in plan.items if not item.lost}
    query = select(EngineRow.id).where(EngineRow.id.in_(asked), lacking).order_by(EngineRow.id)
    names = list(await tx.session.scalars(query))
    if not names:
        return ""
    where = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return (
        f"no request reaches it any more; its weights stay in the memory of {where}"
        f" until that needs the room ({EnginePromise.TRUE_UNLOAD})"
    )


async def _forget_cards(tx: Transaction, plan: UnloadPlan) -> None:
    await engines.lock_engines(tx, _engines(plan))
    places = [(item.target.engine, item.target.incarnation, item.ref.version) for item in plan.items]
    place = tuple_(CardRow.engine, CardRow.incarnation, CardRow.version)
    # Whatever they say: what the operation's lock has not kept from changing must not be what is served after it.
    await tx.session.execute(delete(CardRow).where(CardRow.adapter == plan.adapter, place.in_(places)))


def _engines(plan: UnloadPlan) -> list[str]:
    return sorted({item.target.engine for item in plan.items})


async def _want_no_more(tx: Transaction, operation: OperationRow, plan: UnloadPlan) -> None:
    """A version without a card is no longer wanted; one that stays on other engines is wanted on those alone.

    Where single engines are named, those where a load has yet to be repaired stay wanted.
    """
    query = select(CardRow.version, CardRow.engine).where(
        CardRow.adapter == plan.adapter, CardRow.pool == plan.pool, CardRow.version.in_(plan.versions)
    )
    left: dict[int, set[str]] = {}
    for version, engine in await tx.session.execute(query):
        left.setdefault(version, set()).add(engine)
    rows = await deployments.version_rows(tx, plan.adapter, plan.pool)
    gone = [version for version in plan.versions if version not in left]
    if named := set(operation.request.get("engines") or ()):
        pool = set(await tx.session.scalars(select(EngineRow.id).filter_by(pool=plan.pool)))
        for version in set(plan.versions) & rows.keys():
            row = rows[version]
            wanted = set(row.engines) if row.engines is not None else pool if version in left else set()
            if stays := sorted(wanted - named):
                deployments.want_less(row, stays)
                gone = [other for other in gone if other != version]
    await tx.session.execute(
        delete(DeploymentVersionRow).where(
            DeploymentVersionRow.adapter == plan.adapter,
            DeploymentVersionRow.pool == plan.pool,
            DeploymentVersionRow.version.in_(gone),
        )
    )
