"""Many simulated engines behind one port: each keeps the contract, and none knows of the others."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from loradock.engines import VllmEngine
from loradock.engines.simulated import Faults, SimulatedEngine, SimulatedFleet, serving
from loradock_vllm.settings import ExtensionSettings
from tests.engines.adapters import HIDDEN
from tests.engines.conftest import TOKEN, simulated_world_at
from tests.engines.contract import EngineContract
from tests.engines.world import World


@pytest.fixture
async def fleet_url() -> AsyncIterator[tuple[SimulatedFleet, str]]:
    def make() -> SimulatedEngine:
        return SimulatedEngine(
            base_model="tiny-llama",
            max_loras=3,
            max_lora_rank=16,
            hidden_size=HIDDEN,
            faults=Faults(token_seconds=0.002),
        )

    fleet = SimulatedFleet(["e1", "e2", "e3"], make, ExtensionSettings(token=TOKEN))
    async with serving(fleet) as url:
        yield fleet, url


@pytest.fixture
async def world(fleet_url: tuple[SimulatedFleet, str], tmp_path: Path) -> AsyncIterator[World]:
    async with simulated_world_at(f"{fleet_url[1]}/e2", tmp_path) as found:
        yield found


class TestOneOfAFleet(EngineContract):
    """The contract."""


async def test_each_engine_is_one_of_its_own(fleet_url: tuple[SimulatedFleet, str], world: World) -> None:
    fleet, url = fleet_url
    (version,) = await world.loaded()
    authorized = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=url, trust_env=False, headers=authorized) as http:
        other = VllmEngine(f"{url}/e1", SecretStr(TOKEN), client=http)
        before = await other.state()
        assert before.adapters == ()
        assert before.incarnation != (await world.engine.state()).incarnation

        order = {"engines": ["e2"], "restart": True, "faults": {"silent": True}}
        assert (await http.post("/fleet", json=order)).json() == {"engines": 1}
        assert (await world.engine.state()).adapter(version.served_name) is None
        assert fleet.engines["e2"].faults.silent
        assert await other.state() == before

        assert (await http.get("/fleet")).json() == {"engines": ["e1", "e2", "e3"]}
        assert (await http.get("/e9/health")).status_code == 404
        assert (await http.post("/fleet", json={"engines": ["e9"]})).status_code == 404
        assert (await http.post("/fleet", json={"engine": "e1"})).status_code == 400
        assert (await http.post("/fleet", headers={"authorization": "Bearer no"})).status_code == 401
