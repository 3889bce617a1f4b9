"""A real vLLM with the extension keeps the contract."""

import json

import pytest

from loradock.core.base_config import BaseConfig
from loradock.dev.samples import Samples
from tests.engines.contract import EngineContract
from tests.engines.world import World

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def world(vllm_world: World) -> World:
    return vllm_world


class TestVllmEngine(EngineContract):
    """The contract."""


async def test_the_engine_tells_of_its_base_what_the_config_does(world: World, tiny_model: Samples) -> None:
    told = (await world.engine.state()).base_config
    assert told is not None
    config = BaseConfig.of(json.loads((tiny_model.base / "config.json").read_text()))
    assert config.tells_anything
    assert BaseConfig.of(told) == config
