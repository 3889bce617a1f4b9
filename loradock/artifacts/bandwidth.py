"""A limit on bytes per second that any number of transfers share."""

import threading
import time


class Bandwidth:
    """Lets bytes through at a steady rate; who waits, waits in the order of coming.

    Args:
        bytes_per_second: above 0.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def pass_through(self, size: int, stopped: threading.Event) -> None:
        """Wait until `size` bytes more are within the limit, or until `stopped`."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + size / self._rate
            seconds = self._free_at - now
        stopped.wait(seconds)
