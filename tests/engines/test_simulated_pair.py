"""A simulated engine with two server processes and two ranks keeps the contract of such engines."""

import pytest

from tests.engines.pair_contract import Pair, PairContract


@pytest.fixture
def pair(simulated_pair: Pair) -> Pair:
    return simulated_pair


class TestSimulatedPair(PairContract):
    """The contract."""
