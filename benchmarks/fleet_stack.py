"""A stack with many simulated engines in one process, and some agents that share them."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from loradock.dev.child import ChildSpec
from loradock.dev.engines import simulated_spec
from loradock.dev.ports import PortPool
from loradock.dev.stack import Stack
from loradock.dev.vllm_process import extension_folder

POOL = "fleet"
SLOTS = 32


class FleetStack:
    """What benchmarks do with such a stack.

    Args:
        stack: a running one with simulated engines.
        engines: how many more to start, in the pool `fleet`.
        agents: how many processes share them.
        load_seconds: how long a load takes, give or take half of it.
    """

    def __init__(self, stack: Stack, engines: int, agents: int, load_seconds: float) -> None:
        self.stack = stack
        self.engines = engines
        self.agents = agents
        self._load_seconds = load_seconds
        self._files = stack.options.state / "fleet"
        self._token_file = stack.options.state / "secrets" / "engine-token"
        ports = PortPool()
        self._port = ports.take("fleet")
        ports.release()
        headers = {"Authorization": f"Bearer {stack.info.token}"}
        self.api = httpx.AsyncClient(base_url=stack.info.api, headers=headers, timeout=320)
        self.fleet = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"Bearer {self._token_file.read_text().strip()}"},
            timeout=60,
        )

    async def start(self) -> None:
        """Start the engines and the agents, and wait until all engines are alive."""
        self._files.mkdir(parents=True, exist_ok=True)
        await self.stack.supervisor.start(self._engines())
        for number in range(1, self.agents + 1):
            await self.stack.supervisor.start(self._agent(number))
        while await self.alive() < self.engines:
            await asyncio.sleep(0.5)

    def _engines(self) -> ChildSpec:
        options = self.stack.options
        assert self.stack.samples is not None
        base = self.stack.samples.base_name
        spec = simulated_spec("fleet", self._port, base, self._token_file, extension_folder(options.state))
        more = ("--engines", str(self.engines), "--engines-file", str(self._files / "engines"))
        more += ("--max-loras", str(SLOTS), "--load-seconds", str(self._load_seconds), "--load-jitter", "0.5")
        url = f"http://127.0.0.1:{self._port}/engine-0001/health"
        return replace(spec, command=(*spec.command, *more), ready=lambda: _answers(url))

    def _agent(self, number: int) -> ChildSpec:
        lines = (self._files / "engines").read_text().splitlines()[number - 1 :: self.agents]
        file = self._files / f"engines-{number}"
        file.write_text("".join(f"{line}\n" for line in lines))
        model = self.stack.supervisor.child("agent-1").spec
        name = f"fleet-agent-{number}"
        ready = self._files / f"ready-{number}"
        options = ("agent", "--id", name, "--engines-file", str(file), "--pool", POOL)
        return replace(
            model,
            name=name,
            command=(*self.stack.options.program, *options, "--ready-file", str(ready)),
            env={**model.env, "LORADOCK_CACHE_DIR": str(self._files / "cache" / name)},
            ready_file=ready,
        )

    async def alive(self) -> int:
        """How many engines of the pool are alive."""
        return len(await self.items("/v1/engines", pool=POOL, status="alive"))

    async def items(self, path: str, **wanted: str) -> list[dict[str, Any]]:
        """A whole list, page by page."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            answer = await self.api.get(path, params={**wanted, "limit": "500", **cursor})
            page = answer.raise_for_status().json()
            found += page["items"]
            if not page["next"]:
                return found
            cursor = {"cursor": page["next"]}

    async def operate(self, path: str, body: dict[str, Any], wait: int = 300) -> dict[str, Any]:
        """An operation to its end."""
        operation: dict[str, Any] = (await self.api.post(path, json=body, params={"wait": wait})).json()
        while operation.get("state") in {"pending", "running", "compensating"}:
            await asyncio.sleep(0.5)
            operation = (await self.api.get(f"/v1/operations/{operation['id']}")).json()
        assert operation.get("state") == "succeeded", (operation.get("state"), operation.get("error"))
        return operation

    async def publish(self, adapter: str) -> None:
        """Publish the sample weights under a name."""
        assert self.stack.samples is not None
        uri = self.stack.samples.adapters["greeter-v1"].resolve().as_uri()
        await self.operate(f"/v1/adapters/{adapter}/versions", {"source": {"uri": uri}})

    async def histories(self, operation: str) -> list[tuple[str, int, int]]:
        """Of an operation's workflow and its children: name, events, bytes."""
        client = await Client.connect(
            self.stack.info.temporal_address, data_converter=pydantic_data_converter
        )
        found = []
        async for run in client.list_workflows(f"LoradockOperation = '{operation}'"):
            described = await client.get_workflow_handle(run.id, run_id=run.run_id).describe()
            size = described.raw_description.workflow_execution_info.history_size_bytes
            found.append((described.workflow_type, described.history_length, size))
        return sorted(found)

    def pids(self) -> dict[str, int]:
        """The stack's processes by name; agents of the fleet apart from each other."""
        supervisor = self.stack.supervisor
        return {name: supervisor.pid(name) for name in supervisor.names if supervisor.child(name).running}

    async def aclose(self) -> None:
        """Close the connections."""
        await self.api.aclose()
        await self.fleet.aclose()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
