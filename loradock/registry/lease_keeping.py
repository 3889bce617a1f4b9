"""Which leases hold. None runs out because the service was away: then nobody could renew, and nothing is known of engines.

API processes say that they are there. When none has for a while (Postgres was down, all of them were killed or paused),
what was good at their last word stays good until agents have had a lease's time to come back. Without that, every
outage that is longer than a lease would take the traffic from a whole fleet that serves well.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from loradock.registry.tables import EngineRow, LeaseKeepingRow

WORDS_PER_LEASE: Final = 5
"""How often an API process says that it is there, within the time of a lease."""


def lease_holds() -> ColumnElement[bool]:
    """SQL: the engine's agent has renewed its lease in time, or could not have. The clock is the database's alone."""
    keeping, now = LeaseKeepingRow, func.clock_timestamp()
    could_not = (
        select(keeping.single)
        .where(EngineRow.lease_until >= keeping.held_from)
        .where((keeping.expected_by < now) | (keeping.grace_until > now))
        .correlate(EngineRow)
        .exists()
    )
    return (EngineRow.lease_until > now) | could_not


async def note_presence(single: AsyncConnection, lease_seconds: float) -> None:
    """Say that leases can be renewed. The first word after a silence of half a lease begins the grace.

    Args:
        lease_seconds: how long a lease runs.
    """
    lease = timedelta(seconds=lease_seconds)
    await single.execute(_NOTE, {"lease": lease, "silence": lease / 2})


_NOTE: Final = text(
    """
    INSERT INTO lease_keeping AS was (held_from, expected_by, grace_until)
    SELECT now, now + :silence, now FROM (SELECT clock_timestamp() AS now) AS clock
    ON CONFLICT (single) DO UPDATE SET
        held_from = CASE
            WHEN was.expected_by < excluded.held_from OR was.grace_until > excluded.held_from THEN was.held_from
            ELSE excluded.held_from
        END,
        grace_until = CASE
            WHEN was.expected_by < excluded.held_from THEN excluded.held_from + :lease
            ELSE was.grace_until
        END,
        expected_by = excluded.expected_by
    """
)
