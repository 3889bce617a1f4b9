"""The host agent: beside its engines, it keeps the host's cache, calls the engines and holds their lease."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from activities.engines import EngineActivities
from activities.failures import FailureInterceptor
from activities.host_cache import CacheActivities
from activities.host_work import HostWorkActivities
from activities.metering import Transfer
from activities.progress import PatientReporter, TransferSlots
from loradock.artifacts.build import open_cache
from loradock.artifacts.cache import HostCache
from loradock.core.errors import LoradockError
from loradock.core.ids import host_engine_queue, host_io_queue
from loradock.core.names import check_simple_name
from loradock.core.settings import Settings
from loradock.engines.protocol import Engine
from worker.cache_watch import CacheWatch
from worker.control_plane import ControlPlane
from worker.drivers import engine_maker
from worker.leases import HostIdentity, LeaseKeeper, Superseded
from worker.lifetime import run_until_stopped
from worker.listening import listen, server
from worker.loops import repeat
from worker.loras_proxy import LorasProxy
from worker.measured_engine import MeasuredEngine
from worker.metrics import AgentMetrics
from worker.metrics_listener import listening
from worker.temporal import GRACEFUL_SHUTDOWN, HEARTBEAT_THROTTLE, connect, measured_runtime

_log = logging.getLogger(__name__)

CACHE_CALLS_AT_ONCE = 100
"""Taken from the queue at once: far more than `DOWNLOADS_AT_ONCE`, so that a download that waits for its turn is seen to
be in living hands, and a release never waits behind downloads."""
DOWNLOADS_AT_ONCE = 4
CACHE_SWEEP_SECONDS = 3600.0
CACHE_COUNT_SECONDS = 20.0
LEFTOVERS_KEPT_SECONDS = 24 * 3600.0
"""Unfinished downloads are kept for so long, for a retry to go on from."""
ENGINE_CALLS_AT_ONCE = 500
"""The extension lets one load or unload in at a time by itself; long drains beside each other only wait."""


def host_workers(
    client: Client,
    agent: str,
    cache: CacheActivities,
    engines: EngineActivities,
    executor: ThreadPoolExecutor,
    *,
    whole: HostWorkActivities | None = None,
    on_failure: Callable[[str, str], None] = lambda _type, _code: None,
) -> list[Worker]:
    """The workers on one host's two queues.

    Args:
        whole: made of the other two when not given.
        on_failure: told the type and the code of every activity that fails.
    """
    whole = whole or HostWorkActivities(cache, engines, executor)
    io = Worker(
        client,
        task_queue=host_io_queue(agent),
        activities=[cache.download, cache.release, cache.collect],
        activity_executor=executor,
        max_concurrent_activities=CACHE_CALLS_AT_ONCE,
        interceptors=[FailureInterceptor(on_failure)],
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
    )
    engine = Worker(
        client,
        task_queue=host_engine_queue(agent),
        activities=[
            engines.load,
            engines.unload,
            engines.resume,
            engines.observe,
            whole.load,
            whole.unload,
        ],
        max_concurrent_activities=ENGINE_CALLS_AT_ONCE,
        interceptors=[FailureInterceptor(on_failure)],
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
    )
    return [io, engine]


async def run(
    settings: Settings, identity: HostIdentity, urls: Mapping[str, str], ready_file: Path | None
) -> None:
    """Run until SIGINT or SIGTERM, or until another process takes this agent's place.

    Raises:
        LoradockError: a setting is missing or wrong; Temporal does not answer at the start.
    """
    slots = TransferSlots(DOWNLOADS_AT_ONCE)
    metrics = AgentMetrics(slots)
    host_cache = open_cache(settings, metrics.on_retry(Transfer.DOWNLOAD))
    make_engine = engine_maker(settings, host_cache)
    async with AsyncExitStack() as stack:
        engines = _open_engines(make_engine, urls, metrics, stack)
        control_plane = ControlPlane(settings.api_url, settings.require("agent_token"), identity.agent)
        stack.push_async_callback(control_plane.aclose)
        cache_watch = CacheWatch(host_cache)
        keeper = LeaseKeeper(
            identity,
            engines,
            urls,
            control_plane,
            _forgetter(host_cache),
            cache=cache_watch.news,
            watch=metrics,
        )
        metrics.show(engines=keeper.engines_seen, cache=cache_watch.news)
        client = await connect(settings, runtime=measured_runtime(settings))
        executor = stack.enter_context(ThreadPoolExecutor(CACHE_CALLS_AT_ONCE, thread_name_prefix="cache"))
        patient = PatientReporter(control_plane)
        whole = HostWorkActivities(
            CacheActivities(host_cache, engines, patient, slots, metrics),
            EngineActivities(engines, patient, keeper.check),
            executor,
            patient,
        )
        workers = host_workers(
            client,
            identity.agent,
            CacheActivities(host_cache, engines, control_plane, slots, metrics),
            EngineActivities(engines, control_plane, keeper.check),
            executor,
            whole=whole,
            on_failure=metrics.activity_failed,
        )
        loops = [
            _keep_lease(keeper, settings.agent_renew_seconds),
            control_plane.send_reports(),
            repeat("cache", CACHE_SWEEP_SECONDS, lambda: _sweep(host_cache), metrics),
            repeat("cache figures", CACHE_COUNT_SECONDS, cache_watch.count, metrics),
            *listening(settings, metrics.page),
        ]
        if settings.loras_listen is not None:
            loops.append(await _take_loras(settings, identity.agent, stack))
        _log.info("agent %s ready: engines %s", identity.agent, ", ".join(urls))
        await run_until_stopped(workers, loops, ready_file)


def _open_engines(
    make: Callable[[str, str], Engine], urls: Mapping[str, str], metrics: AgentMetrics, stack: AsyncExitStack
) -> dict[str, Engine]:
    engines: dict[str, Engine] = {}
    for name, url in urls.items():
        driver = make(name, url)
        stack.push_async_callback(driver.aclose)
        engines[name] = MeasuredEngine(driver, metrics.calls_of(name))
    return engines


def _forgetter(host_cache: HostCache) -> Callable[[str, str], Awaitable[None]]:
    """Lets go of what an engine's earlier lives relied on."""

    async def forget_earlier_lives(engine: str, incarnation: str) -> None:
        try:
            await asyncio.to_thread(host_cache.release_earlier, engine, incarnation)
        except LoradockError as error:
            # Files are kept longer than they need to be: no reason to lose the engine.
            _log.warning("pins of earlier lives of %s are kept: %s", engine, error)

    return forget_earlier_lives


