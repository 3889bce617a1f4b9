"""The driver for a stock vLLM keeps the contract on a real one that has nothing of ours."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.engines.conftest import stock_driver
from tests.engines.contract import refused
from tests.engines.promises_missing import PromisesMissing
from tests.engines.world import PROMPT, World
from tests.fixtures.infra import VllmEngine

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def world(vllm_stock_world: World) -> World:
    return vllm_stock_world


class TestStockVllm(PromisesMissing):
    """The contract."""


async def test_a_restart_is_another_life_that_holds_nothing(
    world: World, vllm_stock: VllmEngine, tmp_path: Path
) -> None:
    (version,) = await world.loaded()
    before = await world.common()
    vllm_stock.child.stop()
    with refused("engine_unreachable") as caught:
        await world.engine.state()
    assert caught.value.details == {"refused": True}
    vllm_stock.child.start()
    await asyncio.to_thread(vllm_stock.child.wait_ready)
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        # Nobody tells it the slots: the engine does, after its first prompt.
        driver, world.engine = world.engine, stock_driver(vllm_stock.url, tmp_path)(client)
        state = await world.engine.state()
        assert (state.adapters, state.usable_slots) == ((), 256)
        assert state.incarnation != before["incarnation"]
        with refused("incarnation_mismatch"):
            await world.load(version, **before)
        assert (await world.load(version)).outcome == "loaded"
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)
        world.engine = driver
