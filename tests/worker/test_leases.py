"""What an agent sees of its engines, and how soon the registry knows it: real engines, the real API, the real Postgres."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.server import ApiServer
from loradock.core.errors import LoradockError
from loradock.core.promises import EnginePromise
from loradock.core.requests import CacheReport, LeaseRenewal
from loradock.engines import StockVllmEngine, VllmEngine
from loradock.engines.protocol import Engine
from loradock.engines.simulated import Faults, serving
from loradock.engines.simulated.stock import SimulatedStockEngine, create_stock_app
from loradock.registry import engines as registered
from loradock.registry.database import Database
from loradock.registry.views import EngineView
from tests.activities.conftest import ENGINE_TOKEN, Running
from tests.registry.world import World
from tests.worker.conftest import AGENT_TOKEN
from tests.worker.processes import EngineProcess
from worker import leases
from worker.cache_watch import CacheNews
from worker.control_plane import ControlPlane, LeaseAnswer
from worker.leases import HostIdentity, LeaseKeeper, Superseded

KNOWN_IN_SECONDS = 6.0
"""The promise is 3 s, and kept by the two times below; the rest is for a machine that does much else."""
RENEW_SECONDS = 60.0
"""Far longer: what is known sooner was told at once, and did not wait for the next renewal."""


class Seen:
    """What an agent's neighbours were told of new lives."""

    def __init__(self) -> None:
        self.lives: list[tuple[str, str]] = []

    async def tell(self, engine: str, incarnation: str) -> None:
        self.lives.append((engine, incarnation))


@asynccontextmanager
async def keeper_of(
    api: str,
    urls: dict[str, str],
    *,
    agent: str = "host-1",
    token: str = AGENT_TOKEN,
    seen: Seen | None = None,
) -> AsyncIterator[LeaseKeeper]:
    async with AsyncExitStack() as stack:
        engines = {name: VllmEngine(url, SecretStr(ENGINE_TOKEN)) for name, url in urls.items()}
        for engine in engines.values():
            stack.push_async_callback(engine.aclose)
        plane = ControlPlane(api, token, agent)
        stack.push_async_callback(plane.aclose)
        yield LeaseKeeper(HostIdentity(agent, "default"), engines, urls, plane, (seen or Seen()).tell)


@asynccontextmanager
async def kept(
    keeper: LeaseKeeper, renew_seconds: float = RENEW_SECONDS
) -> AsyncIterator[asyncio.Task[None]]:
    """The lease is kept until the end of the block."""
    task = asyncio.create_task(keeper.keep(renew_seconds))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Superseded, LoradockError):
            await task


async def view(database: Database, engine: str = "e1") -> EngineView | None:
    with suppress(LoradockError):
        async with database.read() as tx:
            return await registered.get_engine(tx, engine)
    return None


