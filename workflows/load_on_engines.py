"""LoadOnEngines: one version onto a batch of engines, for an operation that is too wide for a child each."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.batches import (
        LOAD_ON_ENGINE,
        MARK_CARDS_LOST,
        NOTE_STEPS,
        RETRACT_CARDS,
        STAGE_CARDS,
        TAKE_BATCH,
        UNLOAD_FROM_ENGINE,
        BatchInput,
        LoadOnEngineWork,
        MarkCardsLostInput,
        NoteStepsInput,
        RetractCardsInput,
        StageCardsInput,
    )
    from activities.interface.common import Done
    from activities.interface.hosts import LoadedAdapter, UnloadAdapterInput, UnloadedAdapter
    from loradock.core.batches import BatchItem
    from loradock.core.errors import LoradockError
    from loradock.core.ids import host_engine_queue
    from loradock.core.models import Failure
    from workflows.batches import ENGINES_AT_ONCE, TOLD, BatchResult, failed_step
    from workflows.calls import HOST_LOAD, HOST_UNDO, REGISTRY, call, one_of_many
    from workflows.children import ChildSteps, child_failure
    from workflows.failures import failure_of, is_cancel
    from workflows.fan_out import Outcome, fan_out
    from workflows.inputs import LoadOnEnginesInput
    from workflows.operation import mark_compensating
    from workflows.saga import Saga, Undo

LoadOutcome = Outcome[BatchItem, LoadedAdapter]


@workflow.defn(name="LoadOnEngines")
class LoadOnEngines:
    """take the batch → download, add_lora and verify on every engine → stage their cards, many in one transaction.

    An engine that fails is put back at once and does not hold the others, unless it is all or nothing: then the batch is
    put back and fails with the engine's own reason.
    """

    @workflow.init
    def __init__(self, given: LoadOnEnginesInput) -> None:
        self._given = given
        self._saga = Saga()
        self._undos: dict[str, Undo] = {}
        self._failed: dict[str, Failure] = {}

    @workflow.run
    async def run(self, given: LoadOnEnginesInput) -> BatchResult:
        """Load, or leave the engines as they were."""
        del given  # kept by __init__
        try:
            return await self._story()
        except (asyncio.CancelledError, Exception) as error:
            failure = failure_of(error)
            not_undone = await self._saga.compensate(self._may_be_undone)
            if is_cancel(error):
                raise
            raise child_failure(failure, ChildSteps(clean=not not_undone)) from error

    async def _story(self) -> BatchResult:
        items = await self._take_batch()
        outcomes = await self._load_everywhere(items)
        await self._stage(outcomes)
        if self._failed and self._given.all_or_nothing:
            raise self._reason()
        if self._failed:
            await self._put_back_failed(items)
        return BatchResult(
            done=len(items) - len(self._failed),
            failed=len(self._failed),
            codes={engine: failure.code for engine, failure in list(self._failed.items())[:TOLD]},
            first=Failure.of(self._reason()) if self._failed else None,
        )

    async def _take_batch(self) -> tuple[BatchItem, ...]:
        batch = BatchInput(run=self._given.run, number=self._given.number)
        taken = await self._saga.checked(call(TAKE_BATCH, batch, REGISTRY, summary="take the batch"))
        return taken.items

    async def _load_everywhere(self, items: tuple[BatchItem, ...]) -> list[LoadOutcome]:
        group = self._saga.group(ENGINES_AT_ONCE)

        async def load(item: BatchItem) -> LoadedAdapter:
            engine = item.target.engine
            self._undos[item.key] = group.before(f"take it off {engine}", lambda: self._take_off(item))
            return await self._load_on(item)

        self._group = group
        return await self._saga.checked(
            fan_out(items, load, limit=ENGINES_AT_ONCE, stop_at_first_failure=self._given.all_or_nothing)
        )

    async def _load_on(self, item: BatchItem) -> LoadedAdapter:
        work = LoadOnEngineWork(
            run=self._given.run, ref=item.ref, target=item.target, undo=self._given.restore
        )
        queue = host_engine_queue(item.target.agent)
        return await call(
            LOAD_ON_ENGINE, work, one_of_many(HOST_LOAD), queue=queue, summary=f"load on {item.target.engine}"
        )

    async def _take_off(self, item: BatchItem) -> UnloadedAdapter:
        """The undo of one engine's load: what this operation loaded goes, and the files are let go."""
        unload = UnloadAdapterInput(
            run=self._given.run,
            ref=item.ref,
            target=item.target,
            drain_seconds=0,
            own_only=True,
            cut_requests=True,
        )
        queue = host_engine_queue(item.target.agent)
        return await call(
            UNLOAD_FROM_ENGINE,
            unload,
            one_of_many(HOST_UNDO),
            queue=queue,
            summary=f"take it off {item.target.engine}",
        )

    async def _stage(self, outcomes: list[LoadOutcome]) -> None:
        """Write the cards of those that answer, and into the operation what became of each engine."""
        loaded = [outcome for outcome in outcomes if outcome.result is not None]
        steps = [step for outcome in loaded if outcome.result for step in outcome.result.steps]
        for outcome in outcomes:
            if outcome.error is not None:
                failure = failure_of(outcome.error)
                self._failed[outcome.item.key] = failure
                if not is_cancel(outcome.error):
                    steps.append(failed_step(outcome.item, failure, "load"))
        if self._given.restore:
            note = NoteStepsInput(run=self._given.run, steps=tuple(steps))
            await self._saga.checked(call(NOTE_STEPS, note, REGISTRY, summary="note the steps"))
            return
        stage = StageCardsInput(
            run=self._given.run,
            number=self._given.number,
            pool=self._given.pool,
            loaded=tuple(outcome.item.target.engine for outcome in loaded),
            failed={_engine(key): failure.code for key, failure in self._failed.items()},
            steps=tuple(steps),
        )
        staged = await self._saga.checked(
            call(STAGE_CARDS, stage, REGISTRY, summary=f"stage {len(loaded)} cards")
        )
        for outcome in loaded:
            failure_there = staged.failed.get(outcome.item.target.engine)
            if failure_there is not None:
                self._failed[outcome.item.key] = failure_there

    async def _put_back_failed(self, items: tuple[BatchItem, ...]) -> None:
        undos = [self._undos[item.key] for item in items if item.key in self._failed]
        await self._group.undo_now(undos, self._may_be_undone_where_failed)
        if self._given.restore:
            lost = MarkCardsLostInput(
                run=self._given.run,
                number=self._given.number,
                items={key: failure.code for key, failure in self._failed.items()},
            )
            await call(MARK_CARDS_LOST, lost, REGISTRY, summary=f"{len(undos)} could not be put back")

    async def _may_be_undone(self) -> Done:
        """The registry's word comes before any undo. For a load it is also the undo of `_stage`."""
        if self._given.restore:
            await mark_compensating(self._given.run)
            return Done()
        return await self._retract(None)

    async def _may_be_undone_where_failed(self) -> Done:
        if self._given.restore:
            return Done()
        return await self._retract(tuple(_engine(key) for key in self._failed))

    async def _retract(self, engines: tuple[str, ...] | None) -> Done:
        cards = RetractCardsInput(run=self._given.run, number=self._given.number, engines=engines)
        return await call(RETRACT_CARDS, cards, REGISTRY, summary="retract the cards")

    def _reason(self) -> LoradockError:
        """The first engine's failure that is one of its own, and not the echo of another's."""
        real = {key: why for key, why in self._failed.items() if why.code != "operation_cancelled"}
        key, why = next(iter((real or self._failed).items()))
        engine = _engine(key)
        return LoradockError(why.code, f"{engine}: {why.message}", **{**why.details, "engine": engine})


def _engine(key: str) -> str:
    return key.rpartition("@")[0]
