"""The service's own parts, put together for one test: what runs in processes elsewhere runs in its loop here."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client

from activities.artifacts import ArtifactActivities
from activities.collection import CollectionActivities
from activities.engines import EngineActivities
from activities.host_cache import CacheActivities
from activities.progress import TransferSlots
from loradock.artifacts.cache import HostCache
from loradock.artifacts.protocol import ObjectStore
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.core.ids import workflow_id
from loradock.core.models import OperationKind, OperationState, VersionRef
from loradock.core.reconcile import ReconcileRules
from loradock.core.requests import LoadRequest, UnloadRequest
from loradock.engines.protocol import Engine
from loradock.registry import versions
from loradock.registry.database import Database
from loradock.registry.views import OperationView
from tests.activities.parts import Reports
from tests.registry.world import BASE, World, new_placement, new_publish, report
from worker.agent import host_workers
from worker.orchestrator import lifecycle_worker, transfer_worker
from workflows.inputs import OperationStart
from workflows.starting import start_operation


@dataclass
class Service:
    """Postgres, Temporal and an object store, and what an operator does with them.

    Attributes:
        client: of a namespace that nobody else uses.
    """

    client: Client
    database: Database
    registry: World
    objects: ObjectStore
    root: Path
    rules: ReconcileRules = field(default_factory=ReconcileRules)

    @asynccontextmanager
    async def orchestrating(self) -> AsyncIterator[None]:
        """An orchestrator's worker; no relay and no sweeper."""
        staging = Staging(self.root / "staging", FileSource([self.root]), max_bytes=2**30)
        artifacts_store = ArtifactStore(self.objects, "store://x")
        artifacts = ArtifactActivities(staging, artifacts_store, TransferSlots(4))
        with ThreadPoolExecutor(100) as executor:
            collection = CollectionActivities(self.database, artifacts_store, staging)
            lifecycle = lifecycle_worker(self.client, self.database, collection, executor, rules=self.rules)
            async with lifecycle, transfer_worker(self.client, artifacts, executor):
                yield

    @asynccontextmanager
    async def hosting(self, engines: Mapping[str, Engine]) -> AsyncIterator[None]:
        """Agent `host-1` beside these engines; its lease is renewed once, for long."""
        reports = Reports()
        cache = HostCache(self.root / "cache", ArtifactStore(self.objects))
        on_cache = CacheActivities(cache, engines, reports, TransferSlots(4))
        with ThreadPoolExecutor(100) as executor:
            io, calls = host_workers(
                self.client, "host-1", on_cache, EngineActivities(engines, reports), executor
            )
            async with io, calls:
                yield

    async def join(self, engines: Mapping[str, Engine]) -> None:
        """Let the registry know the engines as alive."""
        states = {name: await engine.state() for name, engine in engines.items()}
        reports = [report(name, incarnation=state.incarnation) for name, state in states.items()]
        await self.registry.renew(*reports, seconds=600)

    async def publish(self, folder: Path, adapter: str = "greeter") -> VersionRef:
        """Publish an adapter; an orchestrator must run."""
        new = new_publish(adapter, uri=folder.as_uri(), base_model=BASE)
        operation = await self.registry.submit(new)
        ended = await self.ended(operation, await self.start(operation))
        assert ended.state is OperationState.SUCCEEDED, ended.error
        assert ended.version is not None
        async with self.database.read() as tx:
            return versions.version_ref(await versions.require(tx, ended.adapter, ended.version))

    async def submit_load(self, ref: VersionRef) -> OperationView:
        """A load that is committed and not started."""
        request = LoadRequest(adapter=ref.adapter, version=ref.version, pool="default")
        return await self.registry.submit(new_placement(request))

    async def submit_unload(self, ref: VersionRef, drain_seconds: float = 30) -> OperationView:
        """An unload that is committed and not started."""
        request = UnloadRequest(
            adapter=ref.adapter, version=ref.version, pool="default", drain_seconds=drain_seconds
        )
        return await self.registry.submit(new_placement(request))

    async def load(self, ref: VersionRef) -> None:
        """Load a version; an orchestrator and its host must run."""
        operation = await self.submit_load(ref)
        ended = await self.ended(operation, await self.start(operation))
        assert ended.state is OperationState.SUCCEEDED, ended.error

    async def start(self, operation: OperationView) -> str:
        """Start an operation's workflow as the API does; the run's id."""
        start = OperationStart(operation=operation.id, epoch=operation.epoch, actor=operation.requested_by)
        run = await start_operation(
            self.client, start=start, kind=OperationKind(operation.kind), request=operation.request
        )
        assert run is not None
        return run

    async def ended(self, operation: OperationView, run: str | None = None) -> OperationView:
        """The operation when its workflow has ended."""
        handle = self.client.get_workflow_handle(workflow_id(operation.id), run_id=run)
        with suppress(Exception):  # how it ended stands in the row
            await asyncio.wait_for(handle.result(), 60)
        return await self.registry.operation(operation.id)

    async def recovered(self, operation: OperationView) -> OperationView:
        """The operation when its recovery has ended."""
        handle = self.client.get_workflow_handle(f"{workflow_id(operation.id)}/recover")
        await asyncio.wait_for(handle.result(), 60)
        return await self.registry.operation(operation.id)

    async def run_id(self, operation: OperationView) -> str | None:
        """Which run the operation's workflow is."""
        return (await self.client.get_workflow_handle(workflow_id(operation.id)).describe()).run_id


class Line:
    """A TCP line to a server, which can be slow, and be cut.

    Attributes:
        rate: bytes per second towards the client, None for all that comes.
        carried: bytes that went to the client.
    """

    def __init__(self, host: str, port: int) -> None:
        self.rate: float | None = None
        self.carried = 0
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, port: int = 0) -> int:
        """Listen; gives the port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        listening: int = self._server.sockets[0].getsockname()[1]
        return listening

    async def cut(self) -> None:
        """End all connections, and listen no more."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection(*self._to)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(reader, back, slow=False))
                    pumps.create_task(self._pump(there, writer, slow=True))
            finally:
                back.close()
        except (OSError, asyncio.CancelledError, BaseExceptionGroup):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await reader.read(2048 if slow and self.rate else 65536):
            if slow:
                self.carried += len(data)
                await asyncio.sleep(len(data) / self.rate if self.rate else 0)
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()
