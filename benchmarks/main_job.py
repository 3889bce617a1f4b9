"""The main job's figures: a durable load hop by hop beside the engine's own load, and the memory of the stack.

    python -m benchmarks.main_job [--rounds 40] [--engine vllm|simulated]

Starts a stack of its own, prints Markdown for RESULTS.md, leaves nothing behind.
"""

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from benchmarks import machine
from benchmarks.hops import moments
from loradock.dev.console import Printer
from loradock.dev.options import EngineKind, StackOptions
from loradock.dev.run import run_stack
from loradock.dev.stack import Stack

FLOOR = "floor@1"
"""The name of the loads that go around everything durable."""


@dataclass
class Figures:
    """What was measured, in seconds; segments by name in their order."""

    durable: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    engine_probe: list[float] = field(default_factory=list)
    post: list[float] = field(default_factory=list)
    segments: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)


class Bench:
    """One stack, one adapter, one engine: loaded and unloaded over and over."""

    def __init__(self, stack: Stack) -> None:
        info = stack.info
        self._stack = stack
        self._engine = info.engines[0]
        self._api = httpx.AsyncClient(
            base_url=info.api, headers={"Authorization": f"Bearer {info.token}"}, timeout=60
        )
        token = (stack.options.state / "secrets" / "engine-token").read_text().strip()
        self._direct = httpx.AsyncClient(
            base_url=self._engine.url, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        self.figures = Figures()

    async def run(self, rounds: int) -> Figures:
        """Publish, then load and unload: durably and on the engine itself, in turn."""
        assert self._stack.samples is not None
        uri = self._stack.samples.adapters["greeter-v1"].resolve().as_uri()
        await self._operate("/v1/adapters/bench/versions", {"source": {"uri": uri}})
        client = await Client.connect(
            self._stack.info.temporal_address, data_converter=pydantic_data_converter
        )
        for number in range(-3, rounds):
            operation, took, posted = await self._load()
            direct, probe = await self._load_directly()
            if number < 0:  # warm-up
                continue
            self.figures.durable.append(took)
            self.figures.post.append(posted)
            self.figures.engine.append(direct)
            self.figures.engine_probe.append(probe)
            await self._split(client, operation)
        self._measure_memory()
        return self.figures

    async def _operate(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = await self._api.post(path, json=body, params={"wait": 60})
        operation: dict[str, Any] = reply.json()
        assert operation.get("state") == "succeeded", operation
        return operation

    async def _load(self) -> tuple[dict[str, Any], float, float]:
        body = {"version": 1, "engines": [self._engine.id]}
        began = time.perf_counter()
        reply = await self._api.post("/v1/adapters/bench/load", json=body, params={"wait": 60})
        took = time.perf_counter() - began
        operation: dict[str, Any] = reply.json()
        assert operation["state"] == "succeeded", operation
        cards = (await self._api.get("/v1/cards", params={"adapter": "bench"})).json()["items"]
        assert [card["state"] for card in cards] == ["serving"]
        self._digest = cards[0]["digest"]
        await self._note_engine()
        await self._operate("/v1/adapters/bench/unload", {"version": 1, "drain": 0})
        posted = (_time(operation["started_at"]) - _time(operation["created_at"])).total_seconds()
        return operation, took, posted

    async def _note_engine(self) -> None:
        state = (await self._direct.get("/loradock/v1/state")).json()
        self._path = state["adapters"][0]["path"]
        self._incarnation = state["incarnation"]

    async def _load_directly(self) -> tuple[float, float]:
        """The floor: the extension's load, and one token, without anything durable around them."""
        words: dict[str, Any] = {
            "served_name": FLOOR,
            "incarnation": self._incarnation,
            "operation": "bench",
            "run_id": "bench",
            "epoch": 2**31,
        }
        began = time.perf_counter()
        reply = await self._direct.post(
            "/loradock/v1/load",
            json={**words, "int_id": 10**6, "path": self._path, "digest": self._digest},
        )
        loaded = time.perf_counter() - began
        assert reply.json()["outcome"] == "loaded", reply.text
        began = time.perf_counter()
        body = {"model": FLOOR, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        (await self._direct.post("/v1/completions", json=body)).raise_for_status()
        probed = time.perf_counter() - began
        unload = {**words, "drain_seconds": 0, "on_timeout": "abort", "only_operation": None}
        (await self._direct.post("/loradock/v1/unload", json=unload)).raise_for_status()
        return loaded, probed

    async def _split(self, client: Client, operation: dict[str, Any]) -> None:
        line = [("POST received", _time(operation["created_at"]))]
        line += [(label, at.replace(tzinfo=UTC)) for label, at in await moments(client, operation["id"])]
        line.append(("card routable", _time(operation["ended_at"])))
        line.sort(key=lambda moment: moment[1])
        for (before, begun), (after, ended) in itertools.pairwise(line):
            self.figures.segments.setdefault(f"{before} → {after}", []).append(
                (ended - begun).total_seconds()
            )

    def _measure_memory(self) -> None:
        supervisor = self._stack.supervisor
        for name in supervisor.names:
            if supervisor.child(name).running:
                self.figures.memory[name] = machine.proportional_memory(supervisor.pid(name))

    async def aclose(self) -> None:
        await self._api.aclose()
        await self._direct.aclose()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{statistics.median(ordered) * 1e3:.0f} | {p95 * 1e3:.0f} | {ordered[0] * 1e3:.0f} | {ordered[-1] * 1e3:.0f}"


def report(figures: Figures, kind: str) -> str:
    """The figures as Markdown."""
    rounds = len(figures.durable)
    lines = [
        f"Machine: {machine.describe()}. Engine: {kind}. {rounds} rounds; each loads durably and directly in turn.",
        "",
        "| ms | p50 | p95 | min | max |",
        "| --- | --- | --- | --- | --- |",
        f"| durable load, POST to routable card | {_spread(figures.durable)} |",
        f"| the engine's own load (the floor) | {_spread(figures.engine)} |",
        f"| the engine's first token after it | {_spread(figures.engine_probe)} |",
        "",
        "Where the durable load's time goes (median of each segment that every round had):",
        "",
        "| from → to | ms |",
        "| --- | --- |",
    ]
    for name, values in figures.segments.items():
        if len(values) >= rounds * 0.8:
            lines.append(f"| {name} | {statistics.median(values) * 1e3:.1f} |")
    lines += ["", "| memory (PSS) after the run | MB |", "| --- | --- |"]
    lines += [f"| {name} | {size:.0f} |" for name, size in sorted(figures.memory.items())]
    without = sum(size for name, size in figures.memory.items() if not name.startswith("engine"))
    lines.append(f"| **all without the engines** | **{without:.0f}** |")
    return "\n".join(lines)


def main() -> int:
    """Run on a stack of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--engine", type=EngineKind, default=EngineKind.VLLM)
    given = parser.parse_args()
    figures: list[Figures] = []

    async def story(stack: Stack, _: Printer) -> int:
        bench = Bench(stack)
        try:
            figures.append(await bench.run(given.rounds))
        finally:
            await bench.aclose()
        return 0

    options = StackOptions(name="bench", engine_kind=given.engine, ephemeral=True)
    code = run_stack(options, story, Console(stderr=True))
    for one in figures:
        print(report(one, given.engine))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
