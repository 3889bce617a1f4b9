"""The driver for a stock vLLM keeps the contract on a real one that has nothing of ours."""

import pytest

from tests.engines.promises_missing import PromisesMissing
from tests.engines.world import World

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def world(vllm_stock_world: World) -> World:
    return vllm_stock_world


class TestStockVllm(PromisesMissing):
    """The contract."""
