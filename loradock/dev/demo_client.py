"""What the demo does over HTTP: the control API as any client, and prompts straight to the engines."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import httpx

from loradock.core.errors import LoradockError
from loradock.dev.dev_file import DevInfo

WAIT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine said.

    Attributes:
        token_ids: None where the engine has no tokens of its own (simulated).
    """

    text: str
    token_ids: tuple[int, ...] | None


class DemoClient:
    """One stack's API and engines. Close it after use."""

    def __init__(self, info: DevInfo, engine_token: str) -> None:
        self._api = httpx.AsyncClient(
            base_url=info.api, headers={"Authorization": f"Bearer {info.token}"}, timeout=WAIT_SECONDS + 10
        )
        self._engines = {engine.id: engine.url for engine in info.engines}
        self._http = httpx.AsyncClient(timeout=60, trust_env=False)
        self._engine_headers = {"Authorization": f"Bearer {engine_token}"}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()
        await self._http.aclose()

    async def start(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Start an operation and return it as it is at once.

        Raises:
            LoradockError: what the API refused, with its code.
        """
        return self._checked(await self._api.post(path, json=body))

    async def ended(self, operation: str) -> dict[str, Any]:
        """Wait for an operation's end, whatever it is.

        Raises:
            LoradockError: `stack_failed` when it takes too long.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            found = await self.operation(operation)
            if found["ended_at"] is not None:
                return found
            await asyncio.sleep(0.05)
        raise LoradockError("stack_failed", f"operation {operation} did not end in {WAIT_SECONDS:.0f} s")

    async def succeed(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Start an operation and wait until it has succeeded.

        Raises:
            LoradockError: with the operation's own code when it ends otherwise.
        """
        operation = await self.ended((await self.start(path, body))["id"])
        if operation["state"] != "succeeded":
            error = operation["error"] or {"code": "internal_error", "message": operation["state"]}
            raise LoradockError(error["code"], f"{operation['id']}: {error['message']}")
        return operation

    async def operation(self, operation: str) -> dict[str, Any]:
        """An operation as it stands."""
        return self._checked(await self._api.get(f"/v1/operations/{operation}"))

    async def items(self, path: str, **query: str | int) -> list[dict[str, Any]]:
        """The first page of a list."""
        found: list[dict[str, Any]] = self._checked(await self._api.get(path, params=query))["items"]
        return found

    async def prompt(self, engine: str, model: str, text: str, max_tokens: int) -> Answer:
        """A prompt to one engine, greedily.

        Raises:
            LoradockError: `engine_not_verified` when the engine does not answer it.
        """
        body = {
            "model": model,
            "prompt": text,
            "max_tokens": max_tokens,
            "temperature": 0,
            "return_token_ids": True,
        }
        reply = await self._http.post(f"{self._engines[engine]}/v1/completions", json=body)
        if reply.status_code != httpx.codes.OK:
            raise LoradockError("engine_not_verified", f"{engine} answered {reply.status_code} to {model}")
        choice = reply.json()["choices"][0]
        tokens = choice.get("token_ids")
        return Answer(choice["text"], tuple(tokens) if tokens is not None else None)

    async def resident(self, engine: str) -> set[str]:
        """The served names that an engine really holds."""
        reply = await self._http.get(
            f"{self._engines[engine]}/loradock/v1/state", headers=self._engine_headers
        )
        reply.raise_for_status()
        return {one["served_name"] for one in reply.json()["adapters"] if one["resident"]}

    @staticmethod
    def _checked(reply: httpx.Response) -> dict[str, Any]:
        content: dict[str, Any] = reply.json()
        if reply.is_error:
            raise LoradockError(
                content.get("code", "internal_error"), content.get("detail", reply.text[:300])
            )
        return content
