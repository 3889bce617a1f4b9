"""The last transaction of a load: its cards become routable together, and the operation ends."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update

from loradock.core.errors import LoradockError
from loradock.core.models import CardState, OperationState, RunRef
from loradock.core.requests import EngineTarget, LoadPlan, LoadPolicy, LoadRequest, OperationResult
from loradock.registry import deployments, follow_ups
from loradock.registry.database import Transaction
from loradock.registry.engines import check_alive, lock_engines
from loradock.registry.operations import about, take_lock_key
from loradock.registry.runs import active, claim, end, ended
from loradock.registry.tables import CardRow, DeploymentVersionRow, EngineRow, OperationRow


async def commit_load(
    tx: Transaction, run: RunRef, plan: LoadPlan, ready: Sequence[EngineTarget], failed: Mapping[str, str]
) -> OperationResult:
    """Send traffic to the engines that became ready. A call after the operation's success gives the same result again.

    An engine that is not any more what it was when its card was staged fails the load; of `best_effort` it joins those
    that failed.

    Args:
        failed: the other engines, with the code of each.

    Raises:
        LoradockError: `not_enough_engines` when none is ready, or of `best_effort` fewer than were asked for,
            `engine_not_found`, `engine_restarted` or `engine_lost`, `operation_ended`, and those of `claim`.
    """
    operation = await claim(tx, run)
    if operation.state == OperationState.SUCCEEDED:
        return OperationResult.model_validate(operation.result)
    if not active(operation) or operation.state == OperationState.COMPENSATING:
        raise ended(operation)
    if operation.request.get("replace"):
        await take_lock_key(tx, operation.lock_key)  # an unload is asked for at the end
    if not ready:
        raise LoradockError("not_enough_engines", "no engine became ready")
    deployment = await deployments.lock(tx, plan.ref.adapter, plan.pool, operation.requested_by)
    # In one go, so that all who lock engines do it in one order. Nobody removes one of them before the commit.
    found = await lock_engines(tx, {*(target.engine for target in ready), *(plan.wanted or ())})
    gone = await _gone(tx, operation, plan, ready, found)
    ready = [target for target in ready if target.engine not in gone]
    _judge(operation, ready, gone)
    failed = {**failed, **{engine: error.code for engine, error in gone.items()}}
    await _serve(tx, operation, plan, ready)
    await _want(tx, operation, plan, found)
    await deployments.raise_revision(tx, deployment, operation.requested_by, generation=True)
    operation.version = plan.ref.version
    result = OperationResult(
        version=plan.ref.version,
        digest=plan.ref.digest,
        engines=tuple(sorted(target.engine for target in ready)),
        failed_engines={**plan.left_out, **failed},
    )
    facts: dict[str, Any] = {
        "digest": plan.ref.digest,
        "engines": list(result.engines),
        "failed_engines": result.failed_engines,
    }
    tx.audit("adapter.loaded", **about(operation), **facts)
    await end(tx, operation, OperationState.SUCCEEDED, result=result)
    if not operation.request.get("replace"):
        return result
    following = await follow_ups.unload_replaced(tx, operation, plan.pool, plan.ref.version)
    result = result.model_copy(update={"next": following.next, "next_failed": following.next_failed})
    operation.result = result.model_dump(mode="json")
    return result


async def _gone(
    tx: Transaction,
    operation: OperationRow,
    plan: LoadPlan,
    ready: Sequence[EngineTarget],
    found: dict[str, tuple[EngineRow, bool]],
) -> dict[str, LoradockError]:
    """The engines that became ready and are so no more, each with what is the matter."""
    own = (CardRow.state == CardState.STAGED) & (CardRow.operation == operation.id)
    query = select(CardRow.engine, CardRow.incarnation).where(
        _of_plan(plan), own | (CardRow.state == CardState.SERVING)
    )
    cards = {(engine, incarnation) for engine, incarnation in await tx.session.execute(query)}
    gone = {}
    for target in ready:
        try:
            check_alive(found, target.engine, target.incarnation)
        except LoradockError as error:
            gone[target.engine] = error
        else:
            if (target.engine, target.incarnation) not in cards:
                gone[target.engine] = _no_card(plan, target.engine)
    return gone


def _no_card(plan: LoadPlan, engine: str) -> LoradockError:
    why = f"engine {engine} has no card of this life for {plan.ref.served_name}"
    return LoradockError("engine_restarted", why, engine=engine)


def _judge(operation: OperationRow, ready: Sequence[EngineTarget], gone: Mapping[str, LoradockError]) -> None:
    """See whether what is left is enough."""
    if not gone:
        return
    first = next(iter(gone.values()))
    if operation.request.get("policy") != LoadPolicy.BEST_EFFORT:
        raise first
    least = max(1, operation.request.get("min_ready", 1))
    if len(ready) < least:
        raise LoradockError(
            "not_enough_engines",
            f"{len(ready)} engines are ready still, {least} were asked for; {first.message}",
            engines={engine: error.code for engine, error in gone.items()},
        )


async def _serve(
    tx: Transaction, operation: OperationRow, plan: LoadPlan, ready: Sequence[EngineTarget]
) -> None:
    """Turn the staged cards to serving at one moment; those of engines that did not make it go."""
    engines = [target.engine for target in ready]
    staged = _of_plan(plan) & (CardRow.state == CardState.STAGED)
    await tx.session.execute(
        update(CardRow)
        .where(staged, CardRow.engine.in_(engines))
        .values(state=CardState.SERVING, since=func.now()),
        execution_options={"synchronize_session": False},
    )
    left_over = CardRow.state.in_([CardState.STAGED, CardState.LOST]) & CardRow.engine.not_in(engines)
    await tx.session.execute(
        delete(CardRow).where(_of_plan(plan), left_over, CardRow.operation == operation.id),
        execution_options={"synchronize_session": False},
    )


async def _want(tx: Transaction, operation: OperationRow, plan: LoadPlan, there: Collection[str]) -> None:
    """Note the version as wanted, also where it did not come to be: what is missing there is the reconciler's.

    A load adds to what is wanted, and takes nothing back. It moves no weight, except that the first, or one that
    replaces, gets all of it.

    Args:
        there: engines of the plan that have not been removed meanwhile.
    """
    adapter, version = plan.ref.adapter, plan.ref.version
    rows = await deployments.version_rows(tx, adapter, plan.pool)
    weighted = any(row.weight > 0 for row in rows.values())
    row = rows.get(version)
    engines = None if plan.wanted is None else sorted(set(plan.wanted) & set(there))
    if row is None:
        row = DeploymentVersionRow(
            adapter=adapter, pool=plan.pool, version=version, weight=0, engines=engines
        )
        tx.session.add(row)
    elif row.engines is not None:
        row.engines = None if engines is None else sorted({*row.engines, *engines})
    row.placement = None if row.engines is None else _selection(operation)
    if operation.request.get("replace"):
        for other in rows.values():
            other.weight = 0
    elif weighted:
        return
    row.weight = 100


def _selection(operation: OperationRow) -> dict[str, Any]:
    return LoadRequest.model_validate(operation.request).selection.model_dump(mode="json")


def _of_plan(plan: LoadPlan) -> ColumnElement[bool]:
    ref = plan.ref
    return (CardRow.adapter == ref.adapter) & (CardRow.version == ref.version) & (CardRow.pool == plan.pool)
