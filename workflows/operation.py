"""What every operation's workflow does around its story: who it is, what it tells, and how it ends when it fails."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.operations import FINISH_OPERATION, MARK_COMPENSATING, FinishInput, RunInput
    from loradock.core.models import Failure, OperationState, RunRef, StepReport, StepState
    from loradock.core.requests import OperationResult
    from workflows import search_attributes
    from workflows.calls import REGISTRY, call
    from workflows.failures import as_workflow_failure, failure_of, is_cancel
    from workflows.inputs import OperationStart
    from workflows.saga import Saga


TOLD = 50
"""Undos that failed which the workflow's own error names; the operation's steps have all."""

NOT_OURS = frozenset({"operation_superseded", "operation_ended"})
"""Codes by which the registry says that the work is another run's, or done: nothing of it may be put back by this one."""


class Operation:
    """The state that every operation's workflow has: its run, its saga, and the steps it has to tell of."""

    def __init__(self, start: OperationStart) -> None:
        self.run = RunRef(operation=start.operation, run_id=workflow.info().run_id, epoch=start.epoch)
        self.actor = start.actor
        self.saga = Saga()
        self._steps: dict[tuple[str, str], StepReport] = {}
        self._doing: tuple[str, datetime] | None = None
        self._lines: list[str] = []

    @property
    def steps(self) -> tuple[StepReport, ...]:
        """The steps told so far, in their order."""
        return tuple(self._steps.values())

    def begin_step(self, name: str) -> None:
        """Say which step of the operation itself is being done: should the story end now, it is the one that failed."""
        self._doing = (name, workflow.now())

    def note_steps(self, *reports: StepReport) -> None:
        """Keep what a step reported, for the operation's row."""
        for report in reports:
            self._steps[(report.name, report.engine)] = report
        self._doing = None

    def tell(self, phase: str, line: str) -> None:
        """Say in the Temporal UI where the operation stands: the phase to search for, a line to read."""
        workflow.upsert_search_attributes([search_attributes.PHASE.value_set(phase)])
        self._lines.append(f"- {line}")
        workflow.set_current_details("\n".join(self._lines))

    async def tell_story(self, story: Callable[[], Awaitable[OperationResult]]) -> OperationResult:
        """Run the story; when it fails or is cancelled, put everything back, end the operation and raise why."""
        try:
            return await story()
        except (asyncio.CancelledError, Exception) as error:
            failure = failure_of(error)
            self._note_failed_step(failure)
            not_undone = await self._put_back(failure)
            await self._finish(failure, aborted=is_cancel(error), repairs_pending=bool(not_undone))
            if is_cancel(error):
                raise
            raise as_workflow_failure(failure, not_undone=not_undone[:TOLD]) from error

    def _note_failed_step(self, failure: Failure) -> None:
        if self._doing is not None:
            name, began = self._doing
            self.note_steps(step_now(name, StepState.FAILED, started_at=began, error=failure))

    async def _put_back(self, failure: Failure) -> list[str]:
        if not self.saga.has_undos or failure.code in NOT_OURS:
            return []
        self.tell("compensating", f"**{failure.code}**: {failure.message}: putting everything back")
        return await self.saga.compensate(lambda: mark_compensating(self.run))

    async def _finish(self, failure: Failure, *, aborted: bool, repairs_pending: bool) -> None:
        if failure.code in NOT_OURS:
            return
        state = OperationState.ABORTED if aborted else OperationState.FAILED
        self.tell(state, f"ended as **{state}**: {failure.code}: {failure.message}")
        end = FinishInput(
            run=self.run, state=state, failure=failure, steps=self.steps, repairs_pending=repairs_pending
        )
        saga = Saga()
        await saga.pivot(lambda: call(FINISH_OPERATION, end, REGISTRY, summary=f"end the operation: {state}"))


async def mark_compensating(run: RunRef) -> None:
    """Say that the operation is put back; fails when that is not this run's to do."""
    await call(MARK_COMPENSATING, RunInput(run=run), REGISTRY, summary="say that it is being put back")


def step_now(
    name: str,
    state: StepState,
    *,
    started_at: datetime,
    engine: str = "",
    error: Failure | None = None,
) -> StepReport:
    """A step that the workflow itself has timed; it does not know at which attempt (0)."""
    return StepReport(
        name=name,
        engine=engine,
        state=state,
        attempt=0,
        started_at=started_at,
        ended_at=workflow.now(),
        error=error,
    )


CHILD_TASK_TIMEOUT = timedelta(seconds=5)
"""How long a dead worker may hold a child's workflow task before another one gets it."""
