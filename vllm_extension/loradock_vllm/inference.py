"""Requests for answers: counted by their body's `model` to the last byte, refused while their adapter drains."""

import asyncio
import logging
from typing import Any, Final

from loradock_vllm.admission import NOTHING, seeing
from loradock_vllm.asgi import (
    DISCONNECT,
    App,
    ClientGoneError,
    Message,
    Receive,
    Scope,
    Send,
    TooLargeError,
    local_path,
    read_body,
    replay,
    send_json,
)
from loradock_vllm.binding import EngineBinding
from loradock_vllm.controller import Controller
from loradock_vllm.in_flight import Ticket
from loradock_vllm.ledger import Adapter, AdapterState
from loradock_vllm.request_model import AmbiguousModelError, RequestedModel, is_json, read_model

logger = logging.getLogger("vllm.loradock")

_EXPECT_INCARNATION: Final = b"x-loradock-expect-incarnation"
_EXPECT_DIGEST: Final = b"x-loradock-expect-digest"
_NOT_ADMITTED: Final = b"x-loradock-not-admitted"
_BACKGROUND: Final = "background"


class _Head:
    """The headers that matter here, found in one pass."""

    __slots__ = ("content_type", "digest", "incarnation", "length")

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.content_type = b""
        self.length: int | None = None
        self.incarnation: bytes | None = None
        self.digest: bytes | None = None
        for name, value in headers:
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-length" and value.isdigit() and len(value) < 20:
                self.length = int(value)
            elif name == _EXPECT_INCARNATION:
                self.incarnation = value
            elif name == _EXPECT_DIGEST:
                self.digest = value

    @property
    def expects(self) -> bool:
        return self.incarnation is not None or self.digest is not None