async def is_(database: Database, status: str, engine: str = "e1", seconds: float = 15) -> float:
    """Wait for a status; how long it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while (found := await view(database, engine)) is None or found.status != status:
            await asyncio.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture
def process(tmp_path: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(tmp_path)
    engine.start()
    yield engine
    engine.stop()


def test_a_look_and_its_timeout_are_shorter_than_a_death_may_go_unknown() -> None:
    assert leases.LOOK_SECONDS + leases.STATE_TIMEOUT_SECONDS < 3


async def test_engines_join_with_what_they_are(
    api: ApiServer, database: Database, engines: dict[str, Running], registry: World
) -> None:
    urls = {name: running.url for name, running in engines.items()}
    async with keeper_of(api.url, urls) as keeper, kept(keeper):
        await is_(database, "alive", "e1")
        await is_(database, "alive", "e2")
    found = await view(database)
    assert found is not None
    assert (found.agent, found.pool, found.kind, found.base_model) == (
        "host-1", "default", "simulated", "tiny-base",
    )  # fmt: skip
    assert (found.usable_slots, found.max_lora_rank) == (3, 16)
    assert found.incarnation == await engines["e1"].life()
    assert (await registry.actions()).count("engine.joined") == 2


async def test_labels_and_what_the_cache_holds_are_told_the_latter_when_there_is_news(
    api: ApiServer, database: Database, engines: dict[str, Running]
) -> None:
    figures = CacheReport(bytes=1, adapters=1, leased=0, hits=0, evicted=0, free_bytes=1)
    news = [CacheNews(figures, ("sha256:" + "ab" * 32,))]
    told: list[LeaseRenewal] = []

    class Line(ControlPlane):
        async def renew(self, renewal: LeaseRenewal) -> LeaseAnswer:
            told.append(renewal)
            return await super().renew(renewal)

    plane = Line(api.url, AGENT_TOKEN, "host-1")
    drivers: dict[str, Engine] = {name: running.driver for name, running in engines.items()}
    urls = {name: running.url for name, running in engines.items()}
    identity = HostIdentity("host-1", "default", {"zone": "a"})
    keeper = LeaseKeeper(identity, drivers, urls, plane, cache=lambda: news[-1])
    await keeper.look()
    for _ in range(2):
        await keeper.renew()
    news.append(CacheNews(figures, ()))
    await keeper.renew()
    await plane.aclose()
    assert [renewal.cached_digests for renewal in told] == [news[0].digests, None, ()]
    found = await view(database)
    assert found is not None
    assert (found.labels, found.cache) == ({"zone": "a"}, figures)


async def test_an_engine_that_never_answered_joins_as_unreachable(api: ApiServer, database: Database) -> None:
    async with keeper_of(api.url, {"e1": "http://127.0.0.1:9"}) as keeper:
        await keeper.look()
        await keeper.renew()
    found = await view(database)
    assert found is not None
    assert (found.status, found.incarnation) == ("unreachable", None)


async def test_a_killed_engine_is_known_in_time_and_its_next_life_too(
    api: ApiServer, database: Database, process: EngineProcess, registry: World
) -> None:
    seen = Seen()
    async with keeper_of(api.url, {"e1": process.url}, seen=seen) as keeper, kept(keeper):
        await is_(database, "alive")
        before = await view(database)
        process.kill()
        assert await is_(database, "unreachable") < KNOWN_IN_SECONDS
        await asyncio.to_thread(process.child.stop)
        process.child.start()
        await asyncio.to_thread(process.child.wait_ready)
        assert await is_(database, "alive") < KNOWN_IN_SECONDS
        after = await view(database)
    assert before is not None
    assert after is not None
    assert after.incarnation != before.incarnation
    assert after.generation == before.generation + 1
    assert seen.lives == [("e1", before.incarnation), ("e1", after.incarnation)]
    assert (await registry.actions()).count("engine.restarted") == 1


async def test_a_stopped_engine_is_known_in_time_and_comes_back_as_it_was(
    api: ApiServer, database: Database, process: EngineProcess, engines: dict[str, Running]
) -> None:
    seen = Seen()
    urls = {"e1": process.url, "e2": engines["e2"].url}
    async with keeper_of(api.url, urls, seen=seen) as keeper, kept(keeper):
        await is_(database, "alive")
        before = await view(database)
        process.pause(paused=True)
        assert await is_(database, "unreachable") < KNOWN_IN_SECONDS
        neighbour = await view(database, "e2")
        process.pause(paused=False)
        assert await is_(database, "alive") < KNOWN_IN_SECONDS
        after = await view(database)
    assert before is not None
    assert after is not None
    assert (after.incarnation, after.generation) == (before.incarnation, before.generation)
    assert neighbour is not None
    assert neighbour.status == "alive"
    assert len(seen.lives) == 2


async def test_the_newest_process_under_an_agents_id_has_it_and_the_older_one_stops(
    api: ApiServer, database: Database, engines: dict[str, Running]
) -> None:
    urls = {"e1": engines["e1"].url}
    async with keeper_of(api.url, urls) as older, keeper_of(api.url, urls) as newer:
        async with kept(older, renew_seconds=0.5) as keeping:
            await is_(database, "alive")
            await newer.look()
            await newer.renew()
            with pytest.raises(Superseded):
                async with asyncio.timeout(20):
                    await keeping
        await newer.renew()


async def test_an_engine_under_another_agents_lease_is_told_once(
    api: ApiServer, engines: dict[str, Running], caplog: pytest.LogCaptureFixture
) -> None:
    urls = {"e1": engines["e1"].url}
    async with keeper_of(api.url, urls) as owner, keeper_of(api.url, urls, agent="host-2") as other:
        for keeper in (owner, other):
            await keeper.look()
        await owner.renew()
        with caplog.at_level(logging.WARNING):
            await other.renew()
            await other.renew()
    assert [record.message for record in caplog.records if "host-1" in record.message] == [
        "the lease does not cover engine e1: engine e1 is under the lease of agent host-1"
    ]


async def test_a_wrong_token_ends_the_agent(api: ApiServer, engines: dict[str, Running]) -> None:
    async with keeper_of(api.url, {"e1": engines["e1"].url}, token="wrong") as keeper:
        with pytest.raises(LoradockError) as caught:
            await asyncio.wait_for(keeper.keep(RENEW_SECONDS), 10)
    assert caught.value.code == "unauthorized"


async def test_an_agent_outlives_an_api_that_is_away(
    engines: dict[str, Running], caplog: pytest.LogCaptureFixture
) -> None:
    async with keeper_of("http://127.0.0.1:9", {"e1": engines["e1"].url}) as keeper:
        task = asyncio.create_task(keeper.keep(0.05))
        await asyncio.sleep(0.5)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len([record for record in caplog.records if "not renewed" in record.message]) == 1


@asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[str]:
    """A server that says the same to everybody; its address."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def http(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    length = b"content-length: %d" % len(body)
    return b"\r\n".join([b"HTTP/1.1 " + status, b"connection: close", length, *headers, b"", body])


