"""Load, verify, drain and remove, through the real driver against the simulated engine."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from activities import engines as engine_activities
from activities import heartbeats
from activities.engines import EngineActivities
from activities.interface.hosts import HostInput, LoadAdapterInput, UnloadAdapterInput
from loradock.core.errors import LoradockError
from loradock.core.models import RunRef, VersionRef
from loradock.engines import AdapterState, LoadCommand, LoadResult, VllmEngine
from loradock.engines.http import Patience
from loradock.engines.simulated import Faults
from tests.activities.conftest import ENGINE_TOKEN, Running
from tests.activities.parts import RUN, Bench, Reports, ref_of, refused, target
from tests.artifacts.helpers import manifest_of

LATER = RunRef(operation="op-2", run_id="run-2", epoch=6)


class Host:
    """One engine with the activities on it, and an adapter in a folder whose path carries the digest."""

    def __init__(self, engine: Running, life: str, folder: Path, root: Path, reports: Reports) -> None:
        digest = manifest_of(folder).digest
        self.engine = engine
        self.life = life
        self.ref: VersionRef = ref_of(digest)
        self.path = root / digest.replace(":", "-")
        self.path.symlink_to(folder)
        self.reports = reports
        self.activities = EngineActivities({"e1": engine.driver}, reports)

    def words(self, run: RunRef = RUN, incarnation: str | None = None) -> dict[str, Any]:
        return {"run": run, "ref": self.ref, "target": target("e1", incarnation or self.life)}

    def load(self, run: RunRef = RUN, **more: Any) -> LoadAdapterInput:
        return LoadAdapterInput(**{**self.words(run), "path": str(self.path), **more})

    def unload(self, run: RunRef = RUN, **more: Any) -> UnloadAdapterInput:
        given = {**self.words(run), "drain_seconds": 0, **more}
        return UnloadAdapterInput(**given)

    def resume(self, **more: Any) -> HostInput:
        return HostInput(**{**self.words(), **more})

    async def loaded(self, run: RunRef = RUN) -> None:
        await Bench().run(self.activities.load, self.load(run))

    async def state(self) -> AdapterState | None:
        found = (await self.engine.driver.state()).adapter(self.ref.served_name)
        return found.state if found else None

    @asynccontextmanager
    async def request(self, token_seconds: float) -> AsyncIterator[asyncio.Task[list[str]]]:
        """A streaming answer that runs, whose first token has come; gives all its lines in the end."""
        self.engine.inside.faults = Faults(token_seconds=token_seconds)
        body = {
            "model": self.ref.served_name,
            "prompt": "x",
            "stream": True,
            "max_tokens": 10,
            "ignore_eos": True,
        }
        async with self.engine.http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.aiter_lines()
            assert json.loads((await anext(lines)).removeprefix("data: "))

            async def rest() -> list[str]:
                return [line async for line in lines if line]

            task = asyncio.create_task(rest())
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def host(engine: Running, folder: Path, tmp_path: Path, reports: Reports) -> Host:
    return Host(engine, await engine.life(), folder, tmp_path, reports)


async def test_loading_twice_is_loading_once(host: Host) -> None:
    first, second = [await Bench().run(host.activities.load, host.load()) for _ in range(2)]
    assert (first.outcome, second.outcome) == ("loaded", "already_loaded")
    assert [step.name for step in first.steps] == ["load", "verify"]
    state = await host.engine.driver.state()
    assert [(one.served_name, one.digest, one.resident) for one in state.adapters] == [
        ("greeter@1", host.ref.digest, True)
    ]
    assert host.reports.steps == [("load", "running"), ("load", "succeeded"), ("verify", "running")] * 2


async def test_a_load_that_takes_long_heartbeats(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "HEARTBEAT_SECONDS", 0.1)
    host.engine.inside.faults = Faults(load_seconds=0.5)
    bench = Bench()
    await bench.run(host.activities.load, host.load())
    assert len(bench.beats) >= 3


async def test_a_load_that_the_engine_does_not_take_yet_waits_and_does_not_fail(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, load = 0, host.engine.driver.load

    async def too_soon(command: LoadCommand) -> LoadResult:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise LoradockError("load_rate_limited", "not yet", retry_after=0.01)
        return await load(command)

    monkeypatch.setattr(host.engine.driver, "load", too_soon)
    loaded = await Bench().run(host.activities.load, host.load())
    assert (loaded.outcome, tries) == ("loaded", 3)


async def test_an_engine_that_answers_no_prompt_is_not_verified(host: Host) -> None:
    host.engine.inside.faults = Faults(silent=True)
    with refused("engine_not_verified"):
        await Bench().run(host.activities.load, host.load())


@pytest.mark.parametrize("lie", [{"resident": False}, {"digest": "sha256:" + "0" * 64}])
async def test_an_engine_that_took_something_else_is_not_verified(
    host: Host, reports: Reports, lie: dict[str, Any]
) -> None:
    class Lying(VllmEngine):
        async def load(self, command: LoadCommand) -> LoadResult:
            told = await super().load(command)
            return told.model_copy(update={"adapter": told.adapter.model_copy(update=lie)})

    driver = Lying(host.engine.url, SecretStr(ENGINE_TOKEN))
    try:
        with refused("engine_not_verified"):
            await Bench().run(EngineActivities({"e1": driver}, reports).load, host.load())
    finally:
        await driver.aclose()


async def test_what_an_engine_refuses_comes_through_as_its_code(host: Host) -> None:
    host.engine.inside.faults = Faults(load_error="LoRA rank 32 is greater than max_lora_rank 16.")
    with refused("rank_too_high"):
        await Bench().run(host.activities.load, host.load())


async def test_a_cancelled_load_is_undone_by_its_undo(host: Host) -> None:
    host.engine.inside.faults = Faults(load_seconds=0.5)
    bench = Bench()
    running = asyncio.create_task(bench.run(host.activities.load, host.load()))
    while not bench.beats:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    bench.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    undone = await Bench().run(host.activities.unload, host.unload(own_only=True, cut_requests=True))
    assert undone.outcome in {"unloaded", "not_loaded"}
    await asyncio.sleep(0.6)
    assert await host.state() is None


async def test_a_load_lets_requests_in_again_that_an_unload_had_refused(host: Host) -> None:
    await host.loaded()
    async with host.request(0.3):
        with refused("drain_timeout"):
            await Bench().run(host.activities.unload, host.unload())
    assert await host.state() is AdapterState.DRAINING
    restored = await Bench().run(host.activities.load, host.load(undo=True))
    assert restored.outcome == "already_loaded"
    assert await host.state() is AdapterState.SERVING


async def test_a_load_that_comes_after_its_own_undo_is_refused(host: Host) -> None:
    undone = await Bench().run(host.activities.unload, host.unload(own_only=True))
    assert undone.outcome == "not_loaded"
    with refused("stale_epoch"):
        await Bench().run(host.activities.load, host.load())
    assert await host.state() is None


async def test_unloading_twice_is_unloading_once(host: Host) -> None:
    await host.loaded()
    first, second = [await Bench().run(host.activities.unload, host.unload()) for _ in range(2)]
    assert (first.outcome, second.outcome) == ("unloaded", "not_loaded")
    assert [step.name for step in first.steps] == ["drain", "remove"]
    assert (await host.engine.driver.state()).free_slots == 3


async def test_an_unload_waits_for_the_requests_that_run(host: Host) -> None:
    await host.loaded()
    async with host.request(0.05) as answer:
        unloaded = await Bench().run(host.activities.unload, host.unload(drain_seconds=20))
        assert unloaded.outcome == "unloaded"
        assert (await answer)[-1] == "data: [DONE]"


async def test_a_drain_longer_than_a_slice_goes_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_activities, "DRAIN_SLICE_SECONDS", 0.05)
    await host.loaded()
    async with host.request(0.05) as answer:
        await Bench().run(host.activities.unload, host.unload(drain_seconds=20))
        assert (await answer)[-1] == "data: [DONE]"


async def test_requests_that_outlast_the_drain_fail_it_or_are_cut(host: Host) -> None:
    await host.loaded()
    async with host.request(1.0) as answer:
        with refused("drain_timeout"):
            await Bench().run(host.activities.unload, host.unload(drain_seconds=0.1))
        assert not answer.done()
        assert await host.state() is AdapterState.DRAINING
        cut = await Bench().run(host.activities.unload, host.unload(cut_requests=True))
        assert cut.outcome == "unloaded"
    assert await host.state() is None


async def test_a_drain_hears_a_cancel_and_its_undo_lets_requests_in_again(host: Host) -> None:
    await host.loaded()
    async with host.request(1.0):
        bench = Bench()
        running = asyncio.create_task(bench.run(host.activities.unload, host.unload(drain_seconds=60)))
        while await host.state() is not AdapterState.DRAINING:
            await asyncio.sleep(0.01)
        cancelled = time.monotonic()
        bench.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert time.monotonic() - cancelled < 1
        for _ in range(2):
            await Bench().run(host.activities.resume, host.resume())
        assert await host.state() is AdapterState.SERVING
    host.engine.inside.faults = Faults()
    probe = await host.engine.driver.probe(host.ref.served_name, "x")
    assert probe.served_name == host.ref.served_name


async def test_an_undo_leaves_what_another_operation_loaded(host: Host) -> None:
    await host.loaded()
    unloaded = await Bench().run(host.activities.unload, host.unload(LATER, own_only=True))
    assert unloaded.outcome == "not_owned"
    assert await host.state() is AdapterState.SERVING


async def test_a_late_call_of_an_operation_that_was_taken_over_is_refused(host: Host) -> None:
    await host.loaded(LATER)
    with refused("stale_epoch"):
        await Bench().run(host.activities.load, host.load())
    with refused("stale_epoch"):
        await Bench().run(host.activities.unload, host.unload())
    late = await Bench().run(host.activities.unload, host.unload(own_only=True))
    assert late.outcome == "not_owned"
    assert await host.state() is AdapterState.SERVING


async def test_another_life_of_the_engine_holds_nothing_to_unload(host: Host) -> None:
    await host.loaded()
    given = host.unload(target=target("e1", "an-earlier-life"), drain_seconds=30)
    gone = [await Bench().run(host.activities.unload, given) for _ in range(2)]
    assert [one.outcome for one in gone] == ["engine_gone", "engine_gone"]
    assert await host.state() is AdapterState.SERVING


async def test_a_load_for_another_life_of_the_engine_is_refused(host: Host) -> None:
    with refused("incarnation_mismatch"):
        await Bench().run(host.activities.load, host.load(target=target("e1", "an-earlier-life")))


@pytest.fixture
async def dead(host: Host, reports: Reports) -> AsyncIterator[EngineActivities]:
    """The activities on an engine on whose port nobody listens."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    driver = VllmEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", SecretStr(ENGINE_TOKEN))
    server.close()
    await server.wait_closed()
    yield EngineActivities({"e1": driver}, reports)
    await driver.aclose()


