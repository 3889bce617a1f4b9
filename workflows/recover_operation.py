"""RecoverOperation: puts back what an operation left whose own workflow is gone (terminated by hand, or timed out)."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.cards import MARK_LOST, RESTORE_CARDS, MarkLostInput, UnloadPlanInput
    from activities.interface.operations import (
        FINISH_OPERATION,
        TAKE_OVER,
        FinishInput,
        TakenOver,
        TakeOverInput,
        TouchedEngine,
    )
    from activities.interface.versions import FAIL_VERSION, FailVersionInput
    from loradock.core.models import Failure, OperationKind, OperationState
    from loradock.core.requests import OperationResult, UnloadItem, UnloadPlan
    from workflows.batches import BATCHES_AT_ONCE, restore_batch, unload_from_engines
    from workflows.calls import REGISTRY, call
    from workflows.children import load_on_engine, unload_from_engine
    from workflows.failures import failure_of
    from workflows.fan_out import fan_out
    from workflows.inputs import (
        LoadOnEngineInput,
        LoadOnEnginesInput,
        RecoverInput,
        UnloadFromEngineInput,
        UnloadFromEnginesInput,
    )

ENGINES_AT_ONCE = 50


@workflow.defn(name="RecoverOperation")
class RecoverOperation:
    """raise the epoch (late activities are refused) → put the touched engines back → free the lock."""

    @workflow.init
    def __init__(self, given: RecoverInput) -> None:
        self._operation = given.operation

    @workflow.run
    async def run(self, given: RecoverInput) -> OperationResult:
        """Recover; there is nothing to undo here, so every step is simply carried to its end."""
        del given  # kept by __init__
        over = TakeOverInput(operation=self._operation, run_id=workflow.info().run_id)
        taken = await call(TAKE_OVER, over, REGISTRY, summary="take the operation over")
        if not taken.still_active:
            return OperationResult(note="the operation had ended by itself")
        if taken.batches:
            not_undone = await self._put_back_in_batches(taken)
        else:
            not_undone = await self._put_back_everywhere(taken)
        if taken.kind is OperationKind.UNLOAD and (taken.touched or taken.batches):
            await self._restore_cards(taken)
        if taken.kind is OperationKind.PUBLISH:
            failed = FailVersionInput(run=taken.run, adapter=taken.adapter)
            await call(FAIL_VERSION, failed, REGISTRY, summary="mark the version failed")
        await self._finish(taken, not_undone)
        return OperationResult(note="put back", details={"not_undone": not_undone})

    async def _put_back_everywhere(self, taken: TakenOver) -> list[str]:
        outcomes = await fan_out(
            taken.touched,
            lambda touched: self._put_back(taken, touched),
            limit=ENGINES_AT_ONCE,
            stop_at_first_failure=False,
        )
        return [
            f"{outcome.item.target.engine}: {failure_of(outcome.error).code}"
            for outcome in outcomes
            if outcome.error is not None
        ]

    async def _put_back_in_batches(self, taken: TakenOver) -> list[str]:
        outcomes = await fan_out(
            range(taken.batches),
            lambda number: self._put_back_batch(taken, number),
            limit=BATCHES_AT_ONCE,
            stop_at_first_failure=False,
        )
        return [
            f"batch {outcome.item}: {failure_of(outcome.error).code}: {failure_of(outcome.error).message}"
            for outcome in outcomes
            if outcome.error is not None
        ]

    async def _put_back_batch(self, taken: TakenOver, number: int) -> None:
        common = {
            "run": taken.run,
            "actor": taken.actor,
            "number": number,
            "adapter": taken.adapter,
            "what": taken.adapter,
            "pool": taken.pool or "",
        }
        if taken.kind is OperationKind.UNLOAD:
            await restore_batch(LoadOnEnginesInput(**common, restore=True))
            return
        undo = UnloadFromEnginesInput(**common, own_only=True, cut_requests=True, bounded=True)
        await unload_from_engines(undo)

    async def _put_back(self, taken: TakenOver, touched: TouchedEngine) -> None:
        try:
            if taken.kind is OperationKind.UNLOAD:
                await load_on_engine(
                    LoadOnEngineInput(
                        run=taken.run,
                        actor=taken.actor,
                        target=touched.target,
                        ref=touched.ref,
                        pool=taken.pool or "",
                        restore=True,
                    )
                )
            else:
                await unload_from_engine(
                    UnloadFromEngineInput(
                        run=taken.run,
                        actor=taken.actor,
                        target=touched.target,
                        ref=touched.ref,
                        pool=taken.pool or "",
                        own_only=True,
                        cut_requests=True,
                        bounded=True,
                    )
                )
        except (asyncio.CancelledError, Exception) as error:
            lost = MarkLostInput(
                run=taken.run, target=touched.target, ref=touched.ref, reason=failure_of(error).code
            )
            await call(MARK_LOST, lost, REGISTRY, summary=f"{touched.target.engine} could not be put back")
            raise

    async def _restore_cards(self, taken: TakenOver) -> None:
        items = tuple(UnloadItem(target=touched.target, ref=touched.ref) for touched in taken.touched)
        versions = tuple(sorted({item.ref.version for item in items}))
        plan = UnloadPlan(
            adapter=taken.adapter,
            pool=taken.pool or "",
            items=items,
            versions=versions,
            batches=taken.batches,
        )
        cards = UnloadPlanInput(run=taken.run, plan=plan)
        await call(RESTORE_CARDS, cards, REGISTRY, summary="put the cards back")

    async def _finish(self, taken: TakenOver, not_undone: list[str]) -> None:
        failure = Failure(
            code="workflow_terminated",
            message="the operation's workflow was ended in Temporal; what it had done was put back",
        )
        end = FinishInput(
            run=taken.run,
            state=OperationState.FAILED,
            failure=failure,
            repairs_pending=bool(not_undone),
        )
        await call(FINISH_OPERATION, end, REGISTRY, summary="free the lock")
