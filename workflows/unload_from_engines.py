"""UnloadFromEngines: a batch of a wide operation's items off their engines; also the undo of LoadOnEngines."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.batches import (
        NOTE_STEPS,
        RETRACT_CARDS,
        TAKE_BATCH,
        UNLOAD_FROM_ENGINE,
        BatchInput,
        NoteStepsInput,
        RetractCardsInput,
    )
    from activities.interface.hosts import (
        RESUME_ADAPTER,
        HostInput,
        UnloadAdapterInput,
        UnloadedAdapter,
    )
    from loradock.core.batches import BatchItem
    from loradock.core.errors import LoradockError
    from loradock.core.ids import host_engine_queue
    from loradock.core.models import StepReport, StepState
    from workflows.batches import ENGINES_AT_ONCE, BatchResult, failed_step
    from workflows.calls import HOST_ENGINE, HOST_UNDO, REGISTRY, call, lasting, one_of_many
    from workflows.children import ChildSteps, child_failure
    from workflows.failures import failure_of, is_cancel
    from workflows.fan_out import Outcome, fan_out, first_failure
    from workflows.inputs import UnloadFromEnginesInput
    from workflows.operation import mark_compensating, step_now
    from workflows.saga import Saga

UnloadOutcome = Outcome[BatchItem, UnloadedAdapter]

LOAD_STEPS = ("download", "load", "verify")


@workflow.defn(name="UnloadFromEngines")
class UnloadFromEngines:
    """take the batch → drain, remove_lora and release on every engine. Where that fails, requests are let in again.

    No engine holds the others: all are tried, then the batch fails if one did.
    """

    @workflow.init
    def __init__(self, given: UnloadFromEnginesInput) -> None:
        self._given = given
        self._saga = Saga()

    @workflow.run
    async def run(self, given: UnloadFromEnginesInput) -> BatchResult:
        """Unload, or leave serving what could not be unloaded."""
        del given  # kept by __init__
        try:
            return await self._story()
        except (asyncio.CancelledError, Exception) as error:
            failure = failure_of(error)
            not_undone = await self._saga.compensate(lambda: mark_compensating(self._given.run))
            if is_cancel(error):
                raise
            raise child_failure(failure, ChildSteps(clean=not not_undone)) from error

    async def _story(self) -> BatchResult:
        items = await self._take_batch()
        if self._given.own_only:
            await self._retract_cards()
        outcomes = await self._unload_everywhere(items)
        await self._note_steps(outcomes)
        failed = first_failure(outcomes)
        if failed is not None and failed.error is not None:
            why, engine = failure_of(failed.error), failed.item.target.engine
            raise LoradockError(why.code, f"{engine}: {why.message}", **{**why.details, "engine": engine})
        return BatchResult(done=len(items))

    async def _take_batch(self) -> tuple[BatchItem, ...]:
        batch = BatchInput(run=self._given.run, number=self._given.number)
        taken = await self._saga.checked(call(TAKE_BATCH, batch, REGISTRY, summary="take the batch"))
        return taken.items

    async def _retract_cards(self) -> None:
        """Cards go first, so a host that never answers gets no traffic."""
        cards = RetractCardsInput(run=self._given.run, number=self._given.number)
        await self._saga.checked(call(RETRACT_CARDS, cards, REGISTRY, summary="retract the cards"))

    async def _unload_everywhere(self, items: tuple[BatchItem, ...]) -> list[UnloadOutcome]:
        group = self._saga.group(ENGINES_AT_ONCE)

        async def unload(item: BatchItem) -> UnloadedAdapter:
            if self._given.own_only:
                return await self._unload_from(item)
            engine = item.target.engine
            undo = group.before(f"let requests in again on {engine}", lambda: self._resume(item))
            unloaded = await self._unload_from(item)
            undo.drop()  # it is gone: loading it again is the parent's undo
            return unloaded

        return await self._saga.checked(
            fan_out(items, unload, limit=ENGINES_AT_ONCE, stop_at_first_failure=False)
        )

    async def _unload_from(self, item: BatchItem) -> UnloadedAdapter:
        policy = HOST_UNDO if self._given.bounded else HOST_ENGINE
        unload = UnloadAdapterInput(
            run=self._given.run,
            ref=item.ref,
            target=item.target,
            drain_seconds=self._given.drain_seconds,
            own_only=self._given.own_only,
            cut_requests=self._given.cut_requests,
        )
        return await call(
            UNLOAD_FROM_ENGINE,
            unload,
            lasting(one_of_many(policy), self._given.drain_seconds),
            queue=host_engine_queue(item.target.agent),
            summary=f"unload from {item.target.engine}",
        )

    async def _resume(self, item: BatchItem) -> None:
        host = HostInput(run=self._given.run, ref=item.ref, target=item.target)
        queue = host_engine_queue(item.target.agent)
        await call(
            RESUME_ADAPTER,
            host,
            one_of_many(HOST_UNDO),
            queue=queue,
            summary=f"let requests in on {item.target.engine}",
        )

    async def _note_steps(self, outcomes: list[UnloadOutcome]) -> None:
        steps: list[StepReport] = []
        for outcome in outcomes:
            engine = outcome.item.target.engine
            if outcome.result is not None:
                steps += outcome.result.steps
                steps += self._undone(engine)
            elif outcome.error is not None:
                steps.append(failed_step(outcome.item, failure_of(outcome.error), "remove"))
        note = NoteStepsInput(run=self._given.run, steps=tuple(steps))
        await self._saga.checked(call(NOTE_STEPS, note, REGISTRY, summary="note the steps"))

    def _undone(self, engine: str) -> list[StepReport]:
        """As the undo of a load: its steps are undone."""
        names = LOAD_STEPS if self._given.own_only else ()
        now = workflow.now()
        return [step_now(name, StepState.UNDONE, started_at=now, engine=engine) for name in names]
