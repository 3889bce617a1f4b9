"""Two server processes of one engine at exact moments. What they do in general is in tests/engines/pair_contract.py."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loradock.engines.simulated import Faults, SimulatedEngine
from loradock_vllm.controller import Controller
from loradock_vllm.errors import ExtensionError
from loradock_vllm.in_flight import Ticket
from loradock_vllm.middleware import LoradockMiddleware
from loradock_vllm.pace import LoadLimits
from loradock_vllm.settings import ExtensionSettings
from loradock_vllm.shared_record import SharedRecord
from tests.engines.adapters import write_adapter
from tests.vllm_extension.test_controller import (
    SteppedEngine,
    folders,  # noqa: F401 - a fixture
    load,
    settle,
    unload,
)
from tests.vllm_extension.test_middleware import DIGEST, JSON, TOKEN, Call, Server, own


def siblings(engine: SimulatedEngine, folder: Path, **more: Any) -> list[Controller]:
    """The controllers of two processes."""
    views = (engine, engine.sibling())
    return [Controller(view, record=SharedRecord(folder, 2, 3), **more) for view in views]


async def test_a_request_counted_after_a_sibling_began_to_drain_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SimulatedEngine(max_loras=2, api_servers=2)
    settings = ExtensionSettings(token=TOKEN, runtime_folder=tmp_path / "run")
    views = (engine, engine.sibling())
    servers = [Server(view) for view in views]
    one, other = (
        LoradockMiddleware(server, settings, bind=lambda _, view=view: view)  # type: ignore[misc]
        for server, view in zip(servers, views, strict=True)
    )
    folder = write_adapter(tmp_path / DIGEST.replace(":", "-"))
    assert (await own(one, "load", int_id=1, digest=DIGEST, path=str(folder))).status == 200
    assert (await own(other, "state")).status == 200
    assert one._running is not None
    assert other._running is not None
    drained_by: Callable[..., Any] = other._running.controller.record.change
    in_flight = one._running.controller.in_flight
    enter = in_flight.enter

    def enter_late(name: str) -> Ticket:
        with drained_by() as ledger:
            ledger.start_drain(name)
        return enter(name)

    monkeypatch.setattr(in_flight, "enter", enter_late)
    call = await Call("/v1/completions", json.dumps({"model": "a@1"}).encode(), headers=(JSON,)).to(one)
    assert (call.status, call.headers[b"x-loradock-not-admitted"]) == (503, b"draining")
    assert servers[0].seen == []
    assert in_flight.count("a@1") == 0


async def test_a_process_whose_parent_is_gone_serves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SimulatedEngine(max_loras=2, api_servers=2)
    server = Server(engine)
    settings = ExtensionSettings(token=TOKEN, runtime_folder=tmp_path / "run")
    app = LoradockMiddleware(server, settings, bind=lambda _: engine)
    assert (await Call("/v1/models", method="GET").to(app)).status == 200
    monkeypatch.setattr("loradock_vllm.shared_record.os.getppid", lambda: 1)
    while (await Call("/health", method="GET").to(app)).status == 200:
        await asyncio.sleep(0.01)
    seen = len(server.seen)
    assert (await Call("/v1/completions", json.dumps({"model": "base"}).encode()).to(app)).status == 503
    headers = ((b"authorization", f"Bearer {TOKEN}".encode()),)
    state = await Call("/loradock/v1/state", headers=headers, method="GET").to(app)
    assert (state.status, state.content["error"]["code"]) == (500, "engine_error")
    assert len(server.seen) == seen


async def test_while_one_loads_the_other_tells_what_is_resident(
    tmp_path: Path,
    folders: list[Path],  # noqa: F811
) -> None:
    engine = SteppedEngine()
    one, other = siblings(engine, tmp_path)
    engine.gate.set()
    await one.load(load(one, folders, 0))
    engine.gate.clear()
    engine.begun.clear()
    loading = asyncio.create_task(one.load(load(one, folders, 1)))
    await engine.begun.wait()
    state = await other.state()
    assert [(adapter["served_name"], adapter["resident"]) for adapter in state["adapters"]] == [("a@1", True)]
    assert (state["free_slots"], state["foreign_int_ids"]) == (1, [])
    engine.gate.set()
    await loading


async def test_an_unload_through_one_waits_for_the_load_through_the_other(
    tmp_path: Path,
    folders: list[Path],  # noqa: F811
) -> None:
    engine = SteppedEngine()
    one, other = siblings(engine, tmp_path)
    loading = asyncio.create_task(one.load(load(one, folders, 0)))
    await engine.begun.wait()
    unloading = asyncio.create_task(other.unload(unload(other, 0)))
    await settle()
    engine.gate.set()
    assert (await loading)["outcome"] == "loaded"
    assert (await unloading)["outcome"] == "unloaded"
    assert await engine.list_ids() == set()


async def test_what_a_process_left_that_died_in_the_middle_of_a_load_is_removed_before_the_next(
    tmp_path: Path,
    folders: list[Path],  # noqa: F811
) -> None:
    engine = SimulatedEngine(max_loras=3)
    one, other = siblings(engine, tmp_path)
    with one.record.change() as ledger:
        ledger.begin_load(load(one, folders, 0), await one._residency.list_ids(), 0.0)
    await engine.add("a@1", 1, str(folders[0]))
    # It died here: the engine has the adapter, and nobody holds it.
    state = await other.state()
    assert (state["adapters"], state["foreign_int_ids"]) == ([], [1])
    await other.load(load(other, folders, 1))
    assert await engine.list_ids() == {2}


async def test_a_load_that_comes_too_soon_waits_and_lets_others_have_the_engine(
    tmp_path: Path,
    folders: list[Path],  # noqa: F811
) -> None:
    one, other = siblings(SimulatedEngine(max_loras=3), tmp_path, limits=LoadLimits(pause_seconds=0.3))
    first = await one.load(load(one, folders, 0))
    second = asyncio.create_task(other.load(load(other, folders, 1)))
    await settle()
    assert (await one.unload(unload(one, 0)))["outcome"] == "unloaded"
    assert not second.done()
    loaded_at = [result["adapter"]["loaded_at"] for result in (first, await second)]
    assert loaded_at[0] < loaded_at[1]


async def test_a_load_that_would_wait_too_long_is_told_when_to_come_again(
    tmp_path: Path,
    folders: list[Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loradock_vllm.controller.PACE_SECONDS", 0.0)
    one, other = siblings(SimulatedEngine(max_loras=3), tmp_path, limits=LoadLimits(per_minute=1))
    await one.load(load(one, folders, 0))
    assert (await other.load(load(other, folders, 0)))["outcome"] == "already_loaded"
    with pytest.raises(ExtensionError) as caught:
        await other.load(load(other, folders, 1))
    assert caught.value.code == "load_rate_limited"
    assert 0 < caught.value.details["retry_after"] <= 60


async def test_a_load_that_failed_counts_for_the_pace_as_well(
    tmp_path: Path,
    folders: list[Path],  # noqa: F811
) -> None:
    engine = SimulatedEngine(max_loras=3, faults=Faults(load_error="boom", failing_loads=1))
    controller = Controller(engine, limits=LoadLimits(pause_seconds=60))
    for code in ("engine_error", "load_rate_limited"):
        with pytest.raises(ExtensionError, match=code):
            await controller.load(load(controller, folders, 0))