ODD_ANSWERS = {
    "not the encoding that it says": http(b"\x1f\x8bnothing", b"content-encoding: gzip"),
    "very deep": http(b"[" * 200_000),
    "very deep error": http(b'{"error":' * 100_000, status=b"500 No"),
    "a number without end": http(b"9" * 100_000),
    "no text": http(b"\xff\xfe\x00", b"content-type: text/plain; charset=utf-7"),
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
async def test_an_odd_answer_makes_an_engine_unreachable_and_harms_no_other(
    api: ApiServer,
    database: Database,
    engines: dict[str, Running],
    caplog: pytest.LogCaptureFixture,
    answer: bytes,
) -> None:
    async with saying(answer) as odd, keeper_of(api.url, {"e1": engines["e1"].url, "e2": odd}) as keeper:
        for _ in range(3):
            await keeper.look()
            await keeper.renew()
    assert [(await view(database, name)).status for name in ("e1", "e2")] == ["alive", "unreachable"]  # type: ignore[union-attr]
    assert len([record for record in caplog.records if "engine e2" in record.message]) == 1


async def test_a_driver_that_fails_as_none_should_makes_an_engine_unreachable_and_is_told_once(
    api: ApiServer,
    engines: dict[str, Running],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail() -> None:
        raise KeyError("hunter2")

    async with keeper_of(api.url, {"e1": engines["e1"].url}) as keeper:
        await keeper.look()
        before = keeper._reports["e1"]
        monkeypatch.setattr(keeper._engines["e1"], "state", fail)
        for _ in range(2):
            await keeper.look()
        now = keeper._reports["e1"]
        assert now == before.model_copy(update={"reachable": False, "problem": now.problem})
        assert now.problem
        assert "hunter2" not in now.problem
    (told,) = [record for record in caplog.records if "engine e1" in record.message]
    assert "hunter2" not in told.message
    assert told.exc_info is not None


@pytest.mark.parametrize("body", ["<html>", "[]", '{"superseded": "perhaps"}', '"no"'])
async def test_an_agent_outlives_what_is_not_the_api(engines: dict[str, Running], body: str) -> None:
    async with saying(http(body.encode())) as url, keeper_of(url, {"e1": engines["e1"].url}) as keeper:
        await keeper.look()
        with pytest.raises(LoradockError) as caught:
            await keeper.renew()
    assert caught.value.code == "not_ready"


async def test_an_agent_with_nothing_new_to_tell_quotes_what_it_told(
    api: ApiServer, database: Database, engines: dict[str, Running], registry: World
) -> None:
    urls = {name: running.url for name, running in engines.items()}
    async with keeper_of(api.url, urls) as keeper:
        sent: list[str] = []

        async def note(request: httpx.Request) -> None:
            sent.append(request.url.path.removeprefix("/v1/agents/host-1/"))

        keeper._control_plane._http.event_hooks["request"].append(note)
        await keeper.look()
        for _ in range(2):
            await keeper.renew()
        engines["e1"].inside.faults = Faults(dead=True)
        await keeper.look()
        for _ in range(2):
            await keeper.renew()
        async with database.transaction() as tx:
            await tx.session.execute(text("UPDATE agents SET report = NULL"))
        await keeper.renew()
    told, quoted = "lease", "lease/keep"
    assert sent == [told, quoted, told, quoted, quoted, told]
    found = await view(database)
    assert found is not None
    assert found.status == "unreachable"


async def test_an_engine_of_another_kind_than_its_agent_was_told_gets_no_work_and_it_is_said_why(
    api: ApiServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    stock = create_stock_app(SimulatedStockEngine())
    with caplog.at_level(logging.WARNING):
        async with serving(stock) as url, keeper_of(api.url, {"e1": url}) as keeper:
            for _ in range(3):
                await keeper.look()
                await keeper.renew()
    found = await view(database)
    assert found is not None
    assert (found.status, found.kind, found.incarnation) == ("unreachable", "unknown", None)
    assert found.problem is not None
    assert found.problem.startswith("engine_not_supported: ")
    assert "--engine-kind stock-vllm" in found.problem
    assert len([record for record in caplog.records if "--engine-kind" in record.message]) == 1


async def test_a_stock_engine_joins_with_what_it_cannot_promise_and_its_restart_is_another_life(
    api: ApiServer, database: Database, tmp_path: Path, registry: World
) -> None:
    stock = SimulatedStockEngine(base_model="tiny-base")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(create_stock_app(stock)))
        engine = StockVllmEngine(url, tmp_path / "record.json", lambda *_: None)
        stack.push_async_callback(engine.aclose)
        plane = ControlPlane(api.url, AGENT_TOKEN, "host-1")
        stack.push_async_callback(plane.aclose)
        seen = Seen()
        keeper = LeaseKeeper(HostIdentity("host-1", "default"), {"e1": engine}, {"e1": url}, plane, seen.tell)
        await keeper.look()
        await keeper.renew()
        before = await view(database)
        stock.started_at += 60
        await keeper.look()
        await keeper.renew()
        after = await view(database)
    assert before is not None
    assert (before.status, before.kind, before.base_model) == ("alive", "stock-vllm", "tiny-base")
    assert set(before.missing_promises) == set(EnginePromise)
    assert after is not None
    assert after.incarnation not in (None, before.incarnation)
    assert (await registry.actions()).count("engine.restarted") == 1
    assert seen.lives == [("e1", before.incarnation), ("e1", after.incarnation)]
