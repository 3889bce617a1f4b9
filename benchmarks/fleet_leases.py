"""What the leases of a fleet cost API and Postgres, when nothing changes."""

import argparse
import asyncio

from benchmarks.fleet_stack import FleetStack
from benchmarks.processes import Meter
from loradock.core.models import utc_now
from loradock.dev.stack import Stack
from loradock.engines.protocol import AdapterReport, AdapterState, EngineState, EngineVersion
from worker.control_plane import ControlPlane
from worker.leases import HostIdentity, LeaseKeeper

RENEW_SECONDS = 2.0
ADAPTERS = 8
"""On each engine."""


class StillEngine:
    """An engine that always tells the same."""

    def __init__(self, name: str, base_model: str) -> None:
        adapters = [
            AdapterReport(
                served_name=f"adapter-{number}@1",
                digest="sha256:" + f"{number:064x}",
                int_id=number,
                path=f"/cache/{number}",
                state=AdapterState.SERVING,
                in_flight=0,
                resident=True,
                operation="op",
                epoch=1,
                loaded_at=utc_now(),
            )
            for number in range(1, ADAPTERS + 1)
        ]
        self._state = EngineState(
            incarnation=f"life-of-{name}",
            extension_version="1",
            engine=EngineVersion(kind="simulated", version="1", tested=True),
            base_model=base_model,
            max_loras=32,
            usable_slots=32,
            free_slots=32 - ADAPTERS,
            max_lora_rank=64,
            device="simulated",
            capabilities=(),
            limitations=("simulated: no model answers here",),
            adapters=tuple(adapters),
            foreign_int_ids=(),
            in_flight_base=0,
            base_config={"hidden_size": 4096, "num_hidden_layers": 32, "model_type": "llama"},
        )

    async def state(self) -> EngineState:
        """What it holds."""
        return self._state


async def run(stack: Stack, given: argparse.Namespace) -> list[str]:
    """Idle first, then with all agents renewing."""
    fleet = FleetStack(stack, 1, 1, 0)
    token = stack.supervisor.child("agent-1").spec.env["LORADOCK_AGENT_TOKEN"]
    assert stack.samples is not None
    base = stack.samples.base_name
    watched = {name: pid for name, pid in fleet.pids().items() if name in {"api", "postgres"}}
    await asyncio.sleep(5)
    with Meter(watched) as idle:
        await asyncio.sleep(given.seconds)
    lines = [
        f"Idle: {_cores(idle)}.",
        "",
        "| agents | engines | API | Postgres | both, less idle |",
        "| --- | --- | --- | --- | --- |",
    ]
    for agents in sorted({max(1, given.agents // 100), max(1, given.agents // 10), given.agents}):
        engines = given.engines * agents // given.agents
        keepers, planes = [], []
        for number in range(agents):
            names = [f"lease-{number:03}-{one}" for one in range(engines // agents)]
            plane = ControlPlane(stack.info.api, token, f"lease-agent-{number:03}")
            inside = {name: StillEngine(name, base) for name in names}
            urls = {name: f"http://127.0.0.1/{name}" for name in names}
            identity = HostIdentity(f"lease-agent-{number:03}", "leases")
            keepers.append(LeaseKeeper(identity, inside, urls, plane))  # type: ignore[arg-type]
            planes.append(plane)
        tasks = [
            asyncio.create_task(_renew(keeper, at * RENEW_SECONDS / agents))
            for at, keeper in enumerate(keepers)
        ]
        await asyncio.sleep(5)
        with Meter(watched) as busy:
            await asyncio.sleep(given.seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for plane in planes:
            await plane.aclose()
        api, postgres = busy.cores["api"], busy.cores["postgres"]
        more = api + postgres - sum(idle.cores.values())
        lines.append(f"| {agents} | {engines} | {api:.1%} | {postgres:.1%} | {more:.1%} |")
    await fleet.aclose()
    return lines


async def _renew(keeper: LeaseKeeper, after: float) -> None:
    """The renewals alone: looking at engines is the agents' own cost."""
    await asyncio.sleep(after)
    await keeper.look()
    while True:
        await keeper.renew()
        await asyncio.sleep(RENEW_SECONDS)


def _cores(meter: Meter) -> str:
    return ", ".join(f"{name} {cores:.1%} of a core" for name, cores in sorted(meter.cores.items()))
