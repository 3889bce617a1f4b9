"""An operation's changes as server-sent events."""

from typing import Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.bodies import operation_body
from api.dependencies import ApiDependencies
from api.waiting import next_change, read_operation
from loradock.core.errors import LoradockError

KEEP_ALIVE_SECONDS: Final = 10.0
"""Silence after which a comment is sent: proxies cut connections that say nothing, and a reader that went away shows."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class OperationEventStream(Response):
    """The operation as it stands, again at every change, and `end` when it has ended.

    Every event holds the whole operation, so a reader that comes back has missed nothing: `Last-Event-ID` is not
    needed and does no harm. A stream that breaks off without `end` (Postgres or the server went away) is to be opened
    again, which browsers do by themselves.
    """

    media_type = "text/event-stream"

    def __init__(
        self, parts: ApiDependencies, operation: str, keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._parts = parts
        self._operation = operation
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the operation has ended, the reader has gone or the server stops."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as group:

            async def watch_reader() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch_reader)
            await self._send_changes(send)
            group.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_changes(self, send: Send) -> None:
        async def put(text: str) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        last, number = "", 0
        async with self._parts.feed.watch(self._operation) as changes:
            while not self._parts.stopping.is_set():
                try:
                    operation = await read_operation(self._parts, self._operation)
                except LoradockError:
                    return
                data = operation_body(operation, self._parts.settings).model_dump_json()
                if data != last:
                    last, number = data, number + 1
                    await put(_event("operation", number, data))
                else:
                    await put(": keep-alive\n\n")
                if not operation.state.active:
                    await put(_event("end", number + 1, data))
                    return
                await next_change(changes, self._parts.stopping, self._keep_alive_seconds)


def _event(name: str, number: int, data: str) -> str:
    return f"id: {number}\nevent: {name}\ndata: {data}\n\n"
