"""A retry asks for what failed, and for nothing else."""

from typing import Any

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import OperationState, RunRef, StepReport, StepState
from loradock.core.requests import LoadPolicy, LoadRequest, PublishRequest, UnloadRequest
from loradock.registry import loading, operation_steps, placement, retrying, runs, unloading
from tests.registry.world import SOURCE, World, new_placement, new_publish, report, run_of

LOAD = LoadRequest(adapter="greeter", version=1, pool="default")


async def retry(world: World, operation: str) -> Any:
    async with world.database.read() as tx:
        return await retrying.retry_request(tx, operation)


async def refused(world: World, operation: str) -> bool:
    with pytest.raises(LoradockError) as caught:
        await retry(world, operation)
    return caught.value.code == "operation_not_retryable"


async def too_late(world: World, operation: str) -> bool:
    """Whether a retry that holds the lock already is refused all the same."""
    with pytest.raises(LoradockError) as caught:
        async with world.database.read() as tx:
            await retrying.check_timely(tx, operation)
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


async def replaced(world: World, version: int) -> str:
    """The version took the place of the others; gives the unload of those, which has yet to begin."""
    run, plan = await world.plan_load(LOAD.model_copy(update={"version": version, "replace": True}))
    await world.stage(run, plan)
    async with world.database.transaction() as tx:
        result = await loading.commit_load(tx, run, plan, plan.targets, {})
    assert result.next is not None
    return result.next


async def begun(world: World, operation: str) -> RunRef:
    run = run_of(await world.operation(operation))
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [])
    return run


async def unloaded(world: World, operation: str) -> None:
    run = await begun(world, operation)
    request = UnloadRequest.model_validate((await world.operation(operation)).request)
    async with world.database.transaction() as tx:
        plan = await unloading.plan_unload(tx, run, request)
        await unloading.withdraw(tx, run, plan)
        await unloading.commit_unload(tx, run, plan)


async def published(world: World, *seeds: str) -> None:
    """Versions 1, 2 … of these weights; the first one serves."""
    first, *_ = [await world.publish(seed=seed) for seed in seeds]
    await world.engines("e1")
    await world.load(first)


async def test_an_old_unload_of_what_was_replaced_does_not_take_down_what_came_after(world: World) -> None:
    await published(world, "one", "two", "three")
    old = await replaced(world, 2)
    await world.finish(await begun(world, old))  # its drain took too long
    assert (await retry(world, old)).keep_version == 2
    await unloaded(world, await replaced(world, 3))
    assert await world.states() == {"greeter@3 on e1": "serving"}
    assert await refused(world, old)
    assert await too_late(world, old)
    request = UnloadRequest.model_validate((await world.operation(old)).request)
    with pytest.raises(LoradockError, match="version_not_loaded"):  # nor does a Reset of its workflow
        async with world.database.read() as tx:
            await unloading.check_unload(tx, request)


async def test_an_unload_of_all_but_one_is_not_done_again_while_that_one_does_not_serve(world: World) -> None:
    await published(world, "one", "two")
    old = await replaced(world, 2)
    await world.finish(await begun(world, old))
    await world.renew(report("e1", reachable=False))
    assert await refused(world, old)
    await world.renew(report("e1", resident=("greeter@1", "greeter@2")))
    assert (await retry(world, old)).keep_version == 2


async def test_an_unload_is_not_done_again_when_what_it_means_was_loaded_since(world: World) -> None:
    await published(world, "one", "two")
    alone = UnloadRequest(adapter="greeter", pool="default", version=1)
    all_of_it = UnloadRequest(adapter="greeter", pool="default")
    elsewhere = UnloadRequest(adapter="greeter", pool="default", engines=("e2",))
    old = []
    for request in (alone, all_of_it, elsewhere):
        run = await world.start(new_placement(request))
        await world.finish(run)
        old.append(run.operation)
    await world.load(await world.publish(seed="two"))
    assert await retry(world, old[0]) == alone
    assert await refused(world, old[1])
    assert await retry(world, old[2]) == elsewhere
    await world.load(await world.publish(seed="one"))
    assert await refused(world, old[0])


async def test_a_load_that_was_to_replace_takes_no_traffic_from_what_came_after(world: World) -> None:
    await published(world, "one", "two", "three")
    replacing = LOAD.model_copy(update={"version": 2, "replace": True})
    run = await world.start(new_placement(replacing))
    await world.finish(run)
    assert await retry(world, run.operation) == replacing
    beside = await failed(world, LOAD.model_copy(update={"version": 2}))
    await unloaded(world, await replaced(world, 3))
    assert await refused(world, run.operation)
    assert await too_late(world, run.operation)
    assert (await retry(world, beside)).version == 2  # it moves no traffic


async def test_a_way_back_to_an_older_version_that_failed_is_done_again(world: World) -> None:
    await published(world, "one", "two")
    await world.finish(await begun(world, await replaced(world, 2)))
    back = await failed(world, LOAD.model_copy(update={"replace": True}))
    await world.renew(report("e1", "life-2"))
    assert (await retry(world, back)).version == 1
