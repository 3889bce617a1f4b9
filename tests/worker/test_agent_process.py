"""The host agent as the process that it is: asked to stop, killed, replaced; the work goes on all the same."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio.client import WorkflowFailureError

from api.server import ApiServer
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.stores.s3 import S3Store
from loradock.core.ids import LIFECYCLE_QUEUE
from loradock.core.models import OperationState, RunRef, VersionRef
from loradock.core.requests import EngineTarget
from loradock.dev.child import Child
from loradock.engines import EngineState, VllmEngine
from loradock.registry.agents import expire_leases
from loradock.registry.engines import list_engines
from loradock.registry.views import OperationView
from tests.activities.conftest import ENGINE_TOKEN
from tests.fixtures.infra import ObjectStoreServer
from tests.worker.conftest import AGENT_TOKEN
from tests.worker.processes import AgentPlace, EngineProcess
from tests.worker.service import Line, Service
from workflows.inputs import UnloadFromEngineInput

pytestmark = pytest.mark.slow


@dataclass
class Site:
    """A service whose host is made of real processes.

    Attributes:
        line: between the host and the object store.
        agent: makes an agent's process, number by number; all of them end with the test.
    """

    service: Service
    engine: EngineProcess
    line: Line
    agent: Callable[..., Child]

    async def start(self, agent: Child) -> None:
        agent.start()
        await asyncio.to_thread(agent.wait_ready)

    async def alive(self) -> None:
        """Wait until the registry knows the engine."""
        async with asyncio.timeout(20):
            while not await self._is_alive():
                await asyncio.sleep(0.05)

    async def owner(self) -> str:
        """The agent whose lease the engine has."""
        async with self.service.database.read() as tx:
            (engine,) = (await list_engines(tx)).items
        return "nobody" if engine.status == "lost" else engine.agent

    async def _is_alive(self) -> bool:
        async with self.service.database.read() as tx:
            return any(one.status == "alive" for one in (await list_engines(tx)).items)

    async def ready(self, folder: Path) -> VersionRef:
        """The version that is to be loaded, while a first agent and its engine are alive."""
        await self.alive()
        return await self.service.publish(folder)

    async def at_step(self, operation: OperationView, name: str) -> None:
        """Wait until a step of the operation runs."""
        async with asyncio.timeout(20):
            while True:
                steps = (await self.service.registry.operation(operation.id)).steps
                if any(one.name == name and one.state == "running" for one in steps):
                    return
                await asyncio.sleep(0.02)

    async def state(self) -> EngineState:
        driver = VllmEngine(self.engine.url, SecretStr(ENGINE_TOKEN))
        try:
            return await driver.state()
        finally:
            await driver.aclose()


@pytest.fixture
async def site(
    service: Service,
    api: ApiServer,
    object_store_server: ObjectStoreServer,
    temporal_dev_server: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> AsyncIterator[Site]:
    for name, value in object_store_server.environment.items():
        monkeypatch.setenv(name, value)
    server = object_store_server
    bucket = server.bucket()
    service.objects = S3Store(s3_client(endpoint=server.endpoint, region=server.region), bucket)
    host, _, port = server.endpoint.removeprefix("http://").rpartition(":")
    line = Line(host, int(port))
    endpoint = f"http://127.0.0.1:{await line.open()}"
    engine = EngineProcess(tmp_path, load_seconds=2.0)
    engine.start()
    place = AgentPlace(
        folder=tmp_path,
        api=api.url,
        agent_token=AGENT_TOKEN,
        temporal=temporal_dev_server,
        namespace=service.client.namespace,
        engine=engine.url,
        store={
            "LORADOCK_OBJECT_STORE": f"s3://{bucket}",
            "LORADOCK_OBJECT_STORE_ENDPOINT": endpoint,
            "LORADOCK_OBJECT_STORE_REGION": server.region,
            **server.environment,
        },
    )
    agents: list[Child] = []

    def agent(agent_id: str = "host-1") -> Child:
        agents.append(place.agent(len(agents) + 1, agent_id))
        return agents[-1]

    yield Site(service, engine, line, agent)
    for child in agents:
        child.kill(signal.SIGKILL)
        await asyncio.to_thread(child.stop)
    await asyncio.to_thread(engine.stop)
    await line.cut()


async def test_an_agent_asked_to_stop_in_the_middle_of_a_download_ends_it_first(
    site: Site, folder: Path
) -> None:
    service, first = site.service, site.agent()
    async with service.orchestrating():
        await site.start(first)
        ref = await site.ready(folder)
        operation = await service.submit_load(ref)
        site.line.rate, site.line.carried = 30_000, 0  # two seconds for all of it
        run = await service.start(operation)
        async with asyncio.timeout(20):
            while site.line.carried < 10_000:
                await asyncio.sleep(0.02)
        first.kill(signal.SIGTERM)
        async with asyncio.timeout(15):
            while first.running:
                await asyncio.sleep(0.05)
        assert first.returncode == 0, first.tail()
        assert list((site.service.root / "cache").glob("*/sha256-*/adapter_model.safetensors"))
        await site.start(site.agent())
        ended = await service.ended(operation, run)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    assert {step.name: step.attempt for step in ended.steps}["download"] == 1
    assert [one.served_name for one in (await site.state()).adapters] == [ref.served_name]


async def test_an_agent_killed_in_the_middle_of_a_load_is_taken_up_by_the_next(
    site: Site, folder: Path
) -> None:
    service, first = site.service, site.agent()
    async with service.orchestrating():
        await site.start(first)
        ref = await site.ready(folder)
        operation = await service.submit_load(ref)
        run = await service.start(operation)
        await site.at_step(operation, "load")
        first.kill(signal.SIGKILL)
        await site.start(site.agent())
        ended = await service.ended(operation, run)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    assert {step.name: step.attempt for step in ended.steps} == {"download": 1, "load": 2, "verify": 2}
    assert set((await service.registry.states()).values()) == {"serving"}
    assert [one.served_name for one in (await site.state()).adapters] == [ref.served_name]


async def test_an_agent_whose_place_is_taken_stops_by_itself(site: Site) -> None:
    first, second = site.agent(), site.agent()
    await site.start(first)
    await site.alive()
    await site.start(second)
    async with asyncio.timeout(15):
        while first.running:
            await asyncio.sleep(0.05)
    assert first.returncode not in (0, None)
    assert "another process has taken this agent's place" in first.tail()
    assert second.running


async def test_a_paused_agent_that_wakes_up_late_learns_that_its_engine_is_anothers_and_does_nothing_to_it(
    site: Site, folder: Path
) -> None:
    service, first, second = site.service, site.agent(), site.agent("host-2")
    async with service.orchestrating():
        await site.start(first)
        ref = await site.ready(folder)
        target = EngineTarget(engine="e1", agent="host-1", incarnation=(await site.state()).incarnation)
        first.kill(signal.SIGSTOP)
        async with asyncio.timeout(30):
            while await site.owner() != "nobody":
                async with service.database.transaction() as tx:
                    await expire_leases(tx)
                await asyncio.sleep(0.1)
        await site.start(second)
        await site.alive()
        first.kill(signal.SIGCONT)
        async with asyncio.timeout(15):
            while "does not cover engine e1" not in first.tail():
                await asyncio.sleep(0.05)
        assert await site.owner() == "host-2"
        # Work that was meant for it while the engine was its own.
        run = RunRef(operation="op-late", run_id="late", epoch=0)
        with pytest.raises(WorkflowFailureError) as failed:
            await service.client.execute_workflow(
                "UnloadFromEngine",
                UnloadFromEngineInput(
                    run=run, actor="tester", target=target, ref=ref, pool="default", bounded=True
                ),
                id="late",
                task_queue=LIFECYCLE_QUEUE,
            )
        assert getattr(failed.value.cause, "type", None) == "lease_lost"
        operation = await service.submit_load(ref)
        ended = await service.ended(operation, await service.start(operation))
        assert ended.state is OperationState.SUCCEEDED, ended.error
    assert [one.served_name for one in (await site.state()).adapters] == [ref.served_name]
    assert first.running
