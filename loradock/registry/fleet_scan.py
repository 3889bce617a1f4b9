"""The backstop: what agents report against what is wanted, over all engines. Finds what no event has told."""

from collections.abc import Collection, Mapping
from datetime import timedelta

from sqlalchemy import select

from loradock.core.models import CardState, OperationKind
from loradock.core.reconcile import Scanned
from loradock.registry import reconcile_queue
from loradock.registry.agents import REPORT_SECONDS
from loradock.registry.database import Reader, Transaction
from loradock.registry.desired import WantedVersion, wanted_on
from loradock.registry.engines import is_alive
from loradock.registry.operations import IS_ACTIVE
from loradock.registry.tables import CardRow, DriftRow, EngineRow, OperationRow, ReconciliationRow

Grouped = Mapping[str, Collection[CardRow]]


async def scan(tx: Transaction, after: str, limit: int) -> Scanned:
    """Compare living engines that are not in the queue, by id from `after` on; those that differ come into it.

    Reads a handful of lists for all of them, and asks no engine.
    """
    query = select(EngineRow).where(EngineRow.id > after, is_alive()).order_by(EngineRow.id).limit(limit)
    engines = (await tx.session.scalars(query)).all()
    names = [engine.id for engine in engines]
    last = names[-1] if len(names) == limit else None
    queued = set(
        await tx.session.scalars(
            select(ReconciliationRow.engine).where(
                ReconciliationRow.engine.in_(names), ReconciliationRow.due_at.is_not(None)
            )
        )
    )
    idle = [engine for engine in engines if engine.id not in queued]
    facts = await _Facts.read(tx, [engine.id for engine in idle])
    differing = tuple(engine.id for engine in idle if facts.differs(engine))
    await reconcile_queue.want(tx, dict.fromkeys(differing, "the scan found a difference"))
    return Scanned(engines=len(names), differing=differing, next=last)


class _Facts:
    """What the registry knows of some engines, read at once."""

    def __init__(
        self,
        wanted: Mapping[str, Collection[WantedVersion]],
        cards: Grouped,
        drifts: Mapping[str, set[str]],
        busy: set[str],
    ) -> None:
        self._wanted = wanted
        self._cards = cards
        self._drifts = drifts
        self._busy = busy

    @classmethod
    async def read(cls, tx: Reader, engines: Collection[str]) -> "_Facts":
        """Read all."""
        cards: dict[str, list[CardRow]] = {}
        for card in await tx.session.scalars(select(CardRow).where(CardRow.engine.in_(engines))):
            cards.setdefault(card.engine, []).append(card)
        drifts: dict[str, set[str]] = {}
        noted = select(DriftRow.engine, DriftRow.served_name).where(DriftRow.engine.in_(engines))
        for engine, name in await tx.session.execute(noted):
            drifts.setdefault(engine, set()).add(name)
        active = select(OperationRow.adapter).where(IS_ACTIVE, OperationRow.kind != OperationKind.PUBLISH)
        return cls(await wanted_on(tx, engines), cards, drifts, set(await tx.session.scalars(active)))

    def differs(self, engine: EngineRow) -> bool:
        """Whether anything is other than what was noted, and no operation explains it."""
        return self._differing(engine) != self._drifts.get(engine.id, set())

    def _differing(self, engine: EngineRow) -> set[str]:
        wanted = {one.ref.served_name: one for one in self._wanted[engine.id]}
        cards = {card.served_name: card for card in self._cards.get(engine.id, ())}
        routed = {name for name, card in cards.items() if _is_true(card, engine)}
        found = {name for name in wanted if name not in routed}
        found |= {name for name, card in cards.items() if name not in wanted}
        found |= {name for name in engine.resident if name not in wanted}
        noted = self._drifts.get(engine.id, set())
        explained = {name for name in found if name.rpartition("@")[0] in self._busy and name not in noted}
        # What an operation holds is not looked at; what was noted of it before stays noted.
        kept = {name for name in noted if name.rpartition("@")[0] in self._busy}
        return (found - explained) | kept | {f"#{number}" for number in engine.unknown_ids}


def _is_true(card: CardRow, engine: EngineRow) -> bool:
    """Whether the card routes, and nothing that the agent told speaks against it."""
    if (card.state, card.incarnation, card.pool) != (CardState.SERVING, engine.incarnation, engine.pool):
        return False
    young = engine.seen_at is None or card.since > engine.seen_at - timedelta(seconds=REPORT_SECONDS)
    return engine.served is None or young or engine.served.get(card.served_name) == card.digest
