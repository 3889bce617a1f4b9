"""A TCP relay that gives each connection so many MB/s, as object stores across a network do.

    python -m benchmarks.slow_link UPSTREAM_PORT MB_PER_SECOND

Prints its own port, and relays until its input ends (when whoever started it is gone).
"""

import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Final

CHUNK: Final = 256 * 1024


class Meter:
    """Lets bytes pass at a steady rate; what was not used of it is lost after a tenth of a second.

    Args:
        rate: bytes per second; 0 is no limit.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = time.monotonic()

    def passed(self, count: int) -> None:
        if not self._rate:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now - 0.1) + count / self._rate
        if self._free_at > now:
            time.sleep(self._free_at - now)


def relay(source: socket.socket, target: socket.socket, meter: Meter) -> None:
    """Pass on what comes until either side ends."""
    buffer = memoryview(bytearray(CHUNK))
    with suppress(OSError):
        while count := source.recv_into(buffer):
            target.sendall(buffer[:count])
            meter.passed(count)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def accept(listener: socket.socket, upstream: int, rate: float) -> None:
    """Relay every connection in both directions; what comes back from upstream is metered."""
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", upstream))
        for one, other, meter in ((client, server, Meter(0)), (server, client, Meter(rate))):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=relay, args=(one, other, meter), daemon=True).start()


def main() -> None:
    """Serve on a free port of 127.0.0.1."""
    upstream, megabytes = int(sys.argv[1]), float(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener, upstream, megabytes * 1e6), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