class InferenceGate:
    """Stands before every POST to the server.

    Args:
        app: the server behind.
        controller: knows what is held and counts.
        binding: the engine.
        max_body_bytes: largest JSON body that is read to find its model.
    """

    def __init__(self, app: App, controller: Controller, binding: EngineBinding, max_body_bytes: int) -> None:
        self._app = app
        self._controller = controller
        self._binding = binding
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit, refuse or pass on one request."""
        head = _Head(scope["headers"])
        if reason := self._unmet(head):
            await _refuse(send, reason, "this engine is another incarnation than the request expects")
            return
        if not is_json(head.content_type) or not self._binding.may_read_body(
            local_path(scope), scope["headers"]
        ):
            await self._pass_on(scope, receive, send, head)
            return
        try:
            body, messages = await self._read(head, receive)
            model = read_model(body)
        except ClientGoneError:
            return
        except TooLargeError as error:
            await self._too_large(scope, replay(error.messages, receive), send, head)
            return
        except AmbiguousModelError:
            await _bad_request(send, 400, "the field 'model' stands twice in the body")
            return
        admitted = self._admit(model, head)
        if admitted is None:
            if head.expects and (head.digest is not None or not self._known(model.name)):
                await _refuse(send, "unknown", f"the model {model.name!r} is not loaded here")
                return
            await self._serve_base(scope, replay(messages, receive), send)
        elif isinstance(admitted, Ticket):
            await self._serve_adapter(admitted, scope, messages, receive, send)
        elif admitted == _BACKGROUND:
            await _bad_request(
                send, 400, "an adapter cannot be used in background mode: it could not be drained"
            )
        else:
            await _refuse(send, admitted, f"{model.name} is not admitted: {admitted}")

    def _admit(self, model: RequestedModel, head: _Head) -> Ticket | str | None:
        """Count the request for the adapter that it names: its ticket, or why not; None when it names none of ours.

        Nothing is awaited between the look at the adapter and the count.
        """
        if model.name is None:
            return None
        record = self._controller.record
        while (adapter := record.ledger.get(model.name)) is not None:
            if reason := self._not_admitted(adapter, head):
                return reason
            if model.background:
                return _BACKGROUND
            ticket = record.in_flight.enter(adapter.served_name)
            if record.is_current():
                return ticket
            # A sibling process changed something between look and count, perhaps this adapter: its drain may have
            # missed the count, so the look does not stand.
            record.in_flight.leave(ticket)
        return None

    async def _read(self, head: _Head, receive: Receive) -> tuple[bytes, list[Message]]:
        if head.length is not None and head.length > self._max_body_bytes:
            raise TooLargeError([])
        return await read_body(receive, self._max_body_bytes)

    def _unmet(self, head: _Head) -> str:
        if head.incarnation is None or head.incarnation == self._controller.incarnation.encode():
            return ""
        return "incarnation"

    def _known(self, name: str | None) -> bool:
        return name is None or self._controller.knows_model(name)

    @staticmethod
    def _not_admitted(adapter: Adapter, head: _Head) -> str:
        if adapter.state is AdapterState.DRAINING:
            return "draining"
        if head.digest is not None and head.digest != adapter.digest.encode():
            return "digest"
        return ""

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, head: _Head) -> None:
        """A request whose model is not read: it sees no adapter of ours, so it cannot use one uncounted."""
        if head.digest is not None:
            await _refuse(send, "unknown", "the expected digest can be kept only for a JSON request")
            return
        with seeing(NOTHING):
            await self._app(scope, receive, send)

    async def _too_large(self, scope: Scope, receive: Receive, send: Send, head: _Head) -> None:
        if self._controller.record.ledger.adapters():
            limit = self._max_body_bytes
            await _bad_request(
                send, 413, f"the body is larger than {limit} bytes (LORADOCK_EXTENSION_MAX_BODY_BYTES)"
            )
            return
        await self._pass_on(scope, receive, send, head)

    async def _serve_base(self, scope: Scope, receive: Receive, send: Send) -> None:
        in_flight = self._controller.in_flight
        in_flight.enter_base()
        try:
            with seeing(NOTHING):
                await self._app(scope, receive, send)
        finally:
            in_flight.leave_base()

    async def _serve_adapter(
        self, ticket: Ticket, scope: Scope, messages: list[Message], receive: Receive, send: Send
    ) -> None:
        try:
            with seeing(ticket.name):
                await _Exchange(ticket, scope, messages, receive, send).run(self._app)
        finally:
            self._controller.in_flight.leave(ticket)


class _Exchange:
    """One admitted request, which an unload can end: to the server it looks as if the client had gone."""

    def __init__(
        self, ticket: Ticket, scope: Scope, messages: list[Message], receive: Receive, send: Send
    ) -> None:
        self._ticket = ticket
        self._scope = scope
        self._body = iter(messages)
        self._receive = receive
        self._send = send
        self._started = False
        self._aborted: asyncio.Future[Any] | None = None
        # From 2.4 on a lost client shows as an OSError of `send`; before, by `receive` alone.
        version = str(scope.get("asgi", {}).get("spec_version", "2.0"))
        self._send_raises = tuple(int(part) for part in version.split(".")[:2]) >= (2, 4)
        ticket.on_abort(self._on_abort)

    async def run(self, app: App) -> None:
        """Let the server answer."""
        try:
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._ticket.aborted or task is None:
                raise
            task.uncancel()
        except Exception:
            if not self._ticket.aborted:
                raise
            logger.debug("a request that was aborted ended with an error", exc_info=True)
        if self._ticket.aborted and not self._started:
            await _error(
                self._send, 503, "ServiceUnavailableError", "the adapter was unloaded while it answered", ()
            )

    def _on_abort(self) -> None:
        if self._aborted is not None and not self._aborted.done():
            self._aborted.set_result(None)

    async def receive(self) -> Message:
        """The next message of the client, or its end when the request is aborted."""
        if self._ticket.aborted:
            return {"type": DISCONNECT}
        if (part := next(self._body, None)) is not None:
            return part
        if self._aborted is None:
            self._aborted = asyncio.get_running_loop().create_future()
        upcoming: asyncio.Future[Any] = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((upcoming, self._aborted), return_when=asyncio.FIRST_COMPLETED)
            message: Message = upcoming.result() if upcoming.done() else {"type": DISCONNECT}
            return message
        finally:
            upcoming.cancel()

    async def send(self, message: Message) -> None:
        """Pass a message to the client, unless the request is aborted."""
        if self._ticket.aborted:
            if self._send_raises:
                raise OSError("the request was aborted")
            return
        self._started = True
        await self._send(message)


async def _refuse(send: Send, reason: str, message: str) -> None:
    """Not admitted: nothing of the request was begun, another engine may take it."""
    headers = ((b"retry-after", b"1"), (_NOT_ADMITTED, reason.encode()))
    await _error(send, 503, "ServiceUnavailableError", message, headers)


async def _bad_request(send: Send, status: int, message: str) -> None:
    await _error(send, status, "BadRequestError", message, ())


async def _error(
    send: Send, status: int, kind: str, message: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": "model", "code": status}}
    await send_json(send, status, body, headers)
