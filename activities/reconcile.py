"""The registry's part of reconciliation. Runs in the orchestrator."""

from temporalio import activity

from activities.interface.common import Done
from activities.interface.reconcile import (
    BEGIN_LOOK,
    COMPARE_ENGINE,
    END_LOOK,
    MAKE_GOOD,
    NOTE_FAILED,
    SCAN_FLEET,
    BeginLookInput,
    CompareInput,
    EndedLook,
    EndLookInput,
    MakeGoodInput,
    NoteFailedInput,
    ScanInput,
)
from loradock.core.reconcile import Look, Looked, Made, ReconcileRules, Scanned
from loradock.core.signatures import SignatureRules
from loradock.registry import fleet_scan, reconciling, repairs
from loradock.registry.database import Database


class ReconcileActivities:
    """Activities of the reconciler; needs the registry's database.

    Args:
        rules: how it goes about it.
        signatures: which versions may be loaded: a repair loads no other.
    """

    def __init__(
        self, database: Database, rules: ReconcileRules, signatures: SignatureRules | None = None
    ) -> None:
        self._database = database
        self._rules = rules
        self._signatures = signatures

    @activity.defn(name=BEGIN_LOOK.name)
    async def begin_look(self, given: BeginLookInput) -> Look:
        """Begin a look; the queue lets the engine be for a while."""
        async with self._database.transaction() as tx:
            return await reconciling.begin(tx, given.engine, self._rules)

    @activity.defn(name=COMPARE_ENGINE.name)
    async def compare(self, given: CompareInput) -> Looked:
        """Compare, withdraw cards that are not so, note the drift, and begin repairs.

        Tried again after a lost answer, it begins the repairs anew: those of the first try never act.
        """
        async with self._database.transaction() as tx:
            return await reconciling.compare_and_begin(
                tx,
                given.look,
                given.seen,
                self._rules,
                run_id=given.run_id,
                under_way=given.under_way,
                signatures=self._signatures,
            )

    @activity.defn(name=MAKE_GOOD.name)
    async def make_good(self, given: MakeGoodInput) -> Made:
        """Let traffic follow what was repaired, where it still counts."""
        async with self._database.transaction() as tx:
            return await repairs.make_good(tx, given.repairs)

    @activity.defn(name=NOTE_FAILED.name)
    async def note_failed(self, given: NoteFailedInput) -> Done:
        """Keep why a repair failed, and when it is tried again."""
        async with self._database.transaction() as tx:
            await repairs.note_failed(tx, given.repair, given.failure, self._rules)
        return Done()

    @activity.defn(name=END_LOOK.name)
    async def end_look(self, given: EndLookInput) -> EndedLook:
        """Note whether the engine is as wanted, or when to look again."""
        async with self._database.transaction() as tx:
            as_wanted = await reconciling.end(
                tx, given.look, self._rules, waits=given.waits, failure=given.failure, run_id=given.run_id
            )
        return EndedLook(as_wanted=as_wanted)

    @activity.defn(name=SCAN_FLEET.name)
    async def scan(self, given: ScanInput) -> Scanned:
        """Compare a part of the fleet by what its agents report; what differs comes into the queue."""
        async with self._database.transaction() as tx:
            return await fleet_scan.scan(tx, given.after, given.limit)
