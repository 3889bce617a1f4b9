"""The whole stack in one object: started in the order that is quickest, stopped without a trace."""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from loradock.core.errors import LoradockError
from loradock.core.settings import EngineKind, Settings
from loradock.dev.child import describe_exit
from loradock.dev.dev_file import DevInfo
from loradock.dev.engines import EngineStarter, Fleet
from loradock.dev.files import read_or_create_secret, temporary_folder
from loradock.dev.infrastructure import StorePlace, TemporalPlace, start_postgres, start_store, start_temporal
from loradock.dev.lock import StackLock
from loradock.dev.options import StackOptions
from loradock.dev.ports import PortPool
from loradock.dev.processes import ServiceAddresses
from loradock.dev.records import ProcessRecords
from loradock.dev.samples import Samples
from loradock.dev.supervisor import OnEvent, PartEvent, PartState, Supervisor

_ALIVE_TIMEOUT = 60.0


class Stack:
    """The embedded stack of one project folder.

    Args:
        options: what to start and what exists already.
        on_event: told about every part that is ready, crashed or stopped.
    """

    def __init__(self, options: StackOptions, on_event: OnEvent) -> None:
        self.options = options
        self.supervisor = Supervisor(options.state, on_event, restart_crashed=options.restart_crashed)
        self._on_event = on_event
        self._lock = StackLock(options.root / "lock")
        self._began = time.monotonic()
        self._info: DevInfo | None = None
        self._samples: Samples | None = None
        self._metrics: dict[str, str] = {}

    @property
    def info(self) -> DevInfo:
        """All addresses of the running stack.

        Raises:
            LoradockError: `stack_failed` before `start` is done.
        """
        if self._info is None:
            raise LoradockError("stack_failed", "the stack is not running")
        return self._info

    @property
    def samples(self) -> Samples | None:
        """The tiny base and its adapters, where the stack has them."""
        return self._samples

    async def __aenter__(self) -> Self:
        """Start, and stop again if that fails."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> DevInfo:
        """Start all parts; when this returns every engine is alive and `dev.json` is written.

        Raises:
            LoradockError: `stack_running`, `engine_environment_missing`, `stack_failed`, `setting_invalid`. Call
                `stop` after any of them.
        """
        self._lock.acquire()
        ports = self._clean_start()
        try:
            self._info = await self._start_parts(ports)
        except BaseExceptionGroup as group:
            # Not `except*`: what that raises is wrapped into a group again.
            known = group.subgroup(LoradockError)
            if known is None:
                raise
            raise _first(known) from None
        finally:
            ports.release()
        ports.save()
        self._info.write(self.options.dev_file)
        self._on_event(PartEvent("stack", PartState.READY, time.monotonic() - self._began))
        return self._info

    async def stop(self) -> None:
        """End all parts and free the folder; may be called at any time, also twice."""
        if not self._lock.held:
            return
        self.options.dev_file.unlink(missing_ok=True)
        self._info = None
        await self.supervisor.stop()
        temporary_folder(self.options.state).rmdir()
        self._lock.release()

    def kill_all(self) -> None:
        """End all parts at once, without asking: for the second Ctrl-C."""
        self.supervisor.kill_all()

    def _clean_start(self) -> PortPool:
        """Put away what an earlier run left, whatever its end was."""
        options = self.options
        options.dev_file.unlink(missing_ok=True)
        for records in options.root.glob("*/processes.json"):
            ProcessRecords(records).end_leftovers()
        stale = (
            [options.state]
            if options.ephemeral
            else [options.state / name for name in ("logs", "ready", "staging")]
        )
        for folder in stale:
            if folder.exists():
                shutil.rmtree(folder)
        options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return PortPool(options.state / "ports.json")

    async def _start_parts(self, ports: PortPool) -> DevInfo:
        options, supervisor = self.options, self.supervisor
        token_file = options.state / "secrets" / "engine-token"
        starter = EngineStarter(options, ports, supervisor, token_file)
        starter.check()
        read_or_create_secret(token_file)
        async with asyncio.TaskGroup() as tasks:
            # The engines take longest by far: they go first, everything else comes up meanwhile.
            fleet = tasks.create_task(starter.prepare())
            tasks.create_task(_start_engines(starter, fleet))
            database = tasks.create_task(start_postgres(options, ports, supervisor))
            temporal = tasks.create_task(start_temporal(options, ports, supervisor))
            store = tasks.create_task(start_store(options, ports, supervisor))
            service = tasks.create_task(self._start_service(ports, database, temporal, store, fleet))
        self._samples = fleet.result().samples
        info = self._describe(service.result(), temporal.result(), store.result(), fleet.result())
        await self._wait_alive(info)
        return info

    async def _start_service(
        self,
        ports: PortPool,
        database: asyncio.Task[str],
        temporal: asyncio.Task[TemporalPlace],
        store: asyncio.Task[StorePlace],
        fleet: asyncio.Task[Fleet],
    ) -> ServiceAddresses:
        """Migrations, then API and orchestrator, then the agents."""
        await asyncio.gather(database, temporal, store)
        service = self._addresses(ports, database.result(), temporal.result(), store.result())
        await self.supervisor.run(service.migrate())
        ports.release("api")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.supervisor.start(service.api_process()))
            orchestrator = service.orchestrator(self._metrics_port(ports, "orchestrator"))
            tasks.create_task(self.supervisor.start(orchestrator))
        engines = (await fleet).engines
        async with asyncio.TaskGroup() as tasks:
            for number, engine in enumerate(engines, start=1):
                name = f"agent-{number}"
                agent = service.agent(name, engine.id, engine.url, self._metrics_port(ports, name))
                tasks.create_task(self.supervisor.start(agent))
        return service

    def _metrics_port(self, ports: PortPool, part: str) -> int:
        """A port for a part's metrics, free for it to take."""
        port = ports.take(f"{part}-metrics")
        ports.release(f"{part}-metrics")
        self._metrics[part] = f"http://127.0.0.1:{port}/metrics"
        return port

    def _addresses(
        self, ports: PortPool, database_url: str, temporal: TemporalPlace, store: StorePlace
    ) -> ServiceAddresses:
        options, settings, secrets = self.options, self.options.settings, self.options.state / "secrets"
        given_token = settings.api_token.get_secret_value() if settings.api_token else ""
        own_engines = not settings.engines
        return ServiceAddresses(
            program=options.program,
            project=options.project.resolve(),
            state=options.state,
            api_port=ports.take("api"),
            temporal_address=temporal.address,
            temporal_ui=temporal.ui,
            database_url=database_url,
            object_store=store.info.uri,
            object_store_endpoint=store.info.endpoint,
            object_store_region=store.info.region,
            aws=store.aws,
            source_buckets=store.source_buckets,
            source_endpoint=settings.source_endpoint or (store.info.endpoint if store.aws else None),
            file_roots=_file_roots(options),
            api_token=given_token or read_or_create_secret(secrets / "api-token"),
            agent_token=read_or_create_secret(secrets / "agent-token"),
            engine_token=(
                read_or_create_secret(secrets / "engine-token")
                if own_engines
                else _token_of_external(settings)
            ),
            engine_kind=options.engine_kind.value if own_engines else settings.engine_kind.value,
        )

    def _describe(
        self, service: ServiceAddresses, temporal: TemporalPlace, store: StorePlace, fleet: Fleet
    ) -> DevInfo:
        samples = fleet.samples
        return DevInfo(
            api=service.api,
            token=service.api_token,
            temporal_ui=temporal.ui,
            temporal_address=temporal.address,
            database_url=service.database_url,
            object_store=store.info,
            engines=fleet.engines,
            base_model_dir=str(samples.base) if samples else None,
            adapters={name: str(folder) for name, folder in samples.adapters.items()} if samples else {},
            metrics={"api": f"{service.api}/metrics", **self._metrics},
        )

    async def _wait_alive(self, info: DevInfo) -> None:
        """Until the API says that every engine is alive.

        Raises:
            LoradockError: `stack_failed`.
        """
        wanted = {engine.id for engine in info.engines}
        headers = {"Authorization": f"Bearer {info.token}"}
        ends = time.monotonic() + _ALIVE_TIMEOUT
        async with httpx.AsyncClient(base_url=info.api, headers=headers, timeout=5.0) as client:
            while not wanted <= (alive := await _alive_engines(client)):
                self._check_running()
                if time.monotonic() > ends:
                    missing = ", ".join(sorted(wanted - alive))
                    raise LoradockError(
                        "stack_failed", f"the API does not see these engines alive: {missing}"
                    )
                await asyncio.sleep(0.1)

    def _check_running(self) -> None:
        """See that no part has ended meanwhile.

        Raises:
            LoradockError: `stack_failed`, with the part's last log lines.
        """
        for child in map(self.supervisor.child, self.supervisor.names):
            if not child.running:
                raise child.failure(f"ended with {describe_exit(child.returncode)}")


