"""The ASGI middleware: its own paths under `/loradock/`, and the gate before every other request."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from loradock_vllm.admission import LISTING, NOTHING, seeing
from loradock_vllm.asgi import (
    App,
    ClientGoneError,
    Receive,
    Scope,
    Send,
    TooLargeError,
    local_path,
    read_body,
    run_while_connected,
    send_json,
)
from loradock_vllm.auth import TokenGuard
from loradock_vllm.binding import EngineBinding
from loradock_vllm.commands import parse_drain, parse_load, parse_resume, parse_unload
from loradock_vllm.controller import Controller
from loradock_vllm.errors import ConfigurationError, ExtensionError
from loradock_vllm.inference import InferenceGate
from loradock_vllm.records import open_record
from loradock_vllm.settings import ExtensionSettings
from loradock_vllm.version import __version__
from loradock_vllm.vllm_binding import VllmBinding

PREFIX: Final = "/loradock"
MAX_COMMAND_BYTES: Final = 64 * 1024

_BYPASSES: Final = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters")
"""vLLM's own ways to change adapters."""

logger = logging.getLogger("vllm.loradock")

BindingFactory = Callable[[Scope], EngineBinding]
Handler = Callable[[bytes], Awaitable[dict[str, Any]]]


class _Running:
    """What exists once the server behind is known."""

    def __init__(self, app: App, binding: EngineBinding, settings: ExtensionSettings) -> None:
        record = open_record(binding.facts, settings)
        self.controller = Controller(binding, settings.usable_slots, record, settings.load_limits)
        self.gate = InferenceGate(app, self.controller, binding, settings.max_body_bytes)
        self.handlers: dict[tuple[str, str], Handler] = {
            ("GET", "/loradock/v1/state"): self._state,
            ("POST", "/loradock/v1/load"): self._load,
            ("POST", "/loradock/v1/drain"): self._drain,
            ("POST", "/loradock/v1/resume"): self._resume,
            ("POST", "/loradock/v1/unload"): self._unload,
        }

    async def _state(self, _: bytes) -> dict[str, Any]:
        return await self.controller.state()

    async def _load(self, body: bytes) -> dict[str, Any]:
        return await self.controller.load(parse_load(body))

    async def _drain(self, body: bytes) -> dict[str, Any]:
        return await self.controller.drain(parse_drain(body))

    async def _resume(self, body: bytes) -> dict[str, Any]:
        return await self.controller.resume(parse_resume(body))

    async def _unload(self, body: bytes) -> dict[str, Any]:
        return await self.controller.unload(parse_unload(body))


class LoradockMiddleware:
    """Loads, drains and unloads adapters inside a vLLM server, and counts the requests that use them.

    Without valid settings the server does not start; made to start all the same, it refuses every request.

    Args:
        app: the server behind; vLLM gives only this.
        settings: read from the environment when not given.
        bind: finds the engine from a request's scope.
    """

    def __init__(
        self,
        app: App,
        settings: ExtensionSettings | None = None,
        bind: BindingFactory = VllmBinding.from_scope,
    ) -> None:
        self._app = app
        self._bind = bind
        self._running: _Running | None = None
        self._refusal = ""
        try:
            self._settings = settings or ExtensionSettings.from_environment(os.environ)
        except ConfigurationError as error:
            self._refuse_to_serve(error)
            return
        self._guard = TokenGuard([self._settings.token])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of the server."""
        if self._refusal:
            await _refuse_everything(scope, receive, send, self._refusal)
            return
        kind = scope["type"]
        try:
            running = self._running or self._start(scope)
        except ConfigurationError as error:
            self._refuse_to_serve(error)
            await _refuse_everything(scope, receive, send, self._refusal)
            return
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        path = local_path(scope)
        if path == PREFIX or path.startswith(PREFIX + "/"):
            await self._serve_own(running, scope, path, receive, send)
            return
        try:
            running.controller.catch_up()
        except ExtensionError as error:
            await _refuse_everything(scope, receive, send, error.message)
            return
        if kind != "http":
            with seeing(NOTHING):
                await self._app(scope, receive, send)
        elif path.startswith(_BYPASSES):
            await send_json(
                send, 403, {"error": {"code": "forbidden", "message": "adapters are changed by Loradock"}}
            )
        elif scope["method"] == "POST":
            await running.gate(scope, receive, send)
        else:
            with seeing(LISTING):
                await self._app(scope, receive, send)

    def _refuse_to_serve(self, error: ConfigurationError) -> None:
        # An exception would be swallowed by the server's handling of lifespan: it would start unguarded.
        self._refusal = f"Loradock's extension refuses to start: {error}"
        logger.critical(self._refusal)

    def _start(self, scope: Scope) -> _Running:
        binding = self._bind(scope)
        self._running = _Running(self._app, binding, self._settings)
        self._preparation = asyncio.create_task(binding.prepare())
        facts = binding.facts
        logger.info(
            "Loradock extension %s: incarnation %s, %s %s, %d of %d slots usable, %d API processes, %d ranks",
            __version__, self._running.controller.incarnation, facts.kind, facts.version,
            self._running.controller.usable_slots, facts.max_loras, facts.api_servers, facts.data_parallel_ranks,
        )  # fmt: skip
        for limitation in facts.limitations:
            logger.warning("Loradock extension: %s", limitation)
        return self._running

    async def _serve_own(
        self, running: _Running, scope: Scope, path: str, receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            status, body = 200, await self._call(running, scope, path, receive)
        except ClientGoneError:
            return
        except ExtensionError as error:
            status, body = error.spec.status, error.body()
        except Exception as error:
            logger.exception("Loradock extension: a call failed")
            failure = ExtensionError("engine_error", f"the extension failed: {type(error).__name__}")
            status, body = failure.spec.status, failure.body()
        await send_json(send, status, body)

    async def _call(self, running: _Running, scope: Scope, path: str, receive: Receive) -> dict[str, Any]:
        if not self._guard.allows(scope["headers"]):
            raise ExtensionError("unauthorized", "no token of this extension, or a wrong one")
        handler = running.handlers.get((scope["method"], path))
        if handler is None:
            raise ExtensionError("not_found", f"there is no {scope['method']} {path}")
        try:
            body, _ = await read_body(receive, MAX_COMMAND_BYTES)
        except TooLargeError:
            raise ExtensionError(
                "invalid_request", f"the body is larger than {MAX_COMMAND_BYTES} bytes"
            ) from None

        async def work() -> dict[str, Any]:
            return await handler(body)

        return await run_while_connected(receive, work())


async def _refuse_everything(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": reason})
    elif scope["type"] == "http":
        await send_json(
            send, 503, {"error": {"code": "engine_not_supported", "message": reason, "fault": "engine"}}
        )
    else:
        await send({"type": "websocket.close", "code": 1013})
