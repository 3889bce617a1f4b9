"""Free ports on 127.0.0.1, held until their server takes them and remembered from one run to the next."""

import contextlib
import json
import random
import socket
from pathlib import Path

from loradock.core.errors import LoradockError
from loradock.dev.files import write_private

_HOST = "127.0.0.1"
_LOWEST = 10_240
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class PortPool:
    """Ports by name. A port stays bound by this process until `release`, so that nobody else is given it.

    Ports lie below the range that the system gives to outgoing connections: a server that restarts finds its port
    free, and nobody who polls it meanwhile can connect to itself.

    Args:
        remembered: a file with the ports of the last run, which are used again where they are free.
    """

    def __init__(self, remembered: Path | None = None) -> None:
        self._file = remembered
        self._previous = _read(remembered)
        self._ports: dict[str, int] = {}
        self._held: dict[int, socket.socket] = {}
        self._random = random.SystemRandom()

    def take(self, name: str) -> int:
        """The port of this name; the same one at every call.

        Raises:
            LoradockError: `stack_failed` when no port is free.
        """
        if name not in self._ports:
            self._ports[name] = self._hold(self._previous.get(name))
        return self._ports[name]

    def release(self, *names: str) -> None:
        """Let go of ports, right before their server binds them; without names, of all."""
        for name in names or tuple(self._ports):
            held = self._held.pop(self._ports[name], None)
            if held is not None:
                held.close()

    def save(self) -> None:
        """Remember the ports for the next run."""
        if self._file is not None:
            write_private(self._file, json.dumps(self._ports, indent=1))

    def _hold(self, wanted: int | None) -> int:
        candidates = [wanted] if wanted is not None else []
        top = _ephemeral_start()
        candidates += [self._random.randrange(_LOWEST, top) for _ in range(200)]
        for port in candidates:
            if port not in self._held and (held := _bind(port)) is not None:
                self._held[port] = held
                return port
        raise LoradockError("stack_failed", f"no free port on {_HOST} between {_LOWEST} and {top}")


def _bind(port: int) -> socket.socket | None:
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Connections of the last run that linger in TIME_WAIT must not cost us its ports …
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((_HOST, port))
    except OSError:
        held.close()
        return None
    # … and nobody else may share the port while we hold it.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return held


def _ephemeral_start() -> int:
    with contextlib.suppress(OSError, ValueError):
        start = int(_RANGE_FILE.read_text().split()[0])
        if start > _LOWEST + 1000:
            return start
    return 32_768


def _read(path: Path | None) -> dict[str, int]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text())
        return {str(name): int(port) for name, port in content.items() if _LOWEST <= int(port) < 65_536}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
