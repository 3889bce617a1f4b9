"""Whether Postgres and Temporal answer. `/readyz` is open to anyone, so nobody can make it ask them all the time."""

import asyncio
from typing import Final

from temporalio.client import Client
from temporalio.service import RPCError

from api.schemas import PartState, Readiness
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.registry.database import Database
from migrations import runner

PROBE_SECONDS: Final = 3.0
FRESH_SECONDS: Final = 1.0
"""For so long an answer is given again."""


class ReadinessProbe:
    """Asks the parts, one caller at a time.

    Args:
        database, temporal, settings: what is asked.
    """

    def __init__(self, database: Database, temporal: Client, settings: Settings) -> None:
        self._database = database
        self._temporal = temporal
        self._settings = settings
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._parts: dict[str, PartState] = {}
        self._migrated = False

    async def check(self) -> Readiness:
        """Readiness as of now, or as of at most a second ago.

        Raises:
            LoradockError: `not_ready`, with the `parts`, when Postgres cannot be worked with.
        """
        async with self._lock:
            if asyncio.get_running_loop().time() - self._asked_at > FRESH_SECONDS:
                postgres, temporal = await asyncio.gather(self._postgres(), self._temporal_server())
                self._parts = {"postgres": postgres, "temporal": temporal}
                self._asked_at = asyncio.get_running_loop().time()
        return _judge(self._parts)

    async def _postgres(self) -> PartState:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._database.ping()
                if not self._migrated:
                    await asyncio.to_thread(self._check_schema)
                    self._migrated = True
        except LoradockError as error:
            return PartState(state=error.code, detail=error.spec.title)
        except TimeoutError:
            return PartState(state="database_unavailable", detail=f"no answer within {PROBE_SECONDS:.0f} s")
        return PartState(state="ok")

    def _check_schema(self) -> None:
        known = runner.head()
        if runner.current(self._settings.require("database_url")) != known:
            raise LoradockError("schema_outdated", "the database is at another revision than this program")

    async def _temporal_server(self) -> PartState:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._temporal.service_client.check_health()
        except (RPCError, RuntimeError, OSError, TimeoutError):
            return PartState(
                state="temporal_unavailable",
                detail="what is asked for is kept and begins when Temporal is back",
            )
        return PartState(state="ok")


def _judge(parts: dict[str, PartState]) -> Readiness:
    if parts["postgres"].state != "ok":
        raise LoradockError(
            "not_ready",
            "Postgres cannot be worked with",
            parts={name: part.model_dump() for name, part in parts.items()},
        )
    degraded = any(part.state != "ok" for part in parts.values())
    return Readiness(status="degraded" if degraded else "ready", parts=parts)