async def _start_engines(starter: EngineStarter, fleet: asyncio.Task[Fleet]) -> None:
    await starter.start(await fleet)


async def _alive_engines(client: httpx.AsyncClient) -> set[str]:
    try:
        reply = await client.get("/v1/engines", params={"limit": 200})
        items: list[dict[str, Any]] = reply.raise_for_status().json()["items"]
    except (httpx.HTTPError, ValueError, KeyError):
        return set()
    return {str(item["id"]) for item in items if item.get("status") == "alive"}


def _token_of_external(settings: Settings) -> str:
    """Of the extension of engines that are not ours; a stock vLLM has none."""
    return "" if settings.engine_kind is EngineKind.STOCK_VLLM else settings.require_engine_token()


def _file_roots(options: StackOptions) -> tuple[Path, ...]:
    """Folders that people publish from by hand: the samples, here, their home, the temp folder."""
    wanted = (options.samples_folder, options.project, Path.cwd(), Path.home(), Path(tempfile.gettempdir()))
    resolved = dict.fromkeys(folder.resolve() for folder in (*wanted, *options.settings.file_roots))
    return tuple(folder for folder in resolved if folder.is_dir() and folder != Path(folder.root))


def _first(group: BaseExceptionGroup[LoradockError]) -> LoradockError:
    """The first failure of a group, however deep: the others are its echoes."""
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
