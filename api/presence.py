"""The API's word that it is there to renew leases with: agents are not given up for its own absence."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from loradock.core.errors import LoradockError
from loradock.registry.database import Database
from loradock.registry.lease_keeping import WORDS_PER_LEASE, note_presence

_log = logging.getLogger(__name__)


@asynccontextmanager
async def presence(database: Database, lease_seconds: float) -> AsyncIterator[None]:
    """Say it for as long as the block lasts.

    Args:
        lease_seconds: how long an agent's lease runs.
    """
    saying = asyncio.create_task(_say(database, lease_seconds), name="presence")
    try:
        yield
    finally:
        saying.cancel()
        with suppress(asyncio.CancelledError):
            await saying


async def _say(database: Database, lease_seconds: float) -> None:
    silent = False
    while True:
        try:
            async with database.single() as connection:
                await note_presence(connection, lease_seconds)
            silent = False
        except LoradockError as error:  # leases can't be renewed either: this is what its silence is to say
            if not silent:
                _log.warning("leases cannot be kept: %s", error)
            silent = True
        except Exception:
            _log.exception("presence failed")
        await asyncio.sleep(lease_seconds / WORDS_PER_LEASE)
