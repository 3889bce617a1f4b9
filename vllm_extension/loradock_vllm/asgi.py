"""The little of ASGI and HTTP that the extension needs, with nothing but the standard library."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Final, TypeVar

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

T = TypeVar("T")

DISCONNECT: Final = "http.disconnect"


class ClientGoneError(Exception):
    """The client closed the connection before the answer."""


class TooLargeError(Exception):
    """The body is larger than the limit; `messages` holds what was read of it."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        super().__init__("the request body is too large")


async def read_body(receive: Receive, limit: int) -> tuple[bytes, list[Message]]:
    """Read a request body of at most `limit` bytes, and the messages that it came in.

    Raises:
        ClientGoneError: the client went away before the end.
        TooLargeError: there is more.
    """
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        messages.append(message)
        size += len(message.get("body", b""))
        if size > limit:
            raise TooLargeError(messages)
        if not message.get("more_body", False):
            break
    if len(messages) == 1:
        return messages[0].get("body", b""), messages
    return b"".join(message.get("body", b"") for message in messages), messages


def replay(messages: list[Message], receive: Receive) -> Receive:
    """A `receive` that gives these messages again and then goes on with the real one."""
    position = 0

    async def replayed() -> Message:
        nonlocal position
        if position < len(messages):
            message = messages[position]
            position += 1
            return message
        return await receive()

    return replayed


async def send_json(
    send: Send, status: int, body: Any, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Send a whole JSON answer."""
    content = json.dumps(body, separators=(",", ":")).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": content})


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; cancel it when the client goes away first.

    Raises:
        ClientGoneError: the client went away, and `work` has ended.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for pending in (task, gone):
            if not pending.done():
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await pending


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != DISCONNECT:
        pass


def local_path(scope: Scope) -> str:
    """The request's path below the server's `--root-path`."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
