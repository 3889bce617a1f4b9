"""Temporal Schedules: made once, changed when the settings are others."""

from temporalio.client import (
    Client,
    Schedule,
    ScheduleAlreadyRunningError,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from loradock.core.errors import LoradockError


async def ensure(client: Client, schedule_id: str, wanted: Schedule) -> None:
    """Have the schedule as it is wanted; a pause that somebody set stays.

    Raises:
        LoradockError: `temporal_unavailable`.
    """
    try:
        try:
            await client.create_schedule(schedule_id, wanted)
        except ScheduleAlreadyRunningError:

            def changed(found: ScheduleUpdateInput) -> ScheduleUpdate:
                wanted.state = found.description.schedule.state
                return ScheduleUpdate(schedule=wanted)

            await client.get_schedule_handle(schedule_id).update(changed)
    except RPCError as error:
        if error.status is RPCStatusCode.UNIMPLEMENTED:  # the time-skipping server has none
            return
        raise LoradockError(
            "temporal_unavailable", f"the schedule {schedule_id}: {error.status.name}"
        ) from None
