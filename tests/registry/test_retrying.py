"""A retry asks for what failed, and for nothing else."""

from typing import Any

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import OperationState, StepReport, StepState
from loradock.core.requests import LoadPolicy, LoadRequest, PublishRequest, UnloadRequest
from loradock.registry import loading, operation_steps, placement, retrying, runs, unloading
from tests.registry.world import SOURCE, World, new_placement, new_publish, report

LOAD = LoadRequest(adapter="greeter", version=1, pool="default")


async def retry(world: World, operation: str) -> Any:
    async with world.database.read() as tx:
        return await retrying.retry_request(tx, operation)


async def refused(world: World, operation: str) -> bool:
    with pytest.raises(LoradockError) as caught:
        await retry(world, operation)
    return caught.value.code == "operation_not_retryable"


async def failed(world: World, request: LoadRequest) -> str:
    """A load that came to its engines and was put back."""
    run, plan = await world.plan_load(request)
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("load", target.engine) for target in plan.targets])
    await world.finish(run)
    return run.operation


async def test_a_load_that_was_put_back_is_done_again_where_it_does_not_serve(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2", "e3")
    async with world.database.read() as tx:
        etag = (await placement.decide(tx, LOAD)).etag
    operation = await failed(world, LOAD.model_copy(update={"plan": etag}))
    assert (await retry(world, operation)).only == ("e1", "e2", "e3")
    assert (await retry(world, operation)).plan is None
    await world.load(ref, engines=("e2",))
    again = await retry(world, operation)
    assert (again.only, again.engines) == (("e1", "e3"), None)
    await world.load(ref)
    assert await refused(world, operation)


async def test_a_load_that_never_came_to_an_engine_is_asked_for_as_it_was(world: World) -> None:
    await world.publish()
    await world.engines("e1")
    run = await world.start(new_placement(LOAD))
    assert await refused(world, run.operation)  # it runs
    await world.finish(run, OperationState.ABORTED)
    assert await retry(world, run.operation) == LOAD


async def test_what_best_effort_could_not_reach_is_done_again_alone(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2", "e3")
    request = LOAD.model_copy(update={"policy": LoadPolicy.BEST_EFFORT, "min_ready": 2})
    run, plan = await world.plan_load(request)
    await world.stage(run, plan)
    async with world.database.transaction() as tx:
        await loading.commit_load(tx, run, plan, plan.targets[:2], {"e3": "engine_error"})
    again = await retry(world, run.operation)
    assert (again.only, again.min_ready) == (("e3",), 1)
    await world.renew(report("e1", "life-2"), report("e2"), report("e3"))
    assert (await retry(world, run.operation)).only == ("e3",)  # what died since is the reconciler's
    retried, plan = await world.plan_load(again)
    assert [target.engine for target in plan.targets] == ["e3"]
    await world.stage(retried, plan)
    async with world.database.transaction() as tx:
        await loading.commit_load(tx, retried, plan, plan.targets, {})
    assert await refused(world, run.operation)
    assert ref.version == 1


async def test_what_was_unloaded_since_is_not_loaded_by_a_retry(world: World) -> None:
    await world.publish()
    await world.engines("e1", "e2")
    run, plan = await world.plan_load(LOAD.model_copy(update={"policy": LoadPolicy.BEST_EFFORT}))
    await world.stage(run, plan)
    async with world.database.transaction() as tx:
        await loading.commit_load(tx, run, plan, plan.targets[:1], {"e2": "engine_error"})
    gone, unload = await world.plan_unload()
    async with world.database.transaction() as tx:
        await unloading.withdraw(tx, gone, unload)
    async with world.database.transaction() as tx:
        await unloading.commit_unload(tx, gone, unload)
    assert await refused(world, run.operation)
    assert await refused(world, gone.operation)


async def test_a_publish_and_an_unload_that_failed_are_asked_for_as_they_were(world: World) -> None:
    published = await world.start(new_publish())
    await world.finish(published)
    assert await retry(world, published.operation) == PublishRequest(adapter="greeter", uri=SOURCE)
    ref = await world.publish()
    await world.engines("e1")
    await world.load(ref)
    request = UnloadRequest(adapter="greeter", pool="default", version=1, drain_seconds=1)
    run = await world.start(new_placement(request))
    async with world.database.transaction() as tx:
        steps = [StepReport(name="drain", engine="e1", state=StepState.FAILED)]
        await operation_steps.record_steps(tx, run.operation, steps)
    await world.finish(run)
    assert await retry(world, run.operation) == request


async def test_there_is_no_retry_of_what_never_was(world: World) -> None:
    with pytest.raises(LoradockError, match="operation_not_found"):
        await retry(world, "op-none")
