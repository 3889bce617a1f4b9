"""One engine under test, with what the contract needs to know of it."""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from loradock.core.promises import EnginePromise
from loradock.engines import (
    DrainCommand,
    Engine,
    EngineState,
    LoadCommand,
    LoadResult,
    ResumeCommand,
    UnloadCommand,
)
from tests.engines.adapters import copy_adapter

_numbers = itertools.count(1)
PROMPT = "Say hello."


@dataclass(frozen=True)
class Version:
    """A version as the service would hand it to an engine: never used before in this process."""

    served_name: str
    int_id: int
    digest: str
    path: str
    source: Path

    @property
    def load(self) -> dict[str, Any]:
        return {
            "served_name": self.served_name,
            "int_id": self.int_id,
            "digest": self.digest,
            "path": self.path,
        }


@dataclass
class World:
    """The engine and its surroundings.

    Attributes:
        http: a client with the engine's address, for prompts.
        good: folders of adapters that load; each answers differently.
        expected: what the engine must answer to a prompt with these weights (None is the base model).
        tokens: how many tokens `expected` has at most.
        missing: what the engine cannot promise.
    """

    engine: Engine
    http: httpx.AsyncClient
    url: str
    token: str
    base_model: str
    kind: str
    host: Path
    good: list[Path]
    expected: Callable[[Version | None, str], str]
    tokens: int = 16
    missing: frozenset[EnginePromise] = frozenset()
    run: dict[str, Any] = field(default_factory=lambda: {"operation": "op-1", "run_id": "run-1", "epoch": 1})

    @property
    def away(self) -> int:
        """The status of requests for a name that drains."""
        return 404 if EnginePromise.ADMISSION in self.missing else 503

    @property
    def idle(self) -> int | None:
        """What an engine says of a name for which nothing runs."""
        return None if EnginePromise.DRAIN_COUNT in self.missing else 0

    def version(self, source: Path | None = None) -> Version:
        """A new version of some weights, lying in the host's cache."""
        number = next(_numbers)
        digest = f"sha256:{secrets.token_hex(32)}"
        source = source or self.good[0]
        folder = self.host / f"adapter{number}@1" / digest.replace(":", "-")
        copy_adapter(source, folder)
        return Version(f"adapter{number}@1", number, digest, str(folder), source)

    async def common(self, **changes: Any) -> dict[str, Any]:
        """What every command carries."""
        state = await self.engine.state()
        return {"incarnation": state.incarnation, **self.run, **changes}

    async def load(self, version: Version, **changes: Any) -> LoadResult:
        return await self.engine.load(LoadCommand(**{**await self.common(), **version.load, **changes}))

    async def unload(self, version: Version, **changes: Any) -> str:
        fields = {**await self.common(), "served_name": version.served_name, **changes}
        return (await self.engine.unload(UnloadCommand(**fields))).outcome

    async def drain(self, version: Version, **changes: Any) -> tuple[str, int | None]:
        fields = {**await self.common(), "served_name": version.served_name, **changes}
        result = await self.engine.drain(DrainCommand(**fields))
        return result.outcome, result.in_flight

    async def resume(self, version: Version, **changes: Any) -> str:
        fields = {**await self.common(), "served_name": version.served_name, **changes}
        return (await self.engine.resume(ResumeCommand(**fields))).outcome

    async def loaded(self, *sources: Path) -> list[Version]:
        """New versions of these weights, loaded."""
        versions = [self.version(source) for source in sources or (self.good[0],)]
        for version in versions:
            assert (await self.load(version)).outcome == "loaded"
        return versions

    async def post(self, body: Any, path: str = "/v1/completions", **more: Any) -> httpx.Response:
        return await self.http.post(path, json=body, **more)

    async def answer(self, model: str, prompt: str = PROMPT) -> str:
        body = {"model": model, "prompt": prompt, "max_tokens": self.tokens, "temperature": 0}
        response = await self.post(body)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["text"])

    async def status(self, model: str, **headers: str) -> httpx.Response:
        return await self.post({"model": model, "prompt": PROMPT, "max_tokens": 1}, headers=headers)

    @contextlib.asynccontextmanager
    async def stream(self, model: str, *, chat: bool = False) -> AsyncIterator["Stream"]:
        """A long streaming answer whose first part has come."""
        ask: dict[str, Any] = (
            {"messages": [{"role": "user", "content": PROMPT}]} if chat else {"prompt": PROMPT}
        )
        body = {
            "model": model,
            **ask,
            "stream": True,
            "temperature": 0,
            "max_tokens": 200,
            "ignore_eos": True,
        }
        path = "/v1/chat/completions" if chat else "/v1/completions"
        async with self.http.stream("POST", path, json=body) as response:
            assert response.status_code == 200, await response.aread()
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            yield Stream(lines)

    async def clean(self) -> None:
        """Leave the engine without adapters, and see that nothing else is left in it."""
        state = await self.engine.state()
        commands = [
            UnloadCommand(
                served_name=adapter.served_name,
                incarnation=state.incarnation,
                operation="cleaner",
                run_id="cleaner",
                epoch=adapter.epoch,
                on_timeout="abort",
            )
            for adapter in state.adapters
        ]
        await asyncio.gather(*map(self.engine.unload, commands))
        state = await self.engine.state()
        assert (state.adapters, state.foreign_int_ids) == ((), ())


class Stream:
    """A running streaming answer."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def rest(self) -> list[str]:
        """All lines that are still to come, without the empty ones."""
        return [line async for line in self._lines if line]

    async def is_whole(self) -> bool:
        """Read to the end; whether the answer came to its proper end."""
        return (await self.rest())[-1] == "data: [DONE]"


def in_flight(state: EngineState, version: Version) -> int | None:
    """How many requests the engine counts for a version."""
    adapter = state.adapter(version.served_name)
    assert adapter is not None
    return adapter.in_flight
