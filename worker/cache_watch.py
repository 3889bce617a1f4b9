"""The host's cache in numbers, counted now and then, told with each renewal of the lease."""

import asyncio
from dataclasses import asdict

from loradock.artifacts.cache import HostCache
from loradock.core.requests import CacheReport


class CacheWatch:
    """Counts in a thread: a cache may hold thousands of files, a renewal waits for nothing."""

    def __init__(self, cache: HostCache) -> None:
        self._cache = cache
        self._last: CacheReport | None = None

    async def count(self) -> None:
        """Count once.

        Raises:
            LoradockError: `disk_error`.
        """
        figures = await asyncio.to_thread(self._cache.figures)
        self._last = CacheReport(**asdict(figures))

    def report(self) -> CacheReport | None:
        """The figures as last counted."""
        return self._last
