"""Where the time of a durable load goes: the histories of its two workflows, put on one line of time."""

from collections.abc import AsyncIterator
from datetime import datetime

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from loradock.core.ids import workflow_id

Moment = tuple[str, datetime]

_STARTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
_COMPLETED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
_SCHEDULED = EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
_ACTIVITY_STARTED = EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
_ACTIVITY_COMPLETED = EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
_CHILD_INITIATED = EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
_CHILD_COMPLETED = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED


async def moments(client: Client, operation: str) -> list[Moment]:
    """Every moment that matters in a load's parent and child, in the order of time."""
    found = [moment async for moment in _of(client, workflow_id(operation), "LoadAdapter")]
    history = await client.get_workflow_handle(workflow_id(operation)).fetch_history()
    for event in history.events:
        if event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            child = event.child_workflow_execution_started_event_attributes.workflow_execution.workflow_id
            found += [moment async for moment in _of(client, child, "LoadOnEngine")]
    return sorted(found, key=lambda moment: moment[1])


async def _of(client: Client, workflow: str, name: str) -> AsyncIterator[Moment]:
    names: dict[int, str] = {}
    async for event in client.get_workflow_handle(workflow).fetch_history_events():
        label = _label(event, name, names)
        if label is not None:
            yield label, event.event_time.ToDatetime()


def _label(event: HistoryEvent, name: str, names: dict[int, str]) -> str | None:
    match event.event_type:
        case kind if kind == _STARTED:
            return f"{name} started"
        case kind if kind == _COMPLETED:
            return f"{name} completed"
        case kind if kind == _SCHEDULED:
            names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
            return f"{names[event.event_id]} scheduled"
        case kind if kind == _ACTIVITY_STARTED:
            return f"{names[event.activity_task_started_event_attributes.scheduled_event_id]} started"
        case kind if kind == _ACTIVITY_COMPLETED:
            return f"{names[event.activity_task_completed_event_attributes.scheduled_event_id]} completed"
        case kind if kind == _CHILD_INITIATED:
            return "child initiated"
        case kind if kind == _CHILD_COMPLETED:
            return "child seen as completed"
    return None
