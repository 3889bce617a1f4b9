"""A real vLLM with two API server processes and two data parallel ranks keeps the contract of such engines."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.engines.adapters import copy_adapter
from tests.engines.one_process import server_processes
from tests.engines.pair_contract import Pair, PairContract
from tests.engines.world import PROMPT
from tests.fixtures.infra import VllmEngine as RunningVllm

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def pair(vllm_pair: Pair) -> Pair:
    return vllm_pair


class TestVllmPair(PairContract):
    """The contract."""


async def test_every_rank_answers_with_what_was_loaded(pair: Pair) -> None:
    (version,) = await pair.one.loaded()
    answers = [await pair.one.answer(version.served_name) for _ in range(6)]
    assert set(answers) == {pair.one.expected(version, PROMPT)}
    metrics = (await pair.one.http.get("/metrics")).text
    served = {
        line.partition('engine="')[2][:1]
        for line in metrics.splitlines()
        if line.startswith("vllm:request_success_total") and not line.endswith(" 0.0")
    }
    assert served == {"0", "1"}  # vLLM hands requests to its ranks in turn


async def test_what_was_unloaded_is_not_brought_back_by_a_resolver(pair: Pair, resolver_folder: Path) -> None:
    """H9. The plugin is installed, and its folder has an adapter of just that name."""
    (version,) = await pair.one.loaded()
    copy_adapter(version.source, resolver_folder / version.served_name)
    assert await pair.other.unload(version) == "unloaded"
    for world in (pair.one, pair.other):
        assert (await world.status(version.served_name)).status_code == 404
        state = await world.engine.state()
        assert (state.adapters, state.foreign_int_ids) == ((), ())


async def test_when_one_api_process_is_killed_vllm_ends_the_engine(vllm_of_two: RunningVllm) -> None:
    """Last in this file: the engine is gone after it. Its restart is another incarnation."""
    url, token = vllm_of_two.url, vllm_of_two.token
    victim, _ = await server_processes(url, token, 2)
    os.kill(victim, signal.SIGKILL)
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        while vllm_of_two.child.running:
            await asyncio.sleep(0.1)
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/health")
