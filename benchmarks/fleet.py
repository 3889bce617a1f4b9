"""Figures of a fleet of simulated engines, on a stack of its own:

    python -m benchmarks.fleet load [--engines 1000] [--agents 10] [--rounds 3]     one version to all engines, and off again
    python -m benchmarks.fleet lists [--adapters 10000] [--engines 1000]            lists with that much registered
    python -m benchmarks.fleet leases [--agents 100] [--engines 1000]               what renewing leases costs
    python -m benchmarks.fleet restarts [--engines 100] [--adapters 20]             all restart: until all is served again

Prints Markdown for RESULTS.md, leaves nothing behind.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable

from rich.console import Console

from benchmarks import fleet_leases, fleet_lists, machine
from benchmarks.fleet_stack import POOL, FleetStack
from benchmarks.processes import Meter, memory
from loradock.dev.console import Printer
from loradock.dev.options import EngineKind, StackOptions
from loradock.dev.run import run_stack
from loradock.dev.stack import Stack


def where() -> str:
    """The machine, and how busy it was."""
    load = ", ".join(f"{part:.0f}" for part in os.getloadavg())
    return f"Machine: {machine.describe()}; load average {load} at the end."


async def load(stack: Stack, given: argparse.Namespace) -> list[str]:
    """One version onto all engines and off again, a few times."""
    fleet = FleetStack(stack, given.engines, given.agents, given.load_seconds)
    lines = ["| round | load s | unload s | engines |", "| --- | --- | --- | --- |"]
    try:
        await fleet.start()
        await fleet.publish("wide")
        took: dict[str, list[float]] = {"load": [], "unload": []}
        meters: list[Meter] = []
        histories: list[tuple[str, int, int]] = []
        for number in range(given.rounds):
            with Meter(fleet.pids()) as meter:
                loaded = await _timed(
                    fleet, took["load"], "/v1/adapters/wide/load", {"version": 1, "pool": POOL}
                )
            meters.append(meter)
            cards = await fleet.items("/v1/cards", adapter="wide", state="serving")
            assert len(cards) == given.engines, len(cards)
            histories = await fleet.histories(loaded)
            unload = {"version": 1, "pool": POOL, "drain": 0, "force": True}
            await _timed(fleet, took["unload"], "/v1/adapters/wide/unload", unload)
            lines.append(
                f"| {number + 1} | {took['load'][-1]:.1f} | {took['unload'][-1]:.1f} | {len(cards)} |"
            )
        lines += [
            "",
            f"Medians: load {statistics.median(took['load']):.1f} s, unload {statistics.median(took['unload']):.1f} s.",
            "",
        ]
        lines += _of_histories(histories)
        lines += _of_processes(meters, memory(fleet.pids()))
    finally:
        await fleet.aclose()
    return lines


async def _timed(fleet: FleetStack, took: list[float], path: str, body: dict[str, object]) -> str:
    began = time.perf_counter()
    operation = await fleet.operate(path, body)
    took.append(time.perf_counter() - began)
    return str(operation["id"])


def _of_histories(histories: list[tuple[str, int, int]]) -> list[str]:
    lines = ["| workflow | runs | most events | most bytes |", "| --- | --- | --- | --- |"]
    for kind in sorted({name for name, _, _ in histories}):
        of_kind = [(events, size) for name, events, size in histories if name == kind]
        events, size = max(one[0] for one in of_kind), max(one[1] for one in of_kind)
        lines.append(f"| {kind} | {len(of_kind)} | {events} | {size} |")
    return [*lines, ""]


def _of_processes(meters: list[Meter], sizes: dict[str, float]) -> list[str]:
    def group(name: str) -> str:
        return "fleet agents" if name.startswith("fleet-agent") else name

    lines = ["| process | CPU seconds of a load (median) | MB after |", "| --- | --- | --- |"]
    for name in sorted({group(name) for name in sizes}):
        members = [member for member in sizes if group(member) == name]
        used = statistics.median(sum(meter.cpu.get(member, 0.0) for member in members) for meter in meters)
        lines.append(f"| {name} | {used:.1f} | {sum(sizes[member] for member in members):.0f} |")
    return lines


async def restarts(stack: Stack, given: argparse.Namespace) -> list[str]:
    """All engines restart at once, with many adapters each: how long until every card serves again."""
    fleet = FleetStack(stack, given.engines, given.agents, given.load_seconds)
    try:
        await fleet.start()
        names = [f"many-{number:02}" for number in range(given.adapters)]
        for name in names:
            await fleet.publish(name)
            await fleet.operate(f"/v1/adapters/{name}/load", {"version": 1, "pool": POOL})
        wanted = given.engines * given.adapters
        await fleet.fleet.post("/fleet", json={"restart": True})
        began = time.perf_counter()
        lost_after = served_after = None
        with Meter(fleet.pids()) as meter:
            while served_after is None and time.perf_counter() - began < given.seconds:
                serving = len(await fleet.items("/v1/cards", pool=POOL, state="serving"))
                if lost_after is None and serving < wanted:
                    lost_after = time.perf_counter() - began
                if lost_after is not None and serving == wanted:
                    served_after = time.perf_counter() - began
                await asyncio.sleep(0.5)
        done = "all" if served_after else f"{serving} of {wanted}"
        after = f"{served_after:.1f} s" if served_after else f"**not within {given.seconds:.0f} s**"
        lines = [
            f"{given.engines} engines with {given.adapters} adapters each restarted at once: first cards lost after "
            f"{lost_after or 0:.1f} s; {done} cards serve again after {after}.",
            "",
        ]
        return lines + _of_processes([meter], memory(fleet.pids()))
    finally:
        await fleet.aclose()


SCENARIOS: dict[str, Callable[[Stack, argparse.Namespace], Awaitable[list[str]]]] = {
    "load": load,
    "lists": fleet_lists.run,
    "leases": fleet_leases.run,
    "restarts": restarts,
}


def main() -> int:
    """Run one scenario."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--engines", type=int, default=None)
    parser.add_argument("--agents", type=int, default=None)
    parser.add_argument("--adapters", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load-seconds", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure, or to wait")
    given = parser.parse_args()
    defaults = {
        "load": (1000, 10, 1), "lists": (1000, 100, 10_000), "leases": (1000, 100, 0), "restarts": (100, 4, 20),
    }[given.scenario]  # fmt: skip
    for name, value in zip(("engines", "agents", "adapters"), defaults, strict=True):
        if getattr(given, name) is None:
            setattr(given, name, value)
    found: list[str] = []

    async def story(stack: Stack, _: Printer) -> int:
        found.extend(await SCENARIOS[given.scenario](stack, given))
        found.extend(("", where()))
        return 0

    options = StackOptions(name="fleet", engines=1, engine_kind=EngineKind.SIMULATED, ephemeral=True)
    code = run_stack(options, story, Console(stderr=True))
    print("\n".join(found))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
