"""A look at a stock engine in which nothing is mixed of two lives."""

import asyncio
import time
from typing import Final

from loradock.core.errors import LoradockError
from loradock.engines.stock.metrics import Metrics
from loradock.engines.stock.options import StockOptions
from loradock.engines.stock.report import Seen
from loradock.engines.stock.server import Models, StockServer

_TRIES: Final = 5
_WAKE_EVERY_SECONDS: Final = 10.0
"""A prompt that did not make the engine tell its slots is not repeated at every look."""


class StockLook:
    """Looks, and remembers of the present life what does not change in it."""

    def __init__(self, server: StockServer, options: StockOptions) -> None:
        self._server = server
        self._options = options
        self._life: str | None = None
        self._version = ""
        self._slots: int | None = None
        self._woken_at: float | None = None
        self._waking = asyncio.Lock()

    async def look(self) -> Seen:
        """What the engine is and lists now.

        Raises:
            LoradockError: see `Engine`.
        """
        for _ in range(_TRIES):
            _, models = await asyncio.gather(self._server.check_health(), self._server.models())
            metrics = await self._server.metrics()
            life = self._server.life_of(metrics)
            # The list lies between two readings: where both name one life, it is of that life too.
            if life == self._life:
                slots = await self._find_slots(models, metrics)
                return Seen(life, self._version, models.base, models.adapters, metrics, slots)
            await self._meet(life)
        raise LoradockError("engine_unreachable", "the engine restarts again and again")

    async def _meet(self, life: str) -> None:
        """A life that was not seen before: see that it can be worked with at all."""
        self._life, self._slots, self._woken_at = None, self._options.max_loras, None
        await self._server.check_kind()
        self._version = await self._server.version()
        self._life = life

    async def _find_slots(self, models: Models, metrics: Metrics) -> int:
        if self._slots is None:
            self._slots = metrics.max_loras
        if self._slots is None:
            async with self._waking:
                await self._wake(models.base)
        if self._slots is None:
            raise LoradockError(
                "engine_not_supported",
                "the engine does not tell its adapter slots (--enable-lora missing, or --disable-log-stats): give the agent"
                " LORADOCK_STOCK_MAX_LORAS",
            )
        return self._slots

    async def _wake(self, base: str) -> None:
        """Have the base answer a prompt, after which the metrics tell the slots; who waited meanwhile finds them."""
        lately = self._woken_at is not None and time.monotonic() < self._woken_at + _WAKE_EVERY_SECONDS
        if self._slots is not None or lately:
            return
        self._woken_at = time.monotonic()
        await self._server.wake(base)
        self._slots = (await self._server.metrics()).max_loras
