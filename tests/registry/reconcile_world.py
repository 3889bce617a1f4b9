"""Looks at engines, as the reconciler's activities make them, for the registry's tests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from loradock.core.models import Failure, VersionRef
from loradock.core.reconcile import (
    EngineObservation,
    HeldAdapter,
    Look,
    Looked,
    Made,
    ReconcileRules,
    Repair,
    Scanned,
)
from loradock.core.signatures import SignatureRules
from loradock.registry import engines, fleet_scan, reconcile_queue, reconciling, repairs
from loradock.registry.views import EngineView
from tests.registry.world import World


def held(ref: VersionRef, operation: str = "somebody", *, serving: bool = True) -> HeldAdapter:
    """The version as an engine tells of it."""
    return HeldAdapter(serving=serving, operation=operation, **ref.model_dump())


@dataclass
class Looks:
    """A world, and looks at its engines."""

    world: World
    rules: ReconcileRules = field(default_factory=ReconcileRules)
    signatures: SignatureRules = field(default_factory=SignatureRules)

    async def begin(self, engine: str = "e1") -> Look:
        async with self.world.database.transaction() as tx:
            return await reconciling.begin(tx, engine, self.rules)

    async def compare(
        self, look: Look, *there: HeldAdapter, life: str = "life-1", unknown: Iterable[int] = ()
    ) -> Looked:
        seen = EngineObservation(incarnation=life, held=there, unknown_ids=tuple(unknown))
        async with self.world.database.transaction() as tx:
            return await reconciling.compare_and_begin(
                tx, look, seen, self.rules, run_id="run-1", signatures=self.signatures
            )

    async def look(self, *there: HeldAdapter, engine: str = "e1", life: str = "life-1") -> Looked:
        return await self.compare(await self.begin(engine), *there, life=life)

    async def end(self, look: Look, *, waits: bool = False, failure: Failure | None = None) -> bool:
        async with self.world.database.transaction() as tx:
            return await reconciling.end(tx, look, self.rules, waits=waits, failure=failure, run_id="run-1")

    async def make_good(self, repairs_done: Sequence[Repair]) -> Made:
        async with self.world.database.transaction() as tx:
            return await repairs.make_good(tx, repairs_done)

    async def fail(self, repair: Repair, code: str = "engine_error") -> None:
        async with self.world.database.transaction() as tx:
            await repairs.note_failed(tx, repair, Failure(code=code, message="it failed"), self.rules)

    async def due(self) -> list[str]:
        async with self.world.database.transaction() as tx:
            return await reconcile_queue.claim_due(tx, 100)

    async def scan(self, after: str = "", limit: int = 100) -> Scanned:
        async with self.world.database.transaction() as tx:
            return await fleet_scan.scan(tx, after, limit)

    async def engine(self, engine: str = "e1") -> EngineView:
        async with self.world.database.read() as tx:
            return await engines.get_engine(tx, engine)

    async def drift(self, engine: str = "e1") -> dict[str, str]:
        return {one.served_name: str(one.kind) for one in (await self.engine(engine)).drift}
