"""`/v1/loras` at the host: what the seed system's operator says to each host is passed on to the control plane.

Off unless `LORADOCK_LORAS_LISTEN` is set here and `LORADOCK_AGENT_LORAS` at the API: whoever reaches this port may change
what the fleet serves.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loradock.core.errors import LoradockError
from loradock.core.names import check_adapter_name

_log = logging.getLogger(__name__)

_Call = Callable[[Request], Awaitable[Response]]

MAX_BODY_BYTES: Final = 64 * 1024
ANSWER_SECONDS: Final = 300.0
"""Longer than the control plane lets a call wait."""


class LorasProxy:
    """Passes calls on as the agent's own.

    Args:
        control_plane: the API's address.
        agent_token: the agent's token there.
        agent: its id.
        token: what callers must show; None lets everybody in who reaches the port.
    """

    def __init__(self, control_plane: str, agent_token: str, agent: str, token: SecretStr | None) -> None:
        self._token = token
        self._path = f"/v1/agents/{agent}/loras"
        self._http = httpx.AsyncClient(
            base_url=control_plane,
            headers={"Authorization": f"Bearer {agent_token}"},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=5.0),
        )

    def app(self) -> Starlette:
        """The three calls as an application."""
        return Starlette(
            routes=[
                Route("/v1/loras", self._guarded(self._list), methods=["GET"]),
                Route("/v1/loras", self._guarded(self._load), methods=["POST"]),
                Route("/v1/loras/{name:path}", self._guarded(self._unload), methods=["DELETE"]),
            ]
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _list(self, request: Request) -> Response:
        return await self._pass_on(request, self._path)

    async def _load(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return _error(413, "request_too_large", f"the body is over {MAX_BODY_BYTES} bytes")
        return await self._pass_on(request, self._path, bytes(body))

    async def _unload(self, request: Request) -> Response:
        try:
            # Else dots in it, which the client folds away, could lead to another agent's calls.
            name = check_adapter_name(request.path_params["name"])
        except LoradockError as error:
            return _error(400, error.code, error.message)
        return await self._pass_on(request, f"{self._path}/{name}")

    async def _pass_on(self, request: Request, path: str, body: bytes | None = None) -> Response:
        kept = {name: request.headers[name] for name in ("content-type",) if name in request.headers}
        try:
            answer = await self._http.request(request.method, path, content=body, headers=kept)
        except httpx.HTTPError as error:
            return _error(503, "not_ready", f"the control plane does not answer: {type(error).__name__}")
        media_type = answer.headers.get("content-type")
        if media_type == "application/problem+json":  # refused before the call itself: the agent's own token
            problem = answer.json()
            return _error(answer.status_code, str(problem.get("code")), str(problem.get("detail")))
        return Response(answer.content, answer.status_code, media_type=media_type)

    def _guarded(self, call: _Call) -> _Call:
        async def guarded(request: Request) -> Response:
            if not self._may(request):
                return _error(401, "unauthorized", "the call has no bearer token, or a wrong one")
            return await call(request)

        return guarded

    def _may(self, request: Request) -> bool:
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        expected = self._token.get_secret_value().encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), expected)


def _error(status: int, code: str, message: str) -> JSONResponse:
    content: dict[str, Any] = {"status": "error", "message": message, "code": code}
    return JSONResponse(
        content, status, headers={"Retry-After": "5"} if status == httpx.codes.SERVICE_UNAVAILABLE else {}
    )
