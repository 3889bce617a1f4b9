"""UnloadFromEngine: one version off one engine; also the undo of LoadOnEngine."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.interface.cards import RETRACT_CARD, CardInput
    from activities.interface.hosts import (
        RELEASE_ADAPTER,
        RESUME_ADAPTER,
        UNLOAD_ADAPTER,
        HostInput,
        UnloadAdapterInput,
    )
    from loradock.core.ids import host_engine_queue, host_io_queue
    from loradock.core.models import StepReport, StepState
    from workflows.calls import HOST_ENGINE, HOST_UNDO, REGISTRY, call, lasting
    from workflows.children import ChildSteps, child_failure
    from workflows.failures import failure_of, is_cancel
    from workflows.inputs import UnloadFromEngineInput
    from workflows.operation import mark_compensating, step_now
    from workflows.saga import Saga

STILL_HELD = frozenset({"not_owned"})
"""Outcomes after which the engine goes on using the files."""


@workflow.defn(name="UnloadFromEngine")
class UnloadFromEngine:
    """drain → remove_lora, checked → release the cache. When that fails, requests are let in again."""

    @workflow.init
    def __init__(self, given: UnloadFromEngineInput) -> None:
        self._given = given
        self._host = HostInput(run=given.run, ref=given.ref, target=given.target)
        self._policy = HOST_UNDO if given.bounded else HOST_ENGINE
        self._saga = Saga()
        self._steps: list[StepReport] = []

    @workflow.run
    async def run(self, given: UnloadFromEngineInput) -> ChildSteps:
        """Unload, or leave the engine serving."""
        del given  # kept by __init__
        begun = workflow.now()
        try:
            return await self._story()
        except (asyncio.CancelledError, Exception) as error:
            failure = failure_of(error)
            not_undone = await self._saga.compensate(lambda: mark_compensating(self._given.run))
            if is_cancel(error):
                raise
            engine = self._given.target.engine
            failed = step_now("remove", StepState.FAILED, started_at=begun, engine=engine, error=failure)
            carried = ChildSteps(steps=(*self._steps, failed), clean=not not_undone)
            raise child_failure(failure, carried) from error

    async def _story(self) -> ChildSteps:
        if self._given.own_only:
            await self._retract_card()
        outcome = await self._remove()
        if outcome not in STILL_HELD:
            await self._release_cache()
        return ChildSteps(steps=tuple(self._steps), outcome=outcome)

    async def _retract_card(self) -> None:
        card = CardInput(
            run=self._given.run, ref=self._given.ref, target=self._given.target, pool=self._given.pool
        )
        await self._saga.checked(call(RETRACT_CARD, card, REGISTRY, summary="retract the card"))

    async def _remove(self) -> str:
        queue = host_engine_queue(self._given.target.agent)
        if not self._given.own_only:
            self._saga.before(
                "let requests in again",
                lambda: call(RESUME_ADAPTER, self._host, HOST_UNDO, queue=queue, summary="let requests in"),
            )
        unload = UnloadAdapterInput(
            run=self._given.run,
            ref=self._given.ref,
            target=self._given.target,
            drain_seconds=self._given.drain_seconds,
            own_only=self._given.own_only,
            cut_requests=self._given.cut_requests,
        )
        unloaded = await self._saga.checked(
            call(
                UNLOAD_ADAPTER,
                unload,
                lasting(self._policy, self._given.drain_seconds),
                queue=queue,
                summary="drain, remove_lora, check",
            )
        )
        self._steps.extend(unloaded.steps)
        return unloaded.outcome

    async def _release_cache(self) -> None:
        queue = host_io_queue(self._given.target.agent)
        begun = workflow.now()
        try:
            released = await self._saga.checked(
                call(RELEASE_ADAPTER, self._host, HOST_UNDO, queue=queue, summary="release the cache")
            )
            self._steps.append(released.step)
        except ActivityError as error:
            if is_cancel(error):
                raise
            # The slot is free, which is what was asked for. A pin that is left goes with the engine's next life.
            engine, failure = self._given.target.engine, failure_of(error)
            failed = step_now("release", StepState.FAILED, started_at=begun, engine=engine, error=failure)
            self._steps.append(failed)
