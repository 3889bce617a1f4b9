"""What orchestrators and agents count of themselves, and how they show it."""

import asyncio
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from temporalio.client import Client

from activities.metering import Transfer
from activities.progress import TransferSlots
from api.server import ApiServer
from loradock.core.errors import LoradockError
from loradock.core.requests import CacheReport
from loradock.core.settings import Settings
from loradock.engines.protocol import DrainCommand, LoadCommand, UnloadCommand
from loradock.metrics.catalog import Process, metrics_of
from loradock.metrics.instruments import CONTENT_TYPE
from tests.activities.conftest import Running
from tests.activities.parts import RUN, refused
from worker.cache_watch import CacheNews
from worker.control_plane import ControlPlane
from worker.leases import HostIdentity, LeaseKeeper
from worker.loops import repeat
from worker.measured_engine import MeasuredEngine
from worker.metrics import AgentMetrics, OrchestratorMetrics, WorkerMetrics
from worker.metrics_listener import listening
from worker.temporal import connect, measured_runtime

Samples = dict[str, dict[frozenset[tuple[str, str]], float]]
FIGURES = CacheReport(bytes=10, adapters=2, leased=1, hits=7, evicted=3, free_bytes=90)


def parsed(page: bytes) -> Samples:
    found: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            found[sample.name][frozenset(sample.labels.items())] = sample.value
    return found


