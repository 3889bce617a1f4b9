"""The simulated engine keeps the contract, and fails to order."""

import asyncio

import httpx
import pytest

from loradock.engines import UnloadCommand
from loradock.engines.simulated import Faults, SimulatedEngine, chat_prompt, simulated_text, simulated_tokens
from tests.engines.conftest import TOKEN
from tests.engines.contract import reaches, refused
from tests.engines.promises_kept import PromisesKept
from tests.engines.world import PROMPT, World


@pytest.fixture
def world(simulated_world: World) -> World:
    return simulated_world


class TestSimulatedEngine(PromisesKept):
    """The contract."""


def test_the_answer_is_a_function_of_digest_and_prompt() -> None:
    one, other = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert simulated_text(one, PROMPT) == simulated_text(one, PROMPT)
    assert len({simulated_text(digest, PROMPT) for digest in (None, one, other)}) == 3
    assert simulated_text(one, PROMPT) != simulated_text(one, "another prompt")
    assert "".join(simulated_tokens(one, PROMPT, 3)) == simulated_text(one, PROMPT, 3)


async def test_a_chat_is_answered_by_the_same_function(world: World) -> None:
    (version,) = await world.loaded()
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": version.served_name, "messages": messages}
    answer = (await world.post(body, "/v1/chat/completions")).json()
    expected = simulated_text(version.digest, chat_prompt(messages))
    assert answer["choices"][0]["message"]["content"] == expected
    assert answer["model"] == version.served_name


async def test_a_stream_holds_the_same_tokens(world: World) -> None:
    body = {"model": world.base_model, "prompt": PROMPT, "stream": True}
    lines = [line for line in (await world.post(body)).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [httpx.Response(200, text=line.removeprefix("data: ")).json() for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == simulated_text(None, PROMPT)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_failed_load_that_leaves_an_id_behind_is_cleaned_up(
    world: World, simulated: SimulatedEngine
) -> None:
    simulated.faults = Faults(load_error="All items are pinned", failing_loads=1, leave_half_loaded=True)
    version = world.version()
    with refused("no_free_slot"):
        await world.load(version)
    assert (await world.engine.state()).foreign_int_ids == ()
    assert (await world.load(version)).outcome == "loaded"
    assert await world.answer(version.served_name) == world.expected(version, PROMPT)


async def test_an_id_that_cannot_be_cleaned_up_is_removed_before_the_next_load(
    world: World, simulated: SimulatedEngine
) -> None:
    simulated.faults = Faults(load_error="boom", leave_half_loaded=True, ignored_removals=5)
    version, other = world.version(), world.version(world.good[1])
    with refused("engine_error") as caught:
        await world.load(version)
    assert caught.value.details["cleaned"] is False
    assert (await world.engine.state()).foreign_int_ids == (version.int_id,)
    with refused("int_id_conflict"):
        await world.load(other, int_id=version.int_id)
    simulated.faults = Faults()
    assert (await world.load(version)).outcome == "loaded"
    assert await world.answer(version.served_name) == world.expected(version, PROMPT)


async def test_a_removal_without_effect_is_told_and_can_be_repeated(
    world: World, simulated: SimulatedEngine
) -> None:
    (version,) = await world.loaded()
    simulated.faults = Faults(ignored_removals=5)
    with refused("unload_failed"):
        await world.unload(version)
    assert (await world.status(version.served_name)).headers["x-loradock-not-admitted"] == "draining"
    assert await world.unload(version) == "unloaded"
    assert (await world.engine.state()).free_slots == 3


async def test_after_a_failed_removal_the_name_can_be_resumed(
    world: World, simulated: SimulatedEngine
) -> None:
    (version,) = await world.loaded()
    simulated.faults = Faults(ignored_removals=5)
    with refused("unload_failed"):
        await world.unload(version)
    assert await world.resume(version) == "serving"
    assert await world.answer(version.served_name) == world.expected(version, PROMPT)


async def test_a_dead_engine_is_an_error_and_not_a_wrong_state(
    world: World, simulated: SimulatedEngine
) -> None:
    (version,) = await world.loaded()
    command = UnloadCommand(served_name=version.served_name, **await world.common())
    simulated.faults = Faults(dead=True)
    with refused("engine_error") as caught:
        await world.engine.state()
    assert caught.value.retryable
    with refused("engine_error"):
        await world.engine.unload(command)


async def test_a_load_whose_caller_leaves_in_the_middle_is_finished(
    world: World, simulated: SimulatedEngine
) -> None:
    simulated.faults = Faults(load_seconds=0.3)
    version = world.version()
    caller = asyncio.create_task(world.load(version))
    while (await world.engine.state()).free_slots == 3:
        await asyncio.sleep(0.01)
    caller.cancel()
    assert (await world.engine.state()).foreign_int_ids == ()
    assert (await world.load(version)).outcome == "already_loaded"
    assert (await world.engine.state()).foreign_int_ids == ()


async def test_an_unload_whose_caller_leaves_while_it_waits_removes_nothing(
    world: World, simulated: SimulatedEngine
) -> None:
    (version,) = await world.loaded()
    async with world.stream(version.served_name) as stream:
        unload = asyncio.create_task(world.unload(version, drain_seconds=30))
        while (await world.status(version.served_name)).status_code != 503:
            await asyncio.sleep(0)
        unload.cancel()
        assert await stream.is_whole()
    await reaches(world, version, 0)
    state = (await world.engine.state()).adapter(version.served_name)
    assert state is not None
    assert state.resident
    assert await world.resume(version) == "serving"
    assert await world.answer(version.served_name) == world.expected(version, PROMPT)


async def test_faults_are_ordered_over_http_with_the_token_only(
    world: World, simulated: SimulatedEngine
) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert (await world.http.put("/simulated/faults", json={"silent": True})).status_code == 401
    wrong = await world.http.put("/simulated/faults", json={"sillent": 1}, headers=headers)
    assert wrong.status_code == 400
    answer = await world.http.put("/simulated/faults", json={"silent": True}, headers=headers)
    assert answer.json()["silent"] is True
    assert (await world.status(world.base_model)).status_code == 500
    with refused("engine_not_verified"):
        await world.engine.probe(world.base_model, PROMPT)
    assert simulated.faults.silent
