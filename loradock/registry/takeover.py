"""Taking an operation away from a workflow that is gone: the sweeper's first step."""

from sqlalchemy import select

from loradock.core.errors import LoradockError
from loradock.core.models import CardState, Model, OperationKind, OperationState, RunRef, VersionRef
from loradock.core.requests import EngineTarget
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.database import Transaction
from loradock.registry.operations import about
from loradock.registry.runs import active, ended, lock_operation
from loradock.registry.tables import (
    FENCING_EPOCHS,
    CardRow,
    DeploymentVersionRow,
    EngineRow,
    OperationRow,
    OperationStepRow,
    VersionRow,
)
from loradock.registry.versions import version_ref


class TakenOver(Model):
    """An operation in new hands.

    Attributes:
        run: what to act as: nobody else has this epoch.
        touched: where it may have changed an engine, in that engine's life as far as known.
    """

    run: RunRef
    kind: OperationKind
    adapter: str
    version: int | None
    pool: str | None
    touched: tuple[tuple[EngineTarget, VersionRef], ...]


async def take_over(tx: Transaction, operation: str, expected_epoch: int | None = None) -> TakenOver:
    """Raise the epoch, so that every late call of the old run is refused, and give what there is to put back.

    Args:
        expected_epoch: the one that was seen when the decision was made; another one means that somebody was faster.

    Raises:
        LoradockError: `operation_not_found`, `operation_ended`, `operation_superseded`.
    """
    row = await lock_operation(tx, operation)
    if not active(row):
        raise ended(row)
    if expected_epoch is not None and row.epoch != expected_epoch:
        raise LoradockError("operation_superseded", f"somebody has taken over {row.id}", operation=row.id)
    tx.audit("operation.taken_over", **(about(row) | {"actor": SYSTEM_ACTOR}), was=row.state, run=row.run_id)
    if row.run_id:
        row.superseded_runs = [*row.superseded_runs, row.run_id]
    row.run_id = ""
    row.epoch = await tx.session.scalar(select(FENCING_EPOCHS.next_value())) or 0
    row.state = OperationState.COMPENSATING
    await tx.session.flush()
    return TakenOver(
        run=RunRef(operation=row.id, run_id="", epoch=row.epoch),
        kind=OperationKind(row.kind),
        adapter=row.adapter,
        version=row.version,
        pool=row.pool,
        touched=await _touched(tx, row),
    )


async def _withdrawn(tx: Transaction, row: OperationRow) -> tuple[tuple[EngineTarget, VersionRef], ...]:
    """The cards that an unload took out of routing: it touches nothing else, and no engine before that."""
    query = (
        select(CardRow, EngineRow)
        .join(EngineRow, EngineRow.id == CardRow.engine)
        .where(CardRow.operation == row.id, CardRow.state == CardState.DRAINING)
        .order_by(CardRow.engine, CardRow.version)
    )
    return tuple(
        (
            EngineTarget(engine=card.engine, agent=engine.agent, incarnation=card.incarnation),
            VersionRef(adapter=card.adapter, version=card.version, digest=card.digest, int_id=card.int_id),
        )
        for card, engine in await tx.session.execute(query)
    )


async def _touched(tx: Transaction, row: OperationRow) -> tuple[tuple[EngineTarget, VersionRef], ...]:
    """Every engine of a step with every version of the operation, and every card of it."""
    if row.kind == OperationKind.UNLOAD:
        return await _withdrawn(tx, row)
    cards = {
        (card.engine, card.version): card
        for card in await tx.session.scalars(select(CardRow).filter_by(operation=row.id))
    }
    steps = select(OperationStepRow.engine).filter_by(operation=row.id).where(OperationStepRow.engine != "")
    names = {*(await tx.session.scalars(steps)), *(engine for engine, _ in cards)}
    engines = await tx.session.scalars(
        select(EngineRow).where(EngineRow.id.in_(names)).order_by(EngineRow.id)
    )
    versions = await _versions(tx, row, {version for _, version in cards})
    touched = []
    for engine in engines:
        for version in versions:
            card = cards.get((engine.id, version.version))
            incarnation = card.incarnation if card else engine.incarnation
            if incarnation is not None:
                target = EngineTarget(engine=engine.id, agent=engine.agent, incarnation=incarnation)
                touched.append((target, version))
    return tuple(touched)


async def _versions(tx: Transaction, row: OperationRow, of_cards: set[int]) -> list[VersionRef]:
    numbers = set(of_cards)
    if row.version is not None:
        numbers.add(row.version)
    else:
        wanted = select(DeploymentVersionRow.version).filter_by(adapter=row.adapter, pool=row.pool)
        numbers |= set(await tx.session.scalars(wanted))
    query = select(VersionRow).where(VersionRow.adapter == row.adapter, VersionRow.version.in_(numbers))
    return [version_ref(version) for version in await tx.session.scalars(query.order_by(VersionRow.version))]