def of(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def agent_metrics() -> AgentMetrics:
    metrics = AgentMetrics(TransferSlots(1))
    seen = {"reachable": 2, "unreachable": 1, "refused": 0}
    metrics.show(engines=lambda: seen, cache=lambda: CacheNews(FIGURES, ()))
    return metrics


@pytest.mark.parametrize(
    ("process", "make"),
    [
        (Process.ORCHESTRATOR, lambda: OrchestratorMetrics(TransferSlots(1))),
        (Process.AGENT, agent_metrics),
    ],
)
def test_a_process_has_the_metrics_of_the_catalog_and_no_others(
    process: Process, make: Callable[[], WorkerMetrics]
) -> None:
    metrics = make()
    metrics.turned("relay", 0.1, 1)
    metrics.ended(Transfer.FETCH, "failed", 1.0, 0, "source_denied")
    metrics.on_retry(Transfer.FETCH)("source_unavailable")
    metrics.activity_failed("stage", "source_denied")
    if isinstance(metrics, AgentMetrics):
        metrics.calls_of("e1")("load", "loaded", 0.1)
        metrics.renewed("told", 0.01)
        metrics.not_renewed("not_ready")
    page = metrics.page().decode()
    families = [
        family for family in text_string_to_metric_families(page) if not family.name.startswith("process_")
    ]
    known = {spec.name: spec for spec in metrics_of(process)}
    seen = {}
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert family.samples, name
        labels = {label for sample in family.samples for label in sample.labels}
        seen[name] = (family.type, labels - {"le"})
    assert seen == {name: (spec.kind.value, set(spec.label_names)) for name, spec in known.items()}


def test_transfers_are_counted_by_way_and_outcome() -> None:
    metrics = OrchestratorMetrics(TransferSlots(1))
    metrics.ended(Transfer.FETCH, "moved", 2.0, 1000, None)
    metrics.ended(Transfer.FETCH, "moved", 3.0, 500, None)
    metrics.ended(Transfer.UPLOAD, "cached", 0.1, 0, None)
    metrics.ended(Transfer.UPLOAD, "failed", 0.1, 0, "store_denied")
    metrics.on_retry(Transfer.FETCH)("source_unavailable")
    found = parsed(metrics.page())
    assert found["loradock_transfer_bytes_total"] == {of(transfer="fetch"): 1500, of(transfer="upload"): 0}
    assert found["loradock_transfer_seconds_sum"][of(transfer="fetch", outcome="moved")] == 5
    assert found["loradock_transfer_seconds_count"][of(transfer="upload", outcome="failed")] == 1
    assert found["loradock_transfer_failures_total"] == {of(transfer="upload", code="store_denied"): 1}
    assert found["loradock_transfer_retries_total"] == {of(transfer="fetch", code="source_unavailable"): 1}


def test_the_hosts_cache_is_told_as_it_was_last_looked_at_and_left_out_before() -> None:
    found = parsed(agent_metrics().page())
    assert [found[f"loradock_cache_{name}"][of()] for name in ("bytes", "free_bytes", "adapters", "leased")] == [
        10, 90, 2, 1,
    ]  # fmt: skip
    assert (found["loradock_cache_hits_total"][of()], found["loradock_cache_evicted_total"][of()]) == (7, 3)
    assert found["loradock_agent_engines"][of(state="unreachable")] == 1
    assert "loradock_cache_bytes" not in parsed(AgentMetrics(TransferSlots(1)).page())


async def test_a_loop_tells_its_turns_what_they_did_and_when_one_last_went_well() -> None:
    metrics = OrchestratorMetrics(TransferSlots(1))
    turns: list[int | Exception] = [3, LoradockError("database_unavailable", "x"), ValueError("x"), 0]
    all_done = asyncio.Event()

    async def work() -> int:
        if not turns:
            all_done.set()
            await asyncio.Event().wait()
        turn = turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        return turn

    began = time.time()
    task = asyncio.create_task(repeat("relay", 0, work, metrics))
    await asyncio.wait_for(all_done.wait(), 120)
    task.cancel()
    found, relay = parsed(metrics.page()), of(loop="relay")
    assert found["loradock_loop_seconds_count"][relay] == 4
    assert found["loradock_loop_failures_total"][relay] == 2
    assert found["loradock_loop_work_total"][relay] == 3
    assert began <= found["loradock_loop_last_success_timestamp_seconds"][relay] <= time.time()


def command(engine: Running, life: str, **more: Any) -> dict[str, Any]:
    return {"served_name": "greeter@1", "incarnation": life, **RUN.model_dump(), **more}


async def test_calls_to_an_engine_are_counted_by_what_it_answered(
    engines: dict[str, Running], folder: Any
) -> None:
    metrics = agent_metrics()
    life = await engines["e1"].life()
    engine = MeasuredEngine(engines["e1"].driver, metrics.calls_of("e1"))
    digest = "sha256:" + "ab" * 32
    path = folder.parent / digest.replace(":", "-")
    path.symlink_to(folder)
    load = LoadCommand(**command(engines["e1"], life, int_id=1, path=str(path), digest=digest))
    for _ in range(2):
        await engine.load(load)
    await engine.probe("greeter@1", "Hello")
    await engine.drain(DrainCommand(**command(engines["e1"], life)))
    await engine.unload(UnloadCommand(**command(engines["e1"], life)))
    with refused("incarnation_mismatch"):
        await engine.load(load.model_copy(update={"incarnation": "another"}))
    assert (await engine.state()).incarnation == life
    found = parsed(metrics.page())
    counts = {
        tuple(dict(labels)[name] for name in ("engine", "call", "outcome")): count
        for labels, count in found["loradock_engine_calls_total"].items()
    }
    assert counts == {
        ("e1", "load", "loaded"): 1,
        ("e1", "load", "already_loaded"): 1,
        ("e1", "load", "incarnation_mismatch"): 1,
        ("e1", "probe", "answered"): 1,
        ("e1", "drain", "drained"): 1,
        ("e1", "unload", "unloaded"): 1,
    }
    assert found["loradock_engine_call_seconds_count"][of(call="load")] == 3


async def test_a_call_that_is_given_up_counts_as_cancelled() -> None:
    metrics = agent_metrics()
    engine = MeasuredEngine(_Never(), metrics.calls_of("e1"))  # type: ignore[arg-type]
    task = asyncio.create_task(engine.probe("greeter@1", "Hello"))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    outcome = of(engine="e1", call="probe", outcome="cancelled")
    assert parsed(metrics.page())["loradock_engine_calls_total"] == {outcome: 1}


class _Never:
    async def probe(self, *_: object) -> None:
        await asyncio.Event().wait()


async def test_renewals_are_counted_and_those_that_the_api_does_not_take(
    api: ApiServer, engines: dict[str, Running]
) -> None:
    metrics = AgentMetrics(TransferSlots(1))
    drivers: Any = {name: running.driver for name, running in engines.items()}
    urls = {name: running.url for name, running in engines.items()}
    plane = ControlPlane(api.url, "agent-token-of-the-tests", "host-1")
    keeper = LeaseKeeper(HostIdentity("host-1", "default"), drivers, urls, plane, watch=metrics)
    metrics.show(engines=keeper.engines_seen, cache=lambda: None)
    began = time.time()
    task = asyncio.create_task(keeper.keep(0.05))

    async def come(**wanted: float) -> Samples:
        async with asyncio.timeout(120):
            while True:
                found = parsed(metrics.page())
                counts = found["loradock_lease_renewals_total"]
                if all(counts.get(of(how=how), 0) >= count for how, count in wanted.items()):
                    return found
                await asyncio.sleep(0.02)

    found = await come(told=1, kept=2)
    assert found["loradock_agent_engines"][of(state="reachable")] == 2
    assert began <= found["loradock_lease_renewed_timestamp_seconds"][of()] <= time.time()
    assert found["loradock_lease_renewal_seconds_count"][of()] >= 3
    api.should_exit = True
    async with asyncio.timeout(120):
        while "loradock_lease_failures_total" not in (found := parsed(metrics.page())):
            await asyncio.sleep(0.02)
    assert set(found["loradock_lease_failures_total"]) == {of(code="not_ready")}
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await plane.aclose()


@asynccontextmanager
async def listening_at(
    port: int, page: Callable[[], bytes], **given: Any
) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(_env_file=None, metrics_listen=f"127.0.0.1:{port}", **given)
    (loop,) = listening(settings, page)
    task = asyncio.create_task(loop)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


async def test_the_page_is_served_on_loopback_to_anybody_there(port: int) -> None:
    async with listening_at(port, agent_metrics().page) as client:
        answer = await client.get("/metrics")
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CONTENT_TYPE
    assert parsed(answer.content)["loradock_cache_bytes"][of()] == 10


async def test_with_a_token_the_page_is_for_those_who_show_it(port: int) -> None:
    async with listening_at(port, lambda: b"page\n", metrics_token=SecretStr("let-me-in")) as client:
        for header in ("", "Bearer wrong", "Basic let-me-in", "let-me-in"):
            refused_answer = await client.get("/metrics", headers={"Authorization": header})
            assert (refused_answer.status_code, b"page" in refused_answer.content) == (401, False)
        good = await client.get("/metrics", headers={"Authorization": "Bearer let-me-in"})
    assert (good.status_code, good.text) == (200, "page\n")


def test_others_are_let_near_only_with_a_token_and_a_taken_address_is_told(port: int) -> None:
    with refused("setting_invalid") as caught:
        listening(Settings(_env_file=None, metrics_listen=f"0.0.0.0:{port}"), bytes)
    assert "LORADOCK_METRICS_TOKEN" in caught.value.message
    with socket.create_server(("127.0.0.1", port)), refused("setting_invalid") as caught:
        listening(Settings(_env_file=None, metrics_listen=f"127.0.0.1:{port}"), bytes)
    assert "LORADOCK_METRICS_LISTEN" in caught.value.message


def test_without_an_address_nothing_listens() -> None:
    assert listening(Settings(_env_file=None), bytes) == []
    assert listening(Settings(_env_file=None, metrics_listen=""), bytes) == []


async def test_temporals_own_metrics_are_served_where_the_settings_say(
    temporal_dev_server: str, port: int
) -> None:
    settings = Settings(
        _env_file=None,
        temporal_address=temporal_dev_server,
        temporal_metrics_listen=f"127.0.0.1:{port}",
    )
    client: Client = await connect(settings, runtime=measured_runtime(settings))
    await client.service_client.check_health()
    async with httpx.AsyncClient(timeout=60) as http:
        page = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    assert "temporal_request_total" in {
        sample.name for family in text_string_to_metric_families(page) for sample in family.samples
    }
    assert measured_runtime(Settings(_env_file=None)) is None


def test_an_address_that_temporals_sdk_cannot_take_is_told(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), refused("setting_invalid") as caught:
        measured_runtime(Settings(_env_file=None, temporal_metrics_listen=f"127.0.0.1:{port}"))
    assert "LORADOCK_TEMPORAL_METRICS_LISTEN" in caught.value.message
