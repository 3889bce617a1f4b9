"""What happens when calls meet, are cancelled, or come late: each at an exact moment. The rest is in tests/engines."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from loradock.engines.simulated import Faults, SimulatedEngine
from loradock_vllm.commands import LoadCommand, ResumeCommand, UnloadCommand
from loradock_vllm.controller import Controller
from loradock_vllm.errors import ExtensionError
from tests.engines.adapters import write_adapter


class SteppedEngine(SimulatedEngine):
    """Loads begin and then wait until they are let through; everything asked of it is noted."""

    def __init__(self) -> None:
        super().__init__(max_loras=3)
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.calls: list[tuple[str, int]] = []

    async def add(self, name: str, int_id: int, path: str) -> bool:
        self.calls.append(("add", int_id))
        self.begun.set()
        await self.gate.wait()
        return await super().add(name, int_id, path)

    async def remove(self, int_id: int) -> bool:
        self.calls.append(("remove", int_id))
        return await super().remove(int_id)


@pytest.fixture
def engine() -> SteppedEngine:
    return SteppedEngine()


@pytest.fixture
def controller(engine: SteppedEngine) -> Controller:
    return Controller(engine)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_adapter(tmp_path / f"sha256-{str(number) * 64}") for number in range(3)]


def common(controller: Controller, number: int, **more: Any) -> dict[str, Any]:
    fields = {"incarnation": controller.incarnation, "operation": "op", "run_id": "run", "epoch": 1}
    return {"served_name": f"a@{number + 1}", **fields, **more}


def load(controller: Controller, folders: list[Path], number: int, **more: Any) -> LoadCommand:
    fields = {"int_id": number + 1, "path": str(folders[number]), "digest": f"sha256:{str(number) * 64}"}
    return LoadCommand(**{**common(controller, number), **fields, **more})


def unload(controller: Controller, number: int, **more: Any) -> UnloadCommand:
    fields = {"only_operation": None, "drain_seconds": 0.0, "on_timeout": "keep_draining"}
    return UnloadCommand(**{**common(controller, number), **fields, **more})


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_load_cancelled_while_it_waits_never_touches_the_engine(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    first = asyncio.create_task(controller.load(load(controller, folders, 0)))
    await engine.begun.wait()
    second = asyncio.create_task(controller.load(load(controller, folders, 1)))
    await settle()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    engine.gate.set()
    assert (await first)["outcome"] == "loaded"
    await settle()
    assert engine.calls == [("add", 1)]
    assert (await controller.load(load(controller, folders, 1)))["outcome"] == "loaded"


async def test_a_load_cancelled_in_the_middle_is_finished_and_held(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    task = asyncio.create_task(controller.load(load(controller, folders, 0)))
    await engine.begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    engine.gate.set()
    again = await controller.load(load(controller, folders, 0))
    assert again["outcome"] == "already_loaded"
    assert (await controller.state())["foreign_int_ids"] == []


async def test_a_load_cancelled_in_the_middle_that_fails_is_cleaned_up(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    engine.faults = Faults(load_error="boom", leave_half_loaded=True)
    task = asyncio.create_task(controller.load(load(controller, folders, 0)))
    await engine.begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    engine.gate.set()
    await settle()
    assert engine.calls == [("add", 1), ("remove", 1)]
    assert await engine.list_ids() == set()


async def test_a_load_that_waits_is_refused_when_a_later_operation_comes(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    first = asyncio.create_task(controller.load(load(controller, folders, 0)))
    await engine.begun.wait()
    late = asyncio.create_task(controller.load(load(controller, folders, 1)))
    await settle()
    newer = asyncio.create_task(controller.unload(unload(controller, 1, epoch=2)))
    await settle()
    engine.gate.set()
    await first
    with pytest.raises(ExtensionError) as caught:
        await late
    assert caught.value.code == "stale_epoch"
    assert (await newer)["outcome"] == "not_loaded"
    assert engine.calls == [("add", 1)]


async def test_an_unload_during_the_load_of_its_name_waits_and_removes_it(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    loading = asyncio.create_task(controller.load(load(controller, folders, 0)))
    await engine.begun.wait()
    unloading = asyncio.create_task(controller.unload(unload(controller, 0)))
    await settle()
    engine.gate.set()
    assert (await loading)["outcome"] == "loaded"
    assert (await unloading)["outcome"] == "unloaded"
    assert await engine.list_ids() == set()


async def test_while_it_loads_an_adapter_takes_its_slot_and_is_not_foreign(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    loading = asyncio.create_task(controller.load(load(controller, folders, 0)))
    await engine.begun.wait()
    state = await controller.state()
    assert (state["free_slots"], state["foreign_int_ids"], state["adapters"]) == (2, [], [])
    engine.gate.set()
    await loading


async def test_an_adapter_that_the_engine_lost_is_loaded_again_for_its_owner(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    engine.gate.set()
    await controller.load(load(controller, folders, 0))
    await SimulatedEngine.remove(engine, 1)
    assert (await controller.state())["adapters"][0]["resident"] is False
    again = await controller.load(load(controller, folders, 0, operation="op-2"))
    assert (again["outcome"], again["adapter"]["operation"]) == ("loaded", "op")
    assert await engine.list_ids() == {1}


async def test_an_abort_spares_what_a_resume_put_back(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    engine.gate.set()
    await controller.load(load(controller, folders, 0))
    ticket = controller.in_flight.enter("a@1")
    command = unload(controller, 0, drain_seconds=0.05, on_timeout="abort")
    task = asyncio.create_task(controller.unload(command))
    await settle()
    await controller.resume(ResumeCommand(**common(controller, 0)))
    with pytest.raises(ExtensionError) as caught:
        await task
    assert caught.value.code == "adapter_conflict"
    assert not ticket.aborted
    controller.in_flight.leave(ticket)


async def test_usable_slots_can_be_set_but_not_above_the_engine_s(engine: SteppedEngine) -> None:
    assert Controller(engine, 1).usable_slots == 1
    assert Controller(engine, 9).usable_slots == 3
    assert Controller(engine).usable_slots == 3


async def test_an_evicting_engine_is_never_asked_to(
    controller: Controller, engine: SteppedEngine, folders: list[Path]
) -> None:
    engine.gate.set()
    small = Controller(engine, 1)
    await small.load(load(small, folders, 0))
    with pytest.raises(ExtensionError) as caught:
        await small.load(load(small, folders, 1))
    assert caught.value.code == "no_free_slot"
    assert engine.calls == [("add", 1)]
