"""ReconcileEngine: one engine brought to what is wanted of it. Started by the queue's starter, one per engine at a time."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.reconcile import (
        BEGIN_LOOK,
        COMPARE_ENGINE,
        END_LOOK,
        MAKE_GOOD,
        NOTE_FAILED,
        OBSERVE_ENGINE,
        BeginLookInput,
        CompareInput,
        EndLookInput,
        MakeGoodInput,
        NoteFailedInput,
        ObserveInput,
    )
    from loradock.core.ids import host_engine_queue
    from loradock.core.models import Failure, Model
    from loradock.core.reconcile import Look, Looked, Repair
    from workflows.calls import HOST_LOOK, REGISTRY, call
    from workflows.failures import failure_of, is_cancel
    from workflows.inputs import ReconcileInput
    from workflows.repair import RepairSteps
    from workflows.saga import finish_despite_cancel

REPAIRS_AT_ONCE = 4
"""The engine takes one load at a time; the others download meanwhile."""


class ReconcileResult(Model):
    """What a run came to.

    Attributes:
        as_wanted: nothing was left to repair when the run ended; else the queue says when to look again.
    """

    as_wanted: bool
    looks: int
    repaired: int
    failed: int


WINDS_DOWN = "reconcile-winds-down"
"""The patch since which a run with a long history begins no further look; a run from before goes on as it began."""


@workflow.defn(name="ReconcileEngine")
class ReconcileEngine:
    """begin a look → ask the engine → compare, withdraw what is not so → repair what differs, each by itself → end it.

    Nothing is undone at the end: whatever a repair leaves in the middle is seen, and carried on, by the next look.
    """

    @workflow.init
    def __init__(self, given: ReconcileInput) -> None:
        self._engine = given.engine
        self._run_id = workflow.info().run_id
        self._again = False
        self._looks = self._repaired = self._failed = 0
        self._gate = asyncio.Semaphore(REPAIRS_AT_ONCE)
        self._committing = asyncio.Lock()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._done: list[Repair] = []

    @workflow.signal
    def look_again(self) -> None:
        """Something has changed: do not end before another look, nor wait for repairs that run; see `_ends_soon`."""
        self._again = True

    @workflow.run
    async def run(self, given: ReconcileInput) -> ReconcileResult:
        """Look and repair until nothing more can be done now."""
        del given  # kept by __init__
        try:
            as_wanted = await self._until_quiet()
        finally:
            await finish_despite_cancel(self._stop_repairs)
        return ReconcileResult(
            as_wanted=as_wanted, looks=self._looks, repaired=self._repaired, failed=self._failed
        )

    async def _until_quiet(self) -> bool:
        while True:
            self._again = False
            look = await call(
                BEGIN_LOOK, BeginLookInput(engine=self._engine), REGISTRY, summary="begin a look"
            )
            looked, failure = await self._look(look)
            for repair in looked.repairs:
                self._under_way[repair.served_name] = asyncio.create_task(self._repair(repair, look))
            await workflow.wait_condition(lambda: self._again or not self._under_way)
            if self._again and not _ends_soon():
                continue
            await workflow.wait_condition(lambda: not self._under_way)
            ended = EndLookInput(look=look, waits=looked.waits, failure=failure, run_id=self._run_id)
            end = await call(END_LOOK, ended, REGISTRY, summary="end the look")
            if not self._again or workflow.info().is_continue_as_new_suggested():
                return end.as_wanted  # what was asked for meanwhile stands in the queue

    async def _look(self, look: Look) -> tuple[Looked, Failure | None]:
        """Ask the engine and compare; an engine that does not answer is left to the next look."""
        self._looks += 1
        if look.target is None:
            return Looked(), None
        queue = host_engine_queue(look.target.agent)
        try:
            seen = await call(
                OBSERVE_ENGINE,
                ObserveInput(target=look.target),
                HOST_LOOK,
                queue=queue,
                summary="ask the engine",
            )
        except Exception as error:
            if is_cancel(error):
                raise
            return Looked(), failure_of(error)
        compare = CompareInput(
            look=look, seen=seen, run_id=self._run_id, under_way=tuple(sorted(self._under_way))
        )
        looked = await call(COMPARE_ENGINE, compare, REGISTRY, summary="compare with what is wanted")
        if looked.changed:
            why = Failure(code="engine_restarted", message=f"engine {self._engine} changed during the look")
            return looked, why
        return looked, None

    async def _repair(self, repair: Repair, look: Look) -> None:
        """One repair to its end, whatever that is: no other one hears of it."""
        steps = RepairSteps(repair, look.drain_seconds)
        try:
            async with self._gate:
                await steps.do()
            self._done.append(repair)
            await self._make_good(repair)
        except (asyncio.CancelledError, Exception) as error:
            failure = failure_of(error)
            await finish_despite_cancel(lambda: self._give_up(repair, steps, failure))
        finally:
            del self._under_way[repair.served_name]

    async def _make_good(self, repair: Repair) -> None:
        """Have traffic follow; repairs that are done at the same time go together."""
        async with self._committing:
            if repair not in self._done:
                return
            batch, self._done = tuple(self._done), []
            names = ", ".join(one.served_name for one in batch)
            made = await call(MAKE_GOOD, MakeGoodInput(repairs=batch), REGISTRY, summary=f"route {names}")
        self._repaired += len(made.good)
        for one in batch:
            if one.served_name in made.unwanted:
                await RepairSteps(one, 0).take_back()

    async def _give_up(self, repair: Repair, steps: RepairSteps, failure: Failure) -> None:
        self._failed += 1
        await steps.take_back()
        note = NoteFailedInput(repair=repair, failure=failure)
        await call(NOTE_FAILED, note, REGISTRY, summary=f"{repair.served_name}: {failure.code}")

    async def _stop_repairs(self) -> None:
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ends_soon() -> bool:
    """Whether the history is so long that what comes now is the next run's: the queue begins it when this one has ended."""
    return workflow.info().is_continue_as_new_suggested() and workflow.patched(WINDS_DOWN)
