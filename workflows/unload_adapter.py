"""UnloadAdapter: traffic away, requests drained, slots really free, files released; or everything as it was."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.cards import (
        COMMIT_UNLOAD,
        MARK_LOST,
        PLAN_UNLOAD,
        RESTORE_CARDS,
        WITHDRAW_CARDS,
        MarkLostInput,
        PlanUnloadInput,
        UnloadPlanInput,
    )
    from loradock.core.errors import LoradockError
    from loradock.core.requests import OperationResult, UnloadItem, UnloadPlan
    from workflows.batches import BATCHES_AT_ONCE, BatchResult, restore_batch, unload_from_engines
    from workflows.calls import REGISTRY, call
    from workflows.children import ChildSteps, load_on_engine, steps_of_failure, unload_from_engine
    from workflows.failures import failure_of
    from workflows.fan_out import Outcome, fan_out, first_failure
    from workflows.inputs import (
        LoadOnEngineInput,
        LoadOnEnginesInput,
        UnloadFromEngineInput,
        UnloadFromEnginesInput,
        UnloadInput,
    )
    from workflows.operation import Operation
    from workflows.saga import Group

ENGINES_AT_ONCE = 50

UnloadOutcome = Outcome[UnloadItem, ChildSteps]


@workflow.defn(name="UnloadAdapter")
class UnloadAdapter:
    """withdraw the cards (traffic stops) → UnloadFromEngine for each → forget the cards.

    Of more than a few: UnloadFromEngines for each batch.
    """

    @workflow.init
    def __init__(self, given: UnloadInput) -> None:
        self._request = given.request
        self._operation = Operation(given.start)
        self._saga = self._operation.saga

    @workflow.run
    async def run(self, given: UnloadInput) -> OperationResult:
        """Unload, or put back what was served."""
        del given  # kept by __init__
        return await self._operation.tell_story(self._story)

    async def _story(self) -> OperationResult:
        plan = await self._choose_cards()
        await self._withdraw(plan)
        if plan.batches:
            await self._unload_in_batches(plan)
        else:
            await self._unload_everywhere(plan)
        return await self._commit(plan)

    async def _choose_cards(self) -> UnloadPlan:
        request = PlanUnloadInput(run=self._operation.run, request=self._request)
        return await self._saga.checked(call(PLAN_UNLOAD, request, REGISTRY, summary="choose cards"))

    async def _withdraw(self, plan: UnloadPlan) -> None:
        where = ", ".join(f"`{item.ref.served_name}` from {item.target.engine}" for item in plan.items)
        if plan.batches:
            where = f"{plan.cards} cards of `{plan.adapter}`, in {plan.batches} batches"
        self._operation.tell("draining", f"unloading {where}")
        cards = UnloadPlanInput(run=self._operation.run, plan=plan)
        self._saga.before(
            "put the cards back",
            lambda: call(RESTORE_CARDS, cards, REGISTRY, summary="put the cards back"),
        )
        await self._saga.checked(call(WITHDRAW_CARDS, cards, REGISTRY, summary="withdraw the cards"))

    async def _unload_everywhere(self, plan: UnloadPlan) -> None:
        held = [item for item in plan.items if not item.lost]
        group = self._saga.group(ENGINES_AT_ONCE)
        outcomes = await self._saga.checked(
            fan_out(
                held,
                lambda item: self._unload_from(group, plan, item),
                limit=ENGINES_AT_ONCE,
                stop_at_first_failure=False,
            )
        )
        for outcome in outcomes:
            reported = outcome.result.steps if outcome.result else steps_of_failure(outcome.error)
            self._operation.note_steps(*reported)
        failed = first_failure(outcomes)
        if failed is not None and failed.error is not None:
            why = failure_of(failed.error)
            engine = failed.item.target.engine
            raise LoradockError(why.code, f"{engine}: {why.message}", **{**why.details, "engine": engine})

    async def _unload_from(self, group: Group, plan: UnloadPlan, item: UnloadItem) -> ChildSteps:
        group.before(
            f"load {item.ref.served_name} on {item.target.engine} again",
            lambda: self._load_again(plan, item),
        )
        return await unload_from_engine(
            UnloadFromEngineInput(
                run=self._operation.run,
                actor=self._operation.actor,
                target=item.target,
                ref=item.ref,
                pool=plan.pool,
                drain_seconds=self._request.drain_seconds,
                cut_requests=self._request.force,
            )
        )

    async def _load_again(self, plan: UnloadPlan, item: UnloadItem) -> None:
        """The undo of one engine's unload; where it fails the card is lost, and is not put back to serving."""
        try:
            await load_on_engine(
                LoadOnEngineInput(
                    run=self._operation.run,
                    actor=self._operation.actor,
                    target=item.target,
                    ref=item.ref,
                    pool=plan.pool,
                    restore=True,
                )
            )
        except (asyncio.CancelledError, Exception) as error:
            lost = MarkLostInput(
                run=self._operation.run, target=item.target, ref=item.ref, reason=failure_of(error).code
            )
            await call(MARK_LOST, lost, REGISTRY, summary=f"{item.target.engine} could not be put back")
            raise

    async def _unload_in_batches(self, plan: UnloadPlan) -> None:
        """The same for many cards: a child for each batch."""
        group = self._saga.group(BATCHES_AT_ONCE)
        outcomes = await self._saga.checked(
            fan_out(
                range(plan.batches),
                lambda number: self._unload_batch(group, plan, number),
                limit=BATCHES_AT_ONCE,
                stop_at_first_failure=False,
            )
        )
        failed = first_failure(outcomes)
        if failed is not None and failed.error is not None:
            why = failure_of(failed.error)
            raise LoradockError(why.code, why.message, **why.details)

    async def _unload_batch(self, group: Group, plan: UnloadPlan, number: int) -> BatchResult:
        group.before(f"load batch {number} again", lambda: self._load_batch_again(plan, number))
        return await unload_from_engines(
            UnloadFromEnginesInput(
                run=self._operation.run,
                actor=self._operation.actor,
                number=number,
                adapter=plan.adapter,
                what=plan.adapter,
                pool=plan.pool,
                drain_seconds=self._request.drain_seconds,
                cut_requests=self._request.force,
            )
        )

    async def _load_batch_again(self, plan: UnloadPlan, number: int) -> None:
        await restore_batch(
            LoadOnEnginesInput(
                run=self._operation.run,
                actor=self._operation.actor,
                number=number,
                adapter=plan.adapter,
                what=plan.adapter,
                pool=plan.pool,
                restore=True,
            )
        )

    async def _commit(self, plan: UnloadPlan) -> OperationResult:
        commit = UnloadPlanInput(run=self._operation.run, plan=plan, steps=self._operation.steps)
        result = await self._saga.pivot(
            lambda: call(COMMIT_UNLOAD, commit, REGISTRY, summary="forget the cards")
        )
        self._operation.tell("succeeded", f"unloaded; {result.note or 'the slots are free'}")
        return result
