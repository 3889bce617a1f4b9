"""The saga helper against each way in which the published ones lose."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import Worker

from tests.workflows.conftest import Bench
from worker.temporal import workflow_runner

with workflow.unsafe.imports_passed_through():
    from workflows.saga import Saga, finish_despite_cancel

QUEUE = "saga-tests"


@workflow.defn
class SagaProbe:
    """Registers two undos, then waits in one of several ways; tells what was undone."""

    def __init__(self) -> None:
        self.undone: list[str] = []
        self.undoing = False
        self.go_on = False
        self.waiting = False
        self.at_once = 0
        self.most_at_once = 0

    @workflow.run
    async def run(self, way: str) -> list[str]:
        saga = Saga()
        saga.before("first", lambda: self._undo("first"))
        broken = saga.before("second", lambda: self._undo("second", fails=way == "failing undo"))
        if way == "dropped":
            broken.drop()
        saga.before("third", lambda: self._undo("third"))
        if way == "group":
            group = saga.group(2)
            for name in "abc":
                group.before(name, lambda name=name: self._undo(name, fails=name == "b"))  # type: ignore[misc]
        try:
            self.waiting = True
            await self._wait(way)
        except (asyncio.CancelledError, Exception):
            failed = await saga.compensate(lambda: self._permit(way))
            self.undone += [f"failed {line}" for line in failed]
            raise
        return self.undone

    async def _wait(self, way: str) -> None:
        match way:
            case "timer":
                await workflow.sleep(timedelta(hours=1))
            case "condition":
                await workflow.wait_condition(lambda: False)
            case "swallowed":
                await Saga.checked(self._swallow())
            case "pivot":
                await Saga.pivot(lambda: workflow.wait_condition(lambda: self.go_on))
            case _:
                raise ApplicationError("the step fails", type="engine_error")

    async def _swallow(self) -> None:
        try:
            await workflow.wait_condition(lambda: False)
        except asyncio.CancelledError:
            return

    async def _permit(self, way: str) -> None:
        if way == "not permitted":
            raise ApplicationError("it is another run's", type="operation_superseded", non_retryable=True)

    async def _undo(self, name: str, *, fails: bool = False) -> None:
        self.undoing = True
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await workflow.sleep(timedelta(milliseconds=200))
        self.at_once -= 1
        if fails:
            raise ApplicationError("no", type="unload_failed", non_retryable=True)
        self.undone.append(name)

    @workflow.query
    def undone_so_far(self) -> list[str]:
        return self.undone

    @workflow.query
    def most_undos_at_once(self) -> int:
        return self.most_at_once

    @workflow.query
    def is_undoing(self) -> bool:
        return self.undoing

    @workflow.query
    def is_waiting(self) -> bool:
        return self.waiting

    @workflow.signal
    def proceed(self) -> None:
        self.go_on = True


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[Client]:
    async with Worker(
        bench.client, task_queue=QUEUE, workflows=[SagaProbe], workflow_runner=workflow_runner()
    ):
        yield bench.client


async def start(client: Client, way: str) -> WorkflowHandle[SagaProbe, list[str]]:
    handle = await client.start_workflow(SagaProbe.run, way, id=f"saga-{uuid.uuid4().hex}", task_queue=QUEUE)
    async with asyncio.timeout(10):
        while not await handle.query(SagaProbe.is_waiting):
            await asyncio.sleep(0.01)
    return handle


async def cancelled(handle: WorkflowHandle[SagaProbe, list[str]]) -> None:
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, CancelledError)


@pytest.mark.parametrize("way", ["timer", "condition", "swallowed"])
async def test_a_cancel_undoes_wherever_it_lands_last_first(client: Client, way: str) -> None:
    handle = await start(client, way)
    await handle.cancel()
    await cancelled(handle)
    assert await handle.query(SagaProbe.undone_so_far) == ["third", "second", "first"]


async def test_further_cancels_do_not_cut_the_undos(client: Client) -> None:
    handle = await start(client, "timer")
    await handle.cancel()
    while not await handle.query(SagaProbe.is_undoing):
        await asyncio.sleep(0.01)
    await handle.cancel()
    await handle.cancel()
    await cancelled(handle)
    assert await handle.query(SagaProbe.undone_so_far) == ["third", "second", "first"]


async def test_a_failed_undo_does_not_keep_the_others_from_running_and_the_first_error_counts(
    client: Client,
) -> None:
    handle = await start(client, "failing undo")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "engine_error"
    undone = await handle.query(SagaProbe.undone_so_far)
    assert undone[:2] == ["third", "first"]
    assert undone[2].startswith("failed second: unload_failed")


async def test_the_undos_of_a_group_run_beside_each_other_bounded_and_before_what_came_earlier(
    client: Client,
) -> None:
    handle = await start(client, "group")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    undone = await handle.query(SagaProbe.undone_so_far)
    assert set(undone[:2]) == {"a", "c"}
    assert undone[2:4] == ["third", "second"]
    assert undone[4] == "first"
    assert undone[5].startswith("failed b: unload_failed")
    assert await handle.query(SagaProbe.most_undos_at_once) == 2


async def test_nothing_is_undone_that_the_registry_does_not_permit(client: Client) -> None:
    handle = await start(client, "not permitted")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    (told,) = await handle.query(SagaProbe.undone_so_far)
    assert told.startswith("failed not permitted: operation_superseded")


async def test_a_dropped_undo_does_not_run(client: Client) -> None:
    handle = await start(client, "dropped")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert await handle.query(SagaProbe.undone_so_far) == ["third", "first"]


async def test_a_cancel_after_the_point_of_no_return_changes_nothing(client: Client) -> None:
    handle = await start(client, "pivot")
    await handle.cancel()
    await handle.signal(SagaProbe.proceed)
    assert await handle.result() == []


async def test_work_that_must_finish_gives_its_result_however_often_its_caller_is_cancelled() -> None:
    release = asyncio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    task = asyncio.create_task(finish_despite_cancel(work))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    release.set()
    assert await task == "done"
