"""What an engine keeps that keeps every promise: vLLM with our extension, and the simulated one."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import pytest
from pydantic import SecretStr

from loradock.core.promises import EnginePromise
from loradock.engines import AdapterState, VllmEngine
from tests.engines.adapters import BAD
from tests.engines.contract import EngineContract, reaches, refused
from tests.engines.world import PROMPT, World, in_flight

Test = TypeVar("Test", bound=Callable[..., Any])


def about(*promises: EnginePromise) -> Callable[[Test], Test]:
    """The promises that a test is about; one of the tests sees that none is forgotten."""

    def mark(test: Test) -> Test:
        test.promises = frozenset(promises)  # type: ignore[attr-defined]
        return test

    return mark


class PromisesKept(EngineContract):
    """The contract, and what only such engines can do."""

    # Memory

    @about(EnginePromise.TRUE_UNLOAD, EnginePromise.RESIDENCY_CHECK)
    async def test_an_unload_frees_the_slot_and_the_engine_lists_nothing(self, world: World) -> None:
        (version,) = await world.loaded()
        assert await world.unload(version) == "unloaded"
        state = await world.engine.state()
        assert state.adapters == ()
        assert state.foreign_int_ids == ()
        assert state.free_slots == state.usable_slots
        assert (await world.status(version.served_name)).status_code == 404
        assert await world.unload(version) == "not_loaded"

    @about(EnginePromise.NO_EVICTION)
    async def test_a_load_beyond_the_usable_slots_is_refused_and_evicts_nobody(self, world: World) -> None:
        slots = (await world.engine.state()).usable_slots
        sources = [world.good[number % len(world.good)] for number in range(slots)]
        versions = await world.loaded(*sources)
        with refused("no_free_slot"):
            await world.load(world.version())
        state = await world.engine.state()
        assert state.free_slots == 0
        assert all(adapter.resident for adapter in state.adapters)
        for version in versions:
            assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    @about(EnginePromise.CLEAN_FAILURE)
    async def test_a_load_that_fails_in_the_middle_leaves_no_number_behind(self, world: World) -> None:
        _, make = BAD["another base's shapes"]
        make(world.host / "bad")
        before = await world.engine.state()
        with refused("wrong_base_model"):
            await world.load(world.version(world.host / "bad"))
        after = await world.engine.state()
        assert (after.foreign_int_ids, after.free_slots) == ((), before.free_slots)

    @about(EnginePromise.TOLD_LIMITS)
    async def test_the_engine_tells_its_limits_before_its_first_request(self, world: World) -> None:
        state = await world.engine.state()
        assert (state.max_lora_rank, state.usable_slots) == (16, 3)

    # Running requests

    @about(EnginePromise.DRAIN_COUNT)
    async def test_running_requests_are_counted_exactly(self, world: World) -> None:
        versions = await world.loaded(*world.good[:2])
        async with contextlib.AsyncExitStack() as stack:
            names = [
                versions[0].served_name,
                versions[0].served_name,
                versions[1].served_name,
                world.base_model,
            ]
            for name in names:
                await stack.enter_async_context(world.stream(name))
            state = await world.engine.state()
            assert [in_flight(state, version) for version in versions] == [2, 1]
            assert state.in_flight_base == 1
        # Leaving the streams before their end closes their connections.
        for version in versions:
            await reaches(world, version, 0)
        while (await world.engine.state()).in_flight_base:
            await asyncio.sleep(0.01)

    @about(EnginePromise.DRAIN_COUNT, EnginePromise.ADMISSION)
    async def test_an_unload_that_may_not_wait_keeps_the_name_draining(self, world: World) -> None:
        (version,) = await world.loaded()
        async with world.stream(version.served_name) as stream:
            with refused("drain_timeout") as caught:
                await world.unload(version)
            assert caught.value.details["in_flight"] == 1
            assert (await world.status(version.served_name)).status_code == 503
            assert await stream.is_whole()
        assert await world.unload(version, drain_seconds=30) == "unloaded"

    @about(EnginePromise.CUT_REQUESTS)
    async def test_an_unload_can_cut_running_answers(self, world: World) -> None:
        (version,) = await world.loaded()
        async with world.stream(version.served_name) as stream:
            assert await world.unload(version, on_timeout="abort") == "unloaded"
            with pytest.raises(httpx.RemoteProtocolError):
                await stream.rest()
        assert (await world.engine.state()).foreign_int_ids == ()
        assert await world.answer(world.base_model) == world.expected(None, PROMPT)

    @about(EnginePromise.CUT_REQUESTS)
    async def test_a_whole_answer_that_is_cut_is_an_error_not_a_wrong_answer(self, world: World) -> None:
        (version,) = await world.loaded()
        body = {"model": version.served_name, "prompt": PROMPT, "max_tokens": 200, "ignore_eos": True}
        request = asyncio.create_task(world.post(body))
        await reaches(world, version, 1)
        assert await world.unload(version, on_timeout="abort") == "unloaded"
        assert (await request).status_code == 503

    # What gateways rely on

    @about(EnginePromise.ADMISSION)
    @pytest.mark.parametrize("chat", [False, True])
    async def test_a_draining_name_ends_what_runs_and_admits_nothing(self, world: World, chat: bool) -> None:
        (version,) = await world.loaded()
        async with world.stream(version.served_name, chat=chat) as stream:
            assert await world.drain(version) == ("draining", 1)
            refusal = await world.status(version.served_name)
            assert refusal.status_code == 503
            assert refusal.headers["x-loradock-not-admitted"] == "draining"
            assert refusal.headers["retry-after"]
            assert refusal.json()["error"]["code"] == 503
            assert await world.answer(world.base_model) == world.expected(None, PROMPT)
            assert await stream.is_whole()
        assert await world.drain(version, wait_seconds=30) == ("drained", 0)
        state = (await world.engine.state()).adapter(version.served_name)
        assert state is not None
        assert (state.state, state.resident) == (AdapterState.DRAINING, True)

    @about(EnginePromise.ADMISSION)
    async def test_a_request_is_admitted_only_as_it_expects(self, world: World) -> None:
        (version,) = await world.loaded()
        incarnation = (await world.engine.state()).incarnation
        name = version.served_name
        kept = {"x-loradock-expect-incarnation": incarnation, "x-loradock-expect-digest": version.digest}
        assert (await world.status(name, **kept)).status_code == 200
        for change, reason in (
            ({"x-loradock-expect-incarnation": "another"}, "incarnation"),
            ({"x-loradock-expect-digest": "sha256:" + "0" * 64}, "digest"),
        ):
            refusal = await world.status(name, **{**kept, **change})
            assert refusal.status_code == 503
            assert refusal.headers["x-loradock-not-admitted"] == reason
            assert refusal.headers["retry-after"] == "1"
        unknown = await world.status("nobody@1", **kept)
        assert unknown.headers["x-loradock-not-admitted"] == "unknown"

    @about(EnginePromise.ADMISSION)
    async def test_a_body_that_names_two_models_is_refused(self, world: World) -> None:
        (version,) = await world.loaded()
        content = f'{{"model":"{world.base_model}","prompt":"x","mod\\u0065l":"{version.served_name}"}}'
        headers = {"content-type": "application/json"}
        response = await world.http.post("/v1/completions", content=content, headers=headers)
        assert response.status_code == 400

    # Trust

    @about(EnginePromise.FENCING)
    async def test_a_late_call_past_the_agent_is_refused_by_the_engine_itself(self, world: World) -> None:
        (version,) = await world.loaded()
        body = {**await world.common(epoch=0), "served_name": version.served_name}
        headers = {"authorization": f"Bearer {world.token}"}
        late = await world.post(body, "/loradock/v1/unload", headers=headers)
        assert late.json()["error"]["code"] == "stale_epoch"
        other = await world.post({**body, "incarnation": "other"}, "/loradock/v1/unload", headers=headers)
        assert other.json()["error"]["code"] == "incarnation_mismatch"
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    @about(EnginePromise.SOLE_CONTROL)
    async def test_a_wrong_token_is_refused(self, world: World) -> None:
        stranger = VllmEngine(world.url, SecretStr("x" * len(world.token)))
        try:
            with refused("engine_unauthorized"):
                await stranger.state()
        finally:
            await stranger.aclose()

    @about(EnginePromise.SOLE_CONTROL)
    @pytest.mark.parametrize(
        "path", ["/loradock", "/loradock/", "/loradock/v1/state", "/loradock/v1/load", "/loradock/v2/x"]
    )
    async def test_nothing_of_ours_answers_without_a_token(self, world: World, path: str) -> None:
        for method in ("GET", "POST", "OPTIONS"):
            assert (await world.http.request(method, path)).status_code == 401

    @about(EnginePromise.SOLE_CONTROL)
    @pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
    async def test_the_engine_s_own_ways_to_change_adapters_are_shut(self, world: World, path: str) -> None:
        (version,) = await world.loaded()
        body = {"lora_name": version.served_name, "lora_path": version.path}
        assert (await world.post(body, path)).status_code == 403
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)
