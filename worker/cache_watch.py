"""The host's cache, looked at now and then, told with the lease when there is news."""

import asyncio
from dataclasses import asdict
from typing import NamedTuple

from loradock.artifacts.cache import HostCache
from loradock.core.requests import CACHED_DIGESTS_TOLD, CacheReport


class CacheNews(NamedTuple):
    """A look at the cache.

    Attributes:
        digests: what it holds, the most recently used first, at most `CACHED_DIGESTS_TOLD`.
    """

    figures: CacheReport
    digests: tuple[str, ...]


class CacheWatch:
    """Counts in a thread: a cache may hold thousands of files, a renewal waits for nothing."""

    def __init__(self, cache: HostCache) -> None:
        self._cache = cache
        self._last: CacheNews | None = None

    async def count(self) -> None:
        """Count once.

        Raises:
            LoradockError: `disk_error`.
        """
        self._last = await asyncio.to_thread(self._look)

    def _look(self) -> CacheNews:
        digests = self._cache.digests()[:CACHED_DIGESTS_TOLD]
        return CacheNews(CacheReport(**asdict(self._cache.figures())), tuple(digests))

    def news(self) -> CacheNews | None:
        """What was seen last; the same object until the next look."""
        return self._last
