"""The schedule that starts CollectGarbage: made once, changed when the settings are others."""

from datetime import timedelta
from typing import Final

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)

from activities.interface.collection import CollectionRules
from loradock.core.ids import LIFECYCLE_QUEUE
from loradock.core.settings import Settings
from worker import schedules
from workflows.collect_garbage import CollectInput

SCHEDULE_ID: Final = "collect-garbage"
CATCHUP: Final = timedelta(minutes=1)
"""A run that was missed for longer is left out: the next one does the same work."""


def rules(settings: Settings) -> CollectionRules:
    """How much is kept, by the settings."""
    return CollectionRules(
        keep_versions=settings.collect_keep_versions,
        grace_seconds=settings.collect_grace_seconds,
        leftovers_seconds=settings.collect_leftovers_seconds,
    )


def schedule(settings: Settings) -> Schedule:
    """The schedule that the settings ask for."""
    every = timedelta(seconds=settings.collect_every_seconds)
    return Schedule(
        action=ScheduleActionStartWorkflow(
            "CollectGarbage",
            CollectInput(rules=rules(settings)),
            id=SCHEDULE_ID,
            task_queue=LIFECYCLE_QUEUE,
            execution_timeout=timedelta(hours=6),
            static_summary="collect what nobody needs any more",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)], jitter=every / 10),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCHUP),
    )


async def ensure_schedule(client: Client, settings: Settings) -> None:
    """Have the schedule as the settings ask for it; a pause that somebody set stays.

    Raises:
        LoradockError: `temporal_unavailable`.
    """
    await schedules.ensure(client, SCHEDULE_ID, schedule(settings))
