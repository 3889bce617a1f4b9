"""How workflows call activities: every timeout and retry policy, in one place.

The first word of a policy says where the activity runs. Undos in our own stores retry without bound; an undo
on a host is bounded, because a host may never answer: its card is then declared lost, the rest is the reconciler's.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.interface.common import ActivitySpec
    from loradock.core.models import Model

In = TypeVar("In", bound=Model)
Out = TypeVar("Out", bound=Model)


@dataclass(frozen=True, slots=True)
class Policy:
    """Timeouts and retries of an activity.

    Attributes:
        start_to_close: for one attempt.
        schedule_to_start: how long nobody may take it: on a host's queue this shows a dead agent. Not retried.
        heartbeat: how long an attempt may be silent.
    """

    start_to_close: timedelta
    retry: RetryPolicy
    schedule_to_start: timedelta | None = None
    heartbeat: timedelta | None = None


DEATH_SHOWS: Final = timedelta(seconds=8)
"""How soon it shows that a worker died in the middle of an activity: cards are to be true again 10 s after a crash."""

REGISTRY: Final = Policy(
    start_to_close=timedelta(seconds=15),
    heartbeat=DEATH_SHOWS,
    retry=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=5)),
)
"""Postgres: retried for as long as it is away."""

SOURCE: Final = Policy(
    start_to_close=timedelta(hours=2),
    heartbeat=timedelta(seconds=30),
    retry=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=5),
)
"""Reading a source: what does not heal in five tries is for the caller to see."""

STORE: Final = Policy(
    start_to_close=timedelta(hours=2),
    heartbeat=timedelta(seconds=30),
    retry=RetryPolicy(
        initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30), maximum_attempts=20
    ),
)
"""Our object store, from the orchestrator."""

LEFTOVERS: Final = Policy(
    start_to_close=timedelta(minutes=10),
    heartbeat=timedelta(seconds=30),
    retry=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
)
"""Removing what nobody needs any more: what does not go now, the collector takes."""

HOST_DOWNLOAD: Final = Policy(
    schedule_to_start=timedelta(seconds=30),
    start_to_close=timedelta(hours=2),
    heartbeat=DEATH_SHOWS,
    retry=RetryPolicy(
        initial_interval=timedelta(milliseconds=500),
        maximum_interval=timedelta(seconds=10),
        maximum_attempts=6,
    ),
)
HOST_ENGINE: Final = Policy(
    schedule_to_start=timedelta(seconds=30),
    start_to_close=timedelta(minutes=5),
    heartbeat=DEATH_SHOWS,
    retry=RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_attempts=4),
)
HOST_LOAD: Final = replace(HOST_DOWNLOAD, retry=HOST_ENGINE.retry)
"""Download and load in one: as patient as a download, and no more stubborn than a load."""

HOST_UNDO: Final = Policy(
    schedule_to_start=timedelta(seconds=10),
    start_to_close=timedelta(seconds=60),
    heartbeat=DEATH_SHOWS,
    retry=RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_attempts=3),
)

HOST_LOOK: Final = Policy(
    schedule_to_start=timedelta(seconds=10),
    start_to_close=timedelta(seconds=10),
    retry=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=3),
)
"""An engine is asked what it holds: one that does not answer is asked again at the next look."""

QUEUE_OF_MANY: Final = timedelta(seconds=60)
SILENCE_OF_MANY: Final = timedelta(seconds=20)

HOST_CACHE: Final = Policy(
    schedule_to_start=timedelta(seconds=30),
    start_to_close=timedelta(minutes=10),
    heartbeat=timedelta(seconds=30),
    retry=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=2),
)
"""A host's cache is looked after: one that does not answer is left to the next run."""


def one_of_many(policy: Policy) -> Policy:
    """The policy for a host that works for many engines at once: it is slow to take and to tell, and lives all the same."""
    return replace(policy, schedule_to_start=QUEUE_OF_MANY, heartbeat=SILENCE_OF_MANY)


def lasting(policy: Policy, extra_seconds: float) -> Policy:
    """The policy with longer attempts, for work whose length the caller sets (a drain)."""
    return replace(policy, start_to_close=policy.start_to_close + timedelta(seconds=extra_seconds))


async def call(
    spec: ActivitySpec[In, Out],
    arg: In,
    policy: Policy,
    *,
    queue: str | None = None,
    summary: str | None = None,
) -> Out:
    """Run an activity to its real end.

    A cancel is passed on to the activity and its end is awaited (WAIT_CANCELLATION_COMPLETED): an undo that ran beside
    the step that it undoes would lose. The price is that a cancel can be swallowed by a step that succeeds all the same;
    `Saga.checked` looks for that.
    """
    result = await workflow.execute_activity(
        spec.name,
        arg,
        result_type=spec.gives,
        task_queue=queue,
        start_to_close_timeout=policy.start_to_close,
        schedule_to_start_timeout=policy.schedule_to_start,
        heartbeat_timeout=policy.heartbeat,
        retry_policy=policy.retry,
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )
    assert isinstance(result, spec.gives)  # noqa: S101  (the converter made it of this type)
    return result
