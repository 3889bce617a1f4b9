"""What the driver for a stock vLLM does where the engine is not as it should be, restarts, or says little."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from loradock.core.errors import LoradockError
from loradock.engines import LoadCommand, StockOptions, StockVllmEngine, UnloadCommand, VllmEngine
from loradock.engines.simulated import Faults, SimulatedEngine, create_app, serving
from loradock.engines.simulated.stock import SimulatedStockEngine, create_stock_app
from loradock.engines.stock.load_errors import PATTERNS, classify
from loradock.engines.stock.metrics import Metrics, started_at
from loradock_vllm import classify as extension
from loradock_vllm.settings import ExtensionSettings
from tests.engines.adapters import HIDDEN, write_adapter
from tests.engines.conftest import digest_by_path, stock_driver, stock_world_at
from tests.engines.contract import refused
from tests.engines.world import PROMPT, World

KEY = "a-key-of-the-engine"


def inside(**more: Any) -> SimulatedStockEngine:
    return SimulatedStockEngine(base_model="tiny-llama", max_loras=3, hidden_size=HIDDEN, **more)


@asynccontextmanager
async def driven(
    app: Any, tmp_path: Path, *, api_key: str | None = None, **options: Any
) -> AsyncIterator[StockVllmEngine]:
    async with serving(app) as url, httpx.AsyncClient(trust_env=False, verify=False) as client:
        yield StockVllmEngine(
            url,
            tmp_path / "record.json",
            digest_by_path,
            options=StockOptions(**options),
            api_key=SecretStr(api_key) if api_key else None,
            client=client,
        )


# Which engine it is


async def test_an_engine_with_our_extension_is_refused_and_the_setting_named(tmp_path: Path) -> None:
    app = create_app(SimulatedEngine(), settings=ExtensionSettings(token="x" * 20))
    async with serving(app) as url, httpx.AsyncClient(trust_env=False, verify=False) as client:
        with refused("engine_not_supported") as caught:
            await stock_driver(url, tmp_path)(client).state()
    # It has no metrics here; the real one has, and is asked for the extension then.
    assert "restart would go unnoticed" in caught.value.message

    class WithMetrics:
        """As a real vLLM with the extension: its own routes, and ours behind a token."""

        def __init__(self) -> None:
            self._stock = create_stock_app(inside())

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            ours = scope["type"] == "http" and scope["path"].startswith("/loradock")
            await (app if ours else self._stock)(scope, receive, send)

    async with driven(WithMetrics(), tmp_path) as engine:
        with refused("engine_not_supported") as caught:
            await engine.state()
    assert "--engine-kind vllm" in caught.value.message


async def test_a_stock_engine_is_refused_by_the_driver_for_the_extension_and_the_setting_named() -> None:
    async with serving(create_stock_app(inside())) as url:
        engine = VllmEngine(url, SecretStr("x" * 20))
        try:
            with refused("engine_not_supported") as caught:
                await engine.state()
        finally:
            await engine.aclose()
    assert "--engine-kind stock-vllm" in caught.value.message


async def test_an_engine_that_lets_no_adapter_be_changed_is_refused_with_what_to_start(
    tmp_path: Path,
) -> None:
    async with driven(create_stock_app(inside(), updates=False), tmp_path) as engine:
        with refused("engine_not_supported") as caught:
            await engine.state()
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in caught.value.message


async def test_the_engine_s_own_key_is_shown_to_all_its_routes(tmp_path: Path) -> None:
    app = create_stock_app(inside(), api_key=KEY)
    async with driven(app, tmp_path, api_key=KEY) as engine:
        assert (await engine.state()).usable_slots == 3
    async with driven(app, tmp_path) as engine:
        with refused("engine_unauthorized") as caught:
            await engine.state()
    assert "LORADOCK_ENGINE_API_KEY" in caught.value.message


async def test_an_engine_that_tells_no_slots_needs_them_from_the_operator(tmp_path: Path) -> None:
    async with driven(create_stock_app(inside(tells_stats=False)), tmp_path) as engine:
        with refused("engine_not_supported") as caught:
            await engine.state()
    assert "LORADOCK_STOCK_MAX_LORAS" in caught.value.message
    async with driven(create_stock_app(inside(tells_stats=False)), tmp_path, max_loras=2) as engine:
        assert (await engine.state()).free_slots == 2


async def test_a_dead_engine_behind_a_living_server_is_an_error(tmp_path: Path) -> None:
    stock = inside()
    async with driven(create_stock_app(stock), tmp_path) as engine:
        await engine.state()
        stock.faults = Faults(dead=True)
        with refused("engine_error") as caught:
            await engine.state()
    assert caught.value.retryable


# Lives


async def test_a_restart_is_another_life_which_holds_nothing_of_before(tmp_path: Path) -> None:
    async with serving(create_stock_app(inside())) as url, stock_world_at(url, tmp_path) as world:
        (version,) = await world.loaded()
        before = await world.common()
    second = inside()
    second.started_at += 1
    async with serving(create_stock_app(second)) as url, stock_world_at(url, tmp_path / "2") as world:
        world.engine = stock_driver(url, tmp_path)(httpx.AsyncClient(trust_env=False, verify=False))
        state = await world.engine.state()
        assert (state.adapters, state.incarnation != before["incarnation"]) == ((), True)
        command = {**before, **version.load}
        with refused("incarnation_mismatch") as caught:
            await world.engine.load(LoadCommand(**command))
        assert caught.value.details["incarnation"] == state.incarnation
        # An epoch of another life says nothing of this one.
        assert (await world.load(version, epoch=0)).outcome == "loaded"


async def test_a_restart_in_the_middle_of_a_load_is_not_taken_for_its_success(
    simulated_stock: SimulatedStockEngine, stock_world: World
) -> None:
    simulated_stock.faults = Faults(load_seconds=0.3)
    load = asyncio.create_task(stock_world.load(stock_world.version()))
    while not simulated_stock._loading.locked():
        await asyncio.sleep(0.01)
    simulated_stock.started_at += 7  # another process answers from now on
    with refused("incarnation_mismatch"):
        await load


async def test_two_lives_that_seem_to_begin_at_one_time_are_told_apart() -> None:
    text = 'process_start_time_seconds 1.79581594903e+09\nvllm:request_success_created{a="b"} 1.7958160670{}e+09\n'
    one, other = (Metrics.read(text.replace("{}", digit)).incarnation for digit in "12")
    assert one is not None
    assert one != other
    assert started_at(one) == 1795815949.03


# The record


async def test_another_process_of_the_agent_knows_what_the_one_before_did(
    stock_world: World, tmp_path: Path
) -> None:
    (version, other) = await stock_world.loaded(*stock_world.good[:2])
    await stock_world.drain(other, epoch=5)
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        stock_world.engine = stock_driver(stock_world.url, tmp_path)(client)
        state = await stock_world.engine.state()
        report = state.adapter(version.served_name)
        assert report is not None
        assert (report.digest, report.int_id, report.operation) == (version.digest, version.int_id, "op-1")
        with refused("stale_epoch"):
            await stock_world.resume(other, epoch=4)
        assert await stock_world.unload(version, only_operation="op-2") == "not_owned"
        assert await stock_world.resume(other, epoch=5) == "serving"
        assert await stock_world.answer(other.served_name) == stock_world.expected(other, PROMPT)


async def test_a_load_that_was_cut_off_is_known_as_its_operation_s(
    simulated_stock: SimulatedStockEngine, stock_world: World, tmp_path: Path
) -> None:
    simulated_stock.faults = Faults(load_seconds=0.3)
    version = stock_world.version()
    load = asyncio.create_task(stock_world.load(version))
    while not simulated_stock._loading.locked():
        await asyncio.sleep(0.01)
    # The agent dies; the engine goes on. What the next agent knows is in the record alone.
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        stock_world.engine = stock_driver(stock_world.url, tmp_path)(client)
        while not (await stock_world.engine.state()).adapters:
            await asyncio.sleep(0.02)
        (held,) = (await stock_world.engine.state()).adapters
        assert (held.operation, held.int_id, held.digest) == ("op-1", version.int_id, version.digest)
        assert await stock_world.unload(version, only_operation="op-1") == "unloaded"
    load.cancel()


@pytest.mark.parametrize("content", ["", "{", '{"incarnation": 3}', "[]"])
async def test_a_record_that_is_lost_or_spoilt_makes_what_is_there_somebody_else_s(
    stock_world: World, tmp_path: Path, content: str
) -> None:
    (version,) = await stock_world.loaded()
    (tmp_path / "record.json").write_text(content)
    (held,) = (await stock_world.engine.state()).adapters
    # The path still tells the weights; whose load it was, nothing does.
    assert (held.digest, held.operation, held.int_id) == (version.digest, "", 0)
    with refused("adapter_conflict"):
        await stock_world.load(version)
    assert await stock_world.unload(version) == "unloaded"
    assert (await stock_world.load(version)).outcome == "loaded"


async def test_a_record_that_cannot_be_written_refuses_before_the_engine_is_touched(
    simulated_stock: SimulatedStockEngine, stock_world: World, tmp_path: Path
) -> None:
    (tmp_path / "record.json.new").mkdir()  # nothing can be written there
    with refused("disk_error"):
        await stock_world.load(stock_world.version())
    assert simulated_stock.names == {}


# What stays in memory


async def test_an_unload_leaves_the_adapter_in_memory_and_its_next_load_takes_another_number(
    simulated_stock: SimulatedStockEngine, stock_world: World
) -> None:
    (version,) = await stock_world.loaded()
    await stock_world.unload(version)
    assert list(simulated_stock.resident.values()) == [version.path]
    await stock_world.load(version)
    assert simulated_stock.names[version.served_name].int_id == 2


async def test_on_a_cpu_every_load_of_a_life_takes_a_slot_and_the_last_is_never_used(
    simulated_stock: SimulatedStockEngine, tmp_path: Path
) -> None:
    app = create_stock_app(simulated_stock)
    async with serving(app) as url, stock_world_at(url, tmp_path, on_cpu=True) as world:
        assert (await world.engine.state()).usable_slots == 2
        bad = write_adapter(world.host / "bad", rank=32)
        with refused("rank_too_high"):
            await world.load(world.version(bad))  # refused before it has a slot
        (version,) = await world.loaded()
        await world.unload(version)
        assert (await world.engine.state()).free_slots == 1
        (other,) = await world.loaded()
        with refused("no_free_slot"):
            await world.load(version)
        # Nor can a name be given back that was taken away: that were a third.
        await world.drain(other)
        with refused("no_free_slot"):
            await world.resume(other)
    assert len(simulated_stock.resident) == 2


# Drains


async def test_where_nothing_tells_what_runs_a_grace_is_waited_for(tmp_path: Path) -> None:
    app = create_stock_app(inside(tells_stats=False))
    async with serving(app) as url, stock_world_at(url, tmp_path, max_loras=3, grace_seconds=0.6) as world:
        (version,) = await world.loaded()
        assert await world.drain(version, wait_seconds=0.1) == ("draining", None)
        assert await world.drain(version, wait_seconds=5) == ("drained", None)
        assert await world.unload(version) == "unloaded"


async def test_an_unload_whose_caller_leaves_while_it_waits_can_be_resumed(stock_world: World) -> None:
    (version,) = await stock_world.loaded()
    async with stock_world.stream(version.served_name) as stream:
        unload = asyncio.create_task(stock_world.unload(version, drain_seconds=30))
        while (await stock_world.status(version.served_name)).status_code != 404:
            await asyncio.sleep(0.01)
        unload.cancel()
        assert await stream.is_whole()
    assert await stock_world.resume(version) == "serving"
    assert await stock_world.answer(version.served_name) == stock_world.expected(version, PROMPT)


async def test_a_name_that_somebody_gives_back_during_an_unload_is_told(stock_world: World) -> None:
    (version,) = await stock_world.loaded()
    async with stock_world.stream(version.served_name) as stream:
        unload = asyncio.create_task(stock_world.unload(version, drain_seconds=30))
        while (await stock_world.status(version.served_name)).status_code != 404:
            await asyncio.sleep(0.01)
        body = {"lora_name": version.served_name, "lora_path": version.path}
        (await stock_world.post(body, "/v1/load_lora_adapter")).raise_for_status()
        assert await stream.is_whole()
        with refused("unload_failed"):
            await unload
    assert await stock_world.unload(version) == "unloaded"


async def test_an_undo_that_is_late_does_nothing(stock_world: World) -> None:
    (version,) = await stock_world.loaded()
    state = await stock_world.engine.state()
    fields = {"served_name": version.served_name, "incarnation": state.incarnation, **stock_world.run}
    await stock_world.drain(version, epoch=3, undo=True, run_id="run-3")
    with refused("stale_epoch"):
        await stock_world.engine.unload(UnloadCommand(**fields))
    with refused("stale_epoch"):  # the run puts back already: its own call forward is late
        await stock_world.load(version, epoch=3, run_id="run-3")


# Reading


METRICS = """\
vllm:num_requests_running{engine="0",model_name="m"} %d.0
vllm:num_requests_waiting{engine="0",model_name="m"} %d.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a@1,org/b@2",waiting_lora_adapters=""} 1.7958161176582801e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters="c@1"} 1.7958161177177725e+09
"""


def test_the_newest_sample_tells_which_names_run() -> None:
    metrics = Metrics.read(METRICS % (1, 1))
    assert (metrics.requests, metrics.max_loras, metrics.ranks) == (2, 4, 1)
    assert [metrics.runs(name) for name in ("a@1", "org/b@2", "c@1")] == [False, False, True]


def test_a_scheduler_without_requests_is_believed_whatever_an_old_sample_says() -> None:
    assert Metrics.read(METRICS % (0, 0)).runs("c@1") is False


@pytest.mark.parametrize(
    "text", ["", METRICS % (1, 0) + 'vllm:num_requests_running{engine="1",model_name="m"} 0.0\n']
)
def test_without_counts_or_with_several_ranks_nothing_is_told(text: str) -> None:
    assert Metrics.read(text).runs("a@1") is None


def test_both_readers_of_vllm_s_texts_read_them_alike() -> None:
    ours = [(code, pattern.pattern) for code, pattern in PATTERNS]
    assert ours == [(code, pattern.pattern) for code, pattern in extension._PATTERNS]
    wrapped = "Call to add_lora method failed: LoRA rank 32 is greater than max_lora_rank 16."
    assert classify(wrapped) == extension.classify(wrapped) == "rank_too_high"


async def test_what_is_no_vllm_at_all_is_told(tmp_path: Path) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        engine = StockVllmEngine("http://engine", tmp_path / "r", digest_by_path, client=client)
        with pytest.raises(LoradockError) as caught:
            await engine.state()
    assert caught.value.code == "engine_error"
