"""A real vLLM with the extension keeps the contract."""

import asyncio
import json

import pytest

from loradock.core.base_config import BaseConfig
from loradock.core.promises import EnginePromise
from loradock.dev.samples import Samples
from tests.engines.promises_kept import PromisesKept, about
from tests.engines.world import PROMPT, Version, World

STAGED = "staged_load"

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def world(vllm_world: World) -> World:
    return vllm_world


class TestVllmEngine(PromisesKept):
    """The contract."""


async def test_the_engine_tells_of_its_base_what_the_config_does(world: World, tiny_model: Samples) -> None:
    told = (await world.engine.state()).base_config
    assert told is not None
    config = BaseConfig.of(json.loads((tiny_model.base / "config.json").read_text()))
    assert config.tells_anything
    assert BaseConfig.of(told) == config


@about(EnginePromise.STAGED_LOADS)
async def test_loads_are_staged_beside_the_steps(world: World) -> None:
    state = await world.engine.state()
    assert STAGED in state.capabilities
    assert state.missing_promises == ()
    assert not any("step loop" in text for text in state.limitations)


async def test_loads_and_unloads_change_no_running_answer_whatever_slot_they_take(
    world: World, tiny_model: Samples
) -> None:
    kept, coming = world.version(world.good[0]), [world.version(source) for source in world.good[1:]]
    await world.load(kept)
    over = asyncio.Event()

    async def ask(model: str, expected: list[str]) -> int:
        answers = 0
        while not over.is_set():
            for prompt, text in zip(tiny_model.prompts, expected, strict=True):
                assert await world.answer(model, prompt) == text
                answers += 1
        return answers

    def texts(version: Version | None) -> list[str]:
        return [world.expected(version, prompt) for prompt in tiny_model.prompts]

    async with asyncio.TaskGroup() as tasks:
        asking = [
            tasks.create_task(ask(kept.served_name, texts(kept))),
            tasks.create_task(ask(world.base_model, texts(None))),
        ]
        # Each comes back into the slot that the other had.
        for first, second in (coming, coming[::-1], coming):
            for version in (first, second):
                await world.load(version)
                assert await world.answer(version.served_name) == world.expected(version, PROMPT)
            for version in (first, second):
                assert await world.unload(version) == "unloaded"
        over.set()
    assert all(task.result() for task in asking)
    state = await world.engine.state()
    assert [adapter.served_name for adapter in state.adapters] == [kept.served_name]
    assert state.foreign_int_ids == ()
