"""When a name's last request has ended, as far as a stock vLLM lets anybody know.

It counts no requests by adapter. Its metrics name the adapters of which requests have a first token; one that is still being
prefilled, or that the server has just taken, is not among them. So a name counts as quiet when it was not seen to run for
some seconds after it was taken away; and where the metrics do not tell, after a longer grace.
A request that was overlooked goes on with the right weights all the same: stock vLLM keeps them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from loradock.engines.stock.metrics import Metrics
from loradock.engines.stock.options import StockOptions

_POLL_SECONDS: Final = 0.2


@dataclass
class _Watched:
    since: float
    """When the name was gone, or was last seen to run."""
    gone: float


class QuietWatch:
    """Watches names that were taken away.

    Args:
        options: the times.
        metrics: reads them once.
    """

    def __init__(self, options: StockOptions, metrics: Callable[[], Awaitable[Metrics]]) -> None:
        self._options = options
        self._metrics = metrics
        self._names: dict[str, _Watched] = {}

    def begin(self, name: str) -> None:
        """The name is gone; said again, nothing changes."""
        now = time.monotonic()
        self._names.setdefault(name, _Watched(now, now))

    def end(self, name: str) -> None:
        """The name is back, or nobody asks for it any more."""
        self._names.pop(name, None)

    def observe(self, metrics: Metrics) -> None:
        """Take a reading in."""
        now = time.monotonic()
        for name, watched in self._names.items():
            if metrics.runs(name):
                watched.since = now

    def is_quiet(self, name: str, metrics: Metrics) -> bool:
        """Whether the name's last request has ended, after a reading that was taken in."""
        self.begin(name)
        return time.monotonic() >= self._quiet_at(name, metrics)

    async def wait(self, name: str, seconds: float, *, judge: bool = False) -> bool:
        """Wait until the name is quiet.

        Args:
            seconds: how long its requests may go on.
            judge: wait on until it could have been told at all.

        Returns:
            Whether it is.

        Raises:
            LoradockError: `engine_unreachable`, `engine_not_supported`.
        """
        ends = time.monotonic() + seconds
        while True:
            self.begin(name)
            metrics = await self._metrics()
            self.observe(metrics)
            now, quiet_at = time.monotonic(), self._quiet_at(name, metrics)
            if now >= quiet_at:
                return True
            last = max(ends, self._told_at(name, metrics)) if judge else ends
            if now >= last:
                return False
            await asyncio.sleep(max(0.01, min(_POLL_SECONDS, quiet_at - now, last - now)))

    def _quiet_at(self, name: str, metrics: Metrics) -> float:
        """When it will be quiet unless it is seen to run again."""
        watched = self._names[name]
        if metrics.runs(name) is None:
            return watched.gone + self._options.grace_seconds
        return watched.since + self._options.quiet_seconds

    def _told_at(self, name: str, metrics: Metrics) -> float:
        """When a name for which nothing runs is told from one for which something does."""
        told = self._options.quiet_seconds if metrics.runs(name) is not None else self._options.grace_seconds
        return self._names[name].gone + told + _POLL_SECONDS
