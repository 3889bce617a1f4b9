"""CollectGarbage: what fails is noted, the rest goes on; its schedule is made once and follows the settings."""

import uuid
from datetime import timedelta

from temporalio.client import ScheduleOverlapPolicy, ScheduleState

from loradock.core.ids import LIFECYCLE_QUEUE
from loradock.core.settings import load_settings
from tests.workflows.conftest import Bench
from tests.workflows.world import DIGEST, World
from worker.collection import SCHEDULE_ID, ensure_schedule
from workflows.collect_garbage import CollectInput, CollectResult


async def _collect(bench: Bench, world: World) -> CollectResult:
    return await bench.client.execute_workflow(
        "CollectGarbage",
        CollectInput(),
        id=f"collect-{uuid.uuid4().hex}",
        task_queue=LIFECYCLE_QUEUE,
        result_type=CollectResult,
    )


async def test_everything_is_seen_to_and_recorded(bench: Bench) -> None:
    world = World()
    world.state.stored.add(DIGEST)
    async with bench.workers(world):
        result = await _collect(bench, world)
    assert result == CollectResult(
        retired=1,
        artifacts=1,
        artifact_bytes=10,
        evicted=2,
        evicted_bytes=10,
        uploads=1,
        staged=0,
        failures=0,
    )
    assert world.state.stored == set()
    (record,) = world.collections
    assert [cache.agent for cache in record.caches] == ["agent-of-engine-1", "agent-of-engine-2"]


async def test_what_fails_is_noted_and_the_rest_goes_on(bench: Bench) -> None:
    world = World()
    world.state.stored.add(DIGEST)
    world.fail("collect_cache", engine="engine-1", code="disk_error")
    world.fail("delete_artifact", code="store_denied")
    async with bench.workers(world):
        result = await _collect(bench, world)
    assert (result.failures, result.evicted, result.artifacts) == (2, 1, 0)
    (record,) = world.collections
    assert {what: failure.code for what, failure in record.failures.items()} == {
        "agent-of-engine-1": "disk_error",
        DIGEST: "store_denied",
    }


async def test_a_host_that_does_not_answer_holds_up_nobody(skipping_bench: Bench) -> None:
    world = World()
    async with skipping_bench.workers(world, hosts=False):
        result = await _collect(skipping_bench, world)
    assert (result.failures, result.evicted) == (2, 0)
    assert {failure.code for failure in world.collections[0].failures.values()} == {"agent_unreachable"}


async def test_the_schedule_is_made_once_and_follows_the_settings(bench: Bench) -> None:
    handle = bench.client.get_schedule_handle(SCHEDULE_ID)
    try:
        for hours in (1, 1, 2):
            settings = load_settings(collect_every_seconds=hours * 3600, collect_keep_versions=3)
            await ensure_schedule(bench.client, settings)
            found = (await handle.describe()).schedule
            assert found.spec.intervals[0].every == timedelta(hours=hours)
        assert found.policy.overlap is ScheduleOverlapPolicy.SKIP
        assert found.policy.catchup_window <= timedelta(minutes=1)
        assert found.spec.jitter == timedelta(minutes=12)
        await handle.pause(note="by hand")
        await ensure_schedule(bench.client, settings)
        assert (await handle.describe()).schedule.state == ScheduleState(paused=True, note="by hand")
    finally:
        await handle.delete()


async def test_the_schedule_starts_the_workflow(bench: Bench) -> None:
    world = World()
    await ensure_schedule(bench.client, load_settings())
    handle = bench.client.get_schedule_handle(SCHEDULE_ID)
    try:
        async with bench.workers(world):
            await handle.trigger()
            while not world.collections:
                found = [
                    run
                    async for run in bench.client.list_workflows("WorkflowType = 'CollectGarbage'", limit=20)
                ]
                for run in found:
                    if run.id.startswith(SCHEDULE_ID):
                        await bench.client.get_workflow_handle(run.id, run_id=run.run_id).result()
    finally:
        await handle.delete()
    assert len(world.collections) == 1
