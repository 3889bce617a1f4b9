"""What the API counts of itself and reads from the registry, as one page for Prometheus."""

import asyncio
import logging
from typing import Final

from api import fleet_metrics
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.metrics.catalog import Process
from loradock.metrics.instruments import Family, Instruments
from loradock.registry import figures
from loradock.registry.database import Database
from loradock.registry.figures import EndedOperations, Figures

logger = logging.getLogger(__name__)

FRESH_SECONDS: Final = 5.0
"""For so long figures are shown again: however many ask, Postgres is asked that seldom."""
ENDED_FRESH_SECONDS: Final = 60.0
"""Ended operations are counted that seldom: 300,000 of them take a tenth of a second."""
READ_SECONDS: Final = 5.0
"""Less than a scrape may take: when Postgres is slow, the rest of the page comes all the same."""
MOST_ENGINES: Final = 1000
"""Beyond it no single engine has metrics of its own: their number would be anything."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ApiMetrics:
    """The API's metrics; a `RequestWatch`.

    Args:
        database: asked for the registry's figures when a page is made.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._figures = _RecentFigures(database, settings.agent_lease_seconds)
        self._instruments = Instruments(Process.API)
        self._requests = self._instruments.counter("loradock_http_requests_total")
        self._seconds = self._instruments.histogram("loradock_http_request_seconds")
        self._open = self._instruments.gauge("loradock_http_requests_open")

    def began(self) -> None:
        """As `RequestWatch.began`."""
        self._open.inc()

    def ended(self, method: str, route: str | None, status: int, seconds: float | None) -> None:
        """As `RequestWatch.ended`."""
        self._open.dec()
        names = {"method": method if method in METHODS else "other", "route": route or "none"}
        self._requests.labels(**names, status=str(status or "none")).inc()
        if seconds is not None:
            self._seconds.labels(**names).observe(seconds)

    async def page(self) -> bytes:
        """All metrics in Prometheus' text format; without the registry's while Postgres does not answer."""
        found = await self._figures.get()
        more = [Family("loradock_registry_up").add(found is not None).metric]
        if found is not None:
            more += fleet_metrics.families(found)
        return await asyncio.to_thread(self._instruments.page, more)


class _RecentFigures:
    """Asks Postgres, one caller at a time, and seldom."""

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._counted_at = float("-inf")
        self._found: Figures | None = None
        self._ended: tuple[EndedOperations, ...] = ()

    async def get(self) -> Figures | None:
        """The figures as of now, or as of a moment ago; None when Postgres does not tell them."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if clock() - self._asked_at > FRESH_SECONDS:
                self._found = await self._ask()
                self._asked_at = clock()
            return self._found

    async def _ask(self) -> Figures | None:
        now = asyncio.get_running_loop().time()
        with_ended = now - self._counted_at > ENDED_FRESH_SECONDS
        found = await self._read(with_ended=with_ended)
        if found is None:
            return None
        if with_ended:
            self._ended, self._counted_at = found.ended, now
        return found.model_copy(update={"ended": self._ended})

    async def _read(self, *, with_ended: bool) -> Figures | None:
        try:
            async with asyncio.timeout(READ_SECONDS), self._database.single() as single:
                return await figures.read(
                    single,
                    lease_seconds=self._lease_seconds,
                    most_engines=MOST_ENGINES,
                    with_ended=with_ended,
                )
        except (LoradockError, TimeoutError) as error:
            why = error.code if isinstance(error, LoradockError) else f"no answer in {READ_SECONDS:.0f} s"
            logger.warning("the metrics of the registry are left out: %s", why)
            return None
