"""Progress on its way to the API: from any thread, never in the way, and never more than a queueful."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.server import ApiServer
from loradock.core.models import StepReport, StepState
from loradock.core.requests import LoadRequest
from tests.registry.world import World
from tests.worker.conftest import AGENT_TOKEN
from worker import control_plane as control_plane_module
from worker.control_plane import ControlPlane


def step(number: int = 0, name: str = "download") -> StepReport:
    return StepReport(name=name, engine="e1", state=StepState.RUNNING, attempt=1, detail={"bytes": number})


@asynccontextmanager
async def sending(plane: ControlPlane) -> AsyncIterator[None]:
    task = asyncio.create_task(plane.send_reports())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def plane(api: ApiServer) -> AsyncIterator[ControlPlane]:
    plane = ControlPlane(api.url, AGENT_TOKEN, "host-1")
    yield plane
    await plane.aclose()


@pytest.fixture
async def operation(registry: World) -> str:
    """A load that runs on e1."""
    ref = await registry.publish()
    await registry.engines("e1")
    run, _ = await registry.plan_load(LoadRequest(adapter=ref.adapter, version=ref.version, pool="default"))
    return run.operation


async def told(registry: World, operation: str, number: int) -> None:
    """Wait until the operation's row shows this report."""
    async with asyncio.timeout(10):
        while True:
            steps = (await registry.operation(operation)).steps
            if any(one.detail.get("bytes") == number for one in steps):
                return
            await asyncio.sleep(0.01)


async def test_progress_told_from_a_thread_is_sent_at_once(
    plane: ControlPlane, registry: World, operation: str
) -> None:
    asyncio.get_running_loop().set_debug(True)  # asyncio then refuses what is not for threads
    async with sending(plane):
        await asyncio.sleep(0)
        for number in (1, 2):
            thread = threading.Thread(target=plane.report, args=(operation, step(number)))
            thread.start()
            await told(registry, operation, number)
            thread.join()


async def test_progress_told_before_anybody_sends_is_sent_in_its_order(
    plane: ControlPlane, registry: World, operation: str
) -> None:
    for number in range(1, 20):
        plane.report(operation, step(number))
    async with sending(plane):
        await told(registry, operation, 19)


async def test_a_report_that_is_refused_holds_up_nothing(
    plane: ControlPlane, registry: World, operation: str
) -> None:
    async with sending(plane):
        plane.report("op-of-nobody", step(1))
        plane.report(operation, step(2))
        await told(registry, operation, 2)


async def test_when_too_many_wait_the_oldest_are_dropped(
    api: ApiServer, registry: World, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane_module, "PROGRESS_QUEUE", 10)
    plane = ControlPlane(api.url, AGENT_TOKEN, "host-1")
    for number in range(15):
        plane.report(operation, step(number, name=f"step-{number}"))
    async with sending(plane):
        await told(registry, operation, 14)
    await plane.aclose()
    names = {one.name for one in (await registry.operation(operation)).steps}
    assert {name for name in names if name.startswith("step-")} == {
        f"step-{number}" for number in range(5, 15)
    }


async def test_telling_never_waits_and_never_fails_while_the_api_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    plane = ControlPlane(f"http://127.0.0.1:{port}", AGENT_TOKEN, "host-1")
    async with sending(plane):
        for number in range(50):
            plane.report("op-1", step(number))
            await asyncio.sleep(0)
    await plane.aclose()
    plane.report("op-1", step())


def test_telling_after_the_end_of_the_loop_does_not_fail() -> None:
    async def life() -> ControlPlane:
        plane = ControlPlane("http://127.0.0.1:9", AGENT_TOKEN, "host-1")
        async with sending(plane):
            await asyncio.sleep(0)
        await plane.aclose()
        return plane

    plane = asyncio.run(life())
    plane.report("op-1", step())


def test_the_token_is_in_no_representation() -> None:
    plane = ControlPlane("http://127.0.0.1:9", AGENT_TOKEN, "host-1")
    assert AGENT_TOKEN not in repr(vars(plane)) + repr(vars(plane._http))
