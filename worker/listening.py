"""A small HTTP server beside a worker's own work."""

import asyncio
import contextlib
import ipaddress
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette

from loradock.core.errors import LoradockError


def listen(address: str, setting: str) -> socket.socket:
    """A socket for `host:port`.

    Args:
        setting: where the address comes from, for the error.

    Raises:
        LoradockError: `setting_invalid`.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family)
    except (OSError, ValueError, OverflowError) as error:
        raise LoradockError("setting_invalid", f"{setting}={address!r}: {error}") from None


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """Where it listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class BesideServer(uvicorn.Server):
    """uvicorn beside a worker, whose signals are the worker's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave signals to the worker."""
        yield

    async def run_beside(self, listener: socket.socket) -> None:
        """Serve until cancelled."""
        try:
            await self.serve(sockets=[listener])
        except asyncio.CancelledError:
            self.should_exit = True
            raise
        finally:
            listener.close()


def server(app: Starlette) -> BesideServer:
    """The server of an application."""
    return BesideServer(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
        )
    )
