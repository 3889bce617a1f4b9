"""A host's cache: downloads that are cut and go on, and files that are never let go while an engine needs them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.exceptions import CancelledError

from activities.engines import EngineActivities
from activities.host_cache import CacheActivities, holder
from activities.interface.hosts import HostInput, LoadAdapterInput
from activities.progress import TransferSlots
from loradock.artifacts.cache import HostCache
from loradock.artifacts.protocol import ObjectStore
from loradock.core.models import VersionRef
from loradock.engines import VllmEngine
from loradock.engines.http import Patience
from loradock.engines.protocol import Engine
from tests.activities.conftest import ENGINE_TOKEN, Running, stored
from tests.activities.parts import RUN, Bench, Meter, Reports, SlowObjects, ref_of, refused, target

KEPT = "kept: the engine needs it"


class Host:
    """A cache with one stored version, and the activities on it."""

    def __init__(
        self,
        root: Path,
        objects: ObjectStore,
        folder: Path,
        reports: Reports,
        slots: TransferSlots,
        engines: dict[str, Engine] | None = None,
        meter: Meter | None = None,
    ) -> None:
        store, digest = stored(objects, folder)
        self.ref: VersionRef = ref_of(digest)
        self.cache = HostCache(root, store)
        self.engines = engines or {}
        self.activities = CacheActivities(self.cache, self.engines, reports, slots, meter)

    def given(self, engine: str = "e1", incarnation: str = "life-1") -> HostInput:
        return HostInput(run=RUN, ref=self.ref, target=target(engine, incarnation))

    async def released(self, given: HostInput) -> str:
        return str((await Bench().run(self.activities.release, given)).step.detail["outcome"])


def test_downloading_twice_is_downloading_once(
    tmp_path: Path, objects: ObjectStore, folder: Path, reports: Reports, slots: TransferSlots
) -> None:
    host = Host(tmp_path / "cache", objects, folder, reports, slots)
    first, second = (Bench().run(host.activities.download, host.given()) for _ in range(2))
    assert (first.outcome, second.outcome) == ("downloaded", "cached")
    assert first.path == second.path
    assert first.step.detail["bytes"] > 0 == second.step.detail["bytes"]
    assert host.ref.digest.removeprefix("sha256:") in first.path
    weights = "adapter_model.safetensors"
    assert (Path(first.path) / weights).read_bytes() == (folder / weights).read_bytes()
    assert host.cache.holders(host.ref) == (holder(host.given()),)


def test_each_engine_and_each_life_has_a_pin_of_its_own(
    tmp_path: Path, folder_objects: SlowObjects, folder: Path, reports: Reports, slots: TransferSlots
) -> None:
    host = Host(tmp_path / "cache", folder_objects, folder, reports, slots)
    asked = [host.given(), host.given("e2"), host.given("e2", "life-2")]
    for given in asked:
        Bench().run(host.activities.download, given)
    assert host.cache.holders(host.ref) == tuple(holder(given) for given in asked)


def test_heartbeats_and_reports_carry_the_bytes_so_far(
    tmp_path: Path, folder_objects: SlowObjects, folder: Path, reports: Reports, slots: TransferSlots
) -> None:
    host = Host(tmp_path / "cache", folder_objects, folder, reports, slots)
    folder_objects.slow = True
    bench = Bench(attempt=3)
    downloaded = bench.run(host.activities.download, host.given())
    assert {operation for operation, _ in reports.seen} == {RUN.operation}
    told = [step.detail["bytes"] for _, step in reports.seen if step.state == "running"]
    assert told == sorted(told)
    assert set(told) <= set(bench.bytes)
    assert 0 < told[-1] <= downloaded.step.detail["bytes"]
    assert reports.seen[-1][1] == downloaded.step
    assert {(step.name, step.engine, step.attempt) for _, step in reports.seen} == {("download", "e1", 3)}


def test_a_cancelled_download_stops_within_a_second_and_the_next_try_completes_it(
    tmp_path: Path, folder_objects: SlowObjects, folder: Path, reports: Reports, slots: TransferSlots
) -> None:
    host = Host(tmp_path / "cache", folder_objects, folder, reports, slots)
    folder_objects.slow = True
    bench = Bench()
    running = bench.begin(host.activities.download, host.given())
    assert bench.beating.wait(10)
    cancelled = time.monotonic()
    bench.cancel()
    assert isinstance(running.exception(10), CancelledError)
    assert time.monotonic() - cancelled < 1
    assert not host.cache.path(host.ref).exists()
    folder_objects.slow = False
    again = Bench(attempt=2).run(host.activities.download, host.given())
    assert (again.outcome, again.step.attempt) == ("downloaded", 2)
    assert sorted(path.name for path in Path(again.path).iterdir()) == sorted(
        file.path for file in host.cache.ensure(host.ref).manifest.files
    )


def test_two_downloads_of_the_same_version_at_once_fetch_it_once(
    tmp_path: Path, folder_objects: SlowObjects, folder: Path, reports: Reports, slots: TransferSlots
) -> None:
    host = Host(tmp_path / "cache", folder_objects, folder, reports, slots)
    folder_objects.slow = True
    running = [Bench().begin(host.activities.download, host.given(engine)) for engine in ("e1", "e2", "e3")]
    outcomes = sorted(one.result(20).outcome for one in running)
    assert outcomes == ["cached", "cached", "downloaded"]


def test_what_is_cached_waits_for_no_download(
    tmp_path: Path, folder_objects: SlowObjects, folder: Path, reports: Reports
) -> None:
    slots = TransferSlots(1)
    host = Host(tmp_path / "cache", folder_objects, folder, reports, slots)
    Bench().run(host.activities.download, host.given())
    with slots.take(_Waiting()):  # type: ignore[arg-type]
        assert Bench().begin(host.activities.download, host.given("e2")).result(5).outcome == "cached"


def test_downloads_are_told_of_with_what_they_moved(
    tmp_path: Path, folder_objects: SlowObjects, folder: Path, reports: Reports, slots: TransferSlots
) -> None:
    meter = Meter()
    host = Host(tmp_path / "cache", folder_objects, folder, reports, slots, meter=meter)
    moved = Bench().run(host.activities.download, host.given()).step.detail["bytes"]
    Bench().run(host.activities.download, host.given("e2"))
    host.ref = ref_of("sha256:" + "ab" * 32, adapter="missing")
    with refused("artifact_missing"):
        Bench().run(host.activities.download, host.given())
    assert meter.seen == [
        ("download", "moved", moved, None),
        ("download", "cached", 0, None),
        ("download", "failed", 0, "artifact_missing"),
    ]
    assert all(seconds >= 0 for seconds in meter.seconds)


def test_a_cancelled_download_is_no_failure(
    tmp_path: Path, folder_objects: SlowObjects, folder: Path, reports: Reports, slots: TransferSlots
) -> None:
    meter = Meter()
    host = Host(tmp_path / "cache", folder_objects, folder, reports, slots, meter=meter)
    folder_objects.slow = True
    bench = Bench()
    running = bench.begin(host.activities.download, host.given())
    assert bench.beating.wait(10)
    bench.cancel()
    assert isinstance(running.exception(10), CancelledError)
    assert meter.seen == [("download", "cancelled", 0, None)]


class _Waiting:
    def advance(self, size: int) -> None: ...


@asynccontextmanager
async def driver(url: str, **options: Any) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(url, SecretStr(ENGINE_TOKEN), **options)
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.fixture
def host(
    tmp_path: Path, folder_objects: SlowObjects, folder: Path, reports: Reports, slots: TransferSlots
) -> Host:
    """A host whose cache holds the version; engines are added by the test."""
    return Host(tmp_path / "cache", folder_objects, folder, reports, slots, engines={})


async def download(host: Host, given: HostInput) -> str:
    return (await asyncio.to_thread(Bench().run, host.activities.download, given)).path


async def test_releasing_twice_is_releasing_once(host: Host, engine: Running) -> None:
    host.engines["e1"] = engine.driver
    given = host.given(incarnation=await engine.life())
    await download(host, given)
    assert [await host.released(given) for _ in range(2)] == ["released", "released"]
    assert host.cache.holders(host.ref) == ()


async def test_files_that_the_engine_lists_are_kept(host: Host, engine: Running, reports: Reports) -> None:
    host.engines["e1"] = engine.driver
    given = host.given(incarnation=await engine.life())
    path = await download(host, given)
    load = LoadAdapterInput(**given.model_dump(), path=path)
    await Bench().run(EngineActivities(host.engines, reports).load, load)
    assert await host.released(given) == KEPT
    assert host.cache.holders(host.ref) == (holder(given),)


async def test_files_of_an_engine_that_does_not_answer_are_kept(host: Host) -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, driver(_url(server), patience=Patience(call_seconds=0.1)) as unreachable:
        host.engines["e1"] = unreachable
        await download(host, host.given())
        assert await host.released(host.given()) == KEPT
    assert host.cache.holders(host.ref) == (holder(host.given()),)


async def test_files_of_an_engine_that_answers_nonsense_are_kept(host: Host) -> None:
    async def confused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(confused, "127.0.0.1", 0)
    async with server, driver(_url(server)) as sick:
        host.engines["e1"] = sick
        await download(host, host.given())
        assert await host.released(host.given()) == KEPT


async def test_files_of_an_engine_on_whose_port_nobody_listens_are_let_go(host: Host) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    url = _url(server)
    server.close()
    await server.wait_closed()
    async with driver(url) as dead:
        host.engines["e1"] = dead
        await download(host, host.given())
        assert await host.released(host.given()) == "released"
    assert host.cache.holders(host.ref) == ()


async def test_files_of_an_earlier_life_are_let_go(host: Host, engine: Running) -> None:
    host.engines["e1"] = engine.driver
    given = host.given(incarnation="an-earlier-life")
    await download(host, given)
    assert await host.released(given) == "released"


async def test_files_of_an_engine_that_this_agent_does_not_know_are_kept(host: Host) -> None:
    await download(host, host.given("e9"))
    assert await host.released(host.given("e9")) == KEPT


def _url(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