async def test_an_engine_whose_port_refuses_holds_nothing_to_unload(
    dead: EngineActivities, host: Host
) -> None:
    for given in (host.unload(drain_seconds=30), host.unload(own_only=True)):
        assert (await Bench().run(dead.unload, given)).outcome == "engine_gone"


async def test_an_engine_whose_port_refuses_fails_a_load(dead: EngineActivities, host: Host) -> None:
    with refused("engine_unreachable") as caught:
        await Bench().run(dead.load, host.load())
    assert caught.value.retryable


async def test_an_engine_that_does_not_answer_may_hold_it_still(host: Host, reports: Reports) -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    driver = VllmEngine(url, SecretStr(ENGINE_TOKEN), patience=Patience(call_seconds=0.1))
    async with server:
        with refused("engine_unreachable"):
            await Bench().run(EngineActivities({"e1": driver}, reports).unload, host.unload(own_only=True))
    await driver.aclose()


async def test_an_adapter_that_is_not_there_needs_no_letting_in(host: Host, dead: EngineActivities) -> None:
    await Bench().run(host.activities.resume, host.resume())
    await Bench().run(host.activities.resume, host.resume(target=target("e1", "an-earlier-life")))
    await Bench().run(dead.resume, host.resume())
    assert await host.state() is None


async def test_an_engine_that_this_agent_does_not_know_is_told(host: Host) -> None:
    for activity, given in (
        (host.activities.load, host.load()),
        (host.activities.unload, host.unload()),
        (host.activities.resume, host.resume()),
    ):
        unknown = given.model_copy(update={"target": target("e9")})
        with refused("engine_not_found"):
            await Bench().run(activity, unknown)  # type: ignore[arg-type]
