"""The simulated engine listening on a port of 127.0.0.1."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

from loradock.core.errors import LoradockError


class _QuietServer(uvicorn.Server):
    """A server that leaves the process's signals alone: it runs inside another program's loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: Any, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve an ASGI application within the running loop; gives its URL.

    Args:
        port: 0 takes any free one.

    Raises:
        LoradockError: `engine_unreachable` when the application refuses to start.
    """
    # Bound before it serves, so that nobody is ever sent to a port of somebody else.
    sock = _listener(host, port)
    # Connections that are still open at the end are cut after a second.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, lifespan="on")
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        while not server.started:
            await asyncio.wait({task}, timeout=0.005)
            if task.done():
                raise LoradockError("engine_unreachable", "the simulated engine did not start")
        yield f"http://{host}:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
        sock.close()


def _listener(host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named: every answer would take 40 ms more.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError:
        sock.close()
        raise
    return sock
