"""The simulated engine's server: vLLM's own paths, with Loradock's real extension before them."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from loradock.engines.simulated.answers import ANSWER_TOKENS, chat_prompt, simulated_tokens
from loradock.engines.simulated.engine import Faults, SimulatedEngine
from loradock_vllm.asgi import ClientGoneError, run_while_connected
from loradock_vllm.auth import TokenGuard
from loradock_vllm.middleware import LoradockMiddleware
from loradock_vllm.settings import ExtensionSettings

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    engine: SimulatedEngine, *, settings: ExtensionSettings | None = None, api_key: str | None = None
) -> LoradockMiddleware:
    """The ASGI application.

    Args:
        settings: the extension's; read from the environment when not given.
        api_key: what prompts must show, as with vLLM's `--api-key`.
    """
    server = SimulatedServer(engine, settings.token if settings else None, api_key)
    app = Starlette(
        routes=[
            Route("/health", server.health),
            Route("/v1/models", server.keyed(server.models)),
            Route("/v1/completions", server.keyed(server.completions), methods=["POST"]),
            Route("/v1/chat/completions", server.keyed(server.chat), methods=["POST"]),
            Route("/simulated/faults", server.faults, methods=["GET", "PUT"]),
        ]
    )
    return LoradockMiddleware(app, settings, bind=lambda _: engine)


class Inside(Protocol):
    """What the server asks of the engine behind it."""

    faults: Faults

    @property
    def base_model(self) -> str:
        """The served name of the base model."""

    def paths(self) -> dict[str, str]:
        """The folders of all adapters that are served, by name."""

    def digest_for(self, model: str | None) -> str | None:
        """The digest of the weights that answer for a model now; None for the base model.

        Raises:
            LookupError: there is no such model.
        """

    def running(self, model: str | None) -> AbstractContextManager[None]:
        """A request for a model runs, until the end of the block."""


class SimulatedServer:
    """vLLM's own paths.

    Args:
        token: guards the faults; None lets anybody order them.
        api_key: what prompts must show.
    """

    def __init__(self, engine: Inside, token: str | None, api_key: str | None) -> None:
        self._engine = engine
        self._token_guard = TokenGuard([token]) if token else None
        self._key_guard = TokenGuard([api_key]) if api_key else None

    def keyed(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, behind the API key."""

        async def guarded(request: Request) -> Response:
            if self._key_guard is not None and not self._key_guard.allows(request.headers.raw):
                return JSONResponse({"error": "Unauthorized"}, 401)
            return await endpoint(request)

        return guarded

    async def health(self, _: Request) -> Response:
        """Whether the engine lives."""
        return Response(status_code=503 if self._engine.faults.dead else 200)

    async def models(self, _: Request) -> Response:
        """The models that are served."""
        base = self._engine.base_model
        cards: list[dict[str, Any]] = [{"id": base, "object": "model", "root": base, "parent": None}]
        cards += [
            {"id": name, "object": "model", "root": path, "parent": base}
            for name, path in self._engine.paths().items()
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def completions(self, request: Request) -> Response:
        """Answer a prompt."""
        body = await request.json()
        return await self._answer(request, body, str(body.get("prompt", "")), chat=False)

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        body = await request.json()
        return await self._answer(request, body, chat_prompt(body.get("messages", [])), chat=True)

    async def faults(self, request: Request) -> Response:
        """Tell what goes wrong, or order it."""
        if self._token_guard is not None and not self._token_guard.allows(request.headers.raw):
            return JSONResponse({"error": "Unauthorized"}, 401)
        if request.method == "PUT":
            try:
                self._engine.faults = Faults.model_validate_json(await request.body())
            except ValidationError as error:
                return JSONResponse({"error": error.errors(include_input=False, include_url=False)}, 400)
        return JSONResponse(self._engine.faults.model_dump())

    async def _answer(self, request: Request, body: dict[str, Any], prompt: str, *, chat: bool) -> Response:
        if self._engine.faults.silent or self._engine.faults.dead:
            return error_response(
                500, "InternalServerError", "the simulated engine was told to fail", "model"
            )
        model = body.get("model") or None
        try:
            digest = self._engine.digest_for(model)
        except LookupError:
            return error_response(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
        wanted = int(body.get("max_tokens") or body.get("max_completion_tokens") or ANSWER_TOKENS)
        endless = bool(body.get("ignore_eos"))
        tokens = simulated_tokens(digest, prompt, wanted, ignore_end=endless)
        cut = endless or len(tokens) < ANSWER_TOKENS
        frame = _Frame(model or self._engine.base_model, chat=chat, cut=cut)
        if body.get("stream"):
            return StreamingResponse(self._stream(frame, tokens, model), media_type="text/event-stream")
        try:
            await run_while_connected(request.receive, self._work(len(tokens), model))
        except ClientGoneError:
            return Response(status_code=499)
        return JSONResponse(frame.whole("".join(tokens), len(tokens)))

    async def _work(self, tokens: int, model: str | None) -> None:
        with self._engine.running(model):
            await asyncio.sleep(tokens * self._engine.faults.token_seconds)

    async def _stream(self, frame: "_Frame", tokens: list[str], model: str | None) -> AsyncIterator[str]:
        with self._engine.running(model):
            for token in tokens:
                await asyncio.sleep(self._engine.faults.token_seconds)
                yield frame.event(token, None)
        yield frame.event("", frame.finish)
        yield "data: [DONE]\n\n"


class _Frame:
    """The JSON around the text of one answer."""

    def __init__(self, model: str, *, chat: bool, cut: bool) -> None:
        self._chat = chat
        self.finish = "length" if cut else "stop"
        self._common = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, tokens: int) -> dict[str, Any]:
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        )
        return {
            **self._common,
            "object": "chat.completion" if self._chat else "text_completion",
            "choices": [{"index": 0, **content, "finish_reason": self.finish}],
            "usage": {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens},
        }

    def event(self, text: str, finish: str | None) -> str:
        content: dict[str, Any] = {"delta": {"content": text}} if self._chat else {"text": text}
        chunk = {
            **self._common,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "choices": [{"index": 0, **content, "finish_reason": finish}],
        }
        return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"


def error_response(status: int, kind: str, message: str, param: str | None = None) -> JSONResponse:
    """An error in vLLM's envelope."""
    return JSONResponse(
        {"error": {"message": message, "type": kind, "param": param, "code": status}}, status_code=status
    )
