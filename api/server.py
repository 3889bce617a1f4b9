"""The API as a process: `loradock api`."""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from api.app import create_app
from api.auth import TokenBook
from api.dependencies import ApiDependencies
from api.presence import presence
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.core.uploads import UploadPlace
from loradock.registry.database import Database
from loradock.registry.notifications import OperationFeed

logger = logging.getLogger(__name__)

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8400
GRACE_SECONDS: Final = 10
"""From the signal to stop until calls that still run are cut off."""


async def serve(
    settings: Settings,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    ready_file: Path | None = None,
    uploads: UploadPlace | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; calls that run may end, those that wait are answered at once.

    Args:
        settings: needs database_url and at least one operator's token; Postgres and Temporal need not answer yet.
        port: 0 takes a free one.
        ready_file: gets the server's address, one line, when it listens; removed at the end.
        uploads: where uploads go; None when the service takes none.

    Raises:
        LoradockError: `setting_invalid`, also when the address is taken.
    """
    async with open_dependencies(settings, uploads) as parts:
        server = ApiServer(parts, host, port, ready_file)
        await server.serve_listening()


@asynccontextmanager
async def open_dependencies(
    settings: Settings, uploads: UploadPlace | None = None
) -> AsyncIterator[ApiDependencies]:
    """The parts that the API works with, closed at the end.

    Args:
        uploads: where uploads go; None when the service takes none.

    Raises:
        LoradockError: `setting_invalid`.
    """
    tokens = TokenBook.from_settings(settings)
    if settings.agent_token is None:
        logger.warning("no agent can join: LORADOCK_AGENT_TOKEN is not set")
    url: str = settings.require("database_url")
    temporal = await connect_lazily(settings)
    database = Database(url, settings.database_pool_size)
    try:
        async with OperationFeed(url) as feed:
            yield ApiDependencies(
                database=database,
                feed=feed,
                temporal=temporal,
                tokens=tokens,
                settings=settings,
                uploads=uploads,
            )
    finally:
        await database.dispose()


async def connect_lazily(settings: Settings) -> Client:
    """A client of Temporal that connects when it is first used."""
    key = settings.temporal_api_key
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        api_key=key.get_secret_value() if key else None,
        tls=settings.temporal_tls,
        data_converter=pydantic_data_converter,
        lazy=True,
    )


class ApiServer(uvicorn.Server):
    """uvicorn, which lets calls that wait go before it stops, and says when and where it listens.

    Args:
        parts: what the application works with.
        ready_file: gets the address.
    """

    def __init__(self, parts: ApiDependencies, host: str, port: int, ready_file: Path | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(parts),
                loop="auto",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._parts = parts
        self._host = host
        self._port = port
        self._ready_file = ready_file
        self.url = ""
        """Where it listens; empty before."""

    async def serve_listening(self) -> None:
        """Listen and serve until told to stop.

        Raises:
            LoradockError: `setting_invalid` when the address cannot be listened on.
        """
        listener = _listen(self._host, self._port)
        self.url = _url(self._host, listener)
        try:
            async with presence(self._parts.database, self._parts.settings.agent_lease_seconds):
                await self.serve(sockets=[listener])
        finally:
            listener.close()
            if self._ready_file is not None:
                self._ready_file.unlink(missing_ok=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then say so."""
        await super().startup(sockets)
        if self._ready_file is not None:
            _write_whole(self._ready_file, f"{self.url}\n")
        logger.info("listening on %s", self.url)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM. uvicorn's own raises the signal again at the end, which would skip our cleaning up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Release those that wait, then stop."""
        self._parts.stopping.set()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Without the protocol asyncio does not switch Nagle's delay off, and every answer takes 40 ms longer.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise LoradockError("setting_invalid", f"cannot listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise LoradockError("setting_invalid", f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _write_whole(path: Path, text: str) -> None:
    """So that nobody reads half of it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def run(
    settings: Settings,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    ready_file: Path | None = None,
    uploads: UploadPlace | None = None,
) -> None:
    """`serve` on an event loop of its own, uvloop's where there is one."""
    config = uvicorn.Config(app="", loop="auto")
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve(settings, host, port, ready_file, uploads))
