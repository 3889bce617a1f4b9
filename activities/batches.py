"""A batch of a wide operation's engines, in the registry: one transaction for many cards."""

from collections.abc import Collection

from temporalio import activity

from activities.interface.batches import (
    MARK_CARDS_LOST,
    NOTE_STEPS,
    RETRACT_CARDS,
    STAGE_CARDS,
    TAKE_BATCH,
    BatchInput,
    MarkCardsLostInput,
    NoteStepsInput,
    RetractCardsInput,
    StageCardsInput,
    StagedCards,
)
from activities.interface.common import Done
from loradock.core.batches import BatchItem, EngineBatch
from loradock.core.models import Failure
from loradock.registry import cards, operation_steps, runs, targets
from loradock.registry.database import Database


class BatchActivities:
    """Activities on batches; needs the registry's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name=TAKE_BATCH.name)
    async def take(self, given: BatchInput) -> EngineBatch:
        """The batch's engines that are to be asked."""
        async with self._database.transaction() as tx:
            return EngineBatch(items=await targets.take_batch(tx, given.run, given.number))

    @activity.defn(name=STAGE_CARDS.name)
    async def stage(self, given: StageCardsInput) -> StagedCards:
        """Write the cards of the batch's verified loads, not routable yet, and what became of each engine."""
        async with self._database.transaction() as tx:
            batch = await targets.batch(tx, given.run, given.number)
            loaded = _of(batch, given.loaded)
            failed = await cards.stage_many(tx, given.run, loaded, given.pool)
            ready = [item.target.engine for item in loaded if item.target.engine not in failed]
            codes = given.failed | {engine: error.code for engine, error in failed.items()}
            await targets.note(tx, given.run, given.number, ready, codes)
            await operation_steps.record_steps(tx, given.run.operation, given.steps)
        return StagedCards(failed={engine: Failure.of(error) for engine, error in failed.items()})

    @activity.defn(name=RETRACT_CARDS.name)
    async def retract(self, given: RetractCardsInput) -> Done:
        """Take back the cards that this operation staged, if it did."""
        async with self._database.transaction() as tx:
            await runs.claim_active(tx, given.run)
            batch = await targets.batch(tx, given.run, given.number)
            for ref in {item.ref for item in batch}:
                engines = [item.target.engine for item in _of(batch, given.engines) if item.ref == ref]
                await cards.retract_many(tx, given.run, ref, engines)
        return Done()

    @activity.defn(name=MARK_CARDS_LOST.name)
    async def mark_lost(self, given: MarkCardsLostInput) -> Done:
        """Declare cards lost which could not be put back: no traffic follows them."""
        async with self._database.transaction() as tx:
            for item in await targets.batch(tx, given.run, given.number):
                reason = given.reason if given.items is None else given.items.get(item.key)
                if reason is not None:
                    await cards.mark_card_lost(tx, given.run, item.ref, item.target, reason)
        return Done()

    @activity.defn(name=NOTE_STEPS.name)
    async def note_steps(self, given: NoteStepsInput) -> Done:
        """Keep what steps reported, for those who look at the operation."""
        async with self._database.transaction() as tx:
            await runs.claim_active(tx, given.run)
            await operation_steps.record_steps(tx, given.run.operation, given.steps)
        return Done()


def _of(batch: Collection[BatchItem], engines: Collection[str] | None) -> list[BatchItem]:
    return [item for item in batch if engines is None or item.target.engine in engines]
