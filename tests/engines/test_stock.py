"""The driver for a stock vLLM keeps the contract on the simulated one, and says what it cannot promise."""

import pytest

from tests.engines.promises_missing import PromisesMissing
from tests.engines.world import World


@pytest.fixture
def world(stock_world: World) -> World:
    return stock_world


class TestSimulatedStockEngine(PromisesMissing):
    """The contract."""