async def _take_loras(settings: Settings, agent: str, stack: AsyncExitStack) -> Coroutine[Any, Any, None]:
    listener = listen(str(settings.loras_listen), "LORADOCK_LORAS_LISTEN")
    proxy = LorasProxy(settings.api_url, settings.require("agent_token"), agent, settings.loras_token)
    stack.push_async_callback(proxy.aclose)
    _log.info("taking /v1/loras at %s", settings.loras_listen)
    return server(proxy.app()).run_beside(listener)


async def _sweep(cache: HostCache) -> int:
    gone = await asyncio.to_thread(cache.collect, leftovers_older_than_seconds=LEFTOVERS_KEPT_SECONDS)
    return len(gone)


async def _keep_lease(keeper: LeaseKeeper, seconds: float) -> None:
    try:
        await keeper.keep(seconds)
    except Superseded:
        raise LoradockError("forbidden", "another process has taken this agent's place: stopping") from None


def main(
    settings: Settings, agent_id: str, engines: Mapping[str, str], pool: str, ready_file: Path | None = None
) -> None:
    """Run an agent; used by `loradock agent`.

    Raises:
        LoradockError: `invalid_name`, `setting_invalid`.
    """
    for name in (agent_id, pool, *engines):
        check_simple_name(name)
    if not engines:
        raise LoradockError("setting_invalid", "an agent needs at least one engine (--engine id=url)")
    asyncio.run(run(settings, HostIdentity(agent_id, pool, dict(settings.agent_labels)), engines, ready_file))
