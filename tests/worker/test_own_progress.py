"""What an orchestrator tells of its transfers shows in the operation while it runs, and never after its end."""

import asyncio

from loradock.core.models import OperationState, StepReport, StepState
from loradock.registry import operation_steps
from tests.registry.world import World, new_publish
from worker.own_progress import OwnProgress

RUNNING = StepReport(
    name="upload", state=StepState.RUNNING, attempt=1, detail={"bytes": 5, "bytes_per_second": 7}
)


async def test_a_report_shows_while_the_operation_runs(world: World) -> None:
    run = await world.start(new_publish())
    progress = OwnProgress(world.database)
    writing = asyncio.create_task(progress.write_reports())
    await asyncio.sleep(0)
    progress.report(run.operation, RUNNING)
    while not (await world.operation(run.operation)).steps:
        await asyncio.sleep(0.01)
    writing.cancel()
    (step,) = (await world.operation(run.operation)).steps
    assert (step.state, step.detail) == (StepState.RUNNING, RUNNING.detail)


async def test_nothing_is_written_after_the_end(world: World) -> None:
    run = await world.start(new_publish())
    await world.finish(run, OperationState.FAILED)
    async with world.database.transaction() as tx:
        await operation_steps.record_own_progress(tx, run.operation, RUNNING)
        await operation_steps.record_own_progress(tx, "op-none", RUNNING)
    assert (await world.operation(run.operation)).steps == ()
