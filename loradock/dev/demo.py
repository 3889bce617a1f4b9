"""`loradock demo`: the main job as a story on a running stack, every claim checked as it is made."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from rich.console import Console

from loradock.core.errors import LoradockError
from loradock.core.ids import is_repair
from loradock.dev.console import Printer
from loradock.dev.demo_client import DemoClient
from loradock.dev.demo_truth import Truth, learn_truth
from loradock.dev.options import StackOptions
from loradock.dev.run import run_stack
from loradock.dev.samples import Samples
from loradock.dev.stack import Stack

MAX_TOKENS = 12


def run_demo(options: StackOptions, console: Console) -> int:
    """Start a fresh stack, tell the story, stop it; returns the exit code.

    Raises:
        LoradockError: a part did not start, or the story found something that is not as it should be.
    """
    return run_stack(options, tell, console)


async def tell(stack: Stack, printer: Printer) -> int:
    """The story on a running stack.

    Raises:
        LoradockError: something is not as it should be.
    """
    if stack.samples is None:
        raise LoradockError("setting_invalid", "the demo brings its own engines: unset LORADOCK_ENGINES")
    token = (stack.options.state / "secrets" / "engine-token").read_text().strip()
    async with aclosing(DemoClient(stack.info, token)) as client:
        demo = Demo(stack, printer, client, stack.samples)
        await demo.tell()
    return 0


class Demo:
    """The steps of the story, in their order."""

    def __init__(self, stack: Stack, printer: Printer, client: DemoClient, samples: Samples) -> None:
        self._stack = stack
        self._printer = printer
        self._client = client
        self._samples = samples
        self._engines = [engine.id for engine in stack.info.engines]
        self._prompt = samples.prompts[0]
        self._truth: Truth
        self._began = time.monotonic()

    async def tell(self) -> None:
        """All of it."""
        self._truth = await self._learn()
        await self._first_version()
        await self._second_version()
        await self._orchestrator_dies()
        await self._engine_dies()
        await self._unload_first_version()
        await self._history()
        self._printer.line()
        self._say(f"all as it should be, {time.monotonic() - self._began:.0f} s of story", style="bold green")

    async def _learn(self) -> Truth:
        async with self._step(
            "what transformers and PEFT answer for each of the weights (the truth to compare with)"
        ):
            return await learn_truth(self._stack.options, self._samples, self._prompt, MAX_TOKENS)

    async def _first_version(self) -> None:
        await self._publish("greeter", "greeter-v1", 1)
        await self._load("greeter", 1)
        await self._ask("greeter@1", "greeter-v1")

    async def _second_version(self) -> None:
        await self._publish("greeter", "greeter-v2", 2)
        await self._load("greeter", 2)
        await self._ask("greeter@1", "greeter-v1")
        await self._ask("greeter@2", "greeter-v2")

    async def _orchestrator_dies(self) -> None:
        await self._publish("poet", "poet", 1)
        first = self._engines[0]
        async with self._step("load poet@1, and kill -9 the orchestrator in the middle of it") as note:
            self._signal(first, signal.SIGSTOP)  # holds the load in its middle for a moment
            try:
                operation = await self._client.start("/v1/adapters/poet/load", {"version": 1})
                await self._until(operation["id"], lambda found: found["state"] == "running")
                self._signal("orchestrator", signal.SIGKILL)
            finally:
                self._signal(first, signal.SIGCONT)
            found = await self._client.operation(operation["id"])
            self._check(found["state"] == "running", f"the load was cut in its middle, not {found['state']}")
            note("killed; the operation is still running")
        async with self._step("start the orchestrator again: the load goes on by itself") as note:
            await self._stack.supervisor.restart("orchestrator")
            ended = await self._client.ended(operation["id"])
            self._check(
                ended["state"] == "succeeded", f"the load ended as {ended['state']}: {ended['error']}"
            )
            note(_link(ended))
        await self._ask("poet@1", "poet")

    async def _engine_dies(self) -> None:
        await self._unload("poet", 1, force=False)
        first, last = self._engines[0], self._engines[-1]
        async with self._step(
            f"load poet@1 again with policy `all`, and kill -9 {last} in the middle of it"
        ) as note:
            self._signal(last, signal.SIGSTOP)
            body = {"version": 1, "policy": "all"}
            operation = await self._client.start("/v1/adapters/poet/load", body)
            await self._until(operation["id"], lambda found: _begun(found, "load", last))
            self._signal(last, signal.SIGKILL)
            ended = await self._client.ended(operation["id"])
            self._check(ended["state"] == "failed", f"the load ended as {ended['state']}")
            note(f"the operation says why: {ended['error']['code']}: {ended['error']['message']}")
        async with self._step(f"{first} is put back: nothing of poet is left loaded") as note:
            self._check("poet@1" not in await self._client.resident(first), f"poet@1 is still on {first}")
            cards = await self._client.items("/v1/cards", adapter="poet")
            self._check(not cards, f"poet has cards: {cards}")
            note(f"{first} holds " + ", ".join(sorted(await self._client.resident(first))))
        async with self._step(f"start {last} again: greeter is loaded there again by itself") as note:
            await self._stack.supervisor.restart(last)
            await self._until_served(last, {"greeter@1", "greeter@2"})
            found = next(one for one in await self._client.items("/v1/engines") if one["id"] == last)
            note(f"as wanted again {found['reconcile']['last_converge_seconds']:.1f} s after it was back")
        await self._ask("greeter@2", "greeter-v2")

    async def _unload_first_version(self) -> None:
        await self._unload("greeter", 1, force=True)
        async with self._step("greeter@1 is gone from list_loras") as note:
            for engine in self._engines:
                held = await self._client.resident(engine)
                self._check(held == {"greeter@2"}, f"{engine} holds {held}")
            note("every engine holds greeter@2 alone")
        await self._ask("greeter@2", "greeter-v2")

    async def _history(self) -> None:
        self._printer.line()
        self._say("who changed what: the audit history of greeter, from Postgres", style="bold")
        links: dict[str, str] = {}
        for event in reversed(await self._client.items("/v1/audit", adapter="greeter", limit=200)):
            self._printer.line(_audit_line(event))
            if event["operation"] and not is_repair(event["operation"]):
                links[event["operation"]] = (await self._client.operation(event["operation"]))["temporal_url"]
        self._printer.line()
        self._say(
            "the same in the Temporal UI, which stops with this demo now; `make dev` keeps such a stack up",
            style="bold",
        )
        for link in links.values():
            self._printer.line(f"  {link}")

    async def _publish(self, adapter: str, sample: str, version: int) -> None:
        async with self._step(f"publish {adapter} version {version} from the folder {sample}") as note:
            source = self._samples.adapters[sample].resolve().as_uri()
            done = await self._client.succeed(f"/v1/adapters/{adapter}/versions", {"source": {"uri": source}})
            self._check(done["version"] == version, f"it became version {done['version']}")
            note(done["result"]["digest"][:19] + "…")

    async def _load(self, adapter: str, version: int) -> None:
        async with self._step(f"load {adapter}@{version} on {' and '.join(self._engines)}") as note:
            done = await self._client.succeed(f"/v1/adapters/{adapter}/load", {"version": version})
            for engine in self._engines:
                held = await self._client.resident(engine)
                self._check(f"{adapter}@{version}" in held, f"{engine} holds only {held}")
            note(_link(done))

    async def _unload(self, adapter: str, version: int, *, force: bool) -> None:
        why = " (force: it has the traffic weight, and rollouts that move it come later)" if force else ""
        async with self._step(f"unload {adapter}@{version}{why}") as note:
            body = {"version": version, "drain": "10s", "force": force}
            note(_link(await self._client.succeed(f"/v1/adapters/{adapter}/unload", body)))

    async def _ask(self, model: str, sample: str) -> None:
        async with self._step(f"ask {model} on every engine: {self._prompt!r}") as note:
            for engine in self._engines:
                answer = await self._client.prompt(engine, model, self._prompt, MAX_TOKENS)
                self._check(self._truth.is_of(sample, answer), f"{engine} gave {answer.text!r} for {model}")
                self._check(not self._truth.is_of("", answer), f"{engine} answered with the base's weights")
            note(f"{self._truth.says}: {answer.text.strip()[:40]!r}")

    async def _until(self, operation: str, condition: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition(await self._client.operation(operation)):
            self._check(time.monotonic() < deadline, f"operation {operation} does not get to its middle")
            await asyncio.sleep(0.01)

    async def _until_served(self, engine: str, names: set[str]) -> None:
        """Until traffic follows these names to the engine, and nothing is left to repair there."""
        deadline = time.monotonic() + 60
        while True:
            cards = await self._client.items("/v1/cards", engine=engine, state="serving")
            found = next(one for one in await self._client.items("/v1/engines") if one["id"] == engine)
            reconcile = found["reconcile"] or {}
            served = {card["served_name"] for card in cards}
            if served == names and reconcile.get("converged") and reconcile["wanted_since"] is None:
                return
            self._check(time.monotonic() < deadline, f"{engine} is {found['status']} and serves {served}")
            await asyncio.sleep(0.1)

    def _signal(self, part: str, number: signal.Signals) -> None:
        self._stack.supervisor.kill(part, number)

    @asynccontextmanager
    async def _step(self, text: str) -> AsyncIterator[Callable[[str], None]]:
        notes: list[str] = []
        began = time.monotonic()
        yield notes.append
        self._say(f"{text}", seconds=time.monotonic() - began)
        for note in notes:
            self._printer.line(f"{'':>10}  {note}", style="bright_black")

    def _say(self, text: str, *, seconds: float | None = None, style: str | None = None) -> None:
        spent = f"{seconds:>8.2f} s" if seconds is not None else f"{'':>10}"
        self._printer.line(f"{spent}  {text}", style=style)

    @staticmethod
    def _check(holds: bool, otherwise: str) -> None:
        if not holds:
            raise LoradockError("stack_failed", f"the demo found something wrong: {otherwise}")


def _begun(operation: dict[str, Any], step: str, engine: str) -> bool:
    return any(
        one["name"] == step and one["engine"] == engine and one["state"] == "running"
        for one in operation["steps"]
    )


def _link(operation: dict[str, Any]) -> str:
    return str(operation["temporal_url"] or operation["id"])


def _audit_line(event: dict[str, Any]) -> str:
    what = f"@{event['version']}" if event["version"] else ""
    where = f" {event['engine']}" if event["engine"] else ""
    who, action = event["actor"], event["action"]
    return (
        f"  {event['at'][11:23]}  {who:<10} {action:<24} {event['adapter']}{what}{where}  {event['outcome']}"
    )
