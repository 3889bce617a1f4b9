"""Wide operations with all real parts but the engines, which are simulated, sixty behind one port."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from loradock.core.models import OperationState, StepState, VersionRef
from loradock.core.requests import LoadPolicy, LoadRequest
from loradock.engines import VllmEngine
from loradock.engines.simulated import Faults, SimulatedEngine, SimulatedFleet, serving
from loradock.engines.simulated.fleet import engine_names
from loradock_vllm.settings import ExtensionSettings
from tests.activities.conftest import ENGINE_TOKEN
from tests.registry.world import new_placement
from tests.worker.service import Service
from tests.worker.test_reset import reset
from tests.worker.test_sweeper import sweeper, terminate  # noqa: F401  (a fixture)
from worker.sweeper import Sweeper

AWKWARD = "engine-0042"
HEALING = "engine-0017"


@dataclass
class Fleet:
    inside: SimulatedFleet
    drivers: dict[str, Any]

    async def holding(self) -> set[str]:
        return {name for name, engine in self.inside.engines.items() if await engine.list_ids()}


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    def make() -> SimulatedEngine:
        return SimulatedEngine(base_model="tiny-base", max_loras=3, max_lora_rank=16)

    inside = SimulatedFleet(engine_names(60), make, ExtensionSettings(token=ENGINE_TOKEN))
    async with serving(inside) as url, httpx.AsyncClient(trust_env=False) as http:
        drivers = {
            name: VllmEngine(f"{url}/{name}", SecretStr(ENGINE_TOKEN), client=http) for name in inside.engines
        }
        yield Fleet(inside, drivers)


async def submit(service: Service, ref: VersionRef, **facts: Any) -> Any:
    request = LoadRequest(adapter=ref.adapter, version=ref.version, pool="default", **facts)
    return await service.registry.submit(new_placement(request))


async def test_a_wide_load_and_unload_tell_of_every_engine(
    service: Service, fleet: Fleet, folder: Path
) -> None:
    async with service.orchestrating(), service.hosting(fleet.drivers):
        await service.join(fleet.drivers)
        ref = await service.publish(folder)
        fleet.inside.engines[AWKWARD].faults = Faults(load_error="All items are pinned")
        fleet.inside.engines[HEALING].faults = Faults(load_error="a passing error", failing_loads=1)
        operation = await submit(service, ref, policy=LoadPolicy.BEST_EFFORT)
        loaded = await service.ended(operation, await service.start(operation))

        others = set(fleet.drivers) - {AWKWARD}
        assert loaded.state is OperationState.SUCCEEDED
        assert loaded.result is not None
        assert set(loaded.result["engines"]) == others
        assert loaded.result["failed_engines"] == {AWKWARD: "no_free_slot"}
        assert await fleet.holding() == others
        assert set((await service.registry.states()).values()) == {"serving"}
        steps = {(step.engine, step.name): step for step in loaded.steps}
        assert len(steps) == 180
        failed = steps[AWKWARD, "load"]
        assert (failed.state, failed.attempt) == (StepState.FAILED, 1)
        assert failed.error is not None
        assert failed.error.code == "no_free_slot"
        assert {step.state for key, step in steps.items() if key[0] != AWKWARD} == {StepState.SUCCEEDED}
        assert {engine for (engine, _), step in steps.items() if step.attempt == 2} == {HEALING}

        unload = await service.submit_unload(ref, drain_seconds=0)
        unloaded = await service.ended(unload, await service.start(unload))
        assert unloaded.state is OperationState.SUCCEEDED, unloaded.error
        assert {step.state for step in unloaded.steps} == {StepState.SUCCEEDED}
        assert await fleet.holding() == set()
        assert await service.registry.states() == {}


async def test_a_wide_load_that_was_terminated_is_put_back(
    service: Service,
    sweeper: Sweeper,  # noqa: F811
    fleet: Fleet,
    folder: Path,
) -> None:
    async with service.orchestrating(), service.hosting(fleet.drivers):
        await service.join(fleet.drivers)
        ref = await service.publish(folder)
        fleet.inside.engines[AWKWARD].faults = Faults(load_seconds=3)
        operation = await submit(service, ref)
        await service.start(operation)
        async with asyncio.timeout(30):
            while len(await fleet.holding()) < 59:
                await asyncio.sleep(0.05)
        await terminate(service, operation)
        assert await sweeper.run_once() == 1
        ended = await service.recovered(operation)
        assert (ended.state, ended.repairs_pending) == (OperationState.FAILED, False)
        assert await fleet.holding() == set()
        assert await service.registry.states() == {}


async def test_a_wide_load_that_failed_and_is_reset_ends_well(
    service: Service, fleet: Fleet, folder: Path
) -> None:
    async with service.orchestrating(), service.hosting(fleet.drivers):
        await service.join(fleet.drivers)
        ref = await service.publish(folder)
        fleet.inside.engines[AWKWARD].faults = Faults(silent=True)
        operation = await submit(service, ref)
        run = await service.start(operation)
        failed = await service.ended(operation, run)
        assert (failed.state, failed.error and failed.error.code) == (
            OperationState.FAILED,
            "engine_not_verified",
        )
        assert await fleet.holding() == set()
        assert await service.registry.states() == {}
        fleet.inside.engines[AWKWARD].faults = Faults()

        again = await reset(service, operation, run, 1)  # its children: the plan stands
        ended = await service.ended(operation, again)

        assert (ended.state, ended.run_id, ended.error) == (OperationState.SUCCEEDED, again, None)
        assert await fleet.holding() == set(fleet.drivers)
        assert set((await service.registry.states()).values()) == {"serving"}
