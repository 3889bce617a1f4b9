"""What happens to every request before its endpoint: a request id, a sane path, a known token, a body of bounded size."""

import logging
import re
import time
import uuid
from typing import Final, Protocol

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import TokenBook, authenticate
from api.problems import printable, problem_response
from loradock.core.errors import LoradockError

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("api.access")

MAX_BODY_BYTES: Final = 1024 * 1024

_STREAM = re.compile(r"/v1/uploads/[^/]+/files/[^/]+")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class RequestWatch(Protocol):
    """Counts requests. Never waits, never fails."""

    def began(self) -> None:
        """A request has come."""

    def ended(self, method: str, route: str | None, status: int, seconds: float | None) -> None:
        """It is over.

        Args:
            method: as the caller wrote it.
            route: the template of the path; None when no route fits, or the request was refused before that was known.
            status: 0 when it was cut off before there was an answer.
            seconds: until the answer began; None when there was none.
        """


class RequestGuard:
    """Names, authenticates and bounds each request, and answers what nothing else caught.

    Access is refused by default: only `OPEN_PATHS` are let through without a token, so that a route added later
    cannot be open by accident.

    Args:
        app: the application behind it.
        tokens: who is let in.
        max_body_bytes: largest body.
        max_stream_bytes: largest body of a call that takes a file's bytes; never held in memory as a whole.
        watch: told of every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: TokenBook,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_stream_bytes: int = MAX_BODY_BYTES,
        watch: RequestWatch | None = None,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._max_body_bytes = max_body_bytes
        self._max_stream_bytes = max_stream_bytes
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        streams = scope["method"] == "PUT" and _STREAM.fullmatch(scope["path"])
        limit = self._max_stream_bytes if streams else self._max_body_bytes
        exchange = _Exchange(
            self._app, self._tokens, limit, scope=scope, receive=receive, send=send, watch=self._watch
        )
        await exchange.run()


class _Exchange:
    """One request and its response."""

    def __init__(
        self,
        app: ASGIApp,
        tokens: TokenBook,
        max_body_bytes: int,
        *,
        scope: Scope,
        receive: Receive,
        send: Send,
        watch: RequestWatch | None,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._max_body_bytes = max_body_bytes
        self._scope = scope
        self._receive = receive
        self._send = send
        self._watch = watch
        self._request_id = _request_id(scope)
        self._received = 0
        self._status = 0
        self._began = time.perf_counter()
        self._answered_after: float | None = None
        self._actor = "-"
        scope.setdefault("state", {})["request_id"] = self._request_id

    async def run(self) -> None:
        if self._watch is not None:
            self._watch.began()
        try:
            self._admit()
            await self._app(self._scope, self._bounded_receive, self._named_send)
        except LoradockError as error:
            await self._refuse(error)
        except Exception:
            logger.exception("request %s failed", self._request_id)
            await self._refuse(
                LoradockError("internal_error", "the call failed; the log has it under its request_id")
            )
        finally:
            self._count()
            self._log(time.perf_counter() - self._began)

    def _admit(self) -> None:
        """Raises what keeps the request out."""
        path = self._scope["path"]
        principal = authenticate(self._tokens, path, self._scope["headers"])
        self._scope["state"]["principal"] = principal
        self._actor = principal.actor if principal else "-"
        if _CONTROL.search(path):
            raise LoradockError("not_found", "no path has control characters")
        if self._content_length() > self._max_body_bytes:
            raise self._too_large()

    def _content_length(self) -> int:
        value = next((value for name, value in self._scope["headers"] if name == b"content-length"), b"0")
        return int(value) if value.isdigit() and len(value) < 19 else 0

    async def _bounded_receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._max_body_bytes:
                # FastAPI passes only its own exception type on from inside the reading of a body.
                raise HTTPException(413)
        return message

    async def _named_send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._answered_after = time.perf_counter() - self._began
            headers = [(b"x-request-id", self._request_id.encode()), (b"x-content-type-options", b"nosniff")]
            message = {**message, "headers": [*message["headers"], *headers]}
        await self._send(message)

    async def _refuse(self, error: LoradockError) -> None:
        if self._status:
            return  # The answer has begun: cutting it off is all that is left, and the log has the reason.
        response = problem_response(error, instance=self._scope["path"], request_id=self._request_id)
        await response(self._scope, self._receive, self._named_send)

    def _too_large(self) -> LoradockError:
        return LoradockError("request_too_large", f"the body is over {self._max_body_bytes} bytes")

    def _count(self) -> None:
        if self._watch is not None:
            route = getattr(self._scope.get("route"), "path", None)
            self._watch.ended(self._scope["method"], route, self._status, self._answered_after)

    def _log(self, seconds: float) -> None:
        access_logger.info(
            "%s %s -> %s in %.1f ms by %s (%s)",
            self._scope["method"],
            printable(self._scope["path"], 300),
            self._status or "cut off",
            seconds * 1000,
            self._actor,
            self._request_id,
        )


def _request_id(scope: Scope) -> str:
    """The caller's own id where it has a decent one, so that its log and ours can be laid together."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    text: str = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else uuid.uuid4().hex
