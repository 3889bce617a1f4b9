"""What happens on an engine that cannot keep the promises: a stock vLLM, and the simulated one."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from loradock.core.promises import EnginePromise
from loradock.engines import AdapterState, UnloadCommand, UnloadResult
from loradock.engines.protocol import UNKNOWN_DIGEST
from tests.engines.adapters import BAD
from tests.engines.contract import EngineContract, refused
from tests.engines.promises_kept import about
from tests.engines.world import PROMPT, Version, World


class PromisesMissing(EngineContract):
    """The contract, and for each promise what there is instead."""

    @about(EnginePromise.STAGED_LOADS)
    async def test_the_engine_says_all_that_it_cannot_promise(self, world: World) -> None:
        state = await world.engine.state()
        assert set(state.missing_promises) == set(EnginePromise)
        assert not {"staged_load", "in_flight", "expectations", "abort"} & set(state.capabilities)

    # Memory

    @about(EnginePromise.TRUE_UNLOAD, EnginePromise.RESIDENCY_CHECK)
    async def test_what_is_done_says_what_it_could_not_keep(self, world: World) -> None:
        version = world.version()
        loaded = await world.load(version)
        assert set(loaded.unkept) == {EnginePromise.RESIDENCY_CHECK, EnginePromise.NO_EVICTION}
        unloaded = await unload(world, version)
        assert set(unloaded.unkept) == {EnginePromise.TRUE_UNLOAD, EnginePromise.RESIDENCY_CHECK}

    @about(EnginePromise.TRUE_UNLOAD)
    async def test_the_same_name_again_after_an_unload_answers_with_its_own_weights(
        self, world: World
    ) -> None:
        kept, version = await world.loaded(world.good[1], world.good[0])
        for _ in range(3):
            await world.unload(version)
            assert (await world.status(version.served_name)).status_code == 404
            assert (await world.load(version)).outcome == "loaded"
            assert await world.answer(version.served_name) == world.expected(version, PROMPT)
            assert await world.answer(kept.served_name) == world.expected(kept, PROMPT)

    @about(EnginePromise.NO_EVICTION)
    async def test_names_fill_the_slots_and_whatever_is_pushed_out_answers_right(self, world: World) -> None:
        slots = (await world.engine.state()).usable_slots
        versions = await world.loaded(*(world.good[number % len(world.good)] for number in range(slots)))
        with refused("no_free_slot"):
            await world.load(world.version())
        # What is unloaded stays in memory: the next load may push out another one, which is read again when it is asked.
        for _ in range(2):
            await world.unload(versions.pop())
            versions = [*await world.loaded(world.good[1]), *versions]
        assert (await world.engine.state()).free_slots == 0
        for version in versions:
            assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    @about(EnginePromise.CLEAN_FAILURE)
    async def test_half_a_load_that_stays_behind_never_answers(self, world: World) -> None:
        _, make = BAD["another base's shapes"]
        make(world.host / "bad")
        bad = world.version(world.host / "bad")
        with refused("wrong_base_model"):
            await world.load(bad)
        assert (await world.engine.state()).adapters == ()
        assert (await world.status(bad.served_name)).status_code == 404
        (good,) = await world.loaded()
        assert await world.answer(good.served_name) == world.expected(good, PROMPT)
        assert await world.answer(world.base_model) == world.expected(None, PROMPT)

    # Running requests

    @about(EnginePromise.DRAIN_COUNT)
    async def test_running_requests_are_seen_and_not_counted(self, world: World) -> None:
        (version,) = await world.loaded()
        async with world.stream(version.served_name) as stream:
            state = await world.engine.state()
            assert (state.adapters[0].in_flight, state.in_flight_base) == (None, None)
            assert await world.drain(version) == ("draining", None)
            with refused("drain_timeout"):
                await world.unload(version)
            held = (await world.engine.state()).adapter(version.served_name)
            assert held is not None
            assert held.state is AdapterState.DRAINING
            assert await stream.is_whole()
        assert await world.drain(version, wait_seconds=30) == ("drained", None)
        assert await world.unload(version) == "unloaded"

    @about(EnginePromise.CUT_REQUESTS)
    async def test_a_forced_unload_lets_running_answers_end_and_keeps_their_files(self, world: World) -> None:
        (version,) = await world.loaded()
        async with world.stream(version.served_name) as stream:
            unloaded = await unload(world, version, on_timeout="abort")
            assert unloaded.outcome == "unloaded"
            assert EnginePromise.CUT_REQUESTS in unloaded.unkept
            state = await world.engine.state()
            assert (state.adapters, state.unfinished) == ((), (version.served_name,))
            assert await stream.is_whole()
        while (await world.engine.state()).unfinished:
            await asyncio.sleep(0.05)

    # What gateways rely on

    @about(EnginePromise.ADMISSION)
    @pytest.mark.parametrize("chat", [False, True])
    async def test_a_draining_name_ends_what_runs_and_is_unknown_to_what_comes(
        self, world: World, chat: bool
    ) -> None:
        (version,) = await world.loaded()
        async with world.stream(version.served_name, chat=chat) as stream:
            assert await world.drain(version) == ("draining", None)
            refusal = await world.status(version.served_name)
            assert refusal.status_code == 404
            assert "x-loradock-not-admitted" not in refusal.headers
            assert await world.answer(world.base_model) == world.expected(None, PROMPT)
            assert await stream.is_whole()

    @about(EnginePromise.ADMISSION)
    async def test_what_a_request_expects_is_not_heeded(self, world: World) -> None:
        (version,) = await world.loaded()
        headers = {"x-loradock-expect-incarnation": "another", "x-loradock-expect-digest": UNKNOWN_DIGEST}
        assert (await world.status(version.served_name, **headers)).status_code == 200

    # Trust

    @about(EnginePromise.FENCING)
    async def test_a_call_past_the_agent_is_taken_and_seen(self, world: World) -> None:
        (version,) = await world.loaded()
        away = await world.post({"lora_name": version.served_name}, "/v1/unload_lora_adapter")
        assert away.status_code == 200
        assert (await world.engine.state()).adapters == ()
        assert await world.unload(version) == "not_loaded"
        assert (await world.load(version)).outcome == "loaded"

    @about(EnginePromise.SOLE_CONTROL)
    async def test_what_somebody_else_loads_is_told_by_its_path(self, world: World) -> None:
        ours, stray = world.version(), world.version()
        elsewhere = Path(shutil.copytree(stray.source, world.host / "by hand"))
        for name, path in (
            (ours.served_name, ours.path),
            (stray.served_name, str(elsewhere)),
            ("sql", ours.path),
        ):
            (
                await world.post({"lora_name": name, "lora_path": path}, "/v1/load_lora_adapter")
            ).raise_for_status()
        state = await world.engine.state()
        told = {one.served_name: (one.digest, one.int_id, one.operation) for one in state.adapters}
        assert told == {
            ours.served_name: (ours.digest, 0, ""),
            stray.served_name: (UNKNOWN_DIGEST, 0, ""),
        }
        assert any("sql" in text for text in state.limitations)
        assert state.free_slots == state.usable_slots - 3
        with refused("adapter_conflict"):
            await world.load(stray)
        # They can be taken out as ours can.
        await world.clean()
        assert (await world.load(stray)).outcome == "loaded"
        assert await world.answer(stray.served_name) == world.expected(stray, PROMPT)
        (await world.post({"lora_name": "sql"}, "/v1/unload_lora_adapter")).raise_for_status()

    # Limits

    @about(EnginePromise.TOLD_LIMITS)
    async def test_a_rank_that_nobody_told_of_is_refused_by_the_engine_itself(self, world: World) -> None:
        _, make = BAD["rank above the engine's"]
        make(world.host / "bad")
        with refused("rank_too_high"):
            await world.load(world.version(world.host / "bad"))


async def unload(world: World, version: Version, **changes: Any) -> UnloadResult:
    """An unload with all that it says."""
    fields = {**await world.common(), "served_name": version.served_name, **changes}
    return await world.engine.unload(UnloadCommand(**fields))
