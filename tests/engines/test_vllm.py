"""A real vLLM with the extension keeps the contract."""

import pytest

from tests.engines.contract import EngineContract
from tests.engines.world import World

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def world(vllm_world: World) -> World:
    return vllm_world


class TestVllmEngine(EngineContract):
    """The contract."""
